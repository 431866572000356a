"""A plain KServe model, which ``servers.py`` compares the cloud server with; needs an environment with kserve.

    python benchmarks/kserve_model.py BUNDLE --port 8080

It runs the network of the cloud server behind KServe's ``ModelServer`` as its documentation shows it, without a queue,
limits, a deadline or a token. ``predict`` takes a JPEG as it is, or JSON with the image in base64 or as nested lists
of pixels. With ``--blocking`` it is an ordinary function, which holds up the server while it runs.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kserve import Model, ModelServer
from starlette.concurrency import run_in_threadpool

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components.core.runtimes.base import open_detector
from components.core.runtimes.letterbox import ImageArray
from components.core.wire import Limits, decode_image

NAME = "model"


class Blocking(Model):  # type: ignore[misc]  # it has no types
    """A detector as a model of KServe, which runs in the server's own thread.

    Args:
        bundle: folder of the detector.
        threads: processor threads; 0 takes all cores.
    """

    def __init__(self, bundle: Path, threads: int) -> None:
        super().__init__(NAME)
        self._detector = open_detector("onnx", bundle, threads)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """What the detector finds in an image."""
        (found,) = self._detector.predict([_image(payload)])
        return {"predictions": [{"boxes": found.boxes.tolist(), "scores": found.scores.tolist()}]}


class Threaded(Blocking):
    """The same in a pool of threads."""

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """What the detector finds in an image."""
        return await run_in_threadpool(super().predict, payload)


def _image(payload: bytes | Mapping[str, Any]) -> ImageArray:
    if isinstance(payload, bytes):
        return decode_image(payload, Limits())
    (instance,) = payload["instances"]
    if isinstance(instance, Mapping):
        return decode_image(base64.b64decode(instance["image"]["b64"]), Limits())
    return np.asarray(instance, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--threads", type=int, default=0, help="processor threads of the model; 0: all")
    parser.add_argument("--blocking", action="store_true", help="run the model in the server's own thread")
    given = parser.parse_args()
    server = ModelServer(http_port=given.port, enable_grpc=False)
    model = Blocking if given.blocking else Threaded
    server.start([model(given.bundle, given.threads)])


if __name__ == "__main__":
    main()

"""The wire of joint inference against KubeEdge Sedna's, and images in batches against one at a time.

    python benchmarks/joint.py --repeats 50

``wire`` sends a drawn scene of 416 x 736 pixels to a server whose model takes no time, as JPEG on KServe's route and as
JSON of pixels on Sedna's, each with its encoding and with the reading of the answer: what one frame costs beside the
models. ``batching`` is the network alone: four images one after the other, and in one batch. What the cloud server
does with several clients is measured by ``servers.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import urllib3

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.runtimes.letterbox import ImageArray
from components.core.wire import JPEG, JSON, encode_image
from components.serving.active_model import LoadedModel
from components.serving.cloud_client import CloudClient
from components.serving.cloud_server import CloudServer, Options
from components.serving.model_cache import CachedModel
from pipelines.demo.lights import LIGHTS
from pipelines.demo.scenes import draw_scene
from pipelines.demo.sites import SITES

FRAME = (416, 736)
QUALITY = 90
BATCH = 4


class FindsNothing:
    """A model that takes no time.

    Args:
        bundle: of a model that would.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, images: Sequence[ImageArray], **_: object) -> list[Detections]:
        """Nothing in each image."""
        return [Detections.none() for _ in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50, help="round trips on each wire")
    parser.add_argument("--batched", default="yolo11n@320,yolo11m@640", help="networks and pixels for batching")
    given = parser.parse_args()
    image, _ = draw_scene(np.random.default_rng(0), site=sorted(SITES)[0], light=sorted(LIGHTS)[0], size=FRAME)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = make_bundle(folder / "bundle")
        with serving(folder / "wire", LoadedModel(FindsNothing(bundle), CachedModel("v1", folder, "0" * 64))) as port:
            print(wire(port, image, bundle.classes, given.repeats))
        print(batching(folder, given.batched.split(","), given.repeats))
    print(f"load {os.getloadavg()[0]:.1f}")


def wire(port: int, image: ImageArray, classes: tuple[str, ...], repeats: int) -> str:
    """Bytes and round trip of a frame, as JPEG and as Sedna's JSON."""
    height, width = image.shape[:2]
    client = CloudClient(f"http://127.0.0.1:{port}", "", 60.0)
    pool = urllib3.PoolManager()

    def ours() -> int:
        data = encode_image(image, QUALITY)
        client.ask(data, JPEG, width, height, classes)
        return len(data)

    def sedna() -> int:
        data = json.dumps({"data": image.tolist()}).encode()
        url = f"http://127.0.0.1:{port}/sedna/predict"
        answer = pool.request("POST", url, body=data, headers={"Content-Type": JSON})
        if answer.status != 200 or answer.json() != {"result": []}:
            raise SystemExit(f"the server answered HTTP {answer.status}: {answer.data[:200]!r}")
        return len(data)

    (small, quick), (large, slow) = (timed(one, repeats) for one in (ours, sedna))
    return (
        f"wire: JPEG {small:,} bytes, {quick:.1f} ms; JSON of pixels {large:,} bytes, {slow:.1f} ms: "
        f"1/{large / small:.0f} of the bytes, 1/{slow / quick:.0f} of the time"
    )


def timed(send: Callable[[], int], repeats: int) -> tuple[int, float]:
    """Bytes of a frame, and the median of its milliseconds."""
    size, times = send(), []
    for _ in range(repeats):
        start = time.perf_counter()
        send()
        times.append(1000 * (time.perf_counter() - start))
    return size, statistics.median(times)


def batching(folder: Path, networks: Sequence[str], repeats: int) -> str:
    """Images per second of untrained networks, one at a time and in batches."""
    import onnxruntime
    from ultralytics import YOLO

    told = []
    for name, pixels in ((one.partition("@")[0], int(one.partition("@")[2])) for one in networks):
        sessions = []
        for batch in (1, BATCH):
            with chdir(folder):  # where the file is written
                made = YOLO(f"{name}.yaml").export(
                    format="onnx", imgsz=pixels, batch=batch, simplify=False, device="cpu", verbose=False
                )
            sessions.append(onnxruntime.InferenceSession(folder / made))
        images = np.random.default_rng(0).random((BATCH, 3, pixels, pixels), dtype=np.float32)
        times: list[list[float]] = [[], []]
        for _ in range(repeats + 1):  # in turns, so that other work on the machine weighs on both
            for session, kept, parts in zip(sessions, times, (np.split(images, BATCH), [images]), strict=True):
                start = time.perf_counter()
                for part in parts:
                    session.run(None, {"images": part})
                kept.append(time.perf_counter() - start)
        single, batched = (BATCH / statistics.median(kept[1:]) for kept in times)
        told.append(
            f"{name} at {pixels}: {single:.1f} images/s one at a time, {batched:.1f} in batches of {BATCH} "
            f"({batched / single:.2f} times)"
        )
    return f"batching: {'; '.join(told)}"


@contextmanager
def serving(folder: Path, model: LoadedModel) -> Iterator[int]:
    """A cloud server with a model; its port."""
    made = CloudServer(Options(job_root=str(folder / "job"), node="cloud", folder=folder, port=0, anonymous=True))
    made.active.offer(model)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield made.port
    finally:
        made.stop()
        thread.join()


def make_bundle(folder: Path) -> Bundle:
    """An untrained YOLO11n."""
    from components.core.estimators.yolo import Yolo

    model = Yolo()
    model.load("yolo11n.yaml")
    return model.save(folder, image_size=(320, 320), confidence_threshold=0.25, nms_threshold=0.7, lineage={})


if __name__ == "__main__":
    main()

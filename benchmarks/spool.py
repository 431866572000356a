"""Bytes on disk and on the wire for one hard example, from the worker's spool to an S3 server.

    python benchmarks/spool.py --scenes 48

Drawn scenes, 640 x 480, as JPEG of the quality that the edge worker takes. The server is ministack, which this starts;
a forwarder before it counts every byte of the connections, headers and signatures among them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import sys
import tempfile
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.poll import BUCKET, ministack
from components.core.job.hard_examples import Sidecar
from components.core.stores.open import open_store
from components.serving.spool import Spool
from components.serving.uploader import Uploader
from pipelines.demo.lights import LIGHTS
from pipelines.demo.scenes import CLASSES, draw_scene
from pipelines.demo.sites import SITES

SIZE, QUALITY = (480, 640), 95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=48, help="how many examples (default 48)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ministack(Path(temporary)):
        counted: Counter[str] = Counter()
        os.environ["AWS_ENDPOINT_URL"] = counting(os.environ["AWS_ENDPOINT_URL"], counted)
        examples = list(scenes(given.scenes))
        spool = Spool(Path(temporary) / "spool", 1 << 30)
        for image, sidecar in examples:
            assert spool.add(image, sidecar) == "kept"
        on_disk = spool.used_bytes
        send(spool, open_store(f"s3://{BUCKET}/job"))
        after = spool.used_bytes
        spool.close()
    share = {
        "image": sum(len(image) for image, _ in examples),
        "sidecar": sum(len(sidecar.model_dump_json()) for _, sidecar in examples),
        "on disk while it waits": on_disk,
        "on disk once it is sent": after,
        "on the wire, to the server": counted["up"],
        "on the wire, from the server": counted["down"],
    }
    for name, total in share.items():
        print(f"{name:30} {total / len(examples):10,.0f} bytes")


def scenes(count: int) -> list[tuple[bytes, Sidecar]]:
    """Images with their sidecars, as the edge worker makes them."""
    rng = np.random.default_rng(0)
    sites, lights = sorted(SITES), sorted(LIGHTS)
    made = []
    for number in range(count):
        site, light = sites[number % len(sites)], lights[number // len(sites) % len(lights)]
        scene, boxes = draw_scene(rng, site=site, light=light, size=SIZE)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(scene, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        encoded = data.tobytes()
        sidecar = Sidecar.model_validate(
            {
                "image": hashlib.sha256(encoded).hexdigest(), "width": SIZE[1], "height": SIZE[0],
                "captured": datetime.now(UTC), "node": "gate-camera", "source": "rtsp://camera/stream", "frame": number,
                "kind": "hard", "miner": "IBT", "score": 0.75, "reason": "3 of 4 boxes score 0.5 or less",
                "model": "r0007-1a2b3c4d", "classes": CLASSES, "boxes": [box[1:] for box in boxes],
                "scores": [0.51234] * len(boxes), "class_ids": [CLASSES.index(box[0]) for box in boxes],
            }
        )  # fmt: skip
        made.append((encoded, sidecar))
    return made


def send(spool: Spool, store: object) -> None:
    """Upload all that waits."""
    stop = threading.Event()
    thread = threading.Thread(target=Uploader(spool, store).run, args=(stop,))  # type: ignore[arg-type]
    thread.start()
    while len(spool):
        stop.wait(0.05)
    stop.set()
    thread.join()


def counting(server: str, counted: Counter[str]) -> str:
    """The address of a forwarder that counts what passes to and from a server."""
    host, _, port = server.removeprefix("http://").partition(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket, way: str) -> None:
        while data := source.recv(65536):
            counted[way] += len(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            behind = socket.create_connection((host, int(port)))
            for ends in ((client, behind, "up"), (behind, client, "down")):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


if __name__ == "__main__":
    main()

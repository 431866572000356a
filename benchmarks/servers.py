"""The cloud server with one client and with several, and against a plain KServe model.

    python benchmarks/servers.py --requests 160 --turns 5 --kserve KSERVE/bin/python

An untrained YOLO11n at 320 pixels looks at a drawn scene of 416 x 736 pixels, in a server that is a process of its own.
One client asks for one image after the other, then several clients do so at the same time, and every request has to be
answered. ``--kserve`` is the Python of an environment with kserve, numpy, opencv-python-headless and onnxruntime: the
same network behind KServe's ModelServer (``kserve_model.py``) is asked by the same clients, with the image as JPEG, in
base64 and as JSON of pixels. All servers take turns, so that other work on the machine weighs on each.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import urllib3

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components.core import processes
from components.core.job.job import Job
from components.core.wire import JPEG, JSON, encode_image
from components.deploy.pointer import publish_pointer
from pipelines.demo.lights import LIGHTS
from pipelines.demo.scenes import draw_scene
from pipelines.demo.sites import SITES

FRAME = (416, 736)
QUALITY = 90
PIXELS_COST = 8  # of which JSON of pixels gets so many times fewer requests, each of which takes so much longer
_START_SECONDS = 120


@dataclass
class Case:
    """A server, and what it is asked with.

    Attributes:
        name: as printed.
        url: of the prediction.
        body: of every request.
        kind: its Content-Type.
        requests: in all, for one measurement.
        rates: requests per second of each turn, by the number of clients.
        times: milliseconds of every request, by the number of clients.
    """

    name: str
    url: str
    body: bytes
    kind: str
    requests: int
    rates: dict[int, list[float]] = field(default_factory=dict)
    times: dict[int, list[float]] = field(default_factory=dict)

    def measure(self, clients: int) -> None:
        """Ask with so many clients at a time."""
        pool = urllib3.PoolManager(maxsize=clients, retries=False)

        def ask(_: int) -> float:
            start = time.perf_counter()
            answer = pool.request("POST", self.url, body=self.body, headers={"Content-Type": self.kind}, timeout=120.0)
            if answer.status != 200 or "predictions" not in answer.json():
                raise SystemExit(f"{self.name} answered HTTP {answer.status}: {answer.data[:200]!r}")
            return 1000 * (time.perf_counter() - start)

        with ThreadPoolExecutor(clients) as threads:
            list(threads.map(ask, range(clients)))
            start = time.perf_counter()
            times = list(threads.map(ask, range(self.requests)))
            seconds = time.perf_counter() - start
        self.rates.setdefault(clients, []).append(len(times) / seconds)
        self.times.setdefault(clients, []).extend(times)

    def rate(self, clients: int) -> float:
        """The median of the turns."""
        return statistics.median(self.rates[clients])

    def line(self, first: Case) -> str:
        """What was measured, also as a ratio to another server by turns."""
        told = [f"{self.name}:"]
        for clients, rates in self.rates.items():
            p50, p95 = np.percentile(self.times[clients], [50, 95])
            told.append(
                f"{clients} client{'s' * (clients > 1)} {self.rate(clients):.1f} requests/s, p50 {p50:.0f} ms, "
                f"p95 {p95:.0f} ms, {ratios(first.rates[clients], rates)};"
            )
        return " ".join(told).rstrip(";")


def ratios(ours: Sequence[float], others: Sequence[float]) -> str:
    """How many times as many ours are, turn by turn."""
    each = sorted(one / other for one, other in zip(ours, others, strict=True))
    return f"ours {statistics.median(each):.2f} times ({each[0]:.2f} to {each[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=160, help="in all, for one server in one turn")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="processor threads of the model; 0: all")
    parser.add_argument("--kserve", default="", help="Python of an environment with kserve")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        made = [stack.enter_context(one) for one in servers(Path(temporary), given)]
        cases = [case for url, kind in made for case in asked(url, kind, given.requests)]
        for _ in range(given.turns):
            for case in cases:
                for clients in (1, given.clients):
                    case.measure(clients)
    ours = cases[0]
    print("\n".join(case.line(ours) for case in cases))
    several = statistics.median(b / a for a, b in zip(ours.rates[1], ours.rates[given.clients], strict=True))
    print(f"{ours.name}: {given.clients} clients {several:.2f} times one client; load {os.getloadavg()[0]:.1f}")


def asked(url: str, name: str, requests: int) -> Iterator[Case]:
    """What a server is asked with: the cloud server with JPEG, the plain one in every form that it takes."""
    image, _ = draw_scene(np.random.default_rng(0), site=sorted(SITES)[0], light=sorted(LIGHTS)[0], size=FRAME)
    data = encode_image(image, QUALITY)
    yield Case(f"{name}, JPEG", url, data, JPEG, requests)
    if name == "KServe":
        instance = {"image": {"b64": base64.b64encode(data).decode()}}
        yield Case(f"{name}, base64", url, json.dumps({"instances": [instance]}).encode(), JSON, requests)
        pixels = json.dumps({"instances": [image.tolist()]}).encode()
        yield Case(f"{name}, JSON of pixels", url, pixels, JSON, max(1, requests // PIXELS_COST))


@contextmanager
def running(name: str, port: int, command: list[str]) -> Iterator[tuple[str, str]]:
    """A server as a process; the address of its prediction, and its name."""
    process = subprocess.Popen(
        command, env=processes.module_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        end = time.monotonic() + _START_SECONDS
        while not _answers(f"http://127.0.0.1:{port}/v2/models/model/ready"):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{name} does not start: {' '.join(command)}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1/models/model:predict", name
    finally:
        processes.end(process)


def servers(folder: Path, given: argparse.Namespace) -> Iterator[AbstractContextManager[tuple[str, str]]]:
    """The servers, which are started as they are entered."""
    bundle, job = folder / "bundle", Job.open(str(folder / "job"))
    make_bundle(bundle)
    job.registry.publish(bundle, "v1")
    state, etag = job.read()
    job.commit(state.pointing_at("v1", "a benchmark"), etag)
    publish_pointer(job)
    threads, port = ["--threads", str(given.threads)], free_port()
    ours = [*processes.module_command("components.serving.cloud_server"), "--allow-anonymous", "--port", str(port)]
    ours += ["--job-root", str(folder / "job"), "--folder", str(folder / "server"), *threads]
    yield running("cloud server", port, ours)
    if given.kserve:
        plain = [given.kserve, str(Path(__file__).with_name("kserve_model.py")), str(bundle), *threads]
        for name, more in (("KServe", []), ("KServe, predict blocks", ["--blocking"])):
            port = free_port()
            yield running(name, port, [*plain, "--port", str(port), *more])


def make_bundle(folder: Path) -> None:
    """An untrained YOLO11n."""
    from components.core.estimators.yolo import Yolo

    model = Yolo()
    model.load("yolo11n.yaml")
    model.save(folder, image_size=(320, 320), confidence_threshold=0.25, nms_threshold=0.7, lineage={})


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, retries=False, timeout=2.0).status == 200
    except urllib3.exceptions.HTTPError:
        return False


if __name__ == "__main__":
    main()

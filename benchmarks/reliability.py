"""Joint inference where things fail: a cloud server that is killed, and two hours of video with the cloud gone for one.

    python benchmarks/reliability.py --requests 100000 --kills 10 --hours 2

``server``: several clients send images, each a number in black and white cells, and a stand-in model of one convolution
reads the cells, so that an answer shows which image it is for. Meanwhile the server's process is killed (SIGKILL) again
and again, and started anew. A client repeats what is not answered. Every number has to come back once, and right.

``outage``: the edge's side of joint inference, with a real server that is stopped after a quarter of the time (SIGSTOP:
it takes connections and never answers), killed after half of it (connections are refused), and back after three
quarters. The clock is partly simulated: where a frame is not due yet, the clock jumps to it instead of waiting. What a
frame takes, with the wait for an answer that never comes, is real time. Frames that are overtaken by newer ones
meanwhile are dropped, as with a camera. The same once more with hard frames that got no answer sent again later.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components.core.bundle import Bundle
from components.core.detections import Detections
from components.core.heads import SplitHead
from components.core.job.job import Job
from components.core.miners.base import make_miner
from components.core.processes import module_command, module_environment
from components.core.runtimes.base import Detector, open_detector
from components.core.runtimes.letterbox import ImageArray
from components.core.wire import JPEG, encode_image
from components.deploy.pointer import publish_pointer
from components.serving.active_model import LoadedModel
from components.serving.cloud_client import LONGEST_PAUSE_SECONDS, CloudClient, CloudError
from components.serving.mining import Inference
from components.serving.model_cache import CachedModel
from components.serving.offload import JointInference, OffloadRules
from components.serving.resubmission import Resubmission
from components.serving.sources.base import Shot

CELL, SIDE = 8, 64  # pixels
BITS = (SIDE // CELL) ** 2
QUALITY = 90
MEMORY = 64 << 20  # bytes for frames that wait to be sent again
PATIENCE_SECONDS = 600.0  # for these at the end
PARTS = ("cloud there", "cloud silent", "cloud gone", "cloud back")


def main() -> None:
    logging.basicConfig(level=logging.ERROR)  # that the cloud does not answer is what is measured
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="0: the video alone")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--hours", type=float, default=2.0, help="of video; 0: none")
    parser.add_argument("--fps", type=float, default=5.0, help="of the video")
    parser.add_argument("--timeout", type=float, default=2.0, help="of one frame's request during the video, seconds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = write_reader(folder / "bundle")
        job = Job.open(str(folder / "job"))
        job.registry.publish(bundle, "v1")
        state, etag = job.read()
        job.commit(state.pointing_at("v1", "a benchmark"), etag)
        publish_pointer(job)
        if given.requests:
            with server(folder) as process:
                print(killed_server(process, given.requests, given.kills, given.clients), flush=True)
        for resubmit in (False, True) if given.hours else ():
            with server(folder) as process:
                print(outage(process, bundle, given.hours * 3600, given.fps, given.timeout, resubmit), flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


def write_reader(folder: Path) -> Path:
    """A model that finds every white cell."""
    cells = SIDE // CELL
    nodes = [
        helper.make_node("Conv", ["images", "mean", "middle"], ["above"], strides=[CELL, CELL]),
        helper.make_node("Mul", ["above", "steep"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["cls0"]),
        helper.make_node("Identity", ["half"], ["box0"]),
    ]
    constants = {
        "mean": np.full((1, 3, CELL, CELL), 1 / (3 * CELL * CELL), np.float32),
        "middle": np.full(1, -0.5, np.float32), "steep": np.float32(10),
        "half": np.full((1, 4, cells, cells), 0.5, np.float32),
    }  # fmt: skip
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, cells, cells])
        for name, channels in (("box0", 4), ("cls0", 1))
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "reader", [images], ports, initializers)
    folder.mkdir(parents=True)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(network, folder / "model.onnx")
    Bundle(
        classes=("white",), image_size=(SIDE, SIDE), estimator="reader", confidence_threshold=0.5, nms_threshold=0.7,
        head=SplitHead(strides=(CELL,), reg_max=1, end_to_end=False), outputs=("box0", "cls0"),
    ).write(folder)  # fmt: skip
    return folder


def drawn(number: int) -> ImageArray:
    """A number in cells, the lowest bit first; the last cell is always white."""
    bits = (number >> np.arange(BITS)) & 1
    bits[-1] = 1
    cells = (255 * bits).astype(np.uint8).reshape(SIDE // CELL, SIDE // CELL)
    return np.repeat(np.kron(cells, np.ones((CELL, CELL), np.uint8))[..., None], 3, axis=2)


def read(found: Detections) -> int:
    """The number in what the model finds; -1 where that is no number's."""
    columns, rows = (found.boxes[:, :2] // CELL).astype(int).T
    places = set((rows * (SIDE // CELL) + columns).tolist())
    return sum(1 << place for place in places - {BITS - 1}) if BITS - 1 in places else -1


class Process:
    """A cloud server in a process of its own, which can be killed and started again at the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [
            *module_command("components.serving.cloud_server"), "--job-root", str(folder / "job"), "--allow-anonymous",
            "--folder", str(folder / "server"), "--port", str(self.port), "--threads", "1",
        ]  # fmt: skip
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=module_environment())

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def await_ready(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        raise SystemExit(f"the server is not ready: {self._log.read_text()[-2000:]}")


@contextmanager
def server(folder: Path) -> Iterator[Process]:
    process = Process(folder)
    process.start()
    try:
        process.await_ready()
        yield process
    finally:
        process.kill()


def killed_server(process: Process, requests: int, kills: int, clients: int) -> str:
    """Ask while the server is killed; what came of it."""
    numbers = iter(range(requests))
    lock = threading.Lock()
    told, answers, failed, times = Counter[str](), Counter[int](), Counter[str](), list[float]()

    def ask() -> None:
        client = CloudClient(f"http://127.0.0.1:{process.port}", "", 5.0)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            data, started = encode_image(drawn(number), QUALITY), time.monotonic()
            while True:
                try:
                    answer = client.ask(data, JPEG, SIDE, SIDE, ("white",))
                    break
                except CloudError as error:
                    with lock:
                        failed[str(error).partition(" (")[0][:60]] += 1
                    time.sleep(0.05)
            right = read(answer.detections(("white",))) == number and answer.model == "v1"
            with lock:
                answers[number] += 1
                told["right" if right else "wrong"] += 1
                times.append(time.monotonic() - started)

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        for kill in range(1, kills + 1):
            while len(times) < requests * kill // (kills + 1):
                time.sleep(0.02)
                if all(one.done() for one in asking):
                    break
            process.kill()
            process.start()
        for one in asking:
            one.result()
    seconds = time.monotonic() - started
    lost = requests - len(answers)
    p50, p95 = 1000 * np.percentile(times, [50, 95])
    if lost or told["wrong"] or max(answers.values()) > 1:
        raise SystemExit(f"{lost} requests lost, {told['wrong']} answered wrong")
    return (
        f"server: {told['right']:,} of {requests:,} requests answered, each with its own number, {lost} lost, "
        f"{told['wrong']} wrong; killed {kills} times; {failed.total():,} tries failed; {seconds:.0f} s, "
        f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, longest {max(times):.1f} s"
    )


class Skipping:
    """A clock that jumps to where the next frame is due instead of waiting."""

    def __init__(self) -> None:
        self._jumped = -time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() + self._jumped

    def jump_to(self, due: float) -> None:
        self._jumped += max(0.0, due - self())


class Edge:
    """The edge's side of joint inference, with a clock that skips what it would wait for the next frame."""

    def __init__(self, process: Process, bundle: Path, timeout_s: float, resubmit: bool) -> None:
        self.clock, self.counts, self.late = Skipping(), Counter[str](), Counter[int]()
        self._detector = open_detector("onnx", bundle, 1)
        self._model = LoadedModel(self._detector, CachedModel("v1", bundle, "0" * 64))
        client = CloudClient(f"http://127.0.0.1:{process.port}", "", timeout_s, clock=self.clock)
        room = MEMORY if resubmit else 0
        self._joint = JointInference(
            make_miner("Random", {"random_ratio": 0.3}), client, OffloadRules(resubmit_bytes=room),
            count=self._count, timed=nullcontext, clock=self.clock,
        )  # fmt: skip
        self.circuit, self.opened = client.circuit, 0
        self._again, self._stop = Resubmission(self._joint, room, self._answered, self._count), threading.Event()
        self._thread = threading.Thread(target=self._again.run, args=(self._stop,), daemon=True)
        self._thread.start()

    def look(self, number: int) -> float:
        """Answer a frame; seconds that it took."""
        image, closed, started = drawn(number), self.circuit.closed, time.perf_counter()
        result = self._joint.infer(image, str(number), ("white",), partial(found_by, self._detector, image))
        seconds = time.perf_counter() - started
        if result is None or read(result.final or Detections.none()) != number:
            raise SystemExit(f"frame {number} has no result, or another frame's")
        self._again.put(Inference(Shot(image, number, str(number)), self._model, result.edge, result))
        self.opened += closed and not self.circuit.closed
        return seconds

    def finish(self) -> None:
        """Wait for the frames that are sent again."""
        end = time.monotonic() + PATIENCE_SECONDS
        while len(self._again) and time.monotonic() < end:
            self.clock.jump_to(self.clock() + LONGEST_PAUSE_SECONDS)
            time.sleep(0.05)
        self._stop.set()
        self._thread.join()
        check(self.counts)
        waited, late = self.counts["joint_waited"], self.counts["joint_late_answered"]
        if not (waited == late == len(self.late) == self.late.total()) or -1 in self.late:
            raise SystemExit(f"{waited} frames waited, {late} were answered late: {self.late.most_common(3)}")

    def _count(self, name: str, amount: float = 1) -> None:
        self.counts[name] += int(amount)

    def _answered(self, seen: Inference) -> None:
        number = seen.shot.number
        self.late[number if read(seen.final or Detections.none()) == number else -1] += 1


def outage(process: Process, bundle: Path, seconds: float, fps: float, timeout_s: float, resubmit: bool) -> str:
    """Hours of video, the cloud gone for the middle half of them."""
    edge, lines = Edge(process, bundle, timeout_s, resubmit), []
    number, frames = 0, round(seconds * fps)
    for part, name in enumerate(PARTS):
        if part == 1:
            process.send(signal.SIGSTOP)
        elif part == 2:
            process.kill()
        elif part == 3:
            process.start()
            process.await_ready()
        end, before, dropped, work = (part + 1) * frames // len(PARTS), edge.counts.copy(), 0, 0.0
        while number < end:
            edge.clock.jump_to(number / fps)
            newest = min(end - 1, int(edge.clock() * fps))
            dropped, number = dropped + max(0, newest - number), max(number, newest)
            work += edge.look(number)
            number += 1
        got = edge.counts - before
        check(got)
        seen = got["joint_frames"]
        lines.append(
            f"  {name:12} {seen:,} frames, {dropped} dropped: {seen / (seconds / len(PARTS)):.3f} frames/s, "
            f"{1000 * work / seen:.1f} ms each; hard {got['joint_hard']:,}, sent {got['joint_sent']:,}, "
            f"answered {got['joint_answered']:,}, failed {got['joint_failed']}, kept {got['joint_kept']:,}"
        )
    edge.finish()
    state = "closed" if edge.circuit.closed else "open"
    head = f"outage: {seconds / 3600:g} h of video, {fps:g} frames/s; "
    head += f"circuit opened {edge.opened} times, {state} at the end"
    if resubmit:
        head += f"; {len(edge.late):,} frames answered late, each with its own number, none lost"
    return "\n".join([head, *lines])


def found_by(detector: Detector, image: ImageArray) -> Detections:
    """What the edge's model finds."""
    found: Detections = detector.predict([image])[0]
    return found


def check(counts: Counter[str]) -> None:
    """Every frame is in one place."""
    for whole, *parts in (
        ("frames", "easy", "hard"),
        ("hard", "sent", "kept"),
        ("kept", "unchanged", "over_budget", "circuit_open"),
        ("sent", "answered", "failed"),
    ):
        total, summed = counts[f"joint_{whole}"], [counts[f"joint_{part}"] for part in parts]
        if total != sum(summed):
            raise SystemExit(f"{whole} {total} is not {' + '.join(parts)}: {summed}")


if __name__ == "__main__":
    main()

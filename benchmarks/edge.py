"""Images per second of the whole edge worker against the bare model on the same frames.

    python benchmarks/edge.py --repeats 3 --frames 1500

A video of drawn scenes, 640 x 480, and an untrained YOLO11n at 320 pixels. ``bare`` is the model on frames that lie
decoded in memory. ``worker`` is all of it: the video is decoded, IBT judges each frame and a fifth of them is kept
(the model finds nothing, and ``on_empty`` is ``sample:0.2``), spooled to disk and uploaded to a folder, and after a
quarter of the frames a new model is fetched, tried in a process of its own, loaded and taken. No frame may be lost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components.core.bundle import Bundle
from components.core.job.hard_examples import read_sidecars
from components.core.job.job import Job
from components.core.runtimes.base import open_detector
from components.deploy.pointer import publish_pointer
from components.serving.sources.open import open_source
from components.serving.worker import Options, Worker
from pipelines.demo.lights import LIGHTS
from pipelines.demo.scenes import draw_scene
from pipelines.demo.sites import SITES

SIZE = (480, 640)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1, help="processor threads of the model")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        work = Path(temporary)
        video = draw_video(work / "scenes.avi", given.frames)
        bundles = [make_bundle(work / version, seed) for seed, version in enumerate(("v1", "v2"))]
        pairs = [one_pair(work / f"run{index}", video, bundles, given) for index in range(given.repeats)]
    bare, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    shares = sorted(pair[1] / pair[0] for pair in pairs)
    print(
        f"bare {bare:.1f} frames/s, worker {whole:.1f} frames/s: {statistics.median(shares):.0%} "
        f"({shares[0]:.0%} to {shares[-1]:.0%}); load {os.getloadavg()[0]:.1f}"
    )


def one_pair(work: Path, video: Path, bundles: list[Path], given: argparse.Namespace) -> tuple[float, float]:
    bare, whole = run_bare(video, bundles[0], given.threads), run_worker(work, video, bundles, given)
    print(f"  bare {bare:6.1f}   worker {whole:6.1f} frames/s   {whole / bare:.0%}", flush=True)
    return bare, whole


def run_bare(video: Path, bundle: Path, threads: int) -> float:
    images = [shot.image for shot in open_source(str(video)).shots(threading.Event())]
    detector = open_detector("onnx", bundle, threads)
    detector.predict(images[:3])
    started = time.perf_counter()
    for image in images:
        detector.predict([image])
    return len(images) / (time.perf_counter() - started)


def run_worker(work: Path, video: Path, bundles: list[Path], given: argparse.Namespace) -> float:
    job = Job.open(str(work / "job"))
    for bundle in bundles:
        job.registry.publish(bundle, bundle.name)
    point_at(job, "v1")
    options = Options(
        job_root=str(work / "job"), source=str(video), node="edge-1", folder=work / "worker", miner="IBT",
        miner_parameters={"on_empty": "sample:0.2"}, threads=given.threads, poll_s=1.0,
    )  # fmt: skip
    worker = Worker(options)
    thread = threading.Thread(target=worker.run, args=(threading.Event(),))
    thread.start()
    await_frames(worker, 1)
    started = time.perf_counter()
    await_frames(worker, given.frames // 4)
    point_at(job, "v2")
    await_frames(worker, given.frames)
    seconds = time.perf_counter() - started
    thread.join()
    check(worker, job, given.frames)
    return float((given.frames - 1) / seconds)


def check(worker: Worker, job: Job, frames: int) -> None:
    sidecars = list(read_sidecars(job.store))
    counted = {name: int(worker.metrics.value(name)) for name in ("frames", "kept", "uploaded", "model_swaps")}
    assert counted["frames"] == frames, counted
    assert counted["model_swaps"] == 2, counted
    assert counted["uploaded"] == counted["kept"] == len(sidecars) > 0.1 * frames, counted
    print(f"  {counted}, {len({sidecar.model for sidecar in sidecars})} models in the sidecars", flush=True)


def await_frames(worker: Worker, count: int) -> None:
    while worker.metrics.value("frames") < count:
        time.sleep(0.005)


def point_at(job: Job, version: str) -> None:
    state, etag = job.read()
    job.commit(state.pointing_at(version, "a benchmark"), etag)
    publish_pointer(job)


def draw_video(path: Path, frames: int) -> Path:
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, SIZE[::-1])
    sites, lights = sorted(SITES), sorted(LIGHTS)
    for number in range(frames):
        site, light = sites[number % len(sites)], lights[number // len(sites) % len(lights)]
        writer.write(draw_scene(rng, site=site, light=light, size=SIZE)[0][:, :, ::-1])
    writer.release()
    return path


def make_bundle(folder: Path, seed: int) -> Path:
    import torch

    from components.core.estimators.yolo import Yolo

    torch.manual_seed(seed)
    model = Yolo()
    model.load("yolo11n.yaml")
    bundle: Bundle = model.save(
        folder, image_size=(320, 320), confidence_threshold=0.25, nms_threshold=0.7, lineage={"seed": seed}
    )
    assert bundle.files
    return folder


if __name__ == "__main__":
    main()

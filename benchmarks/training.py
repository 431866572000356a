"""How long training takes through the component, against bare ultralytics with the same settings.

Drawn helmet scenes, YOLO11n from nothing on the CPU. In one run, in turn, each in a process of its own:

bare     YOLO("yolo11n.yaml").train(...)
ours     components.train: checkpoints to the store after each epoch, the base model checked, ONNX exported and
         compared, the bundle written, predictions drawn

Both begin with the same laid-out images and end with trained weights. The ratio of the medians is printed, for the
whole process and for the epochs alone, from the end of the first to the end of the last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
SETTINGS: dict[str, Any] = {"batch": 16, "seed": 0, "patience": 100, "workers": 1}
OPTIONS = {"mosaic": 0.0, "nbs": 16, "warmup_epochs": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=400, help="how many (default 400)")
    parser.add_argument("--epochs", type=int, default=6, help="how many (default 6)")
    parser.add_argument("--image-size", type=int, default=160, help="pixels (default 160)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--only", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(METHODS[given.only[0]](Path(given.only[1]), given.epochs, given.image_size)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        prepare(work, given.scenes)
        results: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
        for _ in range(given.repeats):
            for name, runs in results.items():
                runs.append(in_a_process(name, work, given))
                print(
                    f"  {name}  {runs[-1]['whole']:6.1f} s, of which the epochs {runs[-1]['epochs']:6.1f} s", flush=True
                )
    for what in ("whole", "epochs"):
        median = {name: statistics.median(run[what] for run in runs) for name, runs in results.items()}
        print(
            f"{what:7} ours {median['ours']:.1f} s, bare {median['bare']:.1f} s: {median['ours'] / median['bare']:.3f}"
        )


def prepare(work: Path, scenes: int) -> None:
    """Draw the images, take them in and lay them out for the bare trainer."""
    from components.core.cache import fetch_blobs
    from components.core.estimators.yolo import lay_out
    from components.core.tasks.base import LocalSamples
    from components.ingest.ingest import ingest
    from components.prepare.prepare import prepare as split
    from pipelines.demo.scenes import make_dataset

    make_dataset(work / "scenes.zip", scenes, seed=0)
    manifest = split(ingest(str(work / "scenes.zip"), str(work / "job")).manifest).manifest
    manifest.write(work / "manifest.parquet")
    local = {name: manifest.split(name) for name in ("train", "val")}
    paths = {name: fetch_blobs(samples, work / "job" / "cache" / "blobs") for name, samples in local.items()}
    lay_out(work / "bare", *(LocalSamples(local[name], paths[name]) for name in ("train", "val")))


def in_a_process(name: str, work: Path, given: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--only", name, str(work), "--epochs", str(given.epochs)]
    command += ["--image-size", str(given.image_size)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "YOLO_CONFIG_DIR": str(work), "YOLO_OFFLINE": "true"}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return {"whole": time.perf_counter() - began, "epochs": json.loads(done.stdout.splitlines()[-1])}


def bare(work: Path, epochs: int, image_size: int) -> float:
    from ultralytics import YOLO

    model = YOLO("yolo11n.yaml", task="detect")
    times: list[float] = []
    model.add_callback("on_model_save", lambda trainer: times.append(time.perf_counter()))
    model.train(
        data=str(work / "bare" / "data.yaml"), epochs=epochs, imgsz=image_size, device="cpu", plots=False,
        verbose=False, project=str(work / "bare"), name="run", exist_ok=True, **SETTINGS, **OPTIONS,
    )  # fmt: skip
    return times[-1] - times[0]


def ours(work: Path, epochs: int, image_size: int) -> float:
    import shutil

    from components.core.estimators.base import Epoch, estimators
    from components.core.estimators.yolo import Yolo
    from components.core.manifest import Manifest
    from components.core.tasks.base import LocalSamples
    from components.train.train import train

    times: list[float] = []

    @estimators.register("timed-yolo")
    class TimedYolo(Yolo):
        def train(
            self, train: LocalSamples, val: LocalSamples, *, on_epoch: Callable[[Epoch], None], **rest: Any
        ) -> None:
            def timed(epoch: Epoch) -> None:
                on_epoch(epoch)
                times.append(time.perf_counter())

            super().train(train, val, on_epoch=timed, **rest)

    shutil.rmtree(work / "model", ignore_errors=True)
    train(
        Manifest.read(work / "manifest.parquet"), work / "model", job_root=str(work / "job"), epochs=epochs,
        estimator="timed-yolo", image_size=str(image_size), device="cpu", estimator_options=OPTIONS, **SETTINGS,
    )  # fmt: skip
    return times[-1] - times[0]


METHODS = {"bare": bare, "ours": ours}

if __name__ == "__main__":
    main()

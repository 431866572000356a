"""One poll of `incremental-learning` in one process, through the components' own functions.

Arguments: a JSON object with `feed_url`, `job_root`, `folder` (for the artifacts of this run), `run_id` and, for an
estimator of another kind, `estimator` and `plugins`.
"""

import json
import sys
from pathlib import Path

from kfp import dsl

from components.convert.component import convert
from components.deploy.component import deploy
from components.evaluate.component import judge
from components.ingest.component import collect
from components.prepare.component import plan
from components.train.component import train
from components.trigger.component import trigger

SETTINGS = {
    "classes": "red,blue", "train_ratio": 0.6, "val_ratio": 0.2, "min_samples": 2, "min_map50": 0,
    "initial_model": "nothing", "epochs": 5, "image_size": "64,96", "max_class_drop": -1,
    "trigger_conditions": ["num_of_samples >= 12"],
}  # fmt: skip


def poll(
    feed_url: str,
    job_root: str,
    folder: str,
    run_id: str,
    estimator: str = "quick",
    plugins: str = "tests.quick_estimator",
    force: str = "",
    gate: str = "map50 >= 0",
    targets: str = "",
) -> None:
    """Run the steps in the order of the pipeline if the trigger says so; `force`: `train`, `evaluate` or `deploy`."""
    settings = SETTINGS | {
        "estimator": estimator, "plugins": plugins, "gate_conditions": [gate], "targets": targets,
        "force_train": force == "train", "force_evaluate": force == "evaluate", "force_deploy": force == "deploy",
    }  # fmt: skip
    job = {"job_root": job_root, "settings": settings}
    run = {**job, "run_id": run_id}

    def new(kind: type, name: str):
        Path(folder).mkdir(parents=True, exist_ok=True)
        return kind(name=name, uri=str(Path(folder) / name), metadata={})

    if trigger.python_func(feed_url=feed_url, report=new(dsl.HTML, "t"), **job) != "RUN":
        return
    arrivals, quarantine = new(dsl.Dataset, "arrivals"), new(dsl.Dataset, "quarantine")
    pages = {name: new(dsl.HTML, f"{name}.html") for name in ("collect", "plan", "train", "convert", "judge", "page")}
    collect.python_func(feed_url=feed_url, manifest=arrivals, quarantine=quarantine, report=pages["collect"], **run)
    parts = {name: new(dsl.Dataset, name) for name in ("training", "everything", "core", "recent")}
    plan.python_func(arrivals=arrivals, **parts, report=pages["plan"], **run)
    model = new(dsl.Model, "model")
    train.python_func(manifest=parts["training"], model=model, report=pages["train"], **run)
    converted, conversion = new(dsl.Model, "converted"), new(dsl.Artifact, "conversion")
    convert.python_func(
        manifest=parts["everything"], model=model, converted=converted, conversion=conversion,
        report=pages["convert"], **run,
    )  # fmt: skip
    judgement, figures = new(dsl.Artifact, "judgement"), new(dsl.Artifact, "figures")
    metrics, classes = new(dsl.Metrics, "metrics"), new(dsl.ClassificationMetrics, "classes")
    judge.python_func(
        candidate=converted, conversion=conversion, core=parts["core"], recent=parts["recent"],
        judgement=judgement, figures=figures, metrics=metrics, classification=classes, report=pages["judge"], **run,
    )  # fmt: skip
    deploy.python_func(
        everything=parts["everything"], candidate=converted, judgement=judgement, figures=figures,
        page=pages["page"], **run,
    )  # fmt: skip


if __name__ == "__main__":
    print("ready", flush=True)
    poll(**json.loads(sys.argv[1]))

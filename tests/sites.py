"""A feed of sites that differ in how bright their images are, and the rounds of lifelong learning over it."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from kfp import dsl

from components.convert.component import convert
from components.ingest.component import collect
from components.lifelong.component import define_tasks, deploy_tasks, evaluate_tasks, infer_tasks, train_task
from components.trigger.component import trigger

SIZE, CELL = 96, 8
BRIGHTNESS = {"day": 1.0, "night": 0.3, "fog": 0.6}
SETTINGS = {
    "estimator": "brightness", "plugins": "tests.site_estimator", "initial_model": "nothing", "epochs": 1,
    "image_size": "96,96", "classes": "red,blue", "train_ratio": 0.6, "val_ratio": 0.2, "min_samples": 2,
    "min_map50": 0, "max_class_drop": -1, "trigger_conditions": ["num_of_samples >= 1"], "min_task_samples": 4,
    "gate_conditions": [], "max_false_unseen": 0.2,
}  # fmt: skip


def tiles(rng: np.random.Generator, brightness: float) -> tuple[np.ndarray, list[list[int]], list[str]]:
    """One image (96, 96, 3) RGB of noise with three coloured tiles on a grid, their boxes and labels."""
    image = rng.integers(100, 140, (SIZE, SIZE, 3), dtype=np.uint8)
    boxes, labels = [], []
    for place in rng.choice((SIZE // CELL) ** 2, 3, replace=False):
        y, x = (int(n) * CELL for n in divmod(place, SIZE // CELL))
        red = rng.integers(2)
        image[y : y + CELL, x : x + CELL] = (200, 0, 0) if red else (0, 0, 200)
        boxes.append([x, y, x + CELL, y + CELL])
        labels.append("red" if red else "blue")
    return (image * brightness).astype(np.uint8), boxes, labels


def arrive(
    feed: Path, site: str, count: int, *, seed: int, labelled: bool = True, brightness: float = 0, empty: bool = False
) -> None:
    """Let images of a site arrive; ``empty`` ones are labelled as showing nothing."""
    rng = np.random.default_rng(seed)
    (feed / site).mkdir(parents=True, exist_ok=True)
    with (feed / "labels.jsonl").open("a") as table:
        for number in range(count):
            name = f"{site}/{seed:03}-{number:03}.png"
            image, boxes, labels = tiles(rng, brightness or BRIGHTNESS[site])
            cv2.imwrite(str(feed / name), image[:, :, ::-1])
            boxes, labels = ([], []) if empty else (boxes, labels)
            line = {"image": name, **({"boxes": boxes, "labels": labels} if labelled else {})}
            table.write(json.dumps(line) + "\n")


def learn(
    feed: Path, folder: Path, run_id: str, *, until: str = "infer", meanwhile=None, unconverted=(), **settings
) -> dict:
    """One round through the components' own functions, in the order of the pipeline.

    Args:
        until: the last step; what follows it is left out, as when a run is killed.
        meanwhile: what happens before this run commits.
        unconverted: names of models whose conversion fails.

    Returns:
        The artifacts by name.
    """
    job = {"job_root": str(folder / "job"), "settings": SETTINGS | settings}
    run = {**job, "run_id": run_id}
    here = folder / "runs" / run_id
    shutil.rmtree(here, ignore_errors=True)  # what a killed run left on its machine is gone
    here.mkdir(parents=True)

    def new(kind, name):
        return kind(name=name, uri=str(here / name), metadata={})

    if trigger.python_func(feed_url=str(feed), report=new(dsl.HTML, "trigger.html"), **job) != "RUN":
        return {}
    made = {name: new(dsl.Dataset, name)
            for name in ("arrivals", "quarantine", "training", "everything", "tests", "recent", "results")}  # fmt: skip
    made |= {name: new(dsl.Artifact, name) for name in ("tasks", "judgement", "figures")}
    made |= {"metrics": new(dsl.Metrics, "metrics"), "classes": new(dsl.ClassificationMetrics, "classes")}
    pages = {name: new(dsl.HTML, f"{name}.html") for name in ("collect", "tasks", "evaluate", "infer", "page")}
    collect.python_func(
        feed_url=str(feed), manifest=made["arrivals"], quarantine=made["quarantine"],
        report=pages["collect"], **run,
    )  # fmt: skip
    parts = {name: made[name] for name in ("training", "everything", "tests", "recent", "tasks")}
    made["names"] = define_tasks.python_func(arrivals=made["arrivals"], report=pages["tasks"], **parts, **run)
    models, conversions = [], []
    for name in made["names"]:
        trained, own = new(dsl.Model, f"trained-{name}"), new(dsl.Dataset, f"own-{name}")
        train_task.python_func(
            name=name, training=made["training"], everything=made["everything"], tasks=made["tasks"],
            model=trained, samples=own, report=new(dsl.HTML, f"train-{name}.html"), **run,
        )  # fmt: skip
        models.append(new(dsl.Model, f"model-{name}"))
        conversions.append(new(dsl.Artifact, f"conversion-{name}"))
        convert.python_func(
            manifest=own, model=trained, converted=models[-1], conversion=conversions[-1],
            report=new(dsl.HTML, f"convert-{name}.html"), **run,
        )  # fmt: skip
        if name in unconverted:
            conversions[-1].metadata["outcome"] = "failed"
            Path(conversions[-1].path).write_text(json.dumps({"reasons": ["rk3588 int8: mAP50 fell"]}))
    made["models"] = models
    evaluate_tasks.python_func(
        models=models, conversions=conversions, everything=made["everything"], tests=made["tests"],
        recent=made["recent"], tasks=made["tasks"], judgement=made["judgement"], figures=made["figures"],
        metrics=made["metrics"], classification=made["classes"], report=pages["evaluate"], **run,
    )  # fmt: skip
    if until == "evaluate":
        return made
    if meanwhile:
        meanwhile()
    deploy_tasks.python_func(
        everything=made["everything"], models=models, judgement=made["judgement"], figures=made["figures"],
        page=pages["page"], **run,
    )  # fmt: skip
    if until == "infer":
        infer_tasks.python_func(arrivals=made["arrivals"], results=made["results"], report=pages["infer"], **job)
    return made | {"pages": pages}

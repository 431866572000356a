"""Images per second through a knowledge base against the bare model, and the bytes of a sync after a round.

    python benchmarks/knowledge_base.py --repeats 7 --frames 200

Ten tasks, each a site of its own, and the shared model: untrained YOLO11n at 320 pixels, on one thread. They differ by
a line of text alone, on which neither time nor bytes depend. ``bare`` is one model on frames that lie decoded in
memory. The others are what the edge worker does with the same frames: it finds the task of each (``definition`` by its
path, ``router`` by what it looks like) and how little it is like the training images (``knn``), and runs the task's
model, with memory for all models or for three. Images per second of processor time are compared, by turns, so that what
else a machine does counts little. ``sync`` is what a worker fetches, the pointer included: all of a release, then what
changed of it in a round with new samples of one site, half as many as there were. Which models such a round trains is
planned as in a round.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components.core.bundle import Bundle, sha256_of
from components.core.job.fleet import POINTER
from components.core.job.job import Job
from components.core.lifelong.knowledge_base import Chosen, KnowledgeBase, TaskEntry
from components.core.lifelong.plug_points import make, task_allocations, task_updates, unseen_detections
from components.core.lifelong.samples import Projection, Samples
from components.core.manifest import Manifest
from components.core.parameters import LifelongSettings, read
from components.core.release import Member, Release
from components.core.runtimes.base import open_detector
from components.core.runtimes.letterbox import ImageArray
from components.deploy.pointer import publish_pointer
from components.lifelong.plan import plan_models
from components.serving.active_model import ActiveModel, LoadedModel
from components.serving.inference import ModelRunner
from components.serving.knowledge_base import KnowledgeBaseModels
from components.serving.loaded_models import LoadedModels
from components.serving.loop import FRAMES_AT_ONCE
from components.serving.model_cache import CachedModel, ModelCache
from components.serving.pointers import WHOLE, JobPointer
from pipelines.demo.lights import LIGHTS
from pipelines.demo.scenes import draw_scene
from pipelines.demo.sites import SITES

SIZE = (480, 640)
Frames = Sequence[tuple[ImageArray, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=10)
    given = parser.parse_args()
    tasks = [f"site-{number}" for number in range(given.tasks)]
    frames = draw_frames(given.frames, tasks)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        job, network = Job.open(str(work / "job")), make_bundle(work / "network")
        versions = publish_models(job, network, ["shared", *tasks], "first")
        for allocation in ("router", "definition"):
            publish(job, f"by-{allocation}", versions, routing(frames, tasks, allocation))
            cached = bring(job, work / allocation)[0]
            compare_speed(cached, frames, given.repeats, allocation)
        print_syncs(job, network, work, versions, routing(frames, tasks, "router"))
    print(f"load {os.getloadavg()[0]:.1f}")


def compare_speed(cached: CachedModel, frames: Frames, repeats: int, allocation: str) -> None:
    """Bare model and knowledge base by turns, as a ratio of each pair."""
    bare = open_detector("onnx", cached.members["shared"].folder, 1)
    few = LoadedModels(3, lambda _: 1)
    ways = {"all loaded": runner(cached, LoadedModels(1 << 40, lambda _: 1)), "three loaded": runner(cached, few)}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        started = time.process_time()
        for image, _ in frames:
            bare.predict([image])
        alone = time.process_time() - started
        for name, run in ways.items():
            started = time.process_time()
            for first in range(0, len(frames), FRAMES_AT_ONCE):
                seen = run.look_at(frames[first : first + FRAMES_AT_ONCE])
                assert not any(isinstance(one, str) for one in seen), seen
            if turn:  # the first one warms up
                shares[name].append(alone / (time.process_time() - started))
    for name, found in shares.items():
        middle, low, high = statistics.median(found), min(found), max(found)
        print(f"{allocation}, {name}: {middle:.1%} of the bare model's images/s ({low:.1%} to {high:.1%})", flush=True)


def runner(cached: CachedModel, memory: LoadedModels) -> ModelRunner:
    base = KnowledgeBaseModels(cached, memory, lambda model: open_detector("onnx", model.folder, 1))
    base.preload()
    slot = ActiveModel()
    slot.offer(LoadedModel(base, cached))
    slot.next()
    return ModelRunner(slot, nullcontext)


def print_syncs(job: Job, network: Path, work: Path, versions: dict[str, Member], base: KnowledgeBase) -> None:
    """The bytes of the first sync, and of those after a round with new samples of one task."""
    changed = {
        "a round with new samples of one task": trained(versions, base, max_missed=0.2),
        "one that trains the shared model, too": trained(versions, base, max_missed=0),
    }
    whole = bring(job, work / "first")[1]
    print(f"sync: {len(versions)} models, {whole:,} bytes in all, {len(job.store.read(POINTER)):,} of them the pointer")
    for number, (name, roles) in enumerate(changed.items()):
        folder = work / f"worker{number}"
        shutil.copytree(work / "first", folder)
        publish(job, f"round-{number}", versions | publish_models(job, network, roles, f"round{number}"), base)
        part = bring(job, folder)[1]
        print(f"sync: after {name} ({', '.join(roles)}): {part:,} bytes, {part / whole:.1%}", flush=True)
        publish(job, f"back-{number}", versions, base)


def trained(versions: dict[str, Member], base: KnowledgeBase, max_missed: float) -> list[str]:
    """The models that a round trains for five new samples of the first task, where each had ten."""
    tasks = {f"{name}/{number}": name for name in base.tasks for number in range(10)}
    new = {f"site-0/{number}": "site-0" for number in range(10, 15)}
    rows: list[dict[str, Any]] = [
        {"id": id_, "split": "train", "round": 2 if id_ in new else 1, "annotations": []} for id_ in tasks | new
    ]
    update = make(task_updates, read(LifelongSettings, {}).task_update, {"max_missed": max_missed})
    known = base.model_copy(update={"shared_round": 1})
    models = plan_models(
        Manifest.of(rows, ["a"]), tasks | new, new, round_number=2, known=known, members=versions, update=update
    )
    return [one.name for one in models if one.trains]


def bring(job: Job, folder: Path) -> tuple[CachedModel, int]:
    """Let a worker follow the pointer; its release, and the bytes that it fetched."""
    before = _files(folder)
    desired = JobPointer(job.store, "edge-1", WHOLE).read()
    assert desired is not None
    cached = ModelCache(folder, "onnx").bring(desired)
    fetched = sum(size for path, size in _files(folder).items() if path not in before and path.parent != cached.folder)
    return cached, fetched + len(job.store.read(POINTER))


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def publish(job: Job, version: str, members: dict[str, Member], base: KnowledgeBase) -> None:
    release = Release(members=members, routing=base.model_dump(mode="json"))
    job.registry.publish_release(release, version)
    state, etag = job.read()
    state = state.model_copy(update={"vouched": {**state.vouched, version: release.sha256}})
    job.commit(state.pointing_at(version, "a benchmark"), etag)
    publish_pointer(job)


def routing(frames: Frames, tasks: list[str], allocation: str) -> KnowledgeBase:
    """Tasks by site, learned from frames; nothing is unseen, so that every frame goes to the model of its task."""
    samples = Samples.of(image for image, _ in frames)
    names = [path.partition("/")[0] for _, path in frames]
    projection = Projection.fit(samples.features)
    knn = make(unseen_detections, "knn", {})
    allocate = make(task_allocations, allocation, {})
    return KnowledgeBase(
        definition=Chosen(name="TaskDefinitionByDataAttr"),
        allocation=Chosen(name=allocation, state=allocate.fit(samples, names)),
        unseen=Chosen(name="knn", state=knn.fit(projection.apply(samples.features), names)), projection=projection,
        threshold=1e6, policy="fallback",
        tasks={name: TaskEntry(member=name, why="new", first_round=1, samples=10) for name in tasks},
    )  # fmt: skip


def draw_frames(count: int, tasks: list[str]) -> list[tuple[ImageArray, str]]:
    """Scenes with their paths in the feed, the tasks by turns."""
    rng = np.random.default_rng(0)
    sites, lights = sorted(SITES), sorted(LIGHTS)
    found = []
    for number in range(count):
        task = number % len(tasks)
        image, _ = draw_scene(rng, site=sites[task % len(sites)], light=lights[task % len(lights)], size=SIZE)
        found.append((image, f"{tasks[task]}/{number:05}.jpg"))
    return found


def publish_models(job: Job, network: Path, roles: Sequence[str], generation: str) -> dict[str, Member]:
    """A model for each role, all with the same weights and different bytes."""
    import onnx

    members = {}
    for role in roles:
        version = f"{generation}-{role}"
        folder = network.parent / version
        shutil.copytree(network, folder)
        graph = onnx.load(folder / "model.onnx")
        graph.doc_string = version
        onnx.save(graph, folder / "model.onnx")
        Bundle.parse((folder / "model.json").read_bytes(), version).write(folder)
        job.registry.publish(folder, version)
        members[role] = Member(version=version, sha256=sha256_of(folder / "model.json"))
    return members


def make_bundle(folder: Path) -> Path:
    """An untrained YOLO11n."""
    from components.core.estimators.yolo import Yolo

    model = Yolo()
    model.load("yolo11n.yaml")
    model.save(folder, image_size=(320, 320), confidence_threshold=0.25, nms_threshold=0.7, lineage={})
    return folder


if __name__ == "__main__":
    main()

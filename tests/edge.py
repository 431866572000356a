"""What the tests of the edge worker share: a job with models, images to look at, and what came of it."""

import json
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import cv2
import numpy as np

from components.core.job.fleet import WorkerStatus, status_key
from components.core.job.hard_examples import read_sidecars
from components.core.job.job import Job
from components.core.stores.open import open_store
from components.deploy.pointer import publish_pointer
from components.serving.job_folder import job_folder
from components.serving.worker import Options, Worker
from tests.images import jpeg, squares
from tests.models import BUNDLE, colour_model, write_bundle

SIZE = 96


def deploy(job: Job, version: str, folder: Path, graph=None, bundle=BUNDLE, padding: int = 0) -> None:
    """Publish a model version and point the workers at it; padding makes its file larger by so many bytes."""
    graph = graph or colour_model()
    if padding:
        entry = graph.metadata_props.add()
        entry.key, entry.value = "padding", "x" * padding
    job.registry.publish(write_bundle(folder, graph, bundle), version)
    point_at(job, version)


def point_at(job: Job, version: str) -> None:
    state, etag = job.read()
    job.commit(state.pointing_at(version, "a test"), etag)
    publish_pointer(job)


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [squares(rng, SIZE)[0] for _ in range(count)]


def folder_of_images(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images(count, seed)):
        (folder / f"{number:04}.jpg").write_bytes(jpeg(image))
    return folder


def video(path: Path, count: int, seed: int = 0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (SIZE, SIZE))
    for image in images(count, seed):
        writer.write(image[:, :, ::-1])
    writer.release()
    return path


def options(tmp_path: Path, source: object, **others) -> Options:
    """A worker that keeps everything it sees, unless configured otherwise."""
    chosen = {
        "job_root": str(tmp_path / "job"), "source": str(source), "node": "edge-1", "folder": tmp_path / "worker",
        "miner": "CloudOnly", "duplicate_bits": -1, "poll_s": 0.1, "threads": 1, "audit_ratio": 0.0,
    } | others  # fmt: skip
    return Options(**chosen)


@contextmanager
def running(chosen: Options):
    """A worker in a thread, and what ends it."""
    worker, stop = Worker(chosen), Event()
    thread = Thread(target=worker.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def status(job: Job, node: str = "edge-1") -> WorkerStatus | None:
    found = job.store.read_versioned(status_key(node))
    return WorkerStatus.model_validate_json(found[0]) if found else None


def uploaded(job: Job) -> Counter:
    """How often each image is in the store."""
    return Counter(sidecar.image for sidecar in read_sidecars(job.store))


def own_folder(chosen: Options) -> Path:
    """Where a worker keeps what belongs to its job."""
    return job_folder(chosen.folder, open_store(chosen.job_root).uri)


def shelf(chosen: Options) -> dict:
    return json.loads((own_folder(chosen) / "models" / "shelf.json").read_text())


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError as error:
        return 0, str(error)

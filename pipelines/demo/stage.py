"""What the demo's story needs beside the pipelines: a feed, a camera, an edge worker and somebody who labels."""

from __future__ import annotations

import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from components.core.errors import InputError
from components.core.job.hard_examples import image_key, read_sidecars, sidecar_key
from components.core.job.label_requests import read_lists
from components.core.processes import end, module_command, module_environment
from components.core.stores.open import Store, open_store
from pipelines.demo.scenes import CLASSES, Box, draw_scene

FRAME_SIZE = (240, 320)  # height and width, pixels
FRAMES_PER_SECOND = 12
IMAGE_QUALITY = 90
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # to this machine, past any proxy


@dataclass(frozen=True)
class Scenery:
    """Where and when images are taken.

    Attributes:
        name: for people.
        sites: names of ``SITES``.
        lights: names of ``LIGHTS``.
    """

    name: str
    sites: tuple[str, ...]
    lights: tuple[str, ...]

    def draw(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, list[Box]]]:
        """Images, (height, width, 3) uint8 RGB, with their boxes; sites and lights take turns."""
        for number in range(count):
            site = self.sites[number % len(self.sites)]
            light = self.lights[number // len(self.sites) % len(self.lights)]
            yield draw_scene(np.random.default_rng((seed, number)), site=site, light=light, size=FRAME_SIZE)


class Feed:
    """The folder where labelled images arrive, with Sedna's index.

    Args:
        folder: created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        self.index = folder / "train_data.txt"
        self.index.touch()

    def add(self, name: str, data: bytes, boxes: Sequence[Box]) -> None:
        """Let an image arrive with its labels: first the image, then the line that names it."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        labels = [f"{x1},{y1},{x2},{y2},{CLASSES.index(label)}" for label, x1, y1, x2, y2 in boxes]
        with self.index.open("a") as file:
            file.write(" ".join([name, *labels]) + "\n")

    def add_scenes(self, scenery: Scenery, count: int, seed: int, prefix: str = "") -> None:
        """Let drawn scenes arrive with their labels."""
        for number, (image, boxes) in enumerate(scenery.draw(count, seed)):
            _, data = cv2.imencode(
                ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, IMAGE_QUALITY]
            )
            self.add(f"images/{prefix}{number:04d}.jpg", data.tobytes(), boxes)


class Camera:
    """A video of drawn scenes, and what is to be seen in each of its frames.

    Args:
        path: of the video, ``.avi``.
        scenery: what it shows.
        frames: how many.
        seed: of the scenes.
    """

    def __init__(self, path: Path, scenery: Scenery, frames: int, seed: int) -> None:
        self.path = path
        self.truth: list[list[Box]] = []
        height, width = FRAME_SIZE
        codec = cv2.VideoWriter.fourcc(*"MJPG")
        video = cv2.VideoWriter(str(path), codec, FRAMES_PER_SECOND, (width, height))
        video.set(cv2.VIDEOWRITER_PROP_QUALITY, 95)
        for image, boxes in scenery.draw(frames, seed):
            video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            self.truth.append(boxes)
        video.release()
        if not path.is_file() or not path.stat().st_size:
            raise InputError(f"{path}: the video cannot be written, is the disk full?")


@dataclass
class Worker:
    """An edge worker in a process of its own.

    Attributes:
        node: its name.
        log: what it said.
    """

    node: str
    log: Path
    _port: int
    _process: subprocess.Popen[bytes]

    def counts(self) -> dict[str, float]:
        """What it has counted so far, by the names of its metrics without ``edge_`` and ``_total``."""
        return metrics_of(f"http://127.0.0.1:{self._port}")

    def model(self) -> str:
        """The version that it looks with; empty before the first."""
        found = re.search(
            r'^edge_model_info\{version="([^"]+)"\}', _page(f"http://127.0.0.1:{self._port}"), re.MULTILINE
        )
        return found[1] if found else ""

    def await_model(self, version: str, seconds: float = 60) -> None:
        """Wait until it looks with a version."""
        self._await(lambda: self.model() == version, f"model {version}", seconds)

    def await_examples(self, count: int, seconds: float = 120) -> None:
        """Wait until it has sent so many more than by now."""
        before = self.counts().get("uploaded", 0)
        self._await(lambda: self.counts().get("uploaded", 0) >= before + count, f"{count} hard examples", seconds)

    def await_frames(self, count: int, seconds: float = 60) -> None:
        """Wait until it has looked at so many more images."""
        before = self.counts().get("frames", 0)
        self._await(lambda: self.counts().get("frames", 0) >= before + count, f"{count} images", seconds)

    def _await(self, reached: object, what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not reached():  # type: ignore[operator]
            if self._process.poll() is not None:
                raise InputError(f"the edge worker stopped: see {self.log}")
            if time.monotonic() > end:
                raise InputError(f"the edge worker did not reach {what} within {seconds:g} s: see {self.log}")
            time.sleep(0.2)


def metrics_of(url: str) -> dict[str, float]:
    """What the edge worker at an address has counted, by the names of its metrics without ``edge_`` and ``_total``."""
    found = re.findall(r"^edge_(\w+?)(?:_total)? ([0-9.e+]+)$", _page(url), re.MULTILINE)
    return {name: float(value) for name, value in found}


def _page(url: str) -> str:
    """The page of metrics; empty where nothing answers."""
    try:
        with _DIRECT.open(f"{url}/metrics", timeout=5) as answer:
            return str(answer.read(), "utf-8")
    except (urllib.error.URLError, ConnectionError):
        return ""


@contextmanager
def edge_worker(node: str, job_root: Path, camera: Camera, folder: Path) -> Iterator[Worker]:
    """Let a worker look at a camera, again and again, while the body runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*module_command("components.serving.edge_worker"), "--job-root", str(job_root), "--node", node]
    command += ["--source", str(camera.path), "--loop", "--max-fps", str(FRAMES_PER_SECOND), "--threads", "1"]
    command += ["--poll", "1", "--port", str(port), "--spool", str(folder)]
    log = folder / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=module_environment())
    try:
        yield Worker(node, log, port, process)
    finally:
        end(process)


def label(job_root: Path, cameras: Sequence[Camera], feed: Feed) -> int:
    """Stand in for a person: label what the last list asks for, and bring it into the feed.

    Args:
        job_root: the job.
        cameras: that the images may come from.
        feed: gets them.

    Returns:
        How many images were labelled.
    """
    store = open_store(str(job_root))
    *_, asked = read_lists(store)
    wanted = {image.id for image in asked.images}
    truths = {camera.path.name: camera.truth for camera in cameras}
    labelled = 0
    for sidecar in list(read_sidecars(store)):
        if sidecar.image in wanted:
            name = f"hard-examples/{sidecar.image}{sidecar.suffix}"
            feed.add(name, store.read(image_key(sidecar)), truths[Path(sidecar.source).name][sidecar.frame])
            labelled += 1
    part_scenes(store, wanted)
    return labelled


def part_scenes(store: Store, images: Collection[str]) -> None:
    """Let hard examples be scenes by themselves, as every frame of these videos is.

    Frames of a real camera are one scene, and go to one split because of their sidecars. So these are removed.

    Args:
        store: the job's root.
        images: SHA-256 of the images.
    """
    for sidecar in list(read_sidecars(store)):
        if sidecar.image in images:
            store.delete(sidecar_key(sidecar))

"""Predict: draw what a model sees in images, folders and videos, and count it.

The model may be a bundle, ``.pt`` weights, or the root of a job, which stands for its champion. It runs as it does on
the edge: the bundle's ONNX, its canvas and its thresholds; weights are made a bundle first.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from components.core.bundle import DESCRIPTION
from components.core.errors import InputError
from components.core.estimators.base import estimators
from components.core.job.job import Job
from components.core.runtimes.base import Model, open_model
from components.core.runtimes.letterbox import ImageArray, read_image
from components.core.stores.addresses import folder_at
from components.core.tasks.base import Task, open_task
from components.serving.sources.folder import SUFFIXES, FolderSource
from components.serving.sources.video import VideoSource

VIDEO_SUFFIX = ".mp4"
USUAL_FPS = 25.0  # of a video that does not say


@dataclass
class Seen:
    """What a model saw in one source.

    Attributes:
        source: as it was given.
        drawn: the file, or the folder of files, with what was seen drawn on it.
        images: how many were looked at.
        task: of the model.
        counts: what was found by class: objects, or pixels.
    """

    source: str
    drawn: Path
    task: Task[Any, Any]
    images: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """The counts as one line."""
        images = f"{self.images:,} image{'' if self.images == 1 else 's'}"
        return f"{self.source}: {images}, {self.task.described(self.counts)}"


def predict(
    model: str,
    sources: Sequence[str],
    output: Path,
    *,
    work: Path,
    confidence: float | None = None,
    estimator: str = "yolo",
    image_size: tuple[int, int] = (640, 640),
) -> Iterator[Seen]:
    """Draw what a model sees.

    Args:
        model: folder of a bundle or a file in it, ``.pt`` weights, or the root of a job with a champion.
        sources: image files, folders of images and video files.
        output: gets what is drawn: an image for each image, under the same name, and a video for each video.
        work: folder for a model that is not on this machine as a bundle.
        confidence: least score of a box, 0..1; the bundle's own where None.
        estimator: kind of model of ``.pt`` weights.
        image_size: height and width in pixels that ``.pt`` weights are to be used at.

    Yields:
        What was seen in each source, when it is done.

    Raises:
        InputError: no such model or source, or the output would replace a source.
    """
    targets = _targets(sources, output)
    opened = open_model("onnx", bundle_of(model, work, estimator, image_size))
    task = open_task(opened.bundle.task)
    for source, target in targets.items():
        path = folder_at(source)
        seen = Seen(source, target, task)
        if path.is_dir():
            _folder(opened, path, seen, confidence)
        elif path.suffix.lower() in SUFFIXES:
            _write(target, _looked(opened, read_image(path), seen, confidence))
        else:
            _video(opened, path, seen, confidence)
        yield seen


def bundle_of(model: str, work: Path, estimator: str = "yolo", image_size: tuple[int, int] = (640, 640)) -> Path:
    """The folder of the bundle that a model's address stands for; see ``predict``.

    Raises:
        InputError: there is no model, or one that cannot run here.
    """
    if "://" in model and not model.startswith("file://"):
        return _champion(model, work)
    path = folder_at(model)
    if path.is_file() and path.suffix == ".pt" and not (path.parent / DESCRIPTION).is_file():
        trained = estimators.get(estimator)()
        trained.load(path)
        lineage: dict[str, Any] = {"base_model": str(path)}
        trained.save(work, image_size=image_size, confidence_threshold=0.25, nms_threshold=0.7, lineage=lineage)
        return work
    folder = path.parent if path.is_file() else path
    if (folder / DESCRIPTION).is_file():
        return folder
    if path.is_file():
        raise InputError(
            f"model {model}: no {DESCRIPTION} beside it, which describes its outputs: give the folder of a "
            "bundle, .pt weights, or a job_root"
        )
    if not path.exists():
        raise InputError(f"model {model}: no such file or folder: give a bundle, .pt weights, or a job_root")
    return _champion(model, work)


def _champion(job_root: str, work: Path) -> Path:
    job = Job.open(job_root)
    job.fetch_bundle(job.champion(), work)
    return work


def _targets(sources: Sequence[str], output: Path) -> dict[str, Path]:
    """Where what each source shows is drawn; all are checked before the model is loaded."""
    if not sources:
        raise InputError("no source: give images, folders of images or videos")
    targets: dict[str, Path] = {}
    for source in dict.fromkeys(sources):
        if source.isdigit() or source.lower().startswith(("rtsp:", "rtsps:")):
            raise InputError(f"source {source}: cameras are not supported here: use the edge worker for cameras")
        if "://" in source and not source.startswith("file://"):
            raise InputError(f"source {source}: only files on this machine can be given: download it first")
        path = folder_at(source)
        if not path.exists():
            raise InputError(f"source {source}: no such file or folder: give an image, a folder of images or a video")
        folder = path if path.is_dir() else path.parent
        if output.resolve().is_relative_to(path.resolve()) or output.resolve() == folder.resolve():
            raise InputError(f"--output {output}: this would overwrite {source}: give another folder")
        name = path.name if path.is_dir() or path.suffix.lower() in SUFFIXES else path.stem + VIDEO_SUFFIX
        target, number = output / name, 1
        while target in targets.values():
            number += 1
            target = output / f"{Path(name).stem}-{number}{Path(name).suffix}"
        targets[source] = target
    _check_untouched(targets, output)
    return targets


def _check_untouched(targets: Mapping[str, Path], output: Path) -> None:
    """Refuse to draw over a source, or into a folder of sources: what a folder's images are called is not known yet.

    Raises:
        InputError: it would be.
    """
    for source in targets:
        path = folder_at(source).resolve()
        for target in (target.resolve() for target in targets.values()):
            if target.is_relative_to(path) or path.is_relative_to(target):
                raise InputError(f"--output {output}: this would overwrite {source}: give another folder")


def _folder(model: Model[Any], folder: Path, seen: Seen, confidence: float | None) -> None:
    for shot in FolderSource(folder).shots(threading.Event()):
        _write(seen.drawn / shot.place, _looked(model, shot.image, seen, confidence))


def _video(model: Model[Any], path: Path, seen: Seen, confidence: float | None) -> None:
    shots = VideoSource(path).shots(threading.Event())
    shot = next(shots, None)
    if shot is None:
        raise InputError(f"{path}: no frame of this video can be decoded; convert it with ffmpeg")
    first = _looked(model, shot.image, seen, confidence)
    with _writer(seen.drawn, first.shape[1::-1], _fps(path)) as writer:
        writer.write(first[:, :, ::-1])
        for shot in shots:
            writer.write(_looked(model, shot.image, seen, confidence)[:, :, ::-1])


def _looked(model: Model[Any], image: ImageArray, seen: Seen, confidence: float | None) -> ImageArray:
    """Let the model look at one image, count what it sees, and draw it."""
    (found,) = model.predict([image], confidence=confidence)
    seen.images += 1
    seen.counts.update(seen.task.counted(found, model.bundle.classes))
    return seen.task.drawn(image, found, model.bundle.classes)[0]


def _write(path: Path, image: ImageArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image[:, :, ::-1])
    if not done:
        raise InputError(f"{path}: cannot be written as {path.suffix}")
    path.write_bytes(data.tobytes())


def _fps(path: Path) -> float:
    capture = cv2.VideoCapture(str(path))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return fps if 0 < fps <= 1000 else USUAL_FPS


@contextmanager
def _writer(path: Path, size: Sequence[int], fps: float) -> Iterator[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, tuple(size))
    if not writer.isOpened():
        raise InputError(f"{path}: the video cannot be written")
    try:
        yield writer
    finally:
        writer.release()

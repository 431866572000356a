"""Builds of one model, each made once: what was built from the same inputs before is taken from the cache.

Two builds of the same inputs differ in some bytes, so a build is known by its inputs, not by its file. One that nobody
asked for in a week is removed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from components.convert.build import FACTS, GOLDEN, MODEL, Request
from components.convert.calibration import calibration_canvases, write_canvases, write_list
from components.convert.toolkit import Built, build, read_build
from components.core.bundle import Bundle, sha256_of
from components.core.cache import fetch_blobs
from components.core.manifest import Manifest
from components.core.tasks.base import LocalSamples, open_task

_KEPT_SECONDS = 7 * 86400.0
_FORMAT = 3  # of a cached build; another number makes the old ones unknown


class Builds:
    """Builds and simulates a model.

    Args:
        folder: the bundle.
        calibration: samples that ranges are taken from, where the precision is int8.
        check: samples that the simulator looks at.
        blobs: where images are brought to.
        cache: where builds are kept.
        toolkit: version of the toolkit.
        time_limit: seconds that one build may take.
    """

    def __init__(
        self,
        folder: Path,
        calibration: Manifest,
        check: Manifest,
        *,
        blobs: Path,
        cache: Path,
        toolkit: str,
        time_limit: float,
    ) -> None:
        self._folder = folder.resolve()
        self.bundle = Bundle.read(folder)
        self._task = open_task(self.bundle.task)
        self._calibration = calibration
        self._check = check
        self._blobs = blobs
        self._cache = cache.resolve()
        self._toolkit = toolkit
        self._time_limit = time_limit

    def get(self, target: str, precision: str, algorithm: str) -> Built:
        """One build, from the cache where it is there and whole.

        Args:
            target: chip.
            precision: ``int8`` or ``fp16``.
            algorithm: of the calibration; empty for fp16.

        Raises:
            ToolkitError: the toolkit could not; this is not kept.
        """
        kept = self._cache / self._key(target, precision, algorithm)
        is_there = _is_whole(kept)
        if is_there:
            os.utime(kept)
        _remove_old(self._cache)
        if not is_there:
            self._cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._cache) as work:
                self._build(target, precision, algorithm, Path(work))
                _keep(Path(work), kept)
        return read_build(kept, self._task)

    @functools.cached_property
    def samples(self) -> LocalSamples:
        """The check samples, on this machine."""
        return self._task.local(self._check, self._blobs)

    def _build(self, target: str, precision: str, algorithm: str, work: Path) -> None:
        canvases = work / "canvases"
        canvases.mkdir()
        request = Request(
            bundle=str(self._folder),
            target=target,
            precision=precision,
            algorithm=algorithm,
            calibration=str(self._calibrate(canvases, algorithm)) if algorithm else "",
            images=[str(path.resolve()) for path in self.samples.paths],
            output=str(work),
            note=_note(self.bundle),
        )
        build(request, self._time_limit)
        shutil.rmtree(canvases)

    def _calibrate(self, folder: Path, algorithm: str) -> Path:
        paths = fetch_blobs(self._calibration, self._blobs)
        canvases = calibration_canvases(self._calibration, paths, self.bundle)
        return write_list(folder, write_canvases(canvases, folder), algorithm)

    def _key(self, target: str, precision: str, algorithm: str) -> str:
        inputs = {
            "format": _FORMAT,
            "toolkit": self._toolkit,
            "target": target,
            "precision": precision,
            "algorithm": algorithm,
            "model": _note(self.bundle),
            "outputs": self.bundle.outputs,
            "calibration": self._calibration.table.select("id", "annotations").rows() if algorithm else [],
            "check": self._check.table["id"].to_list(),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _note(bundle: Bundle) -> str:
    """How a model is to be fed and read, kept in the file itself; boards read at most 1023 bytes of it."""
    told = {
        "onnx_sha256": bundle.files["model.onnx"],
        "image_size": bundle.image_size,
        "input": "uint8 NHWC letterbox",
        "pad": bundle.pad,
        "colour": bundle.colour,
        "head": asdict(bundle.head),
        "confidence_threshold": bundle.confidence_threshold,
        "nms_threshold": bundle.nms_threshold,
    }
    return json.dumps(told, separators=(",", ":"))


def _is_whole(folder: Path) -> bool:
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return all(
            sha256_of(folder / name) == facts[recorded]
            for name, recorded in ((MODEL, "sha256"), (GOLDEN, "golden_sha256"))
        )
    except (FileNotFoundError, KeyError, ValueError):
        return False


def _remove_old(cache: Path) -> None:
    """Remove builds that were not asked for lately, and what killed ones left half-made."""
    for path in cache.glob("*"):
        with contextlib.suppress(OSError):  # another run removes it, too
            if path.stat().st_mtime < time.time() - _KEPT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _keep(work: Path, kept: Path) -> None:
    """Give finished work its name; what was damaged there, or another run has put there meanwhile, goes."""
    shutil.rmtree(kept, ignore_errors=True)
    try:
        work.rename(kept)
    except OSError:
        if not _is_whole(kept):
            raise
    else:
        work.mkdir()  # whoever made it removes it

"""The three outputs of joint inference in KubeEdge Sedna, by their names: images with boxes drawn, and JSON lines.

======================================= ==================================================
folder                                  frames, and whose boxes
======================================= ==================================================
``all_examples_inference_output``       all: the final ones
``hard_example_edge_inference_output``  hard ones that the edge's model saw: its own
``hard_example_cloud_inference_output`` hard ones that the cloud answered: the cloud's
======================================= ==================================================

Each start of the worker has a name, made of its time, which begins the names of its images and names its file of
lines; so no start overwrites what an earlier one wrote.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.stores.transfer import os_errors
from components.serving.sinks.base import Result, sinks
from components.serving.sinks.video import drawn

ALL = "all_examples_inference_output"
EDGE = "hard_example_edge_inference_output"
CLOUD = "hard_example_cloud_inference_output"
_QUALITY = 90


@sinks.register("sedna")
class SednaOutputs:
    """Images and lines in the three folders.

    Args:
        target: the folder that gets them.

    Raises:
        InputError: the folder cannot be made.
    """

    needs_image = takes_masks = True

    def __init__(self, target: str) -> None:
        self._folder = Path(target).expanduser()
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        with os_errors(f"sink sedna:{target}"):
            for name in (ALL, EDGE, CLOUD):
                (self._folder / name).mkdir(parents=True, exist_ok=True)

    def write(self, result: Result) -> None:
        """Write one frame into each folder that it belongs to."""
        for name, found in _outputs(result):
            one = replace(result, detections=found)
            path = self._folder / name / f"{self._run}-{result.frame:08}.jpeg"
            if self.needs_image and not cv2.imwrite(str(path), drawn(one), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]):
                raise InputError(f"{path} cannot be written: is the disk full?")
            with (self._folder / name / f"{self._run}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(one.record(), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Nothing is open."""


@sinks.register("sedna-lines")
class SednaLines(SednaOutputs):
    """The same without the images."""

    needs_image = False


def _outputs(result: Result) -> Iterator[tuple[str, Detections]]:
    joint = result.joint
    if joint is not None and joint.late:  # its frame and the edge's result are there already
        yield CLOUD, joint.cloud or Detections.none()
        return
    yield ALL, result.detections
    if joint is not None and joint.is_hard:
        if joint.edge is not None:
            yield EDGE, joint.edge
        if joint.cloud is not None:
            yield CLOUD, joint.cloud

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
from collections.abc import Iterator
from dataclasses import replace

import cv2

from components.core.detections import Detections
from components.serving.sinks.base import Result, sinks
from components.serving.sinks.folders import RunFolders
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

    needs_image = takes_masks = takes_late = True

    def __init__(self, target: str) -> None:
        self._folders = RunFolders("sedna", target, (ALL, EDGE, CLOUD))

    def write(self, result: Result) -> None:
        """Write one frame into each folder that it belongs to."""
        for name, found in _outputs(result):
            one = replace(result, detections=found)
            if self.needs_image:
                quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)
                self._folders.write_image(name, result.frame, "jpeg", drawn(one), quality)
            with self._folders.path(name, ".jsonl").open("a", encoding="utf-8") as file:
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

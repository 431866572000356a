"""Masks as images, in the three folders of KubeEdge Sedna's example of lifelong learning.

========== ==========================================================================
folder     image of each frame
========== ==========================================================================
``color/`` each pixel in the colour of its class
``merge/`` the frame with these colours laid over it
``label/`` one channel of 8 bits: the number of the class; void is 255
========== ==========================================================================

Names begin with the time at which the worker started, so no start overwrites what an earlier one wrote.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import cv2

from components.core.colours import coloured, paint
from components.core.errors import InputError
from components.core.stores.transfer import os_errors
from components.serving.sinks.base import Result, sinks

COLOR, MERGE, LABEL = "color", "merge", "label"


@sinks.register("masks")
class MaskImages:
    """Three PNG files a frame. Frames without a mask are left out.

    Args:
        target: the folder that gets them.

    Raises:
        InputError: the folder cannot be made.
    """

    needs_image = takes_masks = True

    def __init__(self, target: str) -> None:
        self._folder = Path(target).expanduser()
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        with os_errors(f"sink masks:{target}"):
            for name in (COLOR, MERGE, LABEL):
                (self._folder / name).mkdir(parents=True, exist_ok=True)

    def write(self, result: Result) -> None:
        """Write one frame into each folder."""
        if result.mask is None or result.image is None:
            return
        images = {COLOR: coloured(result.mask), MERGE: paint(result.image, result.mask), LABEL: result.mask}
        for name, image in images.items():
            path = self._folder / name / f"{self._run}-{result.frame:08}.png"
            pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            if not cv2.imwrite(str(path), pixels):
                raise InputError(f"{path} cannot be written: is the disk full?")

    def close(self) -> None:
        """Nothing is open."""

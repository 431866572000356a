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

import cv2

from components.core.colours import coloured, paint
from components.serving.sinks.base import Result, sinks
from components.serving.sinks.folders import RunFolders

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
        self._folders = RunFolders("masks", target, (COLOR, MERGE, LABEL))

    def write(self, result: Result) -> None:
        """Write one frame into each folder."""
        if result.mask is None or result.image is None:
            return
        images = {COLOR: coloured(result.mask), MERGE: paint(result.image, result.mask), LABEL: result.mask}
        for name, image in images.items():
            pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            self._folders.write_image(name, result.frame, "png", pixels)

    def close(self) -> None:
        """Nothing is open."""

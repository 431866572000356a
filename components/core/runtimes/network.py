"""A network that a runtime has loaded, as what its bundle says it is."""

from __future__ import annotations

from components.core.bundle import Bundle
from components.core.runtimes.base import Infer
from components.core.runtimes.detector import NetworkDetector
from components.core.runtimes.segmenter import NetworkSegmenter

Network = NetworkDetector | NetworkSegmenter


def as_described(bundle: Bundle, infer: Infer) -> Network:
    """What a bundle's network can do.

    Args:
        bundle: what the model is.
        infer: runs it on one canvas.
    """
    if bundle.task == "segmentation":
        return NetworkSegmenter(bundle, infer)
    return NetworkDetector(bundle, infer)

"""The samples of a manifest with what their images look like."""

from __future__ import annotations

from pathlib import Path

from components.core.cache import fetch_blobs
from components.core.lifelong.samples import Samples
from components.core.manifest import Manifest
from components.core.runtimes.letterbox import read_image


def look_at(manifest: Manifest, folder: Path) -> Samples:
    """Look at the images of a manifest.

    Args:
        manifest: the samples.
        folder: where blobs are brought to.

    Raises:
        InputError: an image is out of reach or damaged.
    """
    columns = {name: manifest.table[name].to_list() for name in ("id", "source", "group")}
    return Samples.of(map(read_image, fetch_blobs(manifest, folder)), **columns)

"""Boxes or masks for people to correct, which the champion finds, or that of another job."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.core.job.label_requests import Found
from components.core.masks import ClassMap, decode_mask
from components.core.progress import Progress
from components.core.stores.open import Store
from components.mine.pool import Candidate
from components.mine.ranker import Ranker
from components.mine.score_pool import read_images

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposals:
    """What one list proposes.

    Attributes:
        found: by id of the image.
        files: the PNGs of masks, by their keys in the job's root.
    """

    found: Mapping[str, Found] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def mask(self, image_id: str) -> ClassMap | None:
        """The mask (height, width) of an image; None where there is none."""
        found = self.found.get(image_id)
        return None if found is None or found.mask is None else decode_mask(self.files[found.mask.key], found.mask.key)

    def write(self, store: Store) -> None:
        """Put the files into the job's store, before the list that names them."""
        for key, content in self.files.items():
            store.write(key, content)


def propose(candidates: Sequence[Candidate], ranker: Ranker, classes: Sequence[str], cache_folder: Path) -> Proposals:
    """Find the boxes or the mask of each image that can be read.

    Args:
        candidates: the images.
        ranker: the model.
        classes: of the list; what the model finds of others is left out.
        cache_folder: where images that lie elsewhere are brought to.

    Raises:
        InputError: the store is out of reach.
    """
    found: dict[str, Found] = {}
    files: dict[str, bytes] = {}
    progress = Progress(log, "proposed labels for {done} of {total} images", len(candidates))
    for candidate, image in read_images(candidates, cache_folder):
        if image is not None:
            found[candidate.id], own_files = ranker.propose(image, classes)
            files |= own_files
        progress.advance()
    return Proposals(found, files)

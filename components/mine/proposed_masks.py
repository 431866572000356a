"""Masks for people to correct, which the champion finds, or that of another job."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.core.job.label_requests import MASKS, FoundMask
from components.core.masks import VOID, ClassMap, decode_mask, encode_mask, renumbering
from components.core.runtimes.segmenter import NetworkSegmenter
from components.core.stores.open import Store, open_store
from components.mine.pool import Candidate
from components.mine.score_pool import read_candidate


@dataclass(frozen=True)
class ProposedMasks:
    """The masks of one list.

    Attributes:
        masks: by id of their image.
        files: the PNGs, by their keys in the job's root.
    """

    masks: Mapping[str, FoundMask] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def mask(self, image_id: str) -> ClassMap | None:
        """The mask (height, width) of an image; None where there is none."""
        found = self.masks.get(image_id)
        return None if found is None else decode_mask(self.files[found.key], found.key)

    def write(self, store: Store) -> None:
        """Put the files into the job's store, before the list that names them."""
        for key, content in self.files.items():
            store.write(key, content)


def propose_masks(
    candidates: Sequence[Candidate], segmenter: NetworkSegmenter, classes: Sequence[str], cache_folder: Path
) -> ProposedMasks:
    """Find the mask of each image.

    Args:
        candidates: the images.
        segmenter: the model.
        classes: of the list; what the model finds of others is void.
        cache_folder: where images that lie elsewhere are brought to.

    Raises:
        InputError: the store is out of reach.
    """
    places = [classes.index(name) if name in classes else VOID for name in segmenter.bundle.classes]
    table = renumbering(places)
    opened = functools.cache(open_store)
    masks: dict[str, FoundMask] = {}
    files: dict[str, bytes] = {}
    for candidate in candidates:
        image = read_candidate(candidate, cache_folder, opened)
        if image is None:
            continue
        look = segmenter.look(image)
        mask: ClassMap = table[look.classes]
        content = encode_mask(mask)
        key = f"{MASKS}{hashlib.sha256(content).hexdigest()}.png"
        shown = np.unique(mask[mask != VOID]).tolist()
        scores = {number: float(look.probability[mask == number].mean()) for number in shown}
        masks[candidate.id], files[key] = FoundMask(key=key, scores=scores), content
    return ProposedMasks(masks, files)

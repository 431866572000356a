"""One look at a data set as a whole, before anything is trained on it: what is well formed and yet cannot be meant."""

from __future__ import annotations

from dataclasses import dataclass

from components.ingest.dataset import Record, few
from components.ingest.images import Box, Outcome
from components.ingest.references import split_of

SPECK = 2.0  # pixels; a box with a smaller side can hardly be seen, and no detector finds it
WHOLE = 0.98  # of an image's width and height, from which on a box is as large as its image
ODD_FRACTION = 0.1  # of all boxes or images, from which on an oddity is worth a warning
WITHOUT_ENTRIES = "coco"  # which has one file for all, and no word about an image that shows nothing
FEW = 3  # images of a split; fewer may well show nothing
MOST_ABSENT = 10  # classes that are told one by one
MUCH_MORE = 3  # times the negatives of the other splits


@dataclass(frozen=True)
class Review:
    """What stands out.

    Attributes:
        warnings: one line each.
        unlabelled: how many images came in as showing nothing only because their whole split has no label.
    """

    warnings: tuple[str, ...] = ()
    unlabelled: int = 0


Pairs = list[tuple[Record, Outcome]]


def review(kept: Pairs, names: tuple[str, ...], pixels: dict[str, int], data_format: str) -> Review:
    """Look at everything that came in.

    Args:
        kept: the images with what the data set says of each.
        names: class names.
        pixels: how many pixels of the masks each class has; empty: there are no masks.
        data_format: name of the format.
    """
    negatives, doubtful = _negatives(kept, data_format)
    return Review((*negatives, *_classes(kept, names, pixels), *_boxes(kept), *_masks(kept)), doubtful)


def _negatives(kept: Pairs, data_format: str) -> tuple[list[str], int]:
    """Splits with more images that show nothing than the others have, or with nothing else."""
    warnings: list[str] = []
    doubtful = 0
    labelled = [(record, outcome) for record, outcome in kept if outcome.boxes is not None]
    splits: dict[str, Pairs] = {}
    for record, outcome in labelled:
        splits.setdefault(record.split or split_of(record.source), []).append((record, outcome))
    empty = {split: sum(outcome.boxes == () for _, outcome in own) for split, own in splits.items()}
    for split, own in sorted(splits.items()):
        rest = len(labelled) - len(own)
        fraction = empty[split] / len(own)
        others = (sum(empty.values()) - empty[split]) / rest if rest else 1.0
        shown = f"split {split}" if split else "the data set"
        if (
            fraction == 1
            and (others < 1 if split else not rest)
            and len(own) >= FEW
            and not _is_explicit(own, data_format)
        ):
            doubtful += len(own)
            sources = few((record.source for record, _ in own), 3)
            others_have = ", while others have labels" if rest else ""
            folder = "" if rest else "; or give data_format=folder if they are not labelled yet"
            warnings.append(
                f"no label for any of the {len(own)} images of {shown} ({sources}){others_have}: add an empty "
                f"label file for each image without objects{folder}"
            )
        elif split and rest and len(own) >= FEW and fraction >= 0.5 and fraction > MUCH_MORE * others:
            warnings.append(
                f"{fraction:.0%} of {shown} are without objects, but {others:.0%} of the others: are labels missing?"
            )
    if labelled and not doubtful and sum(empty.values()) == len(labelled):
        warnings.append(f"none of the {len(labelled)} labelled images has a box")
    bare = [record.source for record, outcome in labelled if outcome.boxes == () and not record.label_file]
    if len(bare) > ODD_FRACTION * len(labelled) and not doubtful:
        warnings.append(
            f"{len(bare)} of {len(labelled)} images have no label file and count as negatives: {few(bare, 3)}"
        )
    return warnings, doubtful


def _is_explicit(pairs: Pairs, data_format: str) -> bool:
    """Whether the images have entries that say that they show nothing, rather than none at all."""
    return data_format != WITHOUT_ENTRIES and any(record.label_file for record, _ in pairs)


def _classes(kept: Pairs, names: tuple[str, ...], pixels: dict[str, int]) -> list[str]:
    found = set(pixels) if pixels else {box[0] for _, outcome in kept for box in outcome.boxes or ()}
    absent = [name for name in names if found and (not pixels.get(name) if pixels else name not in found)]
    what = "has no pixel in any mask" if pixels else "has no box"
    if len(absent) > MOST_ABSENT:
        return [f"{len(absent)} of {len(names)} classes: each {what}: {few(absent)}"]
    return [f"class {name} {what}" for name in absent]


def _boxes(kept: Pairs) -> list[str]:
    sized = [
        (box, outcome.image.width, outcome.image.height)
        for _, outcome in kept
        if outcome.image
        for box in outcome.boxes or ()
    ]
    if not sized:
        return []
    warnings = []
    specks = sum(min(box[3] - box[1], box[4] - box[2]) < SPECK for box, _, _ in sized)
    if specks > ODD_FRACTION * len(sized):
        warnings.append(f"{specks} of {len(sized)} boxes have a side under {SPECK:g} pixels: are they in another unit?")
    whole = sum(_is_whole(*one) for one in sized)
    if whole > ODD_FRACTION * len(sized):
        warnings.append(f"{whole} of {len(sized)} boxes are as large as their image: is this intended?")
    ends = max(max(box[3], box[4]) for box, _, _ in sized)
    if len(sized) >= 20 and 50 < ends <= 100 and min(min(width, height) for _, width, height in sized) > 200:
        warnings.append("all boxes are within the first 100 pixels of larger images: are they in percent?")
    return warnings


def _is_whole(box: Box, width: int, height: int) -> bool:
    return box[3] - box[1] >= WHOLE * width and box[4] - box[2] >= WHOLE * height


def _masks(kept: Pairs) -> list[str]:
    empty = [record.source for record, outcome in kept if record.mask and outcome.mask is None]
    return [f"{len(empty)} masks are missing or entirely void (255): of {few(empty, 3)}"] if empty else []

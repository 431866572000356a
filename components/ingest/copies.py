"""Images that are there more than once: what is known of any of them counts, and each comes in once."""

from __future__ import annotations

from components.ingest.dataset import Record, few
from components.ingest.images import Outcome

Pair = tuple[Record, Outcome]


def joined(outcomes: list[Pair]) -> list[Pair]:
    """Bring together what is said of images with the same bytes.

    The first that has a label gets the labels of all. An unlabelled copy, or one without a label file where that means
    that it shows nothing, does not count beside a labelled one. Copies with
    different boxes or masks are ambiguous, and none of them can be used.

    Args:
        outcomes: what became of each record, sorted by source.

    Returns:
        The same records in the same order; of copies the one to keep comes first.
    """
    groups: dict[str, list[Pair]] = {}
    for record, outcome in outcomes:
        groups.setdefault(outcome.image.id if outcome.image else f"\0{record.source}", []).append((record, outcome))
    return [pair for group in groups.values() for pair in (group if len(group) == 1 else _settled(group))]


def _settled(group: list[Pair]) -> list[Pair]:
    if not group[0][1].image:
        return group
    said = [pair for pair in group if _is_said(*pair)] or [pair for pair in group if pair[1].labelled] or group
    boxes = {tuple(sorted(outcome.boxes)) for _, outcome in said if outcome.boxes is not None}
    masks = {outcome.mask_key for _, outcome in said if outcome.mask}
    if len(boxes) > 1 or len(masks) > 1:
        reason = f"ambiguous: the same image with different labels: {few(record.source for record, _ in said)}"
        return [(record, Outcome(reason=reason)) for record, _ in group]
    first, outcome = said[0]
    outcome = outcome._replace(
        boxes=next((other.boxes for _, other in said if other.boxes is not None), None),
        mask=next((other.mask for _, other in said if other.mask), None),
    )
    return [(first, outcome), *(pair for pair in group if pair[0] is not first)]


def _is_said(record: Record, outcome: Outcome) -> bool:
    """Whether this very image has a label, be it that it shows nothing."""
    return bool(outcome.boxes or outcome.mask or (outcome.boxes is not None and record.label_file))

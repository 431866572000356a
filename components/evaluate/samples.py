"""What a model is measured on."""

from __future__ import annotations

from components.core.bundle import Task
from components.core.errors import InputError
from components.core.manifest import SPLITS, Manifest

OTHER_DATA = "evaluate on data with the classes of the model"


def labelled_samples(manifest: Manifest, split: str, task: Task) -> Manifest:
    """The samples of a split whose labels are for a task.

    Raises:
        InputError: there are none.
    """
    labelled = manifest.split(split).labelled()
    if len(labelled) == 0:
        counts = {name: len(manifest.split(name).labelled()) for name in (*SPLITS, "")}
        listed = ", ".join(f"{name or 'undecided'} {count}" for name, count in counts.items() if name or count)
        raise InputError(
            f"split {split!r} has no labelled sample to evaluate on; labelled samples are {listed}: "
            "bring in more images, change the ratios of the splits or name another split"
        )
    samples = labelled.labelled(task)
    if len(samples) == 0:
        have = "masks and no boxes" if task == "detection" else "boxes and no masks"
        raise InputError(f"split {split!r} has {have}: a model for {task} cannot be measured by them")
    return samples

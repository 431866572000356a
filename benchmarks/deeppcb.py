"""The data format of DeepPCB, as a plug-in: circuit boards with six kinds of defect (Tang et al., 2019).

An image ``group/board/NAME_test.jpg`` has its boxes in ``group/board_not/NAME.txt``, a line ``x1 y1 x2 y2 type`` each.

Example:
    python -m pipelines run benchmark --params benchmarks/pcb-domain.yaml -p data_url=DeepPCB -p job_root=jobs/pcb
"""

from __future__ import annotations

from collections.abc import Iterator

from components.ingest.dataset import DataSet, Folder, Label, LabelError, Record, formats

CLASSES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
IMAGE = "_test.jpg"


@formats.register("deeppcb")
class DeepPcb:
    """Images of boards, without their templates."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """There is an image with a label where this format has it."""
        return any(label_of(name) in folder for name in folder.images if name.endswith(IMAGE))

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read the folder."""
        return DataSet(CLASSES, records(folder))


def records(folder: Folder) -> Iterator[Record]:
    """The labelled images; one whose label is missing or wrong has a reason."""
    for name in folder.images:
        if not name.endswith(IMAGE):
            continue
        label = label_of(name)
        try:
            boxes = tuple(box_of(line) for line in folder.text(label).splitlines() if line.strip())
        except LabelError as error:
            yield Record(name, label_file=label, reason=str(error))
        else:
            yield Record(name, folder.path(name), boxes, label)


def label_of(image: str) -> str:
    """Path of the label of an image."""
    board, _, name = image.rpartition("/")
    return f"{board}_not/{name.removesuffix(IMAGE)}.txt"


def box_of(line: str) -> Label:
    """The box of one line."""
    try:
        x1, y1, x2, y2, kind = map(int, line.split())
        if not 1 <= kind <= len(CLASSES):
            raise ValueError
    except ValueError:
        raise LabelError(f"annotation unreadable: {line[:60]!r} is not x1 y1 x2 y2 and a type from 1 to 6") from None
    return Label(CLASSES[kind - 1], (x1, y1, x2, y2))

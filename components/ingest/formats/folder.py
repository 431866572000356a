"""Images in a folder, with no labels: every one comes in unlabelled."""

from __future__ import annotations

from components.ingest.dataset import DataSet, Folder, Record, formats


@formats.register("folder")
class Images:
    """The reader of plain images."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """There are images; ``ingest`` asks this reader last, since that is true of every format."""
        return not folder.index and bool(folder.images)

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Take every image; there are no classes."""
        return DataSet((), (Record(name, folder.path(name)) for name in folder.images))

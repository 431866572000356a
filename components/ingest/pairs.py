"""Which label file or mask belongs to which image, by their names.

Two names fit when their paths are the same but for the suffix and for folders such as ``images`` and ``labels``. What
then has no partner is compared once more as people and tools vary names: with composed or decomposed letters, capital
or small, with the label folder inside the image folder or beside it (``train/labels``, ``train_labels``), or with the
image's suffix left in the name of the label (``a.jpg.txt``); and at last by the names that Label Studio gives to files
that are uploaded to it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from components.ingest.dataset import IMAGE_SUFFIXES, Folder, LabelError, few, suffix_of

# Data sets keep images and labels in sibling folders with names such as these, or both in one folder.
IMAGE_FOLDERS = frozenset({"jpegimages", "images", "image", "imgs", "img"})
LABEL_FOLDERS = frozenset({"annotations", "annotation", "labels", "label", "xml", "xmls"})
MASK_FOLDERS = frozenset({"masks", "mask"}) | LABEL_FOLDERS
# SegNet keeps the masks of ``train`` in ``trainannot``, others in ``train_masks``, some beside ``train_images``.
_MASK_ENDING = re.compile(r"(?<=.)(?:annot|[_-]masks?)$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(r"(?<=.)[_-](?:images?|imgs?)$", re.IGNORECASE)
_MASK_NAME = re.compile(r"[_-](?:mask|seg)\.(?=png$)", re.IGNORECASE)  # of a mask beside its image

# Further names of such folders, as words of their own or at either end of another (``train_labels``, ``labels-train``).
_SIDE = "|".join(
    sorted(IMAGE_FOLDERS | LABEL_FOLDERS | {"pictures", "photos", "annots", "bbox", "bboxes", "boxes", "txt", "txts"})
)
_SIDES = re.compile(rf"^(?:{_SIDE})(?:[_\- ]|$)|[_\- ](?:{_SIDE})$")

UPLOAD = re.compile(r"^[0-9a-f]{8}(-|__)(?=.)")  # Label Studio puts it before the name of an uploaded file,
_DROPPED = re.compile(r"[^-\w.]")  # and drops such characters, with ``_`` for a space

Key = Callable[[str], str]


@dataclass(frozen=True)
class Pairs:
    """Which label file belongs to which image.

    Attributes:
        labels: the label files of each image that has any, in order; more than one is ambiguous.
        images: the images of each label file that has any; more than one is ambiguous.
    """

    labels: dict[str, list[str]]
    images: dict[str, list[str]]

    @classmethod
    def of(
        cls, images: Iterable[str], labels: Iterable[str], key: Key | None = None, loose: Key | None = None
    ) -> Pairs:
        """Pair files by the names that they have in common.

        Args:
            images: paths.
            labels: paths.
            key: what the paths of an image and of its label have in common; None: ``pair_key``.
            loose: the same for those that have no partner by ``key``; None: ``loose_key``, and then ``upload_key``.
        """
        pairs = cls({}, {})
        images, labels = list(images), list(labels)
        for next_key in (key or pair_key, *((loose,) if loose else (loose_key, upload_key))):
            pairs._join(
                [image for image in images if image not in pairs.labels],
                [label for label in labels if label not in pairs.images],
                next_key,
            )
        return pairs

    def _join(self, images: Iterable[str], labels: Iterable[str], key: Key) -> None:
        by_key: dict[str, list[str]] = {}
        for label in labels:
            by_key.setdefault(key(label), []).append(label)
        for image in images if by_key else ():
            for label in by_key.get(key(image), ()):
                self.labels.setdefault(image, []).append(label)
                self.images.setdefault(label, []).append(image)

    def label(self, image: str) -> str:
        """The label file of an image; empty if it has none.

        Raises:
            LabelError: there are several, or the one there is fits several images.
        """
        found = self.labels.get(image, [])
        if len(found) > 1:
            raise LabelError(f"ambiguous: {len(found)} label files fit: {few(found)}")
        if found and len(self.images[found[0]]) > 1:
            raise LabelError(f"ambiguous: {found[0]} fits several images: {few(self.images[found[0]])}")
        return found[0] if found else ""


def plain(name: str) -> str:
    """A name with its letters composed (NFC) and small, since file systems and archives change both."""
    return unicodedata.normalize("NFC", name).casefold()


def pair_key(name: str) -> str:
    """A path without its suffix and with ``*`` for the folders that only tell images from labels."""
    *folders, last = name.split("/")
    kept = ["*" if part.lower() in IMAGE_FOLDERS | LABEL_FOLDERS else part for part in folders]
    return "/".join([*kept, last.rpartition(".")[0] or last])


def loose_key(name: str) -> str:
    """What is left of a path without all that tools vary; see the head of this file."""
    *folders, last = plain(name).split("/")
    stem = last.rpartition(".")[0] or last
    if suffix_of(stem) in IMAGE_SUFFIXES:
        stem = stem.rpartition(".")[0] or stem
    return "/".join([*own_folders(folders), stem])


def upload_key(name: str) -> str:
    """``loose_key``, of a file as Label Studio names it when it is uploaded."""
    place, slash, stem = loose_key(name).rpartition("/")
    return f"{place}{slash}{as_uploaded(UPLOAD.sub('', stem))}"


def as_uploaded(name: str) -> str:
    """What Label Studio makes of a file's name, without the digits that it puts before it."""
    return _DROPPED.sub("", name.strip().replace(" ", "_"))


def own_folders(folders: Iterable[str]) -> list[str]:
    """Of the folders in a path those that do not only tell images from labels, small and composed."""
    return [kept for folder in map(plain, folders) if (kept := _SIDES.sub("", folder))]


def masks_in(folder: Folder) -> dict[str, str]:
    """The masks in a folder by name, each with what its path has in common with ``image_key`` of its image.

    A mask is a PNG in a folder such as ``masks`` beside ``images``, or ``trainannot`` or ``train_masks`` beside
    ``train``; or it lies beside its image and ends in ``_mask``.
    """
    by_folder = {name: key for name in folder.images if (key := _mask_key(name))}
    if any(_MASK_NAME.search(name) for name in by_folder):  # in a folder of their own and with the ending, too
        images = {image_key(name) for name in folder.images if name not in by_folder}
        by_folder = {
            name: key if key in images else _mask_key(_MASK_NAME.sub(".", name)) for name, key in by_folder.items()
        }
    by_ending = {name: image_key(_MASK_NAME.sub(".", name)) for name in folder.images if _MASK_NAME.search(name)}
    if not by_ending:
        return by_folder
    images = {image_key(name) for name in folder.images if name not in by_folder and name not in by_ending}
    return by_folder | {name: key for name, key in by_ending.items() if key in images}


def image_key(name: str) -> str:
    """A path without its suffix and with ``*`` for the folders that only say that images are in them."""
    *folders, last = name.split("/")
    kept = ["*" if part.lower() in IMAGE_FOLDERS else _IMAGE_ENDING.sub("", part) for part in folders]
    return "/".join([*kept, last.rpartition(".")[0] or last])


def has_masks(folder: Folder) -> bool:
    """Whether a folder of images has masks, in a folder beside it or beside the images."""
    masks = masks_in(folder)
    beside = {key.rpartition("/")[0] for key in masks.values()}
    return bool(masks) and any(
        image_key(name).rpartition("/")[0] in beside for name in folder.images if name not in masks
    )


def masks_of_other_kinds(folder: Folder) -> dict[str, str]:
    """Images in the place of masks that are no PNG, each with what its path has in common with its image."""
    found: dict[str, str] = {}
    images = {image_key(name) for name in folder.images if not _mask_key(_as_png(name))}
    for name in folder.images:
        as_png = _as_png(name)
        keys = (_mask_key(as_png), _mask_key(_MASK_NAME.sub(".", as_png)), image_key(_MASK_NAME.sub(".", as_png)))
        key = next((key for key in keys if key in images and key != image_key(name)), "")
        if key and as_png != name:
            found[name] = key
    return found


def without_masks(folder: Folder) -> list[str]:
    """The images of a folder, but for those that are masks of others."""
    masks = masks_in(folder) if has_masks(folder) else {}
    return [name for name in folder.images if name not in masks]


def _as_png(name: str) -> str:
    return f"{name[: len(name) - len(suffix_of(name))]}.png" if suffix_of(name) != ".png" else name


def _mask_key(name: str) -> str:
    *folders, last = name.split("/")
    if suffix_of(last) != ".png":
        return ""
    for place in reversed(range(len(folders))):
        folder = folders[place].lower()
        if folder in IMAGE_FOLDERS:
            return ""
        if folder in MASK_FOLDERS:
            folders[place] = "*"
        elif _MASK_ENDING.search(folder):
            folders[place] = _MASK_ENDING.sub("", folders[place])
        else:
            continue
        return image_key("/".join([*folders, last]))
    return ""

"""A bundle: one version of a model as a folder.

=============== =====================================================================================
file            meaning
=============== =====================================================================================
``model.json``  this description, with the SHA-256 of every other file
``model.pt``    the trainer's own weights, to train on from
``model.onnx``  what runs everywhere; later files, such as ``model.rk3588.rknn``, are for one chip, and
                ``model.rk3588.golden.npz`` holds what that chip should compute for some images
=============== =====================================================================================

Whoever opens a file of a bundle reads the description first, which checks the digests; nothing is unpickled here.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from components.core.errors import InputError, NotFoundError, one_line
from components.core.heads import STRICT, Head, UnknownHead, heads
from components.core.stores.transfer import landing

DESCRIPTION = "model.json"
ONNX = "model.onnx"

LONGEST_NAME = 128  # characters, of what is part of the name of a folder
# What a job calls a bundle.
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)]

_Fraction = Annotated[float, Field(ge=0, le=1)]
_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _read_head(value: Any) -> Any:
    """The head of ``model.json``; bundles were first written for one kind, without saying which."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind", "split")
    if kind not in heads.names():
        return UnknownHead(kind, value)
    try:
        return TypeAdapter(heads.get(kind)).validate_python(value)
    except ValidationError as error:
        problems = {"kind": kind, "problems": one_line(error)}
        raise PydanticCustomError("head", "a head of kind {kind}: {problems}", problems) from error


@dataclass(frozen=True, config=STRICT)
class Bundle:
    """What ``model.json`` says.

    Attributes:
        classes: class names in the order of the model's class scores.
        image_size: height and width of the model's canvas in pixels.
        estimator: the plug-in that trained it and can train it on.
        head: how its outputs become boxes, or a class for each pixel.
        confidence_threshold: score from which a box counts where the model is deployed; a segmentation needs none.
        nms_threshold: overlap (IoU) above which the lower of two boxes of a class is dropped; likewise.
        outputs: names of its outputs. Of a ``Head``: for each stride the boxes ``(1, 4 * reg_max, h, w)``, then the
            class scores ``(1, classes, h, w)`` in 0..1. Of a ``BoxesHead``: boxes, scores, classes. Of a
            ``SemanticHead``: the logits.
        task: the kind of task that it is for, such as ``detection``; see :mod:`components.core.tasks`.
        pad: grey value around an image on the canvas.
        colour: order of the canvas' channels.
        files: name of every other file of the folder, and its SHA-256.
        metrics: what it scored, by name.
        lineage: where it comes from: base model, digest of the manifest, parameters, experiment labels, time of
            creation, versions of the libraries.
    """

    classes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    image_size: tuple[PositiveInt, PositiveInt]
    estimator: Annotated[str, Field(min_length=1)]
    head: Annotated[SerializeAsAny[Head], BeforeValidator(_read_head)]
    confidence_threshold: _Fraction
    nms_threshold: _Fraction
    outputs: tuple[str, ...] = ("box0", "cls0", "box1", "cls1", "box2", "cls2")
    task: str = "detection"
    pad: Annotated[NonNegativeInt, Field(le=255)] = 114
    colour: Literal["RGB"] = "RGB"
    files: dict[_FileName, _Digest] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    lineage: dict[str, JsonValue] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {list(self.classes)} contain duplicates")
        if not isinstance(self.head, UnknownHead) and self.head.task != self.task:
            raise ValueError(f"a model for {self.task} cannot have a head of kind {self.head.kind}")
        wrong = self.head.problem(self.image_size, self.outputs)
        if wrong:
            raise ValueError(wrong)

    @classmethod
    def read(cls, folder: Path) -> Bundle:
        """Read a bundle's description and check every file it names.

        Raises:
            NotFoundError: no description, or a file that it names is missing.
            InputError: the description is not one, or a file is not the one that it describes.
        """
        path = folder / DESCRIPTION
        if not path.is_file():
            raise NotFoundError(f"bundle {folder}: no {DESCRIPTION} in it: give the folder of one model version")
        bundle = cls.parse(path.read_bytes(), f"bundle {folder}: {DESCRIPTION}")
        for name in bundle.files:
            bundle.file(folder, name)
        return bundle

    @classmethod
    def parse(cls, data: bytes, name: str) -> Bundle:
        """Read a description alone.

        Args:
            data: content of a ``model.json``.
            name: what a message calls it.

        Raises:
            InputError: it does not describe a bundle.
        """
        try:
            return _FORMAT.validate_json(data)
        except ValidationError as error:
            raise InputError(f"{name} is wrong: {one_line(error)}") from error

    def write(self, folder: Path) -> Bundle:
        """Describe the files that lie in a folder; a reader never sees half a description.

        Returns:
            The bundle as written, ``files`` being those that were found.
        """
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(path for path in folder.iterdir() if path.is_file() and path.name != DESCRIPTION)
        bundle = replace(self, files={path.name: sha256_of(path) for path in found})
        with landing(folder / DESCRIPTION) as file:
            file.write(_FORMAT.dump_json(bundle, indent=2))
        return bundle

    def file(self, folder: Path, name: str) -> Path:
        """One file of the bundle, checked.

        Raises:
            NotFoundError: the bundle has no such file.
            InputError: its bytes are not those that the bundle was made with.
        """
        path = folder / name
        if name not in self.files or not path.is_file():
            raise NotFoundError(f"bundle {folder}: no {name} in it; it names {', '.join(self.files) or 'no file'}")
        if sha256_of(path) != self.files[name]:
            raise InputError(
                f"bundle {folder}: {name} does not have the SHA-256 that {DESCRIPTION} records: "
                "it was changed or damaged; fetch or train the model again"
            )
        return path


_FORMAT = TypeAdapter(Bundle)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A training that runs in another pod: what it is to do, and what it came to, in the job's store.

``checkpoints/<key>-trainjob/`` has the request with its manifest, then the bundle, and last ``result.json``, which
names each file of the bundle with its digest: without it there is no result. A round that has ended takes it along,
as it does with the checkpoints beside it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, TypeVar

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from components.core.bundle import Bundle, sha256_of
from components.core.documents import read_json
from components.core.errors import InputError, NotFoundError, one_line
from components.core.manifest import Manifest
from components.core.release import Digest
from components.core.reports.page import Section
from components.core.stores.base import Store
from components.train.train import Trained

REQUEST, SAMPLES, RESULT = "request.json", "samples.parquet", "result.json"

_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


Content = TypeVar("Content", bound=BaseModel)


class Request(BaseModel):
    """What is to be trained.

    Attributes:
        samples: digest of the manifest's file.
        round_number: as :func:`components.train.train.train` takes it.
        training: its other arguments by name.
    """

    model_config = ConfigDict(extra="forbid")

    samples: Digest
    round_number: int | None
    training: dict[str, JsonValue]


class Result(BaseModel):
    """What a training came to.

    Attributes:
        error: why it cannot be done, in one line; empty if it was.
        files: digest of each file of the bundle.
        history: figures of each epoch.
        sections: title and body of each part of the report.
    """

    model_config = ConfigDict(extra="forbid")

    error: str = ""
    files: dict[_FileName, Digest] = {}
    history: list[dict[str, float]] = []
    sections: list[tuple[str, str]] = []


class WorkArea:
    """The place of one training in the job's store.

    Args:
        store: the job's.
        key: of the training, see :func:`components.train.train.training_key`.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._prefix = store, f"checkpoints/{key}-trainjob"

    def ask(self, manifest: Manifest, round_number: int | None, training: dict[str, Any], scratch: Path) -> None:
        """Say what is to be trained."""
        manifest.write(scratch / SAMPLES)
        self._store.upload(scratch / SAMPLES, self._key(SAMPLES))
        samples = sha256_of(scratch / SAMPLES)
        request = Request(samples=samples, round_number=round_number, training=training)
        self._store.write(self._key(REQUEST), request.model_dump_json(indent=1).encode())

    def request(self, scratch: Path) -> tuple[Request, Manifest]:
        """What is to be trained.

        Raises:
            NotFoundError: nobody asked for it.
            InputError: the request or its manifest is damaged.
        """
        request = self._parsed(Request, REQUEST)
        self._store.download(self._key(SAMPLES), scratch / SAMPLES, sha256=request.samples)
        return request, Manifest.read(scratch / SAMPLES)

    def answer(self, trained: Trained, bundle: Path) -> None:
        """Hand a trained model over, all of it before its description.

        Args:
            trained: what came of it.
            bundle: its folder.
        """
        files = {path.name: sha256_of(path) for path in sorted(bundle.iterdir())}
        for name in files:
            self._store.upload(bundle / name, self._key(f"bundle/{name}"))
        sections = [(section.title, str(section.body)) for section in trained.sections]
        self._write(Result(files=files, history=trained.history, sections=sections))

    def refuse(self, error: str) -> None:
        """Say that it cannot be trained, and why."""
        self._write(Result(error=error))

    def result(self) -> Result | None:
        """What it came to; None as long as there is nothing.

        Raises:
            InputError: the result is damaged, or the store is out of reach.
        """
        try:
            return self._parsed(Result, RESULT)
        except NotFoundError:
            return None

    def take(self, result: Result, output: Path) -> Trained:
        """Bring the bundle here, each file checked against its digest.

        Args:
            result: from :meth:`result`.
            output: folder of the bundle; created.

        Raises:
            InputError: a file is gone or is another one.
        """
        partial = output.with_name(f"{output.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            for name, digest in result.files.items():
                self._store.download(self._key(f"bundle/{name}"), partial / name, sha256=digest)
            bundle = Bundle.read(partial)
            partial.replace(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Trained(bundle, result.history, [Section(title, Markup(body)) for title, body in result.sections])

    def clear(self) -> None:
        """Remove everything, the result first."""
        self._store.delete(self._key(RESULT))
        for info in list(self._store.list(self._prefix + "/")):
            self._store.delete(info.key)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _write(self, result: Result) -> None:
        self._store.write(self._key(RESULT), result.model_dump_json().encode())

    def _parsed(self, kind: type[Content], name: str) -> Content:
        place = self._store.uri_of(self._key(name))
        try:
            return kind.model_validate(read_json(self._store.read(self._key(name)), place))
        except ValidationError as error:
            raise InputError(f"{place}: {one_line(error)}") from error

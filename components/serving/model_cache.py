"""The models of a worker on its own disk: whole, checked, and the last good ones kept.

Each lies in a folder that its version and its content name, so that no file of one model ever meets one of another.
``shelf.json`` beside them says which have proven themselves, which one is being tried and which ones failed. A
knowledge base is a folder with its description, written once the folders of all its models are whole.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from components.core.bundle import DESCRIPTION, Bundle, sha256_of
from components.core.errors import InputError, NotFoundError, TooLargeError, one_line
from components.core.release import RELEASE, Member, Release
from components.core.runtimes.golden import golden_file
from components.core.runtimes.onnx import FILE
from components.core.runtimes.rknn import this_board
from components.core.runtimes.rockchip import rknn_file
from components.core.stores.base import RESERVED
from components.core.stores.open import fetch
from components.core.stores.transfer import landing, os_errors
from components.serving.pointers import DesiredModel

GOOD_KEPT = 2
LIVES = 3  # how often a worker may end without warning while it tries a model, before the model is to blame
FAILURES_KEPT = 20
MAX_DESCRIPTION_BYTES, MAX_FILE_BYTES = 4 << 20, 4 << 30  # of a model's files, whatever the pointer says
STATE = "shelf.json"
TRAINERS_FILES = frozenset({"model.pt"})

log = logging.getLogger(__name__)


class UnfitModelError(InputError):
    """The model itself cannot be used, now or later; the message says why. Other errors pass with time."""


@dataclass(frozen=True)
class CachedModel:
    """A model on this machine, or all models of a knowledge base.

    Attributes:
        version: its name.
        folder: its bundle, with the files that a worker needs; of a knowledge base its description.
        digest: SHA-256 of its description as published.
        members: the models of a knowledge base by their role.
    """

    version: str
    folder: Path
    digest: str
    members: Mapping[str, CachedModel] = field(default_factory=dict)

    @property
    def parts(self) -> Mapping[str, CachedModel]:
        """The models by their role; one model has none."""
        return self.members or {"": self}


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    digest: str


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    good: list[_Entry] = []  # oldest first
    trying: _Entry | None = None
    lives: int = 0
    failures: dict[str, str] = {}  # "version generation" and why
    memory: dict[str, int] = {}  # bytes that a model took in its smoke test, by its digest


class ModelCache:
    """The models on disk; for one thread.

    Args:
        folder: of the cache; made when the first model comes.
        runtime: what the models run on, which decides the files that are fetched.
        golden: fetch golden tensors for this board, too, where a bundle has them.

    Raises:
        InputError: this machine cannot have such a runtime.
    """

    def __init__(self, folder: Path, runtime: str, *, golden: bool = True) -> None:
        self._folder, self._runtime, self._own_file = folder, runtime, _own_file(runtime)
        self._golden = golden_file(this_board()) if golden and runtime == "rknn" else ""
        self._state = _read(folder / STATE)
        self._brought: list[Path] = []  # by the last call of ``bring``

    def good(self) -> list[CachedModel]:
        """The models that have proven themselves, the last one first."""
        return [self._cached(entry) for entry in reversed(self._state.good)]

    def failure(self, desired: DesiredModel) -> str | None:
        """Why a model could not be used; None if it has not been tried."""
        unasked = replace(desired, generation="")  # it failed before the worker knew who asks for it
        if reason := self._state.failures.get(_name(unasked)):
            self.reject(desired, reason)
            del self._state.failures[_name(unasked)]
        return self._state.failures.get(_name(desired))

    def bring(self, desired: DesiredModel) -> CachedModel:
        """Fetch a model, whole and checked, or find it here; of a knowledge base the models that are not here.

        Raises:
            UnfitModelError: it is incomplete, or its bytes are not those that were published.
            InputError: its store is out of reach, or this disk is full.
        """
        self._brought = []
        if not desired.members:
            return self._bring(desired)
        release = desired.release
        for role in desired.members:
            try:
                self._bring(desired.member(role))
            except UnfitModelError as error:
                raise UnfitModelError(f"member {role}: {error}") from error
        entry = _Entry(version=desired.version, digest=release.sha256)
        folder = self._folder_of(entry)
        with os_errors(str(self._folder)):
            folder.mkdir(exist_ok=True)
            with landing(folder / RELEASE, durable=True) as file:
                file.write(release.describe())
        return self._cached(entry)

    def untried(self, model: CachedModel) -> dict[str, CachedModel]:
        """The models that a smoke test has not seen, by their role: those that are in no proven knowledge base."""
        proven = {part.digest for good in self.good() for part in good.members.values()}
        return {role: part for role, part in model.parts.items() if part.digest not in proven}

    def measured(self, model: CachedModel, size: int) -> None:
        """Note how much memory a model takes, in bytes."""
        self._save(memory={**self._state.memory, model.digest: size})

    def bytes_of(self, model: CachedModel) -> int:
        """How much memory a model takes, as far as it is known: what it took in its smoke test, or else its files."""
        files = sum(path.stat().st_size for path in model.folder.iterdir())
        return max(self._state.memory.get(model.digest, 0), files)

    def _bring(self, desired: DesiredModel) -> CachedModel:
        """One model, fetched or found."""
        described = desired.files.get(DESCRIPTION)
        if described:
            here = self._cached(_Entry(version=desired.bundle_version, digest=described.sha256))
            if _is_whole(here.folder):
                return here
        partial = self._folder / f"{RESERVED}{uuid.uuid4().hex}"
        try:
            with os_errors(str(self._folder)):
                partial.mkdir(parents=True)
                model = self._cached(
                    _Entry(version=desired.bundle_version, digest=_fetch(desired, DESCRIPTION, partial))
                )
                if not _is_whole(model.folder):
                    self._complete(desired, partial)
                    shutil.rmtree(model.folder, ignore_errors=True)
                    partial.rename(model.folder)
                    self._brought.append(model.folder)
                return model
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def begin(self, model: CachedModel) -> None:
        """Write down that a model is about to be run in this process, which it may bring down.

        Raises:
            UnfitModelError: it has brought it down too often.
        """
        entry = _Entry(version=model.version, digest=model.digest)
        lives = self._state.lives + 1 if self._state.trying == entry else 1
        if lives > LIVES:
            raise UnfitModelError(f"the worker crashed {LIVES} times while testing this model")
        self._save(trying=entry, lives=lives)

    def accept(self, model: CachedModel) -> None:
        """The model has proven itself; those that are no longer needed are removed.

        One that is being tried stays, and so does the count of its lives: it may have been fetched while the model
        before it was proving itself.
        """
        entry = _Entry(version=model.version, digest=model.digest)
        good = [known for known in self._state.good if known != entry]
        ended = {"trying": None, "lives": 0} if self._state.trying == entry else {}
        self._save(good=[*good, entry][-GOOD_KEPT:], **ended)
        kept = self._kept()
        for path in self._folder.iterdir():
            if path not in kept and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        digests = {part.digest for known in self._wanted() for part in known.parts.values()}
        if self._state.memory.keys() - digests:
            self._save(memory={digest: size for digest, size in self._state.memory.items() if digest in digests})

    def reject(self, desired: DesiredModel, reason: str) -> None:
        """A model cannot be used; it is tried again when the pointer asks for it anew."""
        failures = {**self._state.failures, _name(desired): reason}
        trying = self._state.trying
        ended = {"trying": None, "lives": 0} if trying and trying.version == desired.bundle_version else {}
        self._save(failures=dict(list(failures.items())[-FAILURES_KEPT:]), **ended)
        kept = self._kept()
        own = self._folder.glob(f"{desired.bundle_version}-*")
        for path in (*self._brought, *(one for one in own if one.name.rpartition("-")[0] == desired.bundle_version)):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
        self._brought = []

    def forget(self, model: CachedModel) -> None:
        """A model that was good cannot be used any more."""
        entry = _Entry(version=model.version, digest=model.digest)
        self._save(good=[known for known in self._state.good if known != entry])

    def pause(self) -> None:
        """The worker stops in an orderly way; the model that was being tried is not to blame."""
        if self._state.trying:
            self._save(trying=None, lives=0)

    def _complete(self, desired: DesiredModel, folder: Path) -> None:
        """Add the files that a worker needs to a fetched description, and describe these alone."""
        try:
            bundle = _DESCRIPTION.validate_json((folder / DESCRIPTION).read_bytes())
        except ValidationError as error:
            raise UnfitModelError(f"{DESCRIPTION} is not a valid model description: {one_line(error)}") from error
        for name in self._needed(bundle.files):
            if _fetch(desired, name, folder) != bundle.files[name]:
                raise UnfitModelError(f"{name} does not have the SHA-256 that {DESCRIPTION} records")
        replace(bundle, files={}).write(folder)

    def _needed(self, files: Iterable[str]) -> list[str]:
        """Weights to train on from, and models of other runtimes, stay in the store."""
        if not self._own_file:
            return [name for name in files if name not in TRAINERS_FILES]
        if self._own_file not in files:
            raise UnfitModelError(f"it has no {self._own_file}, which the runtime {self._runtime!r} needs")
        return [self._own_file, *(name for name in files if name == self._golden)]

    def _wanted(self) -> list[CachedModel]:
        """The models that have proven themselves, and the one that is being tried."""
        return [*self.good(), *([self._cached(self._state.trying)] if self._state.trying else [])]

    def _kept(self) -> set[Path]:
        """The folders of these."""
        wanted = self._wanted()
        return {model.folder for model in wanted} | {part.folder for model in wanted for part in model.members.values()}

    def _folder_of(self, entry: _Entry) -> Path:
        return self._folder / f"{entry.version}-{entry.digest[:16]}"

    def _cached(self, entry: _Entry) -> CachedModel:
        folder = self._folder_of(entry)
        members = {
            role: self._cached(_Entry(version=one.version, digest=one.sha256))
            for role, one in _members(folder, entry.digest).items()
        }
        return CachedModel(entry.version, folder, entry.digest, members)

    def _save(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=changes)
        unused = None if self._state.memory else {"memory"}  # earlier versions of the worker do not know it
        with os_errors(str(self._folder)), landing(self._folder / STATE, durable=True) as file:
            file.write(self._state.model_dump_json(indent=2, exclude=unused).encode())


_DESCRIPTION = TypeAdapter(Bundle)


def _name(desired: DesiredModel) -> str:
    return f"{desired.version} {desired.generation}"


def _fetch(desired: DesiredModel, name: str, folder: Path) -> str:
    """Bring one file here and compare it with what the pointer says; its SHA-256."""
    published = desired.files.get(name)
    if desired.files and published is None:
        raise UnfitModelError(f"the pointer does not name {name}")
    path = folder / name
    allowed = MAX_DESCRIPTION_BYTES if name == DESCRIPTION else MAX_FILE_BYTES
    try:
        fetch(f"{desired.uri}/{name}", path, max_bytes=min(published.size, allowed) if published else allowed)
    except NotFoundError as error:
        raise UnfitModelError(f"{name} is missing: {error}") from error
    except TooLargeError as error:
        raise UnfitModelError(f"{name} is too large: {error}") from error
    digest = sha256_of(path)
    size = path.stat().st_size
    if published and size != published.size:
        raise UnfitModelError(f"{name} has {size} bytes, but the pointer says {published.size}: it is incomplete")
    if published and digest != published.sha256:
        raise UnfitModelError(f"{name} has SHA-256 {digest}, but the pointer says {published.sha256}: it was changed")
    return digest


def _members(folder: Path, digest: str) -> Mapping[str, Member]:
    """What a folder says of a knowledge base; nothing where it is one model, or is not what it was."""
    try:
        release = Release.parse((folder / RELEASE).read_bytes(), str(folder))
    except (OSError, InputError):
        return {}
    return release.members if release.sha256 == digest else {}


def _is_whole(folder: Path) -> bool:
    try:
        Bundle.read(folder)
    except InputError:
        return False
    return True


def _read(path: Path) -> _State:
    try:
        return _State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _State()
    except (OSError, ValidationError):
        log.warning("%s: cannot be read; the worker starts without a cached model", path)
        return _State()


def _own_file(runtime: str) -> str:
    """The one file of a bundle that a runtime reads; empty where that is not known."""
    if runtime == "onnx":
        return FILE
    return rknn_file(this_board()) if runtime == "rknn" else ""

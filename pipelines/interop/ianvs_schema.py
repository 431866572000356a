"""The files of KubeEdge ianvs that describe an incremental-learning benchmark: job, test environment, algorithm.

ianvs drops keys that it does not know without a word; here one is an error that names the nearest.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from components.core.documents import MAX_YAML_CHARACTERS, read_yaml
from components.core.errors import InputError, NotFoundError, one_line
from components.core.parameters import shown

Text = Annotated[str, Field(min_length=1)]
Place = tuple[str | int, ...]


class Section(BaseModel):
    """A mapping whose keys are known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise PydanticCustomError("mapping", "must be a mapping, not {value}", {"value": shown(value)})
        for key in value:
            if key not in cls.model_fields:
                close = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(cls.model_fields)}"
                raise PydanticCustomError("unknown", "{text}", {"text": f"unknown key {shown(key)}: {hint}"})
        return {key: inner for key, inner in value.items() if inner is not None}


class Named(Section):
    """Something with a name, and mostly a file of Python or YAML."""

    name: Text
    url: str = ""


class TestObject(Section):
    """What is tested."""

    type: Text = "algorithms"
    algorithms: Annotated[list[Named], Field(min_length=1)]


class Rank(Section):
    """How the leaderboard is sorted and shown."""

    sort_by: list[dict[str, str]] = []
    visualization: dict[str, Any] = {}
    selected_dataitem: dict[str, Any] = {}
    save_mode: str = ""


class Job(Section):
    """A benchmarking job."""

    name: Text
    workspace: str = "./workspace"
    testenv: Text
    test_object: TestObject
    rank: Rank = Rank()
    simulation: dict[str, Any] = {}


class Dataset(Section):
    """The index files; those of a name that ends in ``url`` are of older versions."""

    train_index: str = ""
    test_index: str = ""
    train_data: str = ""
    test_data: str = ""
    train_data_info: str = ""
    test_data_info: str = ""
    train_url: str = ""
    test_url: str = ""
    label: str = ""


class ModelMetric(Section):
    """What candidates are judged by."""

    name: Text
    url: str = ""
    mode: str = ""


class ModelEval(Section):
    """When a candidate replaces the model."""

    model_metric: ModelMetric
    threshold: float = 0.9
    operator: str = ">"


class TestEnv(Section):
    """A test environment."""

    dataset: Dataset
    metrics: Annotated[list[Named], Field(min_length=1)]
    model_eval: ModelEval | None = None
    incremental_rounds: Annotated[int, Field(ge=2)] = 2
    round: int = 1
    client_number: int = 1
    use_gpu: bool = False


class DataSetting(Section):
    """How the samples of a round are divided."""

    train_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.8
    splitting_method: str = "default"


class Values(Section):
    """What a hyper-parameter is tried with."""

    values: Annotated[list[Any], Field(min_length=1)]


class Module(Section):
    """A part of an algorithm."""

    type: Text
    name: Text
    url: str = ""
    hyperparameters: list[dict[str, Values]] = []


class Algorithm(Section):
    """An algorithm."""

    paradigm_type: Text
    incremental_learning_data_setting: DataSetting = DataSetting()
    initial_model_url: str = ""
    mode: str = ""
    quantization_type: str = ""
    third_party_packages: list[Named] = []
    modules: Annotated[list[Module], Field(min_length=1)]


Kind = TypeVar("Kind", bound=Section)


@dataclass(frozen=True)
class Document:
    """A file and where in it everything stands.

    Attributes:
        path: of the file.
        content: of its only key.
        lines: numbers of the lines of keys and items, by their path below that key.
    """

    path: Path
    content: Any
    lines: Mapping[Place, int]

    def at(self, *place: str | int) -> str:
        """File and line of a key, or of the nearest key above it."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.path}:{self.lines.get(place, 1)}"

    def read(self, kind: type[Kind]) -> Kind:
        """The content as what it should be.

        Raises:
            InputError: an unknown key, or a value that cannot be.
        """
        try:
            return kind.model_validate(self.content)
        except ValidationError as error:
            place = tuple(error.errors()[0]["loc"])
            raise InputError(f"{self.at(*place)}: {one_line(error).removeprefix('it: ')}") from None


def open_document(path: Path, key: str) -> Document:
    """Read a file with one key at its top: ``benchmarkingjob``, ``testenv`` or ``algorithm``.

    Raises:
        NotFoundError: no such file.
        InputError: it is not YAML, or has another key.
    """
    try:
        text = path.read_bytes()[: MAX_YAML_CHARACTERS + 1].decode("utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    content = read_yaml(text, str(path))
    if not isinstance(content, Mapping) or list(content) != [key]:
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else shown(content)
        raise InputError(f"{path}: must have the one key {key}, not {found}")
    return Document(path, content[key], dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader), (), 1, key)))


def _lines(node: Any, place: Place, line: int, top: str) -> Iterator[tuple[Place, int]]:
    yield place, line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = place if not place and key.value == top and key.start_mark.column == 0 else (*place, key.value)
            yield from _lines(value, inner, key.start_mark.line + 1, top)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _lines(value, (*place, number), value.start_mark.line + 1, top)

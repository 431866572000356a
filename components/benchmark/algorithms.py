"""The algorithms of a benchmark: what a file says of them, as a grid, and the baselines that each is compared with."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from components.core import plugins
from components.core.bundle import sha256_of
from components.core.errors import InputError
from components.core.estimators.base import check_training, estimators
from components.core.miners.base import find_miner, make_miner
from components.core.parameters import Base, parse_image_size, shown, whole_numbers
from components.core.parameters.check import unknown
from components.core.stores.addresses import shown_model

Baseline = Literal["frozen", "random", "full"]
BASELINES: tuple[Baseline, ...] = ("frozen", "random", "full")
GRIDS = ("estimator_options", "miner_parameters", "round_options")  # mappings whose values may be lists, too
MAX_CASES = 200  # of each, the leaderboard's step gets some 600 bytes on its command line, which may have 128 KiB
MOST_TOLD = 5  # problems; the items of a list often share one
LONGEST_NAME = 120

_Axis = tuple[tuple[str, ...], list[Any]]  # where a list stands, and its items


def _image_size(value: Any) -> Any:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        return text  # of which pydantic says what is wrong
    try:
        parse_image_size(text)
    except InputError as error:
        raise ValueError(str(error)) from error
    return text


class Algorithm(BaseModel):
    """One way to learn from rounds. Names are those of the parameters of the same meaning elsewhere.

    Attributes:
        name: in the leaderboard.
        baseline: what it is compared with; empty for an algorithm of the file.
        estimator: kind of model.
        base_model: what the first model starts from.
        initial_epochs: passes over the first round, which is labelled whole; with 0 the base model is the first model,
            and the first round is mined as the others are.
        epochs: passes over the samples of a round.
        image_size: pixels, one number or ``height,width``.
        batch: images per step.
        estimator_options: further settings by the estimator's own names.
        round_options: the same, for the trainings of rounds alone.
        miner: rule that ranks the images of a round.
        miner_parameters: of that rule.
        min_score: of the boxes that the rule sees.
        label_budget: images or boxes to label in each round; -1 for all images that the rule calls hard.
        label_budget_in: what the budget counts, ``images`` or ``boxes``: then labelling ends with the image whose boxes
            reach it; an image without any counts as one box.
        random_fraction: part of the budget that is drawn at random.
        empty_fraction: part of the budget for images in which nothing was found.
        shortlist: how many times the budget is compared, to choose images that are unlike each other.
        replay_ratio: samples of earlier rounds to train on again, for each new one.
        gate_metric: figure on the validation samples of all rounds so far that candidates are judged by.
        min_gain: a candidate replaces the champion if it is at least this much better; -1 for always.
        fill_unlabelled: what becomes of objects of classes that were not labelled in a sample: ``off``, ``report`` to
            count the champion's confident boxes, ``fill`` to train on them.
        fill_confidence: least score of such a box.
        confidence_threshold: score from which a box counts in precision, recall and F1.
        nms_threshold: overlap above which the worse of two boxes of a class is dropped.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(max_length=LONGEST_NAME)] = ""
    baseline: Literal["", "frozen", "random", "full"] = ""
    estimator: str = "yolo"
    base_model: Base = "yolo11n.yaml"
    initial_epochs: Annotated[int, Field(ge=0)] = 100
    epochs: Annotated[int, Field(ge=1)] = 30
    image_size: Annotated[str, BeforeValidator(_image_size)] = "640"
    batch: Annotated[int, Field(ge=1, le=4096)] = 16
    estimator_options: dict[str, Any] = {}
    round_options: dict[str, Any] = {}
    miner: str = "entropy-sum"
    miner_parameters: dict[str, Any] = {}
    min_score: Annotated[float, Field(gt=0, lt=1)] = 0.05
    label_budget: Annotated[int, Field(ge=-1)] = -1
    label_budget_in: Literal["images", "boxes"] = "images"
    random_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    empty_fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    shortlist: Annotated[float, Field(ge=1, le=100)] = 3.0
    replay_ratio: Annotated[float, Field(ge=0, le=100)] = 1.0
    gate_metric: Literal["map50", "map50_95", "f1", "f1_ianvs"] = "map50"
    min_gain: Annotated[float, Field(ge=-1, le=1)] = 0.0
    fill_unlabelled: Literal["off", "report", "fill"] = "off"
    fill_confidence: Annotated[float, Field(gt=0, lt=1)] = 0.5
    confidence_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.25
    nms_threshold: Annotated[float, Field(gt=0, le=1)] = 0.7

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag(cls, value: Any) -> Any:
        if isinstance(value, bool):  # pydantic takes it for 0 or 1
            raise ValueError("give a number or a text, not true or false")
        return value

    def settings(self) -> dict[str, Any]:
        """All that decides what it does, as tables may show it."""
        return {**self.model_dump(exclude={"name"}), "base_model": shown_model(self.base_model)}

    def first_model(self) -> dict[str, Any]:
        """What the training of its first model depends on; algorithms with the same share the model."""
        names = ("estimator", "base_model", "initial_epochs", "image_size", "batch", "estimator_options",
                 "confidence_threshold", "nms_threshold")  # fmt: skip
        return {name: getattr(self, name) for name in names}


class Case(BaseModel):
    """One algorithm with one seed: what is run, and may fail, for itself.

    Attributes:
        algorithm: the algorithm.
        seed: of splits, draws and training.
        digest: of all that its result depends on; a finished case with the same digest is not run again.
        content: digests of files that its settings name: of the ``base_model``, and of the plug-ins that its
            ``estimator`` and ``miner`` come from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    algorithm: Algorithm
    seed: int
    digest: str
    content: dict[str, str] = {}


def names_in(text: str) -> list[str]:
    """The names in a text, which stand between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_algorithms(given: Sequence[Any]) -> list[Algorithm]:
    """The algorithms that a file lists; where a value is a list, there is one algorithm for each of its items.

    Lists inside of ``estimator_options``, ``miner_parameters`` and ``round_options`` count as well; an option whose
    value is a list is written as a list in a list.

    Args:
        given: mappings with the fields of :class:`Algorithm`.

    Raises:
        InputError: everything that is wrong with them, in one line.
    """
    found: list[Algorithm] = []
    wrong: list[str] = []
    for number, one in enumerate(given, 1):
        place = f"algorithms[{number}]"
        if not isinstance(one, Mapping):
            wrong.append(f"{place} must be a mapping such as {{estimator: yolo, miner: IBT}}, not {str(one)[:60]!r}")
            continue
        known = sorted(Algorithm.model_fields.keys() - {"baseline"})
        strangers = [f"{place}: {unknown(str(key), known, 'field of an algorithm')}" for key in one if key not in known]
        if strangers:
            wrong += strangers
            continue
        axes = _axes(whole_numbers(dict(one)))
        if empty := [".".join(path) for path, values in axes if not values]:
            wrong.append(f"{place}: {', '.join(empty)} is an empty list: give at least one value, or leave it out")
            continue
        if len(found) + math.prod(len(values) for _, values in axes) > MAX_CASES:
            raise InputError(f"{place}: more than {MAX_CASES} algorithms: list fewer values")
        for chosen, label in _grid(whole_numbers(dict(one)), axes):
            try:
                algorithm = Algorithm.model_validate(chosen)
            except ValidationError as error:
                wrong += [f"{place}: {_sentence(detail)}" for detail in error.errors()]
                continue
            plain = algorithm.name or f"{algorithm.estimator} {algorithm.miner}"
            found.append(algorithm.model_copy(update={"name": f"{plain} {label}".strip()[:LONGEST_NAME]}))
    wrong += _repeated(found)
    if not given:
        wrong.append("algorithms is empty: list at least one, such as {estimator: yolo, miner: IBT}")
    if wrong:
        raise InputError("; ".join(dict.fromkeys(wrong)))
    return found


def located(given: Any, folders: Sequence[Path]) -> Any:
    """The algorithms of a file, with base models that lie in one of some folders as absolute paths.

    Args:
        given: as ``read_algorithms`` takes them, or anything else, which comes back as it is.
        folders: that relative paths may start from; the first that has the file counts.
    """
    if not isinstance(given, list):
        return given
    return [_located(one, folders) if isinstance(one, Mapping) and "base_model" in one else one for one in given]


def _located(one: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    def absolute(name: Any) -> Any:
        found = [folder / name for folder in folders if (folder / name).exists()] if isinstance(name, str) else []
        return str(found[0].resolve()) if name and found else name

    named = one["base_model"]
    return {**one, "base_model": [absolute(name) for name in named] if isinstance(named, list) else absolute(named)}


def baselines_of(algorithms: Iterable[Algorithm], wanted: Sequence[str]) -> list[Algorithm]:
    """What algorithms are compared with, each once.

    ``frozen`` is the first model, for ever. ``random`` labels as many images of each round, drawn at random. ``full``
    labels everything, and trains a new model on all of it in each round.

    Raises:
        InputError: another baseline is wanted, or an algorithm has the name of one.
    """
    algorithms = list(algorithms)
    strange = [name for name in wanted if name not in BASELINES]
    if strange:
        raise InputError(f"baselines: {unknown(strange[0], BASELINES, 'baseline')}")
    found: dict[str, tuple[Algorithm, str]] = {}
    for algorithm in algorithms:
        for baseline in BASELINES:
            if baseline in wanted:
                made = _baseline(algorithm, baseline)
                found.setdefault(json.dumps(made.settings(), sort_keys=True), (made, algorithm.name))
    counts = Counter(made.name for made, _ in found.values())
    made_up = [
        made if counts[made.name] == 1 else made.model_copy(update={"name": f"{made.baseline} of {owner}"})
        for made, owner in found.values()
    ]
    if taken := sorted({one.name for one in made_up} & {one.name for one in algorithms}):
        raise InputError(f"algorithms: {', '.join(taken)} is the name of a baseline: choose another")
    return made_up


def plan_cases(algorithms: Sequence[Algorithm], seeds: Sequence[int], context: Mapping[str, Any]) -> list[Case]:
    """Every algorithm with every seed.

    Args:
        algorithms: with their baselines.
        seeds: no two alike.
        context: what every result depends on besides: data, stream, version.

    Raises:
        InputError: there are too many, two come to the same, or an estimator or a miner is not known.
    """
    if len(algorithms) * len(seeds) > MAX_CASES:
        raise InputError(
            f"{len(algorithms)} algorithms with {len(seeds)} seeds are more than {MAX_CASES} cases: list fewer values"
        )
    cases: list[Case] = []
    names: dict[str, str] = {}
    for algorithm in algorithms:
        content = _content_of(algorithm)
        for seed in seeds:
            key = json.dumps([algorithm.settings() | content, seed, dict(context)], sort_keys=True)
            digest = hashlib.sha256(key.encode()).hexdigest()[:16]
            if digest in names:
                raise InputError(
                    f"algorithms: {algorithm.name} does the same as {names[digest]}: their base models are equal files"
                )
            names[digest] = algorithm.name
            cases.append(Case(algorithm=algorithm, seed=seed, digest=digest, content=content))
    return cases


def _content_of(algorithm: Algorithm) -> dict[str, str]:
    """Digests of what may change behind the names of its settings; the suite itself is told by its version."""
    path, found = Path(algorithm.base_model), dict[str, str]()
    if (file := path / "model.json" if path.is_dir() else path).is_file():  # that of a bundle has all digests
        found["base_model"] = sha256_of(file)[:16]
    for name, made in (("estimator", estimators.get(algorithm.estimator)), ("miner", find_miner(algorithm.miner))):
        if not made.__module__.startswith("components."):
            found[name] = f"{getattr(algorithm, name)} {plugins.digest_of(made.__module__)}"
    return found


def check_algorithms(algorithms: Iterable[Algorithm]) -> None:
    """See that estimators, their options, base models and miners exist, before anything is run.

    Raises:
        InputError: everything that is wrong, in one line.
    """
    wrong: dict[str, Algorithm] = {}
    for algorithm in algorithms:
        checks: tuple[Callable[..., object], ...] = (
            lambda a=algorithm: check_training(a.estimator, a.base_model, a.estimator_options, a.initial_epochs),
            lambda a=algorithm: _check_boxes(a.estimator),
            lambda a=algorithm: _check_round_options(a.estimator, a.estimator_options, a.round_options),
            lambda a=algorithm: make_miner(a.miner, a.miner_parameters),
        )
        for check in checks:
            try:
                check()
            except InputError as error:
                wrong.setdefault(str(error), algorithm)
    if wrong:
        told = [f"{algorithm.name}: {message}" for message, algorithm in wrong.items()]
        more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
        raise InputError("; ".join(told[:MOST_TOLD]) + more + _hint(wrong))


def _hint(wrong: Mapping[str, Algorithm]) -> str:
    """What a list stands for, where one of its items is the reason."""
    for message, algorithm in wrong.items():
        for word in algorithm.name.split():
            axis, given, _ = word.partition("=")
            if given and f"{axis}=" in message:
                return f"; a list of values is one algorithm for each: where {axis} itself is a list, write [[…]]"
    return ""


def _check_boxes(name: str) -> None:
    task = estimators.get(name).task
    if task != "detection":
        raise InputError(f"the estimator {name} is for {task}; the benchmark compares detectors")


def _check_round_options(estimator: str, options: Mapping[str, Any], of_rounds: Mapping[str, Any]) -> None:
    check = estimators.get(estimator)().check
    if not check("", options) and (found := check("", {**options, **of_rounds})):
        raise InputError("; ".join(found).replace("estimator_options", "round_options"))


def _axes(given: Mapping[str, Any]) -> list[_Axis]:
    """Each list among the values, by its path."""
    axes: list[_Axis] = []
    for name, value in given.items():
        if isinstance(value, list):
            axes.append(((name,), value))
        elif name in GRIDS and isinstance(value, Mapping):
            axes += [((name, inner), item) for inner, item in value.items() if isinstance(item, list)]
    return axes


def _grid(given: Mapping[str, Any], axes: Sequence[_Axis]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every choice of one item of each list, and what its name says of it."""
    in_name = () if given.get("name") else ("estimator", "miner")
    for choice in itertools.product(*(values for _, values in axes)):
        chosen: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items()}
        for (path, _), value in zip(axes, choice, strict=True):
            (chosen if len(path) == 1 else chosen[path[0]])[path[-1]] = value
        label = [
            f"{path[-1]}={shown_model(value) if path == ('base_model',) and isinstance(value, str) else value}"
            for (path, values), value in zip(axes, choice, strict=True)
            if len(values) > 1 and path[-1] not in (*in_name, "name")
        ]  # fmt: skip
        yield chosen, " ".join(label)


def _baseline(algorithm: Algorithm, baseline: Baseline) -> Algorithm:
    """An algorithm as a baseline: what it does not use has its default, so that two that do the same are one."""
    shared: dict[str, Any] = {"name": f"{baseline} {algorithm.estimator}", "baseline": baseline}
    if baseline == "frozen":
        return Algorithm(**shared, **algorithm.first_model())
    if baseline == "full":
        # A model that starts from trained weights has no training of its own to repeat: it takes that of the rounds.
        epochs = algorithm.initial_epochs or algorithm.epochs
        return Algorithm(**shared, **algorithm.first_model(), epochs=epochs, replay_ratio=0, min_gain=-1)
    # How many images are labelled depends on the miner only where it decides alone.
    plain: dict[str, Any] = {"random_fraction": 1.0, "empty_fraction": 0.0, "shortlist": 3.0}
    if algorithm.label_budget < 0:
        plain |= {"label_budget_in": "images"}
    else:
        plain |= {"miner": "Random", "miner_parameters": {}, "min_score": 0.05}
    return algorithm.model_copy(update={**shared, **plain})


def _repeated(algorithms: Sequence[Algorithm]) -> list[str]:
    seen: dict[str, str] = {}
    names: set[str] = set()
    wrong = []
    for one in algorithms:
        key = json.dumps(one.settings(), sort_keys=True)
        if key in seen:
            wrong.append(f"algorithms: {one.name} does the same as {seen[key]}")
        elif one.name in names:
            wrong.append(f"algorithms: two are called {one.name}: give each a name of its own")
        seen.setdefault(key, one.name)
        names.add(one.name)
    return wrong


def _sentence(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    return f"{place}={shown(detail['input'])}: {detail['msg'].removeprefix('Value error, ')}"

"""A benchmarking job of KubeEdge ianvs, of incremental learning, as the parameters of a benchmark of this suite.

    plan = read(Path("benchmarkingjob.yaml"))

A plan has the parameters, what behaves otherwise here, and each line that cannot be carried over with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.benchmark.algorithms import check_algorithms, read_algorithms
from components.benchmark.row import FIGURES
from components.core import plugins
from components.core.errors import InputError, NotFoundError
from components.core.estimators.base import estimators, has_weights
from components.core.miners.base import find_miner
from components.core.parameters import all_wrong
from pipelines.arguments import face_of, parse, problems
from pipelines.interop.ianvs_schema import Algorithm, Document, Job, Module, TestEnv, open_document
from pipelines.registry import PIPELINES

METRICS = {"f1_score": "f1_ianvs", "samples_transfer_ratio": "samples_transfer_ratio"}
GATE_METRICS = {"f1_score": "f1_ianvs"}
ARCHITECTURE = "fasterrcnn_resnet50_fpn"  # the largest of the estimator; ianvs' has a ResNet-101
OPTIONS = {
    "fpn": {"learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay"},
    "yolo": {"learning_rate": "lr0", "momentum": "momentum", "weight_decay": "weight_decay"},
}  # of other estimators the options have the names that the file gives
FIELDS = {"epochs": "epochs", "batch_size": "batch", "input_shape": "image_size", "image_size": "image_size"}
SCORES = 0.5  # below which ianvs' model gives no box, so that its miner sees none
_CODE = "code of ianvs does not run here"
_SHOWN = "the page and the tables show everything"
_TEST_SHARE = 0.1  # of the ratios, which must leave something to test on where there is no test set


@dataclass
class Plan:
    """What a benchmarking job is here.

    Attributes:
        name: of the job.
        parameters: of the pipeline ``benchmark``.
        notes: what is carried over and behaves otherwise.
        losses: what is not carried over: file and line, what, and why.
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    losses: list[tuple[str, str, str]] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Take down what behaves otherwise, once."""
        if text not in self.notes:
            self.notes.append(text)

    def lose(self, place: str, what: str, reason: str) -> None:
        """Take down what cannot be carried over."""
        if (place, what, reason) not in self.losses:
            self.losses.append((place, what, reason))

    def lost(self) -> list[str]:
        """One line for each thing that is not carried over."""
        return [f"{place}: {what}: {reason}" for place, what, reason in self.losses]

    def remarks(self) -> list[str]:
        """Notes and losses as comments of a YAML file."""
        return [*(f"# note: {note}" for note in self.notes), *(f"# not carried over: {line}" for line in self.lost())]

    def lines(self) -> Iterator[str]:
        """The job as a file for ``python -m pipelines run benchmark --params``."""
        yield f"# benchmarking job {self.name} of ianvs"
        yield from self.remarks()
        yield yaml.safe_dump(self.parameters, sort_keys=False, width=120, allow_unicode=True).rstrip()


def read(path: Path, pairs: Sequence[str] = (), *, strict: bool = False) -> Plan:
    """What a benchmarking job is here.

    Paths inside it are looked for in the working directory, as ianvs does, and then beside and above the file.

    Args:
        path: of its file.
        pairs: ``name=value`` of parameters that win over the file.
        strict: refuse what cannot be carried over.

    Raises:
        InputError: a file is missing or not what it should be, the job is of another paradigm, a parameter cannot be,
            or, if strict, something has no place here.
    """
    face = face_of(PIPELINES["benchmark"])
    given = parse(face, list(pairs), {})
    plugins.load(str(given.get("plugins", "")))
    document = open_document(path, "benchmarkingjob")
    job = document.read(Job)
    plan = Plan(job.name)
    plan.parameters["job_root"] = str(Path(job.workspace) / job.name)
    if job.test_object.type != "algorithms":
        raise InputError(
            f"{document.at('test_object', 'type')}: {job.test_object.type} cannot be tested, algorithms alone"
        )
    test = open_document(_found(job.testenv, document, "testenv"), "testenv")
    _set_environment(plan, test, given)
    _set_algorithms(plan, document, job, test)
    _set_rank(plan, document, job)
    if job.simulation:
        plan.lose(document.at("simulation"), "simulation", "cases run here or on a cluster of their own")
    plan.parameters |= given
    if wrong := problems(face, plan.parameters):
        raise InputError(f"{path}: {all_wrong(wrong)}")
    try:
        check_algorithms(read_algorithms(plan.parameters["algorithms"]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if strict and plan.losses:
        raise InputError("\n       ".join(["not everything can be carried over:", *plan.lost()]))
    return plan


def _found(name: str, document: Document, *place: str | int) -> Path:
    """A file that another one names."""
    if found := _search(name, document):
        return found
    raise NotFoundError(f"{document.at(*place)}: no file {name} in the working directory, or beside or above this file")


def _search(name: str, document: Document, is_it: Callable[[Path], bool] = Path.is_file) -> Path | None:
    """Where something that a file names lies; None if it is nowhere."""
    for folder in (Path(), *document.path.resolve().parents) if name else ():
        with suppress(OSError):  # too long for a name
            if is_it(folder / name):
                return folder / name
    return None


def _set_environment(plan: Plan, document: Document, given: Mapping[str, Any]) -> None:
    test = document.read(TestEnv)
    _set_data(plan, document, test, given)
    plan.parameters |= {"stream": "order", "rounds": test.incremental_rounds}
    plan.note("rounds follow the paths of the samples; ianvs follows the lines of the index")
    for number, metric in enumerate(test.metrics):
        if metric.name not in METRICS:
            plan.lose(document.at("metrics", number), f"metric {metric.name}", _CODE)
    plan.note("f1_score is f1_ianvs, with the formula of ianvs; f1 beside it counts missed images as well")
    for key in ("round", "client_number"):
        if getattr(test, key) != 1:
            plan.lose(document.at(key), key, "only other paradigms of ianvs use it")
    if test.use_gpu:
        plan.parameters["device"] = "0"


def _set_data(plan: Plan, document: Document, test: TestEnv, given: Mapping[str, Any]) -> None:
    data = test.dataset
    for side, parameter in (("train", "data_url"), ("test", "test_url")):
        keys = [f"{side}_{ending}" for ending in ("index", "data", "data_info", "url")]
        named = [key for key in keys if getattr(data, key)]
        if not named:
            raise InputError(f"{document.at('dataset')}: dataset has no {side}_index")
        for other in named[1:]:
            plan.lose(document.at("dataset", other), other, f"{named[0]} is taken")
        address = getattr(data, named[0])
        found = _search(address, document)
        index = found or Path(address)
        if index.suffix == ".txt" if found is None else _names_xml(found):
            plan.parameters[parameter] = str(index.parent)
            plan.parameters["data_format"] = "voc"
        else:
            plan.parameters[parameter] = str(index)
        if found is None and parameter not in given:
            plan.note(f"{document.at('dataset', named[0])}: {address} is not here: give {parameter}")
    if plan.parameters.get("data_format") == "voc":
        plan.note("an index of images and XML files stands for all images in its folder")
    if data.label:
        plan.lose(document.at("dataset", "label"), "label", "labels are read from the files that the index names")


def _names_xml(index: Path) -> bool:
    """Whether the lines of an index name an image and its XML file; so do those of ianvs' example."""
    with index.open(encoding="utf-8", errors="replace") as file:
        words = file.readline(10_000).split()
    return len(words) == 2 and words[1].lower().endswith(".xml")


def _set_algorithms(plan: Plan, document: Document, job: Job, test: Document) -> None:
    algorithms, ratios = [], {}
    for number, named in enumerate(job.test_object.algorithms):
        place = ("test_object", "algorithms", number)
        if not named.url:
            raise InputError(f"{document.at(*place)}: the algorithm {named.name} has no url")
        own = open_document(_found(named.url, document, *place, "url"), "algorithm")
        algorithm = own.read(Algorithm)
        if algorithm.paradigm_type != "incrementallearning":
            raise InputError(
                f"{own.at('paradigm_type')}: {algorithm.paradigm_type} is another paradigm than incrementallearning: "
                "see the pipelines lifelong-learning and joint-inference for others"
            )
        algorithms.append({"name": named.name, **_algorithm(plan, own, algorithm, test)})
        ratios[algorithm.incremental_learning_data_setting.train_ratio] = own
    plan.parameters["algorithms"] = algorithms
    train_ratio = next(iter(ratios))
    plan.parameters["train_ratio"] = round(train_ratio * (1 - _TEST_SHARE), 6)
    plan.parameters["val_ratio"] = round((1 - train_ratio) * (1 - _TEST_SHARE), 6)
    for other, own in list(ratios.items())[1:]:
        where = own.at("incremental_learning_data_setting", "train_ratio")
        plan.lose(where, f"train_ratio {other:g}", f"all algorithms share one, which is {train_ratio:g}")


def _algorithm(plan: Plan, own: Document, given: Algorithm, test: Document) -> dict[str, Any]:
    made: dict[str, Any] = {"replay_ratio": 0, "label_budget": -1, "min_score": SCORES, "miner": "EdgeOnly"}
    if (method := given.incremental_learning_data_setting.splitting_method) != "default":
        where = own.at("incremental_learning_data_setting", "splitting_method")
        plan.lose(where, f"splitting_method {method}", "rounds are equal parts in order")
    for number, package in enumerate(given.third_party_packages):
        plan.lose(own.at("third_party_packages", number), f"package {package.name}", _CODE)
    for key in ("mode", "quantization_type"):
        if value := getattr(given, key):
            plan.lose(own.at(key), f"{key} {value}", "other pipelines convert models; see docs/rockchip.md")
    readers: dict[str, Callable[..., None]] = {"basemodel": _set_model, "hard_example_mining": _set_miner}
    for number, module in enumerate(given.modules):
        place = ("modules", number)
        if module.type not in readers:
            plan.lose(own.at(*place), f"module {module.type} {module.name}", "incremental learning does not use it")
            continue
        readers[module.type](plan, own, place, module, made)
    if "estimator" not in made:
        raise InputError(f"{own.at('modules')}: the algorithm has no module of type basemodel")
    _set_initial_model(plan, own, given, made)
    _set_gate(plan, test, made)
    return made


def _set_model(plan: Plan, own: Document, place: tuple[Any, ...], module: Module, made: dict[str, Any]) -> None:
    name = module.name if module.name in estimators.names() else module.name.lower()
    if name not in estimators.names():
        known = ", ".join(estimators.names())
        raise InputError(
            f"{own.at(*place, 'name')}: no estimator {module.name}: choose from {known}, or register your class under "
            f"this name and give -p plugins=MODULE (docs/extending.md)"
        )
    made["estimator"] = name
    if module.url:
        plan.lose(own.at(*place, "url"), f"url {module.url}", f"{_CODE}: the estimator {name} takes its place")
    for at, key, values in _hyperparameters(plan, own, place, module):
        if key in FIELDS:
            made[FIELDS[key]] = values
        elif option := OPTIONS.get(name, {key: key}).get(key):
            made.setdefault("estimator_options", {})[option] = values
        else:
            plan.lose(at, f"hyperparameter {key}", f"the estimator {name} has no such option")
    if "lr0" in made.get("estimator_options", {}):
        made["estimator_options"]["optimizer"] = "SGD"  # else ultralytics chooses both


def _hyperparameters(
    plan: Plan, own: Document, place: tuple[Any, ...], module: Module
) -> Iterator[tuple[str, str, list[Any]]]:
    """File and line, name and values of each hyper-parameter."""
    for number, named in enumerate(module.hyperparameters):
        at = own.at(*place, "hyperparameters", number)
        for key, one in named.items():
            if key == "other_hyperparameters":
                files = ", ".join(map(str, one.values))
                plan.lose(at, files, "files of hyper-parameters are not read: list those that matter one by one")
            else:
                yield at, key, one.values


def _set_miner(plan: Plan, own: Document, place: tuple[Any, ...], module: Module, made: dict[str, Any]) -> None:
    try:
        find_miner(module.name)
    except InputError as error:
        raise InputError(f"{own.at(*place, 'name')}: {error}") from None
    made["miner"] = module.name
    parameters = {key: values for _, key, values in _hyperparameters(plan, own, place, module)}
    # An image without boxes is never hard there.
    made["miner_parameters"] = parameters | ({"on_empty": "easy"} if module.name in ("IBT", "Threshold") else {})
    if module.url:
        plan.lose(own.at(*place, "url"), f"url {module.url}", f"{_CODE}: the miner {module.name} takes its place")


def _set_initial_model(plan: Plan, own: Document, given: Algorithm, made: dict[str, Any]) -> None:
    address = given.initial_model_url
    if found := _search(address, own, Path.exists):
        address = str(found)
    if address and has_weights(address) and not address.endswith((".zip", ".ckpt")):
        made |= {"base_model": address, "initial_epochs": 0}
        return
    if address:
        plan.lose(
            own.at("initial_model_url"), f"initial_model_url {address}",
            "not weights of this suite (.pt, or a bundle): the first model is trained on the first round",
        )  # fmt: skip
    plan.note("the first round is labelled whole and makes the first model; ianvs mines it, too")
    if made["estimator"] == "fpn":
        made["base_model"] = ARCHITECTURE
        plan.note(f"FPN with a ResNet-101 is {ARCHITECTURE} here, trained from random weights")


def _set_gate(plan: Plan, test: Document, made: dict[str, Any]) -> None:
    gate = test.read(TestEnv).model_eval
    if gate is None:
        made["min_gain"] = -1
        return
    place = ("model_eval", "model_metric", "name")
    if gate.model_metric.name not in GATE_METRICS:
        plan.lose(test.at(*place), f"metric {gate.model_metric.name}", f"{_CODE}: candidates are judged by map50")
    made["gate_metric"] = GATE_METRICS.get(gate.model_metric.name, "map50")
    made["min_gain"] = gate.threshold
    if gate.operator not in (">=", ">"):
        plan.lose(test.at("model_eval", "operator"), f"operator {gate.operator}", "a candidate must gain at least this")
    elif gate.operator == ">":
        plan.note("the gate takes a gain that is just the threshold, too")
    plan.note("candidates are judged on the validation samples of all rounds so far; those of ianvs on their round's")


def _set_rank(plan: Plan, document: Document, job: Job) -> None:
    names = []
    for number, order in enumerate(job.rank.sort_by):
        for metric, direction in order.items():
            ours = METRICS.get(metric)
            at = document.at("rank", "sort_by", number)
            if ours is None:
                plan.lose(at, f"sort_by {metric}", "no figure of that name")
            elif (direction == "descend") is not FIGURES[ours]:
                plan.lose(at, f"sort_by {metric} {direction}", "the best comes first")
            else:
                names.append(ours)
    if names:
        plan.parameters["sort_by"] = ",".join(names)
    for key in ("visualization", "selected_dataitem", "save_mode"):
        if getattr(job.rank, key):
            plan.lose(document.at("rank", key), key, _SHOWN)

"""The parameters of a run, and every complaint about them at once.

One model per phase names each parameter, its type, its range and its default. ``problems`` checks a whole set, so that
a person with three mistakes reads three lines before any work has started, not one of them an hour into the run.
The command line, the first task of each pipeline and the phases themselves all use these.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from components.core.errors import InputError
from components.core.rules.conditions import Condition
from components.core.rules.window import Window
from components.core.runtimes.rockchip import check_precision, parse_retries, parse_targets

STRIDE = 32  # the coarsest grid of every YOLO; an image side must be a multiple of it
MAX_SIDE = 4096


def parse_image_size(text: str) -> tuple[int, int]:
    """Read an image size: one number, or ``height,width`` such as Sedna's ``352,640``.

    Returns:
        Height and width in pixels.

    Raises:
        InputError: not one or two multiples of 32 between 32 and 4096.
    """
    sides = re.split(r"[,x ]+", text.strip().strip("()[]"))
    if len(sides) not in (1, 2) or not all(side.isdigit() for side in sides):
        raise InputError(f"image_size={text!r} is not one number or height,width: write 640 or 352,640")
    height, width = int(sides[0]), int(sides[-1])
    for side in (height, width):
        if side % STRIDE or not STRIDE <= side <= MAX_SIDE:
            nearest = min(max(STRIDE, round(side / STRIDE) * STRIDE), MAX_SIDE)
            raise InputError(
                f"image_size={text!r}: {side} is not a multiple of {STRIDE} between {STRIDE} and {MAX_SIDE}: "
                f"the nearest is {nearest}"
            )
    return height, width


def parse_labels(text: str) -> dict[str, str]:
    """Read experiment labels, ``site=north,camera=7``.

    Raises:
        InputError: a part is not ``name=value``, or a name comes twice.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise InputError(f"experiment_labels={text!r}: {part!r} is not name=value")
        if name in labels:
            raise InputError(f"experiment_labels={text!r}: {name!r} is given twice")
        labels[name] = value
    return labels


def parse_classes(text: str) -> dict[str, str]:
    """Read class names, ``helmet,head``, or with renaming, ``hat:helmet,person:head``.

    Returns:
        What a class is called in the data, and what it is called from here on; several may become one.

    Raises:
        InputError: an empty name, or a name of the data that comes twice.
    """
    renamed: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        source, colon, target = (piece.strip() for piece in part.partition(":"))
        if not source or (colon and not target):
            raise InputError(f"classes={text!r}: {part!r} is not a name or name-in-the-data:name")
        if source in renamed:
            raise InputError(f"classes={text!r}: {source!r} is given twice")
        renamed[source] = target or source
    return renamed


def parse_group_pattern(text: str) -> re.Pattern[str] | None:
    """Read a regular expression with one group, which says which images belong together.

    Raises:
        InputError: not a regular expression, or without exactly one group.
    """
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"group_pattern={text!r} is not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise InputError(f"group_pattern={text!r} has {pattern.groups} groups: put exactly one (...) around the part")
    return pattern


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda:)?\d+(,\d+)*", text):
        raise ValueError("not a device: write auto, cpu, mps or GPU numbers such as 0 or 0,1")
    return text


def _quantity(text: str) -> str:
    # https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    if not re.fullmatch(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?", text):
        raise ValueError("not a Kubernetes quantity: write 500m, 2, 8Gi")
    return text


def _object_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", text):
        raise ValueError("not a Kubernetes object name: use lower-case letters, digits, '-' and '.'")
    return text


def _model_reference(text: str) -> str:
    if re.match(r"^(https?|s3)://", text) and not re.search(r"#sha256=[0-9a-f]{64}$", text):
        raise ValueError(
            "a model from elsewhere is only unpickled when its digest is vouched for: append #sha256=<64 hex digits>"
        )
    return text


def _window(value: dict[str, Any]) -> object:
    return Window.parse(value) if value else None


def _conditions(value: list[Any]) -> object:
    return Condition.parse(value) if value else None


def _read_by(parse: Any) -> AfterValidator:
    """Let pydantic collect what a ``parse_...`` function complains about."""

    def check(value: Any, info: ValidationInfo) -> Any:
        try:
            parse(value)
        except InputError as error:
            text = str(error) if isinstance(value, str) else f"{info.field_name}: {error}"
            raise PydanticCustomError("input", "{text}", {"text": text}) from error
        return value

    return AfterValidator(check)


def _whole(value: Any) -> Any:
    """KFP hands whole numbers inside JSON over as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Fraction = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, BeforeValidator(_whole)]
Uri = Annotated[str, Field(min_length=1)]
Quantity = Annotated[str, AfterValidator(_quantity)]
ObjectName = Annotated[str, AfterValidator(_object_name)]


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true for 1, which KFP does not."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind in (int, float):
            raise ValueError(f"Input should be a valid {'integer' if kind is int else 'number'}")
        return value


class StoreParameters(_Parameters):
    """Where the job's state lies, and code of the user's own."""

    job_root: Uri
    plugins: str = ""


class _Intake(_Parameters):
    data_path: str = ""
    data_format: str = "auto"
    classes: Annotated[str, _read_by(parse_classes)] = ""
    ignore_classes: str = ""
    max_bad_fraction: Fraction = 0.1
    max_files: Annotated[Whole, Field(ge=1)] = 1_000_000
    max_unpacked_gb: Annotated[float, Field(gt=0)] = 100.0
    max_compression_ratio: Annotated[float, Field(gt=1)] = 200.0


class IngestParameters(_Intake):
    """What comes in, and how much of it may be bad."""

    data_url: Uri


class FeedParameters(_Intake):
    """Where new samples arrive, and how much of them may be bad."""

    feed_url: Uri


class TriggerParameters(_Parameters):
    """When a round runs."""

    trigger_window: Annotated[dict[str, Any], _read_by(_window)] = {}
    trigger_conditions: Annotated[list[Any], _read_by(_conditions)] = ["num_of_samples >= 50"]
    max_rounds: Annotated[Whole, Field(ge=0)] = 0


class SplitParameters(_Parameters):
    """How samples are split."""

    train_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.8
    val_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0


class PrepareParameters(_Parameters):
    """What a split respects."""

    split_by: Literal["hash", "source"] = "hash"
    group_pattern: Annotated[str, _read_by(parse_group_pattern)] = ""


class RoundParameters(_Parameters):
    """What a round begins with, and what it trains and is measured on besides what is new."""

    initial_model: Annotated[str, Field(min_length=1), AfterValidator(_model_reference)] = "yolo11n.yaml"
    replay_ratio: Annotated[float, Field(ge=0, le=100)] = 1.0
    replay_limit: Annotated[Whole, Field(ge=0)] = 5000
    core_rounds: Annotated[Whole, Field(ge=1)] = 1
    recent_rounds: Annotated[Whole, Field(ge=1)] = 3
    force_train: bool = False
    force_evaluate: bool = False


class TrainParameters(_Parameters):
    """How the candidate is trained."""

    estimator: str = "yolo"
    base_model: Annotated[str, Field(min_length=1), AfterValidator(_model_reference)] = "yolo11n.yaml"
    epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 100
    image_size: Annotated[str, _read_by(parse_image_size)] = "640"
    batch: Annotated[Whole, Field(ge=1, le=4096)] = 16
    patience: Annotated[Whole, Field(ge=0)] = 50
    device: Annotated[str, AfterValidator(_device)] = "auto"
    workers: Annotated[Whole, Field(ge=0, le=256)] = 2
    estimator_options: dict[str, Any] = {}
    experiment_labels: Annotated[str, _read_by(parse_labels)] = ""


class EvaluateParameters(_Parameters):
    """The thresholds the model will be deployed with."""

    confidence_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.25
    nms_threshold: Annotated[float, Field(gt=0, le=1)] = 0.7


class GateParameters(_Parameters):
    """When a candidate becomes the champion."""

    gate_conditions: Annotated[list[Any], _read_by(_conditions)] = ["map50_delta >= 0"]
    max_class_loss: Annotated[float, Field(ge=-1, le=1)] = 0.05
    max_loss: Annotated[float, Field(ge=-1, le=1)] = -1.0
    min_samples: Annotated[Whole, Field(ge=1)] = 20
    require_significant: bool = False
    deploy_window: Annotated[dict[str, Any], _read_by(_window)] = {}
    force_deploy: bool = False


class MineParameters(_Parameters):
    """How many images people are asked to label, and how these are chosen."""

    label_budget: Annotated[Whole, Field(ge=0, le=100_000)] = 50
    random_share: Fraction = 0.1
    empty_share: Fraction = 0.2
    miner: Annotated[str, Field(min_length=1)] = "doubt"
    miner_parameters: dict[str, Any] = {}
    least_score: Annotated[float, Field(gt=0, lt=1)] = 0.05
    pool_limit: Annotated[Whole, Field(ge=1, le=1_000_000)] = 2000
    prelabel_job: str = ""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.random_share + self.empty_share > 1:
            raise PydanticCustomError(
                "input",
                "{text}",
                {
                    "text": f"random_share={self.random_share:g} and empty_share={self.empty_share:g} are more than "
                    "the budget: their sum must be at most 1"
                },
            )
        return self


class ConvertParameters(_Parameters):
    """What chips the model is converted for, and what that may cost."""

    targets: Annotated[str, _read_by(parse_targets)] = ""
    quantization: Literal["int8", "fp16"] = "int8"
    quantization_retries: Annotated[str, _read_by(parse_retries)] = "kl_divergence,mmse"
    calibration_size: Annotated[Whole, Field(ge=20, le=10_000)] = 100
    check_size: Annotated[Whole, Field(ge=1)] = 300
    max_map_loss: Fraction = 0.02
    max_f1_loss: Fraction = 0.02
    min_score_ratio: Fraction = 0.9
    conversion_timeout: Annotated[float, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _able(self) -> Self:
        try:
            check_precision(parse_targets(self.targets), self.quantization)
        except InputError as error:
            raise PydanticCustomError("input", "{text}", {"text": str(error)}) from error
        return self


class LabelParameters(_Parameters):
    """How images are handed to people."""

    label_format: Annotated[str, Field(min_length=1)] = "label-studio"
    classes: Annotated[str, _read_by(parse_classes)] = ""


class DeployParameters(_Parameters):
    """How long to wait for the edge, and what to keep."""

    workers_timeout: Annotated[float, Field(ge=0)] = 0.0
    fleet_fraction: Annotated[float, Field(gt=0, le=1)] = 0.95
    trial_fraction: Fraction = 0.0
    trial_frames: Annotated[Whole, Field(ge=0)] = 100
    trial_hours: Annotated[float, Field(gt=0)] = 24.0
    keep_versions: Annotated[Whole, Field(ge=1)] = 10


class ClusterParameters(_Parameters):
    """What only a cluster reads."""

    cache_pvc: ObjectName = "edge-learning-cache"
    cache_size: Quantity = "20Gi"
    cpu_request: Quantity = "2"
    memory_request: Quantity = "8Gi"
    gpu_limit: Quantity = "0"
    gpu_type: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    store_secret: ObjectName = "edge-learning-store"


PHASES: dict[str, type[_Parameters]] = {
    "store": StoreParameters,
    "ingest": IngestParameters,
    "feed": FeedParameters,
    "trigger": TriggerParameters,
    "split": SplitParameters,
    "prepare": PrepareParameters,
    "round": RoundParameters,
    "train": TrainParameters,
    "gate": GateParameters,
    "mine": MineParameters,
    "convert": ConvertParameters,
    "label": LabelParameters,
    "deploy": DeployParameters,
    "evaluate": EvaluateParameters,
    "cluster": ClusterParameters,
}


def problems(values: Mapping[str, Any], phases: Iterable[str]) -> list[str]:
    """Everything that is wrong with the parameters of a run, one line each.

    Args:
        values: parameter names and values; a missing one has its default.
        phases: keys of ``PHASES`` whose parameters the run takes.
    """
    models = [PHASES[phase] for phase in phases]
    known = {name for model in models for name in model.model_fields}
    found = [_unknown(name, known) for name in values if name not in known]
    for model in models:
        try:
            model.model_validate({name: values[name] for name in model.model_fields if name in values})
        except ValidationError as error:
            found += [_sentence(detail) for detail in error.errors()]
    train, val = values.get("train_ratio", 0.8), values.get("val_ratio", 0.1)
    if "split" in phases and _is_ratio(train) and _is_ratio(val) and float(train) + float(val) >= 1:
        found.append(f"train_ratio={train} and val_ratio={val} leave nothing to test on: their sum must be below 1")
    if "round" in phases and values.get("force_train") is True and values.get("force_evaluate") is True:
        found.append("force_train and force_evaluate are both given: the first trains a candidate, the second does not")
    return found


def phases_of(names: Container[str]) -> list[str]:
    """The phases all of whose parameters are among the names, which are those of a pipeline."""
    return [phase for phase, model in PHASES.items() if all(name in names for name in model.model_fields)]


def check(values: Mapping[str, Any], phases: Iterable[str]) -> None:
    """Raise one ``InputError`` that tells everything ``problems`` finds."""
    found = problems(values, phases)
    if found:
        count = "1 parameter is" if len(found) == 1 else f"{len(found)} parameters are"
        raise InputError(f"{count} wrong: " + "; ".join(found))


def check_repeated(values: Mapping[str, Any]) -> None:
    """Refuse what is meant for a single run in one that is repeated.

    Raises:
        InputError: a parameter would run a round at every poll, whatever the trigger says.
    """
    forced = [name for name in ("force_train", "force_evaluate") if values.get(name) in (True, "true", "True")]
    if forced:
        raise InputError(
            f"{' and '.join(forced)} would run a round at every poll, whatever trigger_conditions say: "
            "give it to a single run, with run or submit"
        )


def _unknown(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(_OLD_NAMES.get(name, name), sorted(known), n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(known))}"
    return f"{name} is no parameter of this pipeline: {hint}"


# What users of the pipelines that this suite replaces know a parameter as.
_OLD_NAMES = {
    "dataurl": "data_url",
    "datapath": "data_path",
    "epoch": "epochs",
    "workers_num": "workers",
    "model_export": "job_root",
    "obj_threshold": "confidence_threshold",
    "input_shape": "image_size",
    "batch_size": "batch",
    "class_names": "classes",
    "imgsz": "image_size",
    "conf": "confidence_threshold",
    "iou": "nms_threshold",
}


def _sentence(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "input":
        return str(detail["msg"])
    if detail["type"] == "missing":
        return f"{name} is required"
    given = re.sub(r"//[^/@\s]+@", "//", repr(detail["input"]))  # a password in a URL is not for the log
    return f"{name}={given}: {detail['msg'].removeprefix('Value error, ')}"


def _is_ratio(value: Any) -> bool:
    try:
        return 0 < TypeAdapter(float).validate_python(value) < 1
    except ValidationError:
        return False

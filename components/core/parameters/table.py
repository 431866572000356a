"""The table of parameters: each row names one, with its type, its range, its default and a sentence on what it does.

A class is a section: the parameters that travel together, under ``settings``, to the steps that need them. Nothing else
in the repository says what a parameter's default or meaning is: forms, ``--help``, the README and the checks before a
run are made of these rows.

To add a parameter, add a row to a section, and use it in the logic of a step that reads the section
(``read(DataSettings, settings)`` in its ``component.py``). Then run ``python -m pipelines compile``, which writes forms
and tables anew. A row that no logic uses fails a test, and so does logic with another default. A new section is a class
here, an entry in ``WORKFLOWS`` for each pipeline that has it, and a ``read`` in a step. A parameter that gets a new
name goes into ``OLD_NAMES`` as well.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from components.core.errors import InputError
from components.core.parameters.forms import (
    parse_classes,
    parse_group_pattern,
    parse_image_size,
    parse_labels,
    parse_seeds,
    read_value,
    shown,
)
from components.core.redaction import HIDDEN, redacted
from components.core.rules.conditions import Condition
from components.core.rules.window import Window
from components.core.runtimes.rockchip import check_precision, parse_retries, parse_targets

# What users may know a parameter as. The name on the left is taken for the one on the right, with a note that says so.
OLD_NAMES = {
    "check_size": "max_eval_images",
    "cpu_request": "train_cpu",
    "empty_share": "empty_fraction",
    "fleet_fraction": "rollout_fraction",
    "gpu_limit": "train_gpus",
    "gpu_type": "train_gpu_type",
    "least_score": "min_score",
    "max_class_loss": "max_class_drop",
    "max_f1_loss": "max_f1_drop",
    "max_loss": "max_map50_drop",
    "max_map_loss": "max_map_drop",
    "memory_request": "train_memory",
    "random_share": "random_fraction",
    "trial_fraction": "canary_fraction",
    "trial_frames": "canary_frames",
    "trial_hours": "canary_hours",
    "workers_timeout": "rollout_timeout",
}

# The names of other tools and of the pipelines that this suite replaces: refused, with a pointer to ours.
OTHER_NAMES = {
    "batch_size": "batch",
    "class_names": "classes",
    "conf": "confidence_threshold",
    "datapath": "data_path",
    "dataurl": "data_url",
    "epoch": "epochs",
    "imgsz": "image_size",
    "input_shape": "image_size",
    "iou": "nms_threshold",
    "model_export": "job_root",
    "obj_threshold": "confidence_threshold",
    "workers_num": "workers",
}


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


def _matching(pattern: str, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(what)
        return text

    return AfterValidator(check)


def _drop(value: float) -> float:
    if -1 < value < 0:  # as conditions have it, where a drop is below 0; it would disable the check
        raise ValueError("must be 0 to 1, or -1 to disable")
    return value


def _model_reference(text: str) -> str:
    if re.match(r"^(https?|s3)://", text) and not re.search(r"#sha256=[0-9a-fA-F]{64}$", text):
        raise ValueError("a remote model needs a checksum: append #sha256=<64 hex digits>")
    return text


def _tolerations(value: list[Any]) -> None:
    """Refuse what Kubernetes would refuse.

    https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#scheduling (Toleration)
    """
    known = {"key", "operator", "value", "effect", "tolerationSeconds"}
    for item in value:
        if not isinstance(item, dict):
            raise InputError(f'{shown(item)} must be a mapping such as {{"key": "gpu", "operator": "Exists"}}')
        wrong = [shown(name) for name in item if name not in known]
        if wrong:
            raise InputError(f"unknown field {', '.join(wrong)}: choose from {', '.join(sorted(known))}")
        for name in known - {"tolerationSeconds"}:
            if not isinstance(item.get(name, ""), str):
                raise InputError(f"{name} must be text, not {shown(item[name])}: put it in quotes")
        operator, effect = item.get("operator") or "Equal", item.get("effect", "")
        if operator not in ("Equal", "Exists"):
            raise InputError(f"operator {shown(operator)} must be Equal or Exists")
        if effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
            raise InputError(f"effect {shown(effect)} must be NoSchedule, PreferNoSchedule or NoExecute")
        if operator == "Exists" and item.get("value"):
            raise InputError("operator Exists takes no value: leave it out, or use Equal")
        if operator == "Equal" and not item.get("key"):
            raise InputError("an empty key matches every taint and needs operator Exists")
        if item.get("key"):
            _label_name(item["key"], "key")
        _label_value(item.get("value", ""), "value")
        seconds = item.get("tolerationSeconds")
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
            raise InputError(f"tolerationSeconds must be a whole number, not {shown(seconds)}")
        if seconds is not None and (seconds != int(seconds) or effect != "NoExecute"):
            raise InputError("tolerationSeconds must be a whole number, and needs effect NoExecute")


def _node_labels(value: dict[str, Any]) -> None:
    for name, text in value.items():
        _label_name(name, "the label")
        _label_value(text, f"the value of {name}")


def _without_password(text: str) -> None:
    if HIDDEN in redacted(text):
        raise InputError("edge_source holds a password: put the address into the secret edge_secret, as EDGE_SOURCE")


def _label_name(name: str, what: str) -> None:
    # https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
    part = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
    if not re.fullmatch(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{part}", name):
        raise InputError(f"{what} {shown(name)} must be a Kubernetes label such as nvidia.com/gpu")


def _label_value(text: Any, what: str) -> None:
    if not isinstance(text, str) or not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", text):
        raise InputError(f"{what} must be text of at most 63 letters, digits, '-', '_' and '.', not {shown(text)}")


def _quantities(value: dict[str, Any]) -> None:
    for name, quantity in value.items():
        _label_name(name, "resource")
        if not re.fullmatch(_QUANTITY, str(quantity)):
            raise InputError(f"{name} must be a Kubernetes quantity such as 500m, 2 or 8Gi, not {shown(quantity)}")


def _window(value: dict[str, Any]) -> object:
    return Window.parse(value) if value else None


def _conditions(value: list[Any]) -> object:
    return Condition.parse(value) if value else None


_LISTED: dict[str, JsonValue] = {"joined_by": ","}  # text that may also be given as a list

Fraction = Annotated[float, Field(ge=0, le=1)]
Drop = Annotated[float, Field(ge=-1, le=1), AfterValidator(_drop)]
Classes = Annotated[str, _read_by(parse_classes), Field(json_schema_extra={"joined_by": ",", "pairs": ":"})]
Conditions = Annotated[list[Any], _read_by(_conditions), Field(json_schema_extra={"single": True})]
TimeWindow = Annotated[dict[str, Any], _read_by(_window)]
Base = Annotated[str, Field(min_length=1), AfterValidator(_model_reference)]
Address = Annotated[str, Field(min_length=1)]
_QUANTITY = r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"
Quantity = Annotated[
    str,
    # https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    _matching(_QUANTITY, "must be a Kubernetes quantity such as 500m, 2 or 8Gi"),
]
ObjectName = Annotated[
    str,
    _matching(
        r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?",
        "must be a Kubernetes object name: use lower-case letters, digits, '-' and '.'",
    ),
]
HttpAddress = Annotated[
    str, _matching(r"|https?://[^\s@]+", "must be http://host:port or https://host, without a password")
]
ServingName = Annotated[  # with room for what is put behind it, within the 63 characters of a label
    str,
    _matching(
        r"([a-z]([-a-z0-9]{0,38}[a-z0-9])?)?",
        "must be a Kubernetes name of at most 40 characters: use lower-case letters, digits and '-'",
    ),
]


class Parameters(BaseModel):
    """Rows of the table. Values are read as :func:`components.core.parameters.forms.read_value` says.

    Nothing (``null``, or empty text where that is no value) means the default.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    section: ClassVar[str] = ""

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        row = cls.model_fields[info.field_name or ""]
        return row.get_default() if not row.is_required() and is_nothing(row, value) else read_row(row, value)


class JobInputs(Parameters):
    """Where a job is."""

    job_root: Address = Field(description="Where the job is kept: `s3://bucket/prefix`, or a folder on one machine.")


class SourceInputs(Parameters):
    """A data set that is read once."""

    data_url: Address = Field(
        description="The data set: an archive (zip, tar), a folder or an index file, as `https://...`, "
        "`s3://bucket/key`, `file:///...` or a path."
    )


class FeedInputs(Parameters):
    """A place where new samples arrive."""

    feed_url: Address = Field(
        description="Where new samples arrive: a folder, `s3://bucket/prefix`, an index file or an archive."
    )


class StoreInputs(Parameters):
    """What every step needs on a cluster."""

    store_secret: ObjectName = Field(
        "edge-learning-store", description="Cluster: Kubernetes secret with the credentials of the store."
    )


class NodeInputs(StoreInputs):
    """What every step needs on a cluster. KFP takes resources as inputs of a pipeline only."""

    node_selector: Annotated[dict[str, Any], _read_by(_node_labels)] = Field(
        {"kubernetes.io/arch": "amd64"},
        description="Cluster: labels of the nodes that steps may run on; the container images are for amd64.",
    )
    step_cpu: Quantity = Field(
        "1", description="Cluster: CPUs of each step that loads a model or many images, as request and limit."
    )
    step_memory: Quantity = Field(
        "4Gi", description="Cluster: memory of each step that loads a model or many images, as request and limit."
    )
    tolerations: Annotated[list[Any], _read_by(_tolerations)] = Field(
        [],
        description="Cluster: Kubernetes tolerations of every step, such as "
        '`[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]`.',
    )


class ClusterInputs(NodeInputs):
    """What training needs on a cluster."""

    train_cpu: Quantity = Field("2", description="Cluster: CPUs of training, as request and limit.")
    train_gpu_type: str = Field(
        "nvidia.com/gpu", min_length=1, description="Cluster: resource name of the GPUs of training."
    )
    train_gpus: Annotated[
        str, _matching(r"[0-9]{1,4}", "must be a whole number of GPUs: Kubernetes gives no part of one")
    ] = Field("0", description="Cluster: number of GPUs for training; set `device` too.")
    train_memory: Quantity = Field("8Gi", description="Cluster: memory of training, as request and limit.")


class PluginSettings(Parameters):
    """What every step reads."""

    section = "common"

    plugins: str = Field(
        "", description="Python modules with plug-ins to import first, separated by commas.", json_schema_extra=_LISTED
    )


class RuntimeSettings(PluginSettings):
    """The same, where models run."""

    runtime: str = Field(
        "onnx", min_length=1, description="What runs models when they are evaluated: `onnx`, or a runtime of a plug-in."
    )


class CommonSettings(RuntimeSettings):
    """The same, where something is drawn as well."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="Random seed for splitting, replay, training and sampling."
    )


class DataSettings(Parameters):
    """What is read of a data set or feed, and how much of it may be bad."""

    section = "data"

    classes: Classes = Field(
        "",
        description="Class names in order, `helmet,head`, or with renaming, `hat:helmet,person:head`; empty for all. "
        "Name them for a feed, where the first images need not show all.",
    )
    ignore_classes: str = Field(
        "",
        description="Classes whose boxes are left out and whose pixels are void; `*` for all that `classes` does not "
        "name.",
        json_schema_extra=_LISTED,
    )
    data_path: str = Field("", description="Folder or file inside the archive, folder or feed that holds the data set.")
    data_format: str = Field(
        "auto",
        min_length=1,
        description="`auto`, `voc`, `yolo`, `coco`, `label-studio`, `csv`, `jsonl`, `sedna`, `masks`, `cityscapes`, "
        "`folder`, or a format of a plug-in.",
    )
    max_bad_fraction: Fraction = Field(
        0.1, description="The step fails when a larger fraction of the files, 0 to 1, is unusable."
    )
    max_files: Annotated[int, Field(ge=1)] = Field(1_000_000, description="Maximum number of files in an archive.")
    max_unpacked_gb: Annotated[float, Field(gt=0)] = Field(
        100.0, description="Maximum size of an unpacked archive, GB."
    )
    max_compression_ratio: Annotated[float, Field(gt=1)] = Field(
        200.0, description="Maximum ratio of the unpacked to the packed size of a file in an archive."
    )


class SplitSettings(Parameters):
    """How samples are split."""

    section = "split"

    train_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(0.8, description="Fraction of groups to train on.")
    val_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Fraction of groups that the best epoch is chosen by; the rest is for testing."
    )

    @model_validator(mode="after")
    def _leaves_a_test_set(self) -> Self:
        if self.train_ratio + self.val_ratio >= 1:
            raise _problem(
                f"train_ratio={self.train_ratio:g} and val_ratio={self.val_ratio:g} leave nothing to test on: "
                "their sum must be below 1"
            )
        return self


class SourceSplitSettings(SplitSettings):
    """How the samples of a data set that is read once are split."""

    split_by: Literal["hash", "source"] = Field(
        "hash", description="`hash`, or `source` to keep the splits that the data set itself has."
    )
    group_pattern: Annotated[str, _read_by(parse_group_pattern)] = Field(
        "",
        description="Regular expression over the source path with one group; images with the same match (one video, "
        "one site) share a split.",
    )


class TriggerSettings(Parameters):
    """When a round runs."""

    section = "trigger"

    trigger_window: TimeWindow = Field(
        {},
        description='When rounds may run, as `{"start": "22:00", "end": "06:00", "timezone": "Europe/Berlin", '
        '"weekdays": "mon-fri"}`; empty for always.',
    )
    trigger_conditions: Conditions = Field(
        ["num_of_samples >= 50"],
        description='Conditions for a round to run, such as `["num_of_samples >= 50", {"any": [...]}]`; all must hold.',
    )
    max_rounds: Annotated[int, Field(ge=0)] = Field(0, description="Maximum number of rounds of the job; 0 for no end.")


class RoundSettings(Parameters):
    """What a round trains on and is measured on besides what is new."""

    section = "round"

    replay_ratio: Annotated[float, Field(ge=0, le=100)] = Field(
        1.0, description="Samples of earlier rounds to train on again, for each new sample."
    )
    replay_limit: Annotated[int, Field(ge=0)] = Field(5000, description="Maximum number of samples to replay.")
    core_rounds: Annotated[int, Field(ge=1)] = Field(
        1, description="Number of first rounds whose test samples form the frozen core set."
    )
    recent_rounds: Annotated[int, Field(ge=1)] = Field(
        3, description="Number of last rounds whose test samples form the sliding recent set."
    )
    force_train: bool = Field(
        False, description="Run a round now, whatever conditions and window say, even if nothing is new."
    )
    force_evaluate: bool = Field(
        False,
        description="Evaluate the candidate of the last round again, without training; what is new waits for the next "
        "round.",
    )

    @model_validator(mode="after")
    def _forces_one_thing(self) -> Self:
        if self.force_train and self.force_evaluate:
            raise _problem("force_train and force_evaluate are both given: the first trains, the second does not")
        return self


class RoundPlanSettings(RoundSettings):
    """What a round of incremental learning trains on and is measured on besides what is new."""

    fill_unlabelled: Literal["off", "report", "fill"] = Field(
        "report",
        description="Objects of classes that were not labelled in a sample, because a class came later or a round has "
        "labels of a new one alone, are never background: `fill` trains on the champion's boxes of them, `report` only "
        "counts these.",
    )
    fill_confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Minimum score, 0 to 1, of such a box."
    )


class DeviceSettings(Parameters):
    """What a model is trained on."""

    section = "train"

    device: Annotated[
        str,
        _matching(r"auto|cpu|mps|(cuda:)?[0-9]+(,[0-9]+)*", "must be auto, cpu, mps or GPU numbers such as 0 or 0,1"),
    ] = Field(
        "auto",
        description="`auto`, `cpu`, `mps`, or the number of a GPU, such as `0`; several, `0,1`, for an estimator of a "
        "plug-in that trains on them.",
        json_schema_extra=_LISTED,
    )
    workers: Annotated[int, Field(ge=0, le=256)] = Field(2, description="Processes that load images.")


class TrainSettings(DeviceSettings):
    """How a model is trained."""

    estimator: str = Field(
        "yolo", min_length=1, description="Kind of model: `yolo`, `fpn`, `segmentation`, or an estimator of a plug-in."
    )
    base_model: Base = Field(
        "yolo11n.yaml",
        description="What to start from: `.pt` weights, a bundle folder, a URL ending in `#sha256=<digest>`, a model "
        "YAML such as `yolo11n.yaml`, which trains from scratch, or the `champion` or last `candidate` of the job. "
        "Nothing is downloaded by name.",
    )
    epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(
        100, description="Passes over the training samples; 0 takes the weights of `base_model` as they are."
    )
    image_size: Annotated[str, _read_by(parse_image_size)] = Field(
        "640",
        description="Pixels, one number or `height,width` such as `352,640`; training takes the longer side.",
        json_schema_extra=_LISTED,
    )
    batch: Annotated[int, Field(ge=1, le=4096)] = Field(16, description="Images per training step.")
    patience: Annotated[int, Field(ge=0)] = Field(
        50, description="Epochs without progress after which training stops; 0 for never."
    )
    estimator_options: dict[str, Any] = Field(
        {},
        description="Further settings by the estimator's own names, such as "
        '`{"mosaic": 0, "optimizer": "AdamW", "lr0": 0.002}`.',
    )
    experiment_labels: Annotated[str, _read_by(parse_labels)] = Field(
        "",
        description="`name=value,...`, kept with the model and shown in the report.",
        json_schema_extra={"joined_by": ",", "pairs": "="},
    )


class TrainerSettings(Parameters):
    """Where training runs on a cluster."""

    section = "nodes"

    trainer: Literal["step", "trainjob"] = Field(
        "step", description="`step`, in the pod of the step itself, or `trainjob`, as a TrainJob of Kubeflow Trainer."
    )
    train_nodes: Annotated[int, Field(ge=1, le=1000)] = Field(
        1,
        description="Number of nodes of a TrainJob; more than one needs an estimator that trains distributed, such as "
        "`fpn`.",
    )
    node_resources: Annotated[dict[str, Any], _read_by(_quantities)] = Field(
        {},
        description="What each node of a TrainJob asks for, as request and limit, such as "
        '`{"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}`; empty for what the step itself has.',
    )
    training_runtime: ObjectName = Field(
        "torch-distributed", description="ClusterTrainingRuntime of a TrainJob, one of torch."
    )


class RoundTrainSettings(TrainSettings):
    """How the candidate of a round is trained."""

    base_model: Base = Field(
        "champion",
        description="What a candidate starts from: the `champion`, the last `candidate`, or as in `helmet-detection`.",
    )
    initial_model: Base = Field(
        "yolo11n.yaml", description="What the first candidate starts from, while there is no champion."
    )
    epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(
        30,
        description="Passes over the training samples of a round; 0 takes the weights of `base_model` as they are.",
    )


class EvaluateSettings(Parameters):
    """The thresholds that the model will be deployed with."""

    section = "evaluate"

    confidence_threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.25, description="Minimum score of a detection in use, 0 to 1; precision, recall and F1 are taken there."
    )
    nms_threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.7, description="Overlap (IoU, 0 to 1) above which the worse of two boxes of a class is dropped."
    )


class ConvertSettings(Parameters):
    """What chips the model is converted for, and what that may cost."""

    section = "convert"

    targets: Annotated[str, _read_by(parse_targets)] = Field(
        "",
        description="Rockchip chips, such as `rk3588,rk3568`; empty to leave the model as it is.",
        json_schema_extra=_LISTED,
    )
    quantization: Literal["int8", "fp16"] = Field("int8", description="`int8` or `fp16`.")
    quantization_retries: Annotated[str, _read_by(parse_retries)] = Field(
        "kl_divergence,mmse",
        description="What to try, in this order, when int8 loses too much: `kl_divergence`, `mmse`, `fp16`; empty for "
        "nothing.",
        json_schema_extra={"joined_by": ",", "empty": True},
    )
    calibration_size: Annotated[int, Field(ge=20, le=10_000)] = Field(
        100, description="Maximum number of training images that int8 is calibrated with."
    )
    max_eval_images: Annotated[int, Field(ge=1)] = Field(
        300, description="Maximum number of labelled images that a converted model is evaluated on."
    )
    max_map_drop: Fraction = Field(
        0.02, description="Maximum drop in mAP50 and mAP50-95, 0 to 1; of a segmentation in mIoU and correct pixels."
    )
    max_f1_drop: Fraction = Field(
        0.02, description="Maximum drop in the F1 of any class at the deployed confidence, 0 to 1; or in its IoU."
    )
    min_score_ratio: Fraction = Field(
        0.9, description="Minimum ratio of the highest score of the converted model to that of the float model."
    )
    conversion_timeout: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="Seconds that one build with its evaluation may take."
    )

    @model_validator(mode="after")
    def _can_do_the_precision(self) -> Self:
        try:
            check_precision(parse_targets(self.targets), self.quantization)
        except InputError as error:
            raise _problem(str(error)) from error
        return self


class GateSettings(Parameters):
    """When a candidate becomes the champion."""

    section = "gate"

    gate_conditions: Conditions = Field(
        ["map50_delta >= 0"],
        description='Conditions for a promotion, such as `["map50_delta >= 0", "min(core.recall_delta) >= -0.02"]`; '
        "`core.` and `recent.` name one test set, `_delta` and `_rel` compare with the champion. The default is "
        "`miou_delta >= 0` for a segmentation.",
    )
    max_class_drop: Drop = Field(
        0.05, description="Maximum drop in AP50 of any class against the champion; -1 to disable."
    )
    max_map50_drop: Drop = Field(
        -1.0, description="Reject unless the 95 % interval excludes a drop in mAP50 this large; -1 to disable."
    )
    min_map50: Fraction = Field(
        0.05, description="Minimum mAP50 of a first champion, of a segmentation its mIoU; 0 to disable."
    )
    min_samples: Annotated[int, Field(ge=1)] = Field(
        20, description="Minimum number of labelled test images; a smaller test set takes in the next round, too."
    )
    require_significant: bool = Field(
        False, description="Reject unless the gain in mAP50 is above 0 with 95 % confidence."
    )
    deploy_window: TimeWindow = Field(
        {}, description="When a model may be deployed, in the form of `trigger_window`; outside it the candidate waits."
    )
    force_deploy: bool = Field(False, description="Promote the candidate whatever the gate says, at any time.")


class DeploySettings(Parameters):
    """How a champion reaches the edge workers, and which versions are kept."""

    section = "rollout"

    rollout_timeout: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Seconds to wait until the edge workers run the new champion; 0 for no waiting."
    )
    rollout_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95,
        description="Fraction of the edge workers that must run the champion; when too many fail, the previous "
        "champion is restored.",
    )
    canary_fraction: Fraction = Field(
        0.0, description="Fraction of the edge workers that get a candidate first; 0 for all at once."
    )
    canary_frames: Annotated[int, Field(ge=0)] = Field(
        100, description="Frames that each canary worker must process before the candidate is promoted."
    )
    canary_hours: Annotated[float, Field(gt=0)] = Field(
        24.0, description="Hours after which an unfinished canary is withdrawn."
    )
    keep_versions: Annotated[int, Field(ge=1)] = Field(
        10, description="Number of candidates to keep that were never deployed."
    )
    model_registry: HttpAddress = Field(
        "",
        description="Address of Kubeflow Hub (Model Registry), where each champion is registered; empty for none.",
    )
    registered_model: str = Field(
        "", description="Name of the job's model there; empty for the last part of `job_root`."
    )


class PromoteSettings(DeploySettings):
    """Whether and how the model of a single run becomes the champion of its job."""

    deploy: bool = Field(
        True,
        description="Make the model the champion of the job; where there is one already, the gate decides.",
    )


class JointSettings(Parameters):
    """The big model of the cloud, and what joint inference has to keep to."""

    section = "joint"

    big_model: Base = Field(
        "yolo11m.yaml", description="What the big model starts from, as `base_model` says for the little one."
    )
    big_image_size: Annotated[str, _read_by(parse_image_size)] = Field(
        "640", description="Pixels of the big model, as `image_size`.", json_schema_extra=_LISTED
    )
    min_recall_of_cloud: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.97,
        description="Fraction of the objects the big model finds in a frame that joint inference must find, on average "
        "over the frames; 0 to disable.",
    )
    min_joint_map50: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Minimum mAP50 of joint inference; 0 to disable."
    )
    max_offload: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Maximum fraction of the frames that goes to the cloud; 0 to disable."
    )
    max_bytes_per_frame: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Maximum bytes to the cloud, averaged over all frames; 0 to disable."
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.95, description="Probability, 0.5 to 1, with which these hold for frames to come."
    )
    offload_miner: str = Field(
        "", description="Miner whose score ranks frames for the cloud; empty for the best one, which needs more frames."
    )
    joint_conditions: Conditions = Field(
        ["gain >= 0", "map50_delta >= 0"],
        description="Conditions on the test split for a deployment; `gain` is mAP50 of joint inference minus that of "
        "the little model, and there are `map50`, `fraction`, `bytes_per_frame` and `recall_of_cloud`; `_delta` "
        "compares with the deployed pair.",
    )
    uplink_mbit: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Megabits per second from the edge to the cloud, for the report's estimate of latency."
    )
    round_trip_ms: Annotated[float, Field(ge=0)] = Field(
        50.0, description="Milliseconds of a round trip to the cloud without its model, for the same estimate."
    )


class ServingSettings(Parameters):
    """Whether and how the programs of joint inference are started: the cloud server and the edge workers."""

    section = "programs"

    serving: Literal["none", "deployment", "kserve"] = Field(
        "none",
        description="How to start the cloud server and the edge workers: `none`, on a cluster as `deployment` or in a "
        "`kserve` InferenceService; without a cluster either starts two processes.",
    )
    serving_name: ServingName = Field(
        "", description="Beginning of the names of the Kubernetes objects; empty for the last part of `job_root`."
    )
    serving_namespace: ServingName = Field(
        "", description="Cluster: namespace of the programs; empty for that of the pipeline."
    )
    serving_timeout: Annotated[int, Field(ge=1, le=6600)] = Field(  # within the two hours of the step that waits
        600, description="Seconds that a rollout may take; one that fails is rolled back."
    )
    cloud_image: str = Field("", description="Cluster: image of the cloud server; empty for the one of this version.")
    cloud_secret: ObjectName = Field(
        "edge-learning-cloud", description="Cluster: Kubernetes secret with `CLOUD_TOKEN`, for server and workers."
    )
    cloud_url: HttpAddress = Field(
        "",
        description="Cluster: address at which edge workers reach the cloud server, `https://...` of an ingress; empty "
        "for its Service.",
    )
    cloud_replicas: Annotated[int, Field(ge=1)] = Field(1, description="Cluster: cloud servers at least.")
    cloud_max_replicas: Annotated[int, Field(ge=1)] = Field(
        4, description="Cluster: cloud servers at most; the autoscaler chooses by their load."
    )
    cloud_cpu: Quantity = Field("2", description="Cluster: CPUs of a cloud server, as request.")
    cloud_memory: Quantity = Field("4Gi", description="Cluster: memory of a cloud server, as request and limit.")
    cloud_node_selector: Annotated[dict[str, Any], _read_by(_node_labels)] = Field(
        {"kubernetes.io/arch": "amd64"}, description="Cluster: labels of the nodes for cloud servers."
    )
    cloud_tolerations: Annotated[list[Any], _read_by(_tolerations)] = Field(
        [], description="Cluster: Kubernetes tolerations of cloud servers, if their nodes are tainted."
    )
    edge_image: str = Field("", description="Cluster: image of the edge worker; empty for the one of this version.")
    edge_secret: ObjectName = Field(
        "edge-worker-store", description="Cluster: Kubernetes secret with the environment of edge workers."
    )
    edge_source: Annotated[str, _read_by(_without_password)] = Field(
        "",
        description="What edge workers look at: a stream, a video, a folder or a camera; on a cluster a stream, or a "
        "path in `/data`, which is `/var/lib/edge-learning` of the node. Empty if `EDGE_SOURCE` is in `edge_secret`, "
        "as an address with a password must be.",
    )
    edge_cpu: Quantity = Field("1", description="Cluster: CPUs of an edge worker, as request.")
    edge_memory: Quantity = Field("1Gi", description="Cluster: memory of an edge worker, as request and limit.")
    edge_node_selector: Annotated[dict[str, Any], _read_by(_node_labels)] = Field(
        {"edge-learning/worker": "true"}, description="Cluster: labels of the nodes that each run an edge worker."
    )
    edge_tolerations: Annotated[list[Any], _read_by(_tolerations)] = Field(
        [], description="Cluster: Kubernetes tolerations of edge workers, if their nodes are tainted."
    )

    @model_validator(mode="after")
    def _replicas(self) -> Self:
        if self.cloud_max_replicas < self.cloud_replicas:
            raise _problem(
                f"cloud_max_replicas={self.cloud_max_replicas}: must be at least cloud_replicas={self.cloud_replicas}"
            )
        return self


class LifelongSettings(Parameters):
    """What the tasks of lifelong learning are, and which model answers for each."""

    section = "lifelong"

    task_definition: str = Field(
        "TaskDefinitionByDataAttr",
        min_length=1,
        description="What divides samples into tasks: `TaskDefinitionByDataAttr` (a pattern over the path),"
        " `TaskDefinitionByOrigin`, `TaskDefinitionByCluster`, or a plug-in.",
    )
    task_parameters: dict[str, Any] = Field(
        {},
        description='Its parameters, such as `{"pattern": "(day|night)"}`, or a pattern with named groups for several'
        " attributes; by default the first folder of a path.",
    )
    task_allocation: str = Field(
        "definition",
        min_length=1,
        description="What finds the task of a new sample: `definition` (the same rule), `router` (the task whose images"
        " look most alike), or a plug-in.",
    )
    task_remodeling: str = Field(
        "task",
        min_length=1,
        description="Which models look at a sample: `task` (that of its task), `with-shared` (the shared one, too), or"
        " a plug-in.",
    )
    inference_integration: str = Field(
        "first",
        min_length=1,
        description="What becomes of their answers: `first` (that of the task's model counts), `merge` (the boxes of"
        " all, those of the same object once), or a plug-in.",
    )
    task_relation: str = Field(
        "identity",
        min_length=1,
        description="Whose model answers for a task without a good one of its own: `identity` for the shared one,"
        " `transfer` for the one that is best on the task's test samples, or a plug-in.",
    )
    task_update: str = Field(
        "finetune",
        min_length=1,
        description="How a task's model learns what is new: `finetune`; `retrain` on all its samples; `gain`, which"
        " measures the models on the new samples first, and trains, merges or keeps as needed; or a plug-in.",
    )
    min_task_samples: Annotated[int, Field(ge=1)] = Field(
        10, description="Minimum number of training samples of a task with a model of its own."
    )
    keep_conditions: Conditions = Field(
        ["gain >= 0"],
        description="Conditions for a task to keep its own model, over `score`, `parent` (the score of the model that"
        " would answer instead) and `gain` (the difference).",
    )
    max_forgetting: Fraction = Field(
        0.05, description="Maximum drop of any earlier task against the champion, 0 to 1, in mAP50 or mIoU."
    )
    unseen_detection: str = Field(
        "knn",
        min_length=1,
        description="What says that an image is unlike the training images: `knn`, `mahalanobis`, `energy`, `TaskAttr`"
        " (only samples of no known task are unseen), or a plug-in.",
    )
    max_false_unseen: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="Fraction of the images like the known ones that may be called unseen."
    )
    unseen_by_size: bool = Field(
        False,
        description="Whether an image of a size in pixels that no training image has is unseen, too, as from another"
        " camera; only where images are labelled in the size in which cameras give them.",
    )
    unseen_allocation: str = Field(
        "shared",
        min_length=1,
        description="Whose model an unseen image goes to: `shared`, `nearest` (of the task whose images look most"
        " alike), or a plug-in.",
    )
    unseen_policy: str = Field(
        "fallback",
        min_length=1,
        description="What becomes of an unseen image: that model answers (`fallback`), also with a warning (`alarm`),"
        " there is no answer (`abstain`), or a plug-in.",
    )
    re_recognition: str = Field(
        "score",
        min_length=1,
        description="Which unseen images of earlier rounds are known to a new knowledge base: `score` (whose task is"
        " known and which score below the threshold), `none`, or a plug-in.",
    )
    plug_in_parameters: dict[str, Any] = Field(
        {},
        description="Parameters of these plug-ins by what chooses them, such as"
        ' `{"unseen_detection": {"neighbours": 5}}`; those of the task definition are `task_parameters`.',
    )
    unseen_budget: Annotated[int, Field(ge=0)] = Field(
        50, description="Maximum number of unseen images to ask labels for after a round; 0 for none."
    )


class MineSettings(Parameters):
    """How many images people are asked to label, and how these are chosen."""

    section = "mine"

    label_budget: Annotated[int, Field(ge=0, le=100_000)] = Field(
        50, description="Number of images, or boxes, to ask labels for; 0 for none."
    )
    label_budget_in: Literal["images", "boxes"] = Field(
        "images", description="What the budget counts: `images`, or `boxes` that the champion finds in them."
    )
    random_fraction: Fraction = Field(
        0.1,
        description="Fraction of the budget that is drawn at random, to compare the ranking with; more while the "
        "ranking does not pay.",
    )
    empty_fraction: Fraction = Field(
        0.2, description="Fraction of the budget for images in which the champion finds nothing."
    )
    miner: str = Field(
        "entropy-sum",
        min_length=1,
        description="Rule that ranks the other images: `entropy-sum`, `entropy`, `margin`, `IBT`, `Threshold`, "
        "`CrossEntropy`, `novelty`, `Random`, or a miner of a plug-in. A segmentation ranks by the entropy of its "
        "pixels.",
    )
    miner_parameters: dict[str, Any] = Field(
        {}, description='Parameters of that rule, such as `{"boxes": "mean"}` of `entropy`.'
    )
    shortlist: Annotated[float, Field(ge=1, le=100)] = Field(
        3.0,
        description="How many times the budget is compared by what the champion sees, to choose images that are unlike "
        "each other; 1 for the ranking alone.",
    )
    min_score: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="Minimum score, 0 to 1, of the boxes that the rule looks at."
    )
    pool_limit: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        2000, description="Maximum number of images to rank, the latest first."
    )
    prelabel_job: str = Field(
        "",
        description="Root of another job whose champion, such as a larger model, proposes the boxes or masks that "
        "people correct; empty for this job's.",
    )

    @model_validator(mode="after")
    def _fits_the_budget(self) -> Self:
        if self.random_fraction + self.empty_fraction > 1:
            raise _problem(
                f"random_fraction={self.random_fraction:g} and empty_fraction={self.empty_fraction:g} are more than "
                "the budget: their sum must be at most 1"
            )
        return self


class LabelSettings(Parameters):
    """How images are handed to people."""

    section = "label"

    label_format: str = Field(
        "label-studio",
        min_length=1,
        description="Form of the hand-off under `labelling/`: `label-studio` (a folder), `coco`, `yolo` or `voc` (a "
        "zip file), or a format of a plug-in.",
    )
    classes: Classes = Field("", description="Class names to offer besides those that the job has.")


class BenchmarkSettings(Parameters):
    """What a benchmark compares, and how the samples arrive."""

    section = "benchmark"

    algorithms: list[Any] = Field(
        [{"estimator": "yolo", "miner": "entropy-sum"}],
        description="Algorithms, each a mapping such as `{estimator: fpn, miner: [IBT, entropy], label_budget: 20}`; a "
        "list of values is one algorithm for each.",
    )
    baselines: str = Field(
        "frozen,random,full",
        description="What algorithms are compared with: `frozen` (the first model), `random` (as many labels, drawn at "
        "random) and `full` (all labels, trained from the start in each round).",
        json_schema_extra={"joined_by": ",", "empty": True},
    )
    seeds: Annotated[str, _read_by(parse_seeds)] = Field(
        "0,1,2", description="Random seeds; each algorithm runs once with each.", json_schema_extra=_LISTED
    )
    stream: Literal["order", "random", "pattern", "class"] = Field(
        "random",
        description="How samples arrive: in the `order` of their paths, at `random`, by a `pattern` over the path, or "
        "`class` by class.",
    )
    rounds: Annotated[int, Field(ge=2, le=100)] = Field(
        4, description="Number of rounds; the first is labelled whole. A `pattern` has as many as it finds texts."
    )
    stream_pattern: Annotated[str, _read_by(partial(parse_group_pattern, name="stream_pattern"))] = Field(
        "", description="Regular expression over the source path with one group; each text that it finds is a round."
    )
    stream_order: str = Field(
        "",
        description="Names of the rounds or classes in order of arrival; the others follow sorted.",
        json_schema_extra=_LISTED,
    )
    test_url: str = Field(
        "", description="A test set of its own, in the form of `data_url`; empty to hold out a part of each round."
    )
    sort_by: str = Field(
        "map50", min_length=1, description="Figures that the leaderboard is sorted by.", json_schema_extra=_LISTED
    )
    # A process cannot be waited for longer: poll counts milliseconds in 32 bits.
    case_timeout: Annotated[float, Field(gt=0, le=24 * 86400)] = Field(
        43200.0, description="Seconds that one algorithm with one seed may take."
    )

    @model_validator(mode="after")
    def _has_a_pattern(self) -> Self:
        if (self.stream == "pattern") != bool(self.stream_pattern):
            raise _problem("stream=pattern and stream_pattern need each other: give both, or neither")
        return self

    @model_validator(mode="after")
    def _has_an_order(self) -> Self:
        names = [name.strip() for name in self.stream_order.split(",") if name.strip()]
        if names and self.stream not in ("pattern", "class"):
            raise _problem(f"stream_order is for stream=pattern and stream=class: stream={self.stream} takes none")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise _problem(f"stream_order: {', '.join(twice)} is given twice")
        return self


class LabelStudioSettings(Parameters):
    """Where people label, and how many images may wait there."""

    section = "label_studio"

    label_studio_url: str = Field(
        "",
        description="Label Studio: `http://host:8080`, or one project, `http://host:8080/projects/7`; its token comes "
        "from the environment, `LABEL_STUDIO_API_KEY`. Empty for no server.",
    )
    label_studio_project: str = Field(
        "", description="Title of the project, which is made if need be; empty for one by the job's name."
    )
    label_queue: Annotated[int, Field(ge=1, le=100_000)] = Field(
        200, description="Maximum number of images that wait for an answer in the project."
    )
    keep_annotators: bool = Field(False, description="Keep the number of the user who labelled an image.")


Workflow = tuple[type[Parameters], ...]

_ROUND: Workflow = (
    FeedInputs, JobInputs, ClusterInputs, CommonSettings, DataSettings, SplitSettings, RoundPlanSettings,
    RoundTrainSettings, TrainerSettings, EvaluateSettings, ConvertSettings, GateSettings, DeploySettings, MineSettings,
    LabelStudioSettings,
)  # fmt: skip

_LIFELONG_ROUND: Workflow = (
    FeedInputs, JobInputs, ClusterInputs, CommonSettings, DataSettings, SplitSettings, RoundSettings,
    RoundTrainSettings, TrainerSettings, EvaluateSettings, LifelongSettings, ConvertSettings, GateSettings,
    DeploySettings, LabelStudioSettings,
)  # fmt: skip

# What each pipeline takes.
WORKFLOWS: dict[str, Workflow] = {
    "helmet-detection": (
        SourceInputs, JobInputs, ClusterInputs, CommonSettings, DataSettings, SourceSplitSettings, TrainSettings,
        TrainerSettings, EvaluateSettings, ConvertSettings, GateSettings, PromoteSettings,
    ),
    "joint-inference": (
        SourceInputs, JobInputs, ClusterInputs, CommonSettings, DataSettings, SourceSplitSettings, TrainSettings,
        TrainerSettings, EvaluateSettings, ConvertSettings, JointSettings, DeploySettings, ServingSettings,
    ),
    "incremental-learning": (*_ROUND, TriggerSettings),
    "incremental-round": _ROUND,
    "lifelong-learning": (*_LIFELONG_ROUND, TriggerSettings),
    "lifelong-round": _LIFELONG_ROUND,
    "benchmark": (
        SourceInputs, JobInputs, ClusterInputs, PluginSettings, DataSettings, SplitSettings, DeviceSettings,
        BenchmarkSettings,
    ),
    "hard-example-mining": (JobInputs, NodeInputs, RuntimeSettings, MineSettings, LabelSettings, LabelStudioSettings),
}  # fmt: skip


def kind_of(annotation: Any) -> type:
    """The type of a row's values: str, bool, int, float, list or dict."""
    origin = getattr(annotation, "__origin__", annotation)
    return origin if origin in (bool, int, float, list, dict) else str


def is_nothing(row: FieldInfo, value: Any) -> bool:
    """Whether a value means the default: ``null``, or empty text where that is no value of the row."""
    may_be_empty = kind_of(row.annotation) is str and (row.default == "" or "empty" in _extra(row))
    return value is None or (value == "" and not may_be_empty)


def read_row(row: FieldInfo, value: Any) -> Any:
    """Read a value as :func:`components.core.parameters.forms.read_value` does, in the form of a row.

    Raises:
        ValueError: it is of another type. Ranges are not looked at.
    """
    extra = _extra(row)
    if "single" in extra and isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return [value]
    return read_value(kind_of(row.annotation), value, extra.get("joined_by", ""), extra.get("pairs", ""))


def _extra(row: FieldInfo) -> dict[str, Any]:
    return row.json_schema_extra if isinstance(row.json_schema_extra, dict) else {}


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("input", "{text}", {"text": text})

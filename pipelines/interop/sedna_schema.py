"""The resources of KubeEdge Sedna that files describe: Dataset, Model and three kinds of jobs, with a strict schema.

The fields are those of the API ``sedna.io/v1alpha1`` and, in a worker's template, of Kubernetes' pods. A field that is
in neither is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from components.core.documents import MAX_YAML_CHARACTERS, read_yaml_documents
from components.core.errors import InputError, one_line
from components.core.parameters import shown
from components.core.rules.conditions import Condition
from components.core.rules.window import Window

GROUP = "sedna.io/"
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_METADATA = _names(
    "annotations creationTimestamp finalizers generateName generation labels managedFields namespace "
    "ownerReferences resourceVersion selfLink uid"
)


class Fields(BaseModel):
    """A mapping whose keys are known.

    Attributes:
        others: keys that Kubernetes knows and the mapping has no field for; they are in ``model_extra``.
    """

    model_config = ConfigDict(
        extra="allow", frozen=True, alias_generator=to_camel, populate_by_name=False, coerce_numbers_to_str=True
    )
    others: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise PydanticCustomError("mapping", "must be a mapping, not {value}", {"value": shown(value)})
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in value:
            if key not in known and key not in cls.others:
                raise PydanticCustomError("unknown", "{text}", {"text": unknown("field", key, [*known, *cls.others])})
        # Kubernetes takes an empty value for one that is not there.
        return {key: inner for key, inner in value.items() if inner is not None}


def unknown(what: str, given: object, known: list[str]) -> str:
    """A line for a name that is not among the known ones."""
    close = difflib.get_close_matches(str(given), known, n=1)
    return f"unknown {what} {shown(given)}: " + (
        f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(known))}"
    )


def _condition(value: Any) -> str:
    if not isinstance(value, Mapping):
        raise PydanticCustomError("condition", "must be a mapping with metric, operator and threshold")
    try:
        return Condition.parse(value).describe()
    except InputError as error:
        raise PydanticCustomError("condition", "{text}", {"text": str(error)}) from None


def _window(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise PydanticCustomError("timer", "must be a mapping with start and end, such as 01:00 and 23:00")
    try:
        Window.parse(value, "timer")
    except InputError as error:
        raise PydanticCustomError("timer", "{text}", {"text": str(error)}) from None
    return dict(value)


def _word(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


Text = Annotated[str, Field(min_length=1)]
Value = Annotated[str, BeforeValidator(_word)]


class Metadata(Fields):
    """What a resource is called."""

    others = _METADATA

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class Named(Fields):
    """A reference to another resource."""

    name: Text


class Variable(Fields):
    """A variable of a container's environment."""

    others = frozenset({"valueFrom"})

    name: Text
    value: Value = ""


class Resources(Fields):
    """What a container asks for and may take, by the name of the resource."""

    others = frozenset({"claims"})

    limits: dict[str, Value] = {}
    requests: dict[str, Value] = {}


class Mount(Fields):
    """Where a container sees a volume."""

    others = frozenset({"mountPropagation", "readOnly", "recursiveReadOnly", "subPath", "subPathExpr"})

    name: Text
    mount_path: Text


class HostPath(Fields):
    """A folder of the node."""

    path: Text
    type: str = ""


class Volume(Fields):
    """A volume of a pod."""

    others = _names(
        "awsElasticBlockStore azureDisk azureFile cephfs cinder configMap csi downwardAPI emptyDir ephemeral "
        "fc flexVolume flocker gcePersistentDisk gitRepo glusterfs iscsi nfs persistentVolumeClaim "
        "photonPersistentDisk portworxVolume projected quobyte rbd scaleIO secret storageos vsphereVolume "
        "image"
    )

    name: Text
    host_path: HostPath | None = None


class Container(Fields):
    """A container of a worker."""

    others = _names(
        "envFrom imagePullPolicy lifecycle livenessProbe name ports readinessProbe resizePolicy restartPolicy "
        "securityContext startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty "
        "volumeDevices workingDir"
    )

    image: str = ""
    command: list[Value] = []
    args: list[Value] = []
    env: list[Variable] = []
    resources: Resources = Resources()
    volume_mounts: list[Mount] = []


class PodSpec(Fields):
    """A worker's pod."""

    others = _names(
        "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks "
        "ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname imagePullSecrets "
        "initContainers os overhead preemptionPolicy priority priorityClassName readinessGates resourceClaims "
        "resources restartPolicy runtimeClassName schedulerName schedulingGates securityContext "
        "serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain "
        "terminationGracePeriodSeconds topologySpreadConstraints"
    )

    containers: Annotated[list[Container], Field(min_length=1)]
    node_name: str = ""
    node_selector: dict[str, Value] = {}
    tolerations: list[dict[str, Any]] = []
    volumes: list[Volume] = []


class Template(Fields):
    """The template of a worker's pod."""

    others = frozenset({"metadata"})

    spec: PodSpec


class Trigger(Fields):
    """When a stage begins: the condition in this suite's words, and the hours in the form of ``trigger_window``."""

    check_period_seconds: Annotated[int, Field(ge=1)] | None = None
    timer: Annotated[dict[str, Any], BeforeValidator(_window)] = {}
    condition: Annotated[str, BeforeValidator(_condition)]


class Parameter(Fields):
    """A parameter of hard example mining."""

    key: Text
    value: Value = ""


class Mining(Fields):
    """The rule that calls images hard."""

    name: Text
    parameters: list[Parameter] = []


class TrainingData(Fields):
    """The data set of a job."""

    name: Text
    train_prob: Annotated[float, Field(gt=0, lt=1)] = 0.8


class TrainSpec(Fields):
    """Training."""

    template: Template
    trigger: Trigger


class EvalSpec(Fields):
    """Evaluation."""

    initial_eval_model: Named | None = None
    template: Template


class DeployedModel(Fields):
    """The model of the worker at the edge."""

    name: Text
    hot_update_enabled: bool = False
    poll_period_seconds: Annotated[int, Field(ge=1)] = 60


class IncrementalDeploySpec(Fields):
    """Deployment of an incremental learning job."""

    model: DeployedModel
    trigger: Trigger | None = None
    hard_example_mining: Mining | None = None
    template: Template


class LifelongDeploySpec(Fields):
    """Deployment of a lifelong learning job."""

    template: Template


class DatasetSpec(Fields):
    """A data set on a node or in a store."""

    url: Text
    format: Text
    node_name: str = ""
    credential_name: str = ""


class ModelSpec(Fields):
    """A model."""

    url: Text
    format: Text
    device_soc_versions: list[Value] = Field([], alias="device_soc_versions")
    credential_name: str = ""


class IncrementalSpec(Fields):
    """A job of incremental learning."""

    dataset: TrainingData
    initial_model: Named
    train_spec: TrainSpec
    eval_spec: EvalSpec
    deploy_spec: IncrementalDeploySpec
    output_dir: Text
    credential_name: str = ""


class LifelongSpec(Fields):
    """A job of lifelong learning."""

    dataset: TrainingData
    train_spec: TrainSpec
    eval_spec: EvalSpec
    deploy_spec: LifelongDeploySpec
    output_dir: Text
    credential_name: str = ""


class Autoscaler(Fields):
    """How many pods of a worker run."""

    others = frozenset({"behavior", "metrics"})

    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)]


class EdgeWorker(Fields):
    """The little model."""

    model: Named
    hard_example_mining: Mining | None = None
    template: Template
    hpa: Autoscaler | None = None


class CloudWorker(Fields):
    """The big model."""

    model: Named
    template: Template
    hpa: Autoscaler | None = None


class JointSpec(Fields):
    """A service of joint inference."""

    edge_worker: EdgeWorker
    cloud_worker: CloudWorker


SPECS: dict[str, type[Fields]] = {
    "Dataset": DatasetSpec,
    "Model": ModelSpec,
    "IncrementalLearningJob": IncrementalSpec,
    "JointInferenceService": JointSpec,
    "LifelongLearningJob": LifelongSpec,
}
# Sedna's other kinds.
NOT_HERE = _names(
    "FeatureExtractionService FederatedLearningJob ObjectSearchService ObjectTrackingService ReidJob VideoAnalyticsJob"
)


@dataclass(frozen=True)
class Resource:
    """A resource and the place where it stands.

    Attributes:
        place: file and number of the document, for messages.
    """

    place: str
    kind: str
    name: str
    spec: Any

    @property
    def title(self) -> str:
        """The resource and its place, as messages name it."""
        return f"{self.place} ({self.kind} {self.name})"


def read_files(paths: list[Path]) -> list[Resource]:
    """Every resource in some files, in the order in which they stand.

    Raises:
        InputError: a file cannot be read or is not YAML, or a document in it is not a resource of Sedna; or two
            resources have one name.
    """
    found: dict[tuple[str, str], Resource] = {}
    for path in paths:
        for number, document in enumerate(read_yaml_documents(_text(path), str(path)), 1):
            for one in _resources(document, f"{path}, document {number}"):
                if (one.kind, one.name) in found:
                    first = found[one.kind, one.name].place
                    raise InputError(f"{one.title}: {first} has the same name: give each resource a name of its own")
                found[one.kind, one.name] = one
    return list(found.values())


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_YAML_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error


def _resources(document: Any, place: str) -> Iterator[Resource]:
    if document is None:
        return
    if not isinstance(document, Mapping):
        raise InputError(f"{place}: must be a mapping with apiVersion, kind, metadata and spec, not {shown(document)}")
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind == "List" and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"], 1):
            yield from _resources(item, f"{place}, item {number}")
        return
    if isinstance(kind, str) and kind in NOT_HERE:
        raise InputError(f"{place}: {kind} of Sedna has no counterpart here: choose from {', '.join(sorted(SPECS))}")
    if not isinstance(kind, str) or kind not in SPECS:
        raise InputError(f"{place}: {unknown('kind', kind, list(SPECS))}")
    if not str(version).startswith(GROUP):
        raise InputError(f"{place}: apiVersion {shown(version)} must be {GROUP}v1alpha1")
    for key in document:
        if key not in (known := ["apiVersion", "kind", "metadata", "spec", "status"]):
            raise InputError(f"{place}: {unknown('field', key, known)}")
    name = _read(Metadata, document.get("metadata"), f"{place}: metadata").name
    place_of_spec = f"{place} ({kind} {name}): spec"
    for at, text in _texts(document.get("spec"), "spec"):
        if variable := _VARIABLE.search(text):
            raise InputError(
                f"{place} ({kind} {name}): {at} has {variable[0]}, a variable of a shell: write its value, for "
                "example with envsubst"
            )
    yield Resource(place, kind, name, _read(SPECS[kind], document.get("spec"), place_of_spec))


def _read(model: type[Fields], value: Any, where: str) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}.{one_line(error)}".replace(".it: ", ": ", 1)) from None


def _texts(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Every text in a document with its place."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{at}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{at}[{number}]")
    elif isinstance(value, str):
        yield at, value

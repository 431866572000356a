"""What is wrong with a compiled pipeline, found without a cluster.

The compiler writes some packages that no cluster can run (a task that reads a parameter its group does not declare, a
branch without tasks), and the server accepts them on upload: they fail when they run. This module reads a package as
strictly as the server does and then follows every reference in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2

from components.core.documents import read_yaml_documents
from components.core.errors import InputError

SCHEMA_VERSION = "2.1.0"
ARGUMENT_LIMIT = 131_072  # bytes of one program argument on Linux, the closing zero included

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_CONDITION_INPUT = re.compile(r"inputs\.parameter_values\[['\"]([^'\"]+)['\"]\]")
_PLACEHOLDER = re.compile(r"\{\{\$\.(inputs|outputs)\.(parameters|artifacts)\[\\?['\"]([^'\"\\]+)\\?['\"]\]")
_UNRESOLVED = "{{channel:"
_PARSE_PATH = re.compile(r"^(Failed to parse \w+ field: )+")  # the place follows at the end of the line
_EXIT = pipeline_spec_pb2.PipelineTaskSpec.TriggerPolicy.ALL_UPSTREAM_TASKS_COMPLETED

# The compiler hands what a task's own settings need (an image, a limit, a part of a text) to the task as inputs that
# its component does not declare.
_SETTINGS_INPUT = re.compile(
    r"pipelinechannel--.+|base_image|(cpu|memory)_(request|limit)|accelerator_(type|limit|count)"
)

# Where a task's inputs and settings name something else: the key in the JSON form, and what it can name.
_FROM_PARENT = {"componentInputParameter": "parameters", "componentInputArtifact": "artifacts"}
_FROM_TASK = {"taskOutputParameter": "parameters", "taskOutputArtifact": "artifacts"}
_FINAL_STATUS = "taskFinalStatus"
_OUTPUT_KEY = {"parameters": "outputParameterKey", "artifacts": "outputArtifactKey"}
_KINDS = ("parameters", "artifacts")  # a key of the messages; without its last letter, the word for one


def problems(source: Path | str) -> list[str]:
    """Find what would keep a compiled pipeline from being accepted, or from running.

    Args:
        source: a compiled file, or the text of one.

    Returns:
        One line per problem, each beginning with its place, such as ``root.dag.tasks.train: ...``; empty if all is
        well. A package that cannot be read at all has one problem, the first.
    """
    try:
        package = _read(source.read_text(encoding="utf-8") if isinstance(source, Path) else source)
    except _MalformedError as error:
        return [str(error)]
    except (OSError, UnicodeDecodeError) as error:
        return [f"cannot be read ({error})"]
    return list(_package_problems(package))


class _MalformedError(Exception):
    """The package cannot be read; the message is the problem."""


@dataclass(frozen=True)
class _Package:
    """A package that could be read: the messages, and the settings for Kubernetes as JSON."""

    spec: Any  # PipelineSpec
    executors: Mapping[str, Any]  # ExecutorSpec by label
    kubernetes: Mapping[str, Any]  # KubernetesExecutorConfig in JSON form by label

    def components(self) -> Iterator[tuple[str, Any]]:
        """The root and every component, each with its place."""
        yield "root", self.spec.root
        for name, component in sorted(self.spec.components.items()):
            yield f"components.{name}", component

    def component(self, task: Any) -> Any:
        """The component that a task runs, an empty one if there is none."""
        name = task.component_ref.name
        return self.spec.components[name] if name in self.spec.components else pipeline_spec_pb2.ComponentSpec()


@dataclass(frozen=True)
class _Task:
    """A task with everything that its references can name."""

    package: _Package
    parent_place: str
    parent: Any  # ComponentSpec whose DAG holds the task
    name: str
    spec: Any  # PipelineTaskSpec

    @property
    def place(self) -> str:
        return f"{self.parent_place}.dag.tasks.{self.name}"

    @property
    def siblings(self) -> Any:
        return self.parent.dag.tasks

    @property
    def component(self) -> Any:
        return self.package.component(self.spec)

    def trees(self) -> Iterator[tuple[str, Any]]:
        """What is resolved when the task starts, in JSON form, each with its place: inputs, executor, settings."""
        yield "inputs", json_format.MessageToDict(self.spec.inputs)
        label = self.component.executor_label
        if label in self.package.executors:
            yield f"deploymentSpec.executors.{label}", json_format.MessageToDict(self.package.executors[label])
        if label in self.package.kubernetes:
            yield f"platforms.kubernetes.deploymentSpec.executors.{label}", self.package.kubernetes[label]


# Reading


def _read(text: str) -> _Package:
    pipeline = platform = None
    for number, document in _documents(text):
        place = f"document {number}"
        if "platforms" in document:
            if platform is not None:
                raise _MalformedError(f"{place}: is a second platform spec; the server accepts one")
            platform = _parse(document, pipeline_spec_pb2.PlatformSpec(), place)
        elif document.keys() & {"pipelineInfo", "root", "components", "deploymentSpec", "schemaVersion"}:
            if pipeline is not None:
                raise _MalformedError(f"{place}: is a second pipeline spec; the server accepts one")
            pipeline = _parse(document, pipeline_spec_pb2.PipelineSpec(), place)
        else:
            keys = ", ".join(sorted(map(str, document))) or "none"
            raise _MalformedError(f"{place}: is neither a pipeline spec nor a platform spec; its keys are {keys}")
    if pipeline is None:
        raise _MalformedError("no document is a pipeline spec")
    return _Package(pipeline, _executors(pipeline), _kubernetes(platform) if platform else {})


def _documents(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every document of a YAML text with its number from 1; the server skips empty ones, and so does this."""
    try:
        documents = read_yaml_documents(text, "the file")
    except InputError as error:
        raise _MalformedError(str(error)) from error
    for number, document in enumerate(documents, start=1):
        if isinstance(document, dict):
            yield number, document
        elif document is not None:
            raise _MalformedError(f"document {number}: is a {type(document).__name__}, not a mapping")


def _executors(pipeline: Any) -> dict[str, Any]:
    deployment = json_format.MessageToDict(pipeline.deployment_spec)
    config = _parse(deployment, pipeline_spec_pb2.PipelineDeploymentConfig(), "deploymentSpec")
    return dict(config.executors.items())


def _kubernetes(platform: Any) -> dict[str, Any]:
    if set(platform.platforms) != {"kubernetes"}:
        names = ", ".join(sorted(platform.platforms)) or "none"
        raise _MalformedError(f"platforms: {names}; Kubeflow Pipelines only supports kubernetes")
    settings = {}
    for label, struct in sorted(platform.platforms["kubernetes"].deployment_spec.executors.items()):
        place = f"platforms.kubernetes.deploymentSpec.executors.{label}"
        message = _parse(json_format.MessageToDict(struct), KubernetesExecutorConfig(), place)
        settings[label] = json_format.MessageToDict(message)
    return settings


def _parse(document: dict[str, Any], message: Any, place: str) -> Any:
    """Fill a message as strictly as the server does."""
    try:
        return json_format.ParseDict(document, message, ignore_unknown_fields=False)
    except (json_format.ParseError, TypeError, ValueError) as error:
        reason = _PARSE_PATH.sub("", str(error).splitlines()[0])
        raise _MalformedError(f"{place}: is not a {message.DESCRIPTOR.name}: {reason}") from error


# Following the references


def _package_problems(package: _Package) -> Iterator[str]:
    yield from _header(package.spec)
    yield from _labels(package)
    yield from _nesting(package)
    for label, executor in sorted(package.executors.items()):
        yield from _executor(f"deploymentSpec.executors.{label}", executor)
    for place, component in package.components():
        if component.WhichOneof("implementation") == "dag":
            yield from _dag(package, place, component)


def _header(spec: Any) -> Iterator[str]:
    if spec.schema_version != SCHEMA_VERSION:
        yield f"schemaVersion: is {spec.schema_version or 'missing'}; the server only accepts {SCHEMA_VERSION}"
    if not _NAME.fullmatch(spec.pipeline_info.name):
        yield (
            f"pipelineInfo.name: is {spec.pipeline_info.name!r}; it must be lower case letters, digits, '-' and '.', "
            "and begin and end with a letter or digit"
        )
    if spec.root.WhichOneof("implementation") != "dag":
        yield "root: has no DAG"


def _labels(package: _Package) -> Iterator[str]:
    """Components, executors and Kubernetes settings that name one another, both ways."""
    spec = package.spec
    executed = {component.executor_label for component in spec.components.values()}
    used = {task.component_ref.name for _, component in package.components() for task in component.dag.tasks.values()}
    for name, component in sorted(spec.components.items()):
        implementation = component.WhichOneof("implementation")
        if implementation is None:
            yield f"components.{name}: has neither a DAG nor an executorLabel"
        elif implementation == "executor_label" and component.executor_label not in package.executors:
            yield f"components.{name}: executor {component.executor_label!r} does not exist"
        if name not in used:
            yield f"components.{name}: no task runs it"
    for label in sorted(package.executors.keys() - executed):
        yield f"deploymentSpec.executors.{label}: no component uses it"
    for label in sorted(package.kubernetes.keys() - package.executors.keys()):
        yield f"platforms.kubernetes.deploymentSpec.executors.{label}: there is no such executor"


def _nesting(package: _Package) -> Iterator[str]:
    runs = {
        name: [task.component_ref.name for task in component.dag.tasks.values()]
        for name, component in package.spec.components.items()
    }
    try:
        TopologicalSorter(runs).prepare()
    except CycleError as error:
        yield f"components: form a cycle: {' -> '.join(error.args[1])}"


def _executor(place: str, executor: Any) -> Iterator[str]:
    kind = executor.WhichOneof("spec")
    if kind not in {"container", "importer"}:
        yield f"{place}: is {kind or 'empty'}; Kubeflow Pipelines only runs container and importer"
    if kind != "container":
        return
    container = executor.container
    yield from _image(f"{place}.container.image", container.image)
    arguments = [
        *((f"command[{index}]", text) for index, text in enumerate(container.command)),
        *((f"args[{index}]", text) for index, text in enumerate(container.args)),
        ("as the driver's argument", _json(container)),
    ]
    for what, text in arguments:
        yield from _argument(f"{place}.container: {what}", text)


def _image(place: str, image: str) -> Iterator[str]:
    """An image must say which build it is, unless the run says so or a digest does."""
    if "{{$" in image or "@sha256:" in image:
        return
    _, _, tag = image.rpartition("/")[2].partition(":")
    if not tag or tag == "latest":
        yield f"{place}: {image!r} has no fixed tag; use one other than latest"


def _argument(what: str, text: str) -> Iterator[str]:
    size = len(text.encode())
    if size >= ARGUMENT_LIMIT:
        yield f"{what} is {size} bytes; one argument must be under {ARGUMENT_LIMIT}"


def _dag(package: _Package, place: str, component: Any) -> Iterator[str]:
    tasks = component.dag.tasks
    if all(task.trigger_policy.strategy == _EXIT for task in tasks.values()):
        yield f"{place}.dag: has no task{' except exit tasks' if tasks else ''}"
    try:
        TopologicalSorter({name: list(task.dependent_tasks) for name, task in tasks.items()}).prepare()
    except CycleError as error:
        yield f"{place}.dag: tasks form a cycle: {' -> '.join(error.args[1])}"
    for name, spec in sorted(tasks.items()):
        yield from _task(_Task(package, place, component, name, spec))
    yield from _dag_outputs(package, place, component)


def _dag_outputs(package: _Package, place: str, component: Any) -> Iterator[str]:
    outputs = json_format.MessageToDict(component.dag.outputs)
    for kind, key in _OUTPUT_KEY.items():
        declared = getattr(component.output_definitions, kind)
        given = outputs.get(kind, {})
        for name in sorted(declared.keys() ^ given.keys()):
            missing = "selected from no task" if name in declared else "not declared"
            yield f"{place}.dag.outputs.{kind}.{name}: is {missing}"
        for name, selection in sorted(given.items()):
            selectors = [tree for tree in _walk(selection) if isinstance(tree, dict) and "producerSubtask" in tree]
            if not selectors:
                yield f"{place}.dag.outputs.{kind}.{name}: is selected from no task"
            for selector in selectors:
                producer, output = selector["producerSubtask"], selector.get(key, "")
                fault = _produces(package, component.dag.tasks, producer, kind, output)
                if fault:
                    yield f"{place}.dag.outputs.{kind}.{name}: {fault}"


def _produces(package: _Package, tasks: Any, producer: str, kind: str, output: str) -> str:
    """What is wrong with taking an output of a task, nothing if it is there."""
    if producer not in tasks:
        return f"task {producer!r} does not exist in this DAG"
    if output not in getattr(package.component(tasks[producer]).output_definitions, kind):
        return f"task {producer!r} has no output {kind[:-1]} {output!r}"
    return ""


# One task


def _task(task: _Task) -> Iterator[str]:
    if task.spec.component_ref.name not in task.package.spec.components:
        yield f"{task.place}: component {task.spec.component_ref.name!r} does not exist"
        return
    for check in (_order, _size, _wiring, _sources, _placeholders, _formatted, _condition, _iterator):
        for fault in check(task):
            yield f"{task.place}: {fault}"


def _order(task: _Task) -> Iterator[str]:
    for name in task.spec.dependent_tasks:
        if name not in task.siblings:
            yield f"waits for task {name!r}, which does not exist in this DAG"


def _size(task: _Task) -> Iterator[str]:
    """A task, with the constants it is given, is one argument of the program that starts it."""
    return _argument("as the driver's argument, it", _json(task.spec))


def _wiring(task: _Task) -> Iterator[str]:
    """Every required input is given, and nothing is given that the component does not know."""
    item = task.spec.parameter_iterator.item_input or task.spec.artifact_iterator.item_input  # given by the loop itself
    for kind in _KINDS:
        declared = getattr(task.component.input_definitions, kind)
        given = getattr(task.spec.inputs, kind)
        for name, definition in sorted(declared.items()):
            has_default = kind == "parameters" and definition.HasField("default_value")
            if not (definition.is_optional or has_default or name in given or name == item):
                yield f"input {kind[:-1]} {name!r} is required but not given"
        for name in sorted(set(given) - set(declared)):
            if not _SETTINGS_INPUT.fullmatch(name):
                yield f"input {kind[:-1]} {name!r} is given, but {task.spec.component_ref.name} does not declare it"


def _sources(task: _Task) -> Iterator[str]:
    """Everything that the task's inputs and its settings for Kubernetes take from elsewhere is there."""
    for kind in _KINDS:
        for name, source in sorted(getattr(task.spec.inputs, kind).items()):
            if source.WhichOneof("kind") is None:
                yield f"input {kind[:-1]} {name!r} has no source"
    for place, tree in task.trees():
        for path, key, value in _references(tree, place):
            fault = _source(task, key, value)
            if fault:
                yield f"{path} {fault}"


def _source(task: _Task, key: str, value: Any) -> str:
    if key in _FROM_PARENT:
        kind = _FROM_PARENT[key]
        declared = value in getattr(task.parent.input_definitions, kind)
        return "" if declared else f"takes input {kind[:-1]} {value!r}, which {task.parent_place} does not declare"
    producer = value.get("producerTask", "")
    if key in _FROM_TASK:
        kind = _FROM_TASK[key]
        fault = _produces(task.package, task.siblings, producer, kind, value.get(_OUTPUT_KEY[kind], ""))
    else:
        fault = "" if producer in task.siblings else f"task {producer!r} does not exist in this DAG"
    if not fault and producer not in task.spec.dependent_tasks:
        fault = f"task {producer!r} is not in dependentTasks"
    return fault and f"takes from a task: {fault}"


def _placeholders(task: _Task) -> Iterator[str]:
    """Every placeholder in a constant, an executor or a setting stands for an input or output of this task."""
    known = {}
    for kind in _KINDS:
        known["inputs", kind] = {*getattr(task.component.input_definitions, kind), *getattr(task.spec.inputs, kind)}
        known["outputs", kind] = set(getattr(task.component.output_definitions, kind))
    for place, tree in task.trees():
        texts = list(_texts(tree))
        for direction, kind, name in sorted({found for text in texts for found in _PLACEHOLDER.findall(text)}):
            if name not in known[direction, kind]:
                yield f"{place} has a placeholder for {direction[:-1]} {kind[:-1]} {name!r}, unknown to the task"
        if any(_UNRESOLVED in text for text in texts):
            yield f"{place} has a parameter in a text that the compiler left as it was; pass it as an input"


def _formatted(task: _Task) -> Iterator[str]:
    """A text with a placeholder is resolved when a container starts, too late for a nested pipeline to pass on."""
    if task.component.WhichOneof("implementation") != "dag":
        return
    for name, source in sorted(task.spec.inputs.parameters.items()):
        if any(_PLACEHOLDER.search(text) for text in _texts(json_format.MessageToDict(source))):
            yield f"input parameter {name!r} is a text around another one, which no DAG resolves; pass the parts"


def _condition(task: _Task) -> Iterator[str]:
    for name in sorted(set(_CONDITION_INPUT.findall(task.spec.trigger_policy.condition))):
        if name not in task.spec.inputs.parameters:
            yield f"triggerPolicy.condition reads input parameter {name!r}, which is not given"


def _iterator(task: _Task) -> Iterator[str]:
    if task.spec.HasField("artifact_iterator"):
        yield "artifactIterator: Kubeflow Pipelines does not run loops over artifacts"
    if not task.spec.HasField("parameter_iterator"):
        return
    iterator = task.spec.parameter_iterator
    if iterator.item_input not in task.component.input_definitions.parameters:
        yield f"parameterIterator.itemInput {iterator.item_input!r} is not declared by {task.spec.component_ref.name}"
    if iterator.items.WhichOneof("kind") == "raw":
        if not _is_list(iterator.items.raw):
            yield "parameterIterator.items.raw is not a JSON list"
    elif iterator.items.input_parameter not in task.spec.inputs.parameters:
        yield f"parameterIterator.items reads input parameter {iterator.items.input_parameter!r}, which is not given"


# JSON trees


def _json(message: Any) -> str:
    return str(json_format.MessageToJson(message, indent=None, ensure_ascii=False))


def _references(tree: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Every reference in a tree: its path, its key and what it names. What a user wrote as a constant has none."""
    if isinstance(tree, list):
        for index, child in enumerate(tree):
            yield from _references(child, f"{path}[{index}]")
    elif isinstance(tree, dict):
        for key, child in sorted(tree.items()):
            if key in _FROM_PARENT or key in _FROM_TASK or key == _FINAL_STATUS:
                yield path, key, child
            elif key != "constant":
                yield from _references(child, f"{path}.{key}")


def _walk(tree: Any) -> Iterator[Any]:
    """A tree and everything in it."""
    yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _walk(child)


def _texts(tree: Any) -> Iterator[str]:
    return (node for node in _walk(tree) if isinstance(node, str))


def _is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except json.JSONDecodeError:
        return False

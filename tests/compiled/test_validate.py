import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, kubernetes

from pipelines.validate import ARGUMENT_LIMIT, problems

Documents = list[dict[str, Any]]


def step(function: Callable[..., Any]) -> Any:
    return dsl.component(function, base_image="example/tool:1", install_kfp_package=False)


@step
def say(text: str) -> str:
    return text


@step
def choose() -> list:
    return ["a", "b"]


@step
def gather(texts: list) -> str:
    return " ".join(texts)


@step
def build(size: int, model: dsl.Output[dsl.Model]):
    model.metadata["size"] = size


@step
def inspect(model: dsl.Input[dsl.Model], text: str = "hello"):
    print(model.path, text)


@step
def clean(status: dsl.PipelineTaskFinalStatus):
    print(status)


# Packages that are well


@dsl.pipeline(name="sequential")
def sequential(text: str = "hello", size: int = 3) -> str:
    first = say(text=text)
    built = build(size=size).after(first)
    inspect(model=built.outputs["model"], text=f"{first.output} and {text}")
    return first.output


@dsl.pipeline(name="conditional")
def conditional(text: str, sure: bool = True):
    decision = say(text=text)
    with dsl.If(decision.output == "RUN"):
        say(text=text)
        with dsl.If(sure == True):  # noqa: E712
            say(text=decision.output)


@dsl.pipeline(name="either")
def either(text: str = "hello") -> str:
    with dsl.If(text == "a"):
        yes = say(text="yes")
    with dsl.Elif(text == "b"):
        perhaps = say(text="perhaps")
    with dsl.Else():
        no = say(text="no")
    return dsl.OneOf(yes.output, perhaps.output, no.output)


@dsl.pipeline(name="loop")
def loop(prefix: str = "x", texts: list = ["c"]) -> str:  # noqa: B006
    with dsl.ParallelFor(choose().output, parallelism=2) as text:
        said = say(text=f"{prefix}-{text}")
    with dsl.ParallelFor(texts) as text, dsl.If(text == "c"):
        say(text=text)
    with dsl.ParallelFor([{"a": "one", "b": "two"}]) as item:
        say(text=item.b)
    return gather(texts=dsl.Collected(said.output)).output


@dsl.pipeline(name="nested")
def nested(text: str = "hello"):
    outcome = either(text=text)
    with dsl.If(text == "hello"):
        sequential(text=outcome.output, size=4)


@dsl.pipeline(name="with-exit")
def with_exit(text: str = "hello"):
    with dsl.ExitHandler(clean()):
        say(text=text)
        with dsl.If(text == "hello"):
            say(text=text)


@dsl.pipeline(name="on-kubernetes")
def on_kubernetes(claim: str = "claim", secret: str = "s3", cpu: str = "2", image: str = "example/other:2"):
    named = say(text=claim)
    kubernetes.mount_pvc(named, pvc_name=claim, mount_path="/data")
    sized = say(text="sized").set_cpu_limit(cpu).set_memory_limit("1Gi").set_container_image(image)
    kubernetes.use_secret_as_env(sized, secret_name=secret, secret_key_to_env={"key": "AWS_SECRET_ACCESS_KEY"})
    kubernetes.mount_pvc(sized, pvc_name=named.output, mount_path="/data")
    with dsl.If(claim == "claim"):
        inside = say(text="inside")
        kubernetes.mount_pvc(inside, pvc_name=named.output, mount_path="/data")
        kubernetes.add_node_selector_json(inside, {"disk": "ssd"})
        kubernetes.set_image_pull_secrets(inside, [secret])


GOOD = [sequential, conditional, either, loop, nested, with_exit, on_kubernetes, say, build, inspect]


@pytest.fixture
def text_of(tmp_path) -> Callable[[Any], str]:
    def compiled(source: Any) -> str:
        compiler.Compiler().compile(source, str(tmp_path / "compiled.yaml"))
        return (tmp_path / "compiled.yaml").read_text()

    return compiled


@pytest.mark.parametrize("source", GOOD, ids=lambda source: source.name)
def test_what_is_well_has_no_problems(text_of, source, tmp_path):
    text = text_of(source)
    assert problems(text) == []
    assert problems(tmp_path / "compiled.yaml") == []
    assert problems(text + "\n---\n") == []  # the server skips an empty document


# What the compiler writes although nothing can run it


@dsl.pipeline(name="limit-in-a-branch")
def limit_in_a_branch(cpu: str = "1", text: str = "hello"):
    with dsl.If(text == "hello"):
        say(text="inside").set_cpu_limit(cpu)


@dsl.pipeline(name="beside-a-nested-branch")
def beside_a_nested_branch(text: str = "hello") -> str:
    either(text=text)
    with dsl.If(text == "a"):
        yes = say(text="yes")
    with dsl.Else():
        no = say(text="no")
    return dsl.OneOf(yes.output, no.output)


@dsl.pipeline(name="loop-in-a-branch")
def loop_in_a_branch(texts: list = ["a"], text: str = "hello"):  # noqa: B006
    with dsl.If(text == "hello"), dsl.ParallelFor(texts) as item:
        say(text=f"<{item}>")


@dsl.pipeline(name="text-for-a-nested-pipeline")
def text_for_a_nested_pipeline(text: str = "hello"):
    either(text=f"<{text}>")


@dsl.pipeline(name="text-in-the-environment")
def text_in_the_environment(text: str = "hello"):
    say(text=text).set_env_variable("TEXT", f"<{text}>")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            limit_in_a_branch,
            [
                "components.comp-condition-1.dag.tasks.say: inputs.parameters.pipelinechannel--cpu takes input "
                "parameter 'pipelinechannel--cpu', which components.comp-condition-1 does not declare"
            ],
        ),
        (beside_a_nested_branch, ["components.comp-condition-2-2.dag: has no task"]),
        (
            loop_in_a_branch,
            [
                "root.dag.tasks.condition-1: inputs.parameters.pipelinechannel--texts-loop-item takes input parameter "
                "'texts-loop-item', which root does not declare",
                "components.comp-condition-1.dag.tasks.for-loop-2: inputs.parameters.pipelinechannel--texts takes "
                "input parameter 'pipelinechannel--texts', which components.comp-condition-1 does not declare",
            ],
        ),
        (
            text_for_a_nested_pipeline,
            [
                "root.dag.tasks.either: input parameter 'text' is a text around another one, which no DAG resolves; "
                "pass the parts"
            ],
        ),
        (
            text_in_the_environment,
            [
                "root.dag.tasks.say: deploymentSpec.executors.exec-say has a parameter in a text that the compiler "
                "left as it was; pass it as an input"
            ],
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_the_compiler_gets_wrong_is_found(text_of, source, expected):
    assert set(expected) <= set(problems(text_of(source)))


# Packages made wrong by hand


def task(documents: Documents, name: str) -> dict[str, Any]:
    return documents[0]["root"]["dag"]["tasks"][name]


def container(documents: Documents) -> dict[str, Any]:
    return documents[0]["deploymentSpec"]["executors"]["exec-say"]["container"]


def parameter(documents: Documents, task_name: str, name: str, value: dict[str, Any]) -> None:
    task(documents, task_name)["inputs"]["parameters"][name] = value


SEQUENTIAL = {
    "schema version": (
        lambda d: d[0].update(schemaVersion="2.0.0"),
        "schemaVersion: is 2.0.0; the server only accepts 2.1.0",
    ),
    "no schema version": (
        lambda d: d[0].pop("schemaVersion"),
        "schemaVersion: is missing; the server only accepts 2.1.0",
    ),
    "no name": (
        lambda d: d[0].pop("pipelineInfo"),
        "pipelineInfo.name: is ''; it must be lower case letters, digits, '-' and '.', and begin and end with a letter "
        "or digit",
    ),
    "no root": (lambda d: d[0].pop("root"), "root: has no DAG"),
    "second pipeline": (
        lambda d: d.append(copy.deepcopy(d[0])),
        "document 2: is a second pipeline spec; the server accepts one",
    ),
    "no pipeline": (lambda d: d.clear(), "no document is a pipeline spec"),
    "other document": (
        lambda d: d.append({"kind": "Pod"}),
        "document 2: is neither a pipeline spec nor a platform spec; its keys are kind",
    ),
    "list": (lambda d: d.append(["a"]), "document 2: is a list, not a mapping"),
    "unknown field": (
        lambda d: task(d, "say").update(colour="red"),
        "document 1: is not a PipelineSpec: Message type ",
    ),
    "unknown field of an executor": (
        lambda d: container(d).update(colour="red"),
        "deploymentSpec: is not a PipelineDeploymentConfig: Message type ",
    ),
    "wrong type": (
        lambda d: task(d, "inspect").update(dependentTasks={"say": 1}),
        "document 1: is not a PipelineSpec: ",
    ),
    "dependency dropped": (
        lambda d: task(d, "inspect")["dependentTasks"].remove("build"),
        "root.dag.tasks.inspect: inputs.artifacts.model takes from a task: task 'build' is not in dependentTasks",
    ),
    "dependency on nothing": (
        lambda d: task(d, "inspect")["dependentTasks"].append("bild"),
        "root.dag.tasks.inspect: waits for task 'bild', which does not exist in this DAG",
    ),
    "dependency circle": (
        lambda d: task(d, "say").update(dependentTasks=["inspect"]),
        "root.dag: tasks form a cycle: ",
    ),
    "producer renamed": (
        lambda d: d[0]["root"]["dag"]["tasks"].update(make=d[0]["root"]["dag"]["tasks"].pop("build")),
        "root.dag.tasks.inspect: inputs.artifacts.model takes from a task: task 'build' does not exist in this DAG",
    ),
    "output renamed": (
        lambda d: d[0]["components"]["comp-build"]["outputDefinitions"].pop("artifacts"),
        "root.dag.tasks.inspect: inputs.artifacts.model takes from a task: task 'build' has no output artifact 'model'",
    ),
    "pipeline input undeclared": (
        lambda d: d[0]["root"]["inputDefinitions"]["parameters"].pop("size"),
        "root.dag.tasks.build: inputs.parameters.size takes input parameter 'size', which root does not declare",
    ),
    "required input dropped": (
        lambda d: task(d, "build")["inputs"]["parameters"].pop("size"),
        "root.dag.tasks.build: input parameter 'size' is required but not given",
    ),
    "required artifact dropped": (
        lambda d: task(d, "inspect")["inputs"].pop("artifacts"),
        "root.dag.tasks.inspect: input artifact 'model' is required but not given",
    ),
    "input misspelt": (
        lambda d: parameter(d, "say", "txt", {"runtimeValue": {"constant": "a"}}),
        "root.dag.tasks.say: input parameter 'txt' is given, but comp-say does not declare it",
    ),
    "input without a source": (
        lambda d: parameter(d, "say", "text", {}),
        "root.dag.tasks.say: input parameter 'text' has no source",
    ),
    "placeholder of a text": (
        lambda d: task(d, "inspect")["inputs"]["parameters"].pop("pipelinechannel--text"),
        "root.dag.tasks.inspect: inputs has a placeholder for input parameter 'pipelinechannel--text', "
        "unknown to the task",
    ),
    "placeholder of an executor": (
        lambda d: container(d)["args"].append("{{$.outputs.artifacts['model'].uri}}"),
        "root.dag.tasks.say: deploymentSpec.executors.exec-say has a placeholder for output artifact 'model', "
        "unknown to the task",
    ),
    "component missing": (
        lambda d: task(d, "say")["componentRef"].update(name="comp-shout"),
        "root.dag.tasks.say: component 'comp-shout' does not exist",
    ),
    "component unused": (
        lambda d: d[0]["components"].update({"comp-more": copy.deepcopy(d[0]["components"]["comp-say"])}),
        "components.comp-more: no task runs it",
    ),
    "component empty": (
        lambda d: d[0]["components"]["comp-say"].pop("executorLabel"),
        "components.comp-say: has neither a DAG nor an executorLabel",
    ),
    "executor missing": (
        lambda d: d[0]["deploymentSpec"]["executors"].pop("exec-say"),
        "components.comp-say: executor 'exec-say' does not exist",
    ),
    "executor dangling": (
        lambda d: d[0]["deploymentSpec"]["executors"].update({"exec-more": {"container": copy.deepcopy(container(d))}}),
        "deploymentSpec.executors.exec-more: no component uses it",
    ),
    "executor of another platform": (
        lambda d: d[0]["deploymentSpec"]["executors"].update({"exec-say": {"customJob": {}}}),
        "deploymentSpec.executors.exec-say: is custom_job; Kubeflow Pipelines only runs container and importer",
    ),
    "output of the pipeline": (
        lambda d: d[0]["root"]["dag"]["outputs"]["parameters"]["Output"]["valueFromParameter"].update(
            outputParameterKey="Text"
        ),
        "root.dag.outputs.parameters.Output: task 'say' has no output parameter 'Text'",
    ),
    "output of no task": (
        lambda d: d[0]["root"]["dag"]["outputs"]["parameters"]["Output"]["valueFromParameter"].update(
            producerSubtask="shout"
        ),
        "root.dag.outputs.parameters.Output: task 'shout' does not exist in this DAG",
    ),
    "output not selected": (
        lambda d: d[0]["root"]["dag"].pop("outputs"),
        "root.dag.outputs.parameters.Output: is selected from no task",
    ),
    "output of nothing": (
        lambda d: d[0]["root"]["dag"]["outputs"]["parameters"].update(Output={}),
        "root.dag.outputs.parameters.Output: is selected from no task",
    ),
    "output not declared": (
        lambda d: d[0]["root"].pop("outputDefinitions"),
        "root.dag.outputs.parameters.Output: is not declared",
    ),
    "empty DAG": (lambda d: d[0]["root"]["dag"].pop("tasks"), "root.dag: has no task"),
    "argument": (
        lambda d: container(d)["args"].append("ä" * (ARGUMENT_LIMIT // 2)),
        f"deploymentSpec.executors.exec-say.container: args[4] is {ARGUMENT_LIMIT} bytes; "
        f"one argument must be under {ARGUMENT_LIMIT}",
    ),
    "constant": (
        lambda d: parameter(d, "say", "text", {"runtimeValue": {"constant": "a" * ARGUMENT_LIMIT}}),
        "root.dag.tasks.say: as the driver's argument, it is ",
    ),
    "image without tag": (
        lambda d: container(d).update(image="localhost:5000/tool"),
        "deploymentSpec.executors.exec-say.container.image: 'localhost:5000/tool' has no fixed tag; use one "
        "other than latest",
    ),
    "image latest": (
        lambda d: container(d).update(image="example/tool:latest"),
        "deploymentSpec.executors.exec-say.container.image: 'example/tool:latest' has no fixed tag; use one "
        "other than latest",
    ),
}


def in_loop(documents: Documents) -> dict[str, Any]:
    return task(documents, "for-loop-1")


LOOP = {
    "item not declared": (
        lambda d: in_loop(d)["parameterIterator"].update(itemInput="item"),
        "root.dag.tasks.for-loop-1: parameterIterator.itemInput 'item' is not declared by comp-for-loop-1",
    ),
    "items not given": (
        lambda d: in_loop(d)["parameterIterator"]["items"].update(inputParameter="items"),
        "root.dag.tasks.for-loop-1: parameterIterator.items reads input parameter 'items', which is not given",
    ),
    "items not a list": (
        lambda d: in_loop(d)["parameterIterator"].update(items={"raw": '{"a": 1}'}),
        "root.dag.tasks.for-loop-1: parameterIterator.items.raw is not a JSON list",
    ),
    "items not JSON": (
        lambda d: in_loop(d)["parameterIterator"].update(items={"raw": "[a"}),
        "root.dag.tasks.for-loop-1: parameterIterator.items.raw is not a JSON list",
    ),
    "artifacts": (
        lambda d: (
            in_loop(d).update(artifactIterator={"items": {"inputArtifact": "a"}, "itemInput": "b"})
            or in_loop(d).pop("parameterIterator")
        ),
        "root.dag.tasks.for-loop-1: artifactIterator: Kubeflow Pipelines does not run loops over artifacts",
    ),
    "task of another DAG": (
        lambda d: parameter(
            d, "gather", "texts", {"taskOutputParameter": {"producerTask": "say", "outputParameterKey": "Output"}}
        ),
        "root.dag.tasks.gather: inputs.parameters.texts takes from a task: task 'say' does not exist in this DAG",
    ),
    "circle of components": (
        lambda d: d[0]["components"]["comp-for-loop-1"]["dag"]["tasks"]["say"]["componentRef"].update(
            name="comp-for-loop-1"
        ),
        "components: form a cycle: comp-for-loop-1 -> comp-for-loop-1",
    ),
}
CONDITIONAL = {
    "condition": (
        lambda d: task(d, "condition-1")["triggerPolicy"].update(condition="inputs.parameter_values['a'] == 'b'"),
        "root.dag.tasks.condition-1: triggerPolicy.condition reads input parameter 'a', which is not given",
    ),
}
WITH_EXIT = {
    "exit task of nothing": (
        lambda d: task(d, "clean")["inputs"]["parameters"]["status"]["taskFinalStatus"].update(producerTask="say"),
        "root.dag.tasks.clean: inputs.parameters.status takes from a task: task 'say' does not exist in this DAG",
    ),
    "exit task that waits for nothing": (
        lambda d: task(d, "clean").pop("dependentTasks"),
        "root.dag.tasks.clean: inputs.parameters.status takes from a task: task 'exit-handler-1' is not in "
        "dependentTasks",
    ),
    "exit task alone": (
        lambda d: d[0]["root"]["dag"]["tasks"].pop("exit-handler-1"),
        "root.dag: has no task except exit tasks",
    ),
}
SETTINGS = "platforms.kubernetes.deploymentSpec.executors"


def settings(documents: Documents, label: str) -> dict[str, Any]:
    return documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]


ON_KUBERNETES = {
    "volume of no parameter": (
        lambda d: settings(d, "exec-say")["pvcMount"][0].update(pvcNameParameter={"componentInputParameter": "clam"}),
        f"root.dag.tasks.say: {SETTINGS}.exec-say.pvcMount[0].pvcNameParameter takes input parameter 'clam', which "
        "root does not declare",
    ),
    "volume of no task": (
        lambda d: settings(d, "exec-say-2")["pvcMount"][0]["taskOutputParameter"].update(producerTask="shout"),
        f"root.dag.tasks.say-2: {SETTINGS}.exec-say-2.pvcMount[0] takes from a task: task 'shout' does not exist in "
        "this DAG",
    ),
    "volume before its task": (
        lambda d: task(d, "say-2").pop("dependentTasks"),
        f"root.dag.tasks.say-2: {SETTINGS}.exec-say-2.pvcMount[0] takes from a task: task 'say' is not in "
        "dependentTasks",
    ),
    "secret inside a branch": (
        lambda d: d[0]["components"]["comp-condition-1"]["inputDefinitions"]["parameters"].pop(
            "pipelinechannel--secret"
        ),
        f"components.comp-condition-1.dag.tasks.say-3: {SETTINGS}.exec-say-3.imagePullSecret[0].secretNameParameter "
        "takes input parameter 'pipelinechannel--secret', which components.comp-condition-1 does not declare",
    ),
    "limit of no parameter": (
        lambda d: task(d, "say-2")["inputs"]["parameters"].pop("pipelinechannel--cpu"),
        "root.dag.tasks.say-2: deploymentSpec.executors.exec-say-2 has a placeholder for input parameter "
        "'pipelinechannel--cpu', unknown to the task",
    ),
    "settings of no executor": (
        lambda d: d[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].update({"exec-more": {}}),
        f"{SETTINGS}.exec-more: there is no such executor",
    ),
    "unknown setting": (
        lambda d: settings(d, "exec-say").update(colour="red"),
        f"{SETTINGS}.exec-say: is not a KubernetesExecutorConfig: Message type ",
    ),
    "second settings": (
        lambda d: d.append(copy.deepcopy(d[1])),
        "document 3: is a second platform spec; the server accepts one",
    ),
    "unknown field beside the settings": (
        lambda d: d[1]["platforms"]["kubernetes"].update(colour="red"),
        "document 2: is not a PlatformSpec: Message type ",
    ),
    "other platform": (
        lambda d: d[1]["platforms"].update(cloud=d[1]["platforms"].pop("kubernetes")),
        "platforms: cloud; Kubeflow Pipelines only supports kubernetes",
    ),
}
FAULTS = [
    pytest.param(source, break_it, expected, id=f"{source.name}: {name}")
    for source, faults in [
        (sequential, SEQUENTIAL),
        (loop, LOOP),
        (conditional, CONDITIONAL),
        (with_exit, WITH_EXIT),
        (on_kubernetes, ON_KUBERNETES),
    ]
    for name, (break_it, expected) in faults.items()
]


@pytest.mark.parametrize(("source", "break_it", "expected"), FAULTS)
def test_a_fault_is_found_where_it_is(text_of, source, break_it, expected):
    documents = list(yaml.safe_load_all(text_of(source)))
    break_it(documents)
    found = problems(yaml.safe_dump_all(documents))
    assert any(line == expected or (expected.endswith(" ") and line.startswith(expected)) for line in found), found
    assert not any("\n" in line for line in found)


def test_a_file_that_is_no_yaml_is_one_problem():
    (line,) = problems("root: [a\nb: 'c\n")
    assert line.startswith("the file: not valid YAML in line ")
    assert "\n" not in line


@pytest.mark.parametrize("image", ["example/tool:1", "localhost:5000/a/tool:v1.2", "example/tool@sha256:" + 64 * "0"])
def test_an_image_with_a_tag_or_digest_is_well(text_of, image):
    documents = list(yaml.safe_load_all(text_of(sequential)))
    container(documents)["image"] = image
    assert problems(yaml.safe_dump_all(documents)) == []


def test_a_file_that_is_no_text_has_that_problem(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4\n")
    (tmp_path / "folder.yaml").mkdir()
    for path in tmp_path.iterdir():
        (problem,) = problems(path)
        assert problem.startswith("cannot be read")

"""Jobs of Sedna as plans: what each field is in this suite, or why it has no place here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.core.errors import InputError
from components.core.miners.base import find_miner
from components.core.parameters import ConvertSettings, GateSettings
from components.core.redaction import HIDDEN, redacted
from components.core.runtimes.rockchip import parse_targets
from components.core.stores.addresses import folder_at
from pipelines.interop.sedna_plan import Plan, as_text
from pipelines.interop.sedna_pods import CLOUD, CLOUD_PROGRAM, EDGE, EDGE_PROGRAM, STEPS, Worker
from pipelines.interop.sedna_schema import (
    IncrementalSpec,
    JointSpec,
    LifelongSpec,
    Mining,
    Resource,
    TrainingData,
    Trigger,
    unknown,
)

EDGE_WORKER = "python -m components.serving.edge_worker"
CLOUD_SERVER = "python -m components.serving.cloud_server"
_POLL_SECONDS = 60  # that Sedna looks at a data set, where a trigger does not say otherwise
_PORT = "5000"  # of the cloud worker
_FORMATS = {"txt": "sedna", "csv": "csv"}
_WEIGHTS = "pt"
_SEGMENTER = "yolo26n-sem.yaml"
_OF_CLASSES = re.compile(
    r"^(precision|recall|f1|ap50_95|ap50)(_delta|_rel)?(?= )"
)  # metrics with a value for each class
_CREDENTIALS = "the secret edge-learning-store holds the keys, under other names (docs/stores.md)"
_INDEPENDENT = "the steps and workers read the champion of the job, which the first round makes"
_INTERVALS = "one schedule looks at the feed, and every round that it starts evaluates and deploys"


def plans_of(resources: Sequence[Resource]) -> list[Plan]:
    """What each job is here, in the order of the files.

    Raises:
        InputError: a job names a data set or a model that is in none of the files.
    """
    return [JOBS[one.kind](one, _Files(resources)) for one in resources if one.kind in JOBS]


class _Files:
    """The resources of all files, by kind and name."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self._resources = {(one.kind, one.name): one for one in resources}

    def find(self, kind: str, name: str, job: Resource) -> Any:
        """The spec of a resource that a job names."""
        if (kind, name) not in self._resources:
            known = [known for of_kind, known in self._resources if of_kind == kind]
            if not known:
                raise InputError(f"{job.title}: the files have no {kind}, and the job needs {kind} {name}")
            raise InputError(f"{job.title}: {unknown(kind, name, known)}")
        return self._resources[kind, name].spec

    def free_datasets(self) -> list[tuple[str, Any]]:
        """The data sets that no job names."""
        named = {one.spec.dataset.name for one in self._resources.values() if hasattr(one.spec, "dataset")}
        free = ((name, one) for (kind, name), one in self._resources.items() if kind == "Dataset" and name not in named)
        return [(name, one.spec) for name, one in free]


def _incremental(job: Resource, files: _Files) -> Plan:
    spec: IncrementalSpec = job.spec
    plan = Plan(job, "incremental-learning", parameters={"job_root": spec.output_dir})
    train, evaluation, edge = _workers(plan, spec)
    _set_feed(plan, spec.dataset, files)
    _set_trigger(plan, spec.train_spec.trigger)
    _set_model(plan, "initial_model", files, spec.initial_model.name, "initialModel")
    _set_steps(plan, train, evaluation)
    if spec.eval_spec.initial_eval_model:
        plan.lose("evalSpec", "initialEvalModel", "a candidate is compared with the champion of the job")
    deploy = spec.deploy_spec
    _set_gate(plan, deploy.trigger)
    _set_targets(plan, files.find("Model", deploy.model.name, job))
    if deploy.model.name != spec.initial_model.name:
        plan.lose("deploySpec.model", f"Model {deploy.model.name}", _INDEPENDENT)
    if not deploy.model.hot_update_enabled:
        plan.notes.append("the edge worker takes over each new champion while it runs, also without hotUpdateEnabled")
    if kept := edge.take("HE_SAVED_URL"):
        plan.notes.append(f"hard examples go to hard-examples/ under job_root, and not to {edge.on_host(kept)}")
    options = ["--job-root", spec.output_dir, *_node(edge)]
    options += ["--source", edge.on_host(edge.take("video_url", "test_data")) or "SOURCE"]
    options += ["--poll", str(deploy.model.poll_period_seconds)]
    if deploy.hard_example_mining:
        mined = _mining(plan, "deploySpec", deploy.hard_example_mining)
        if mined:
            plan.put("miner", mined[0], "deploySpec", "hardExampleMining")
            if mined[1]:
                plan.put("miner_parameters", mined[1], "deploySpec", "hardExampleMining")
        options += _mining_options(mined)
    _finish(plan, edge, [train, evaluation, edge], [EDGE_WORKER, *options])
    return plan


def _lifelong(job: Resource, files: _Files) -> Plan:
    spec: LifelongSpec = job.spec
    plan = Plan(job, "lifelong-learning", parameters={"job_root": spec.output_dir})
    train, evaluation, edge = _workers(plan, spec)
    _set_feed(plan, spec.dataset, files)
    if plan.parameters["data_format"] == "sedna":
        plan.parameters["data_format"] = "masks"
        plan.parameters["estimator"] = "segmentation"
        plan.parameters["gate_conditions"] = ["miou_delta >= 0"]
        plan.parameters["initial_model"] = _SEGMENTER
        plan.notes.append(
            f"the lines of the index are taken for image, depth and mask: segmentation, which starts from {_SEGMENTER}"
        )
    _set_trigger(plan, spec.train_spec.trigger)
    if attribute := train.take("attribute"):
        plan.put("task_definition", "TaskDefinitionByOrigin", "trainSpec", "env attribute")
        city = train.take("city")
        parameters = {"attribute": attribute} | ({"city": city} if city else {})
        plan.put("task_parameters", parameters, "trainSpec", "env attribute")
    operator, threshold = evaluation.take("operator"), evaluation.take("model_threshold")
    if operator and threshold:
        # Sedna drops a task's model if a score of it compares like this.
        plan.put("keep_conditions", [{"not": f"score {operator} {threshold}"}], "evalSpec", "env operator")
    _set_steps(plan, train, evaluation)
    if spec.eval_spec.initial_eval_model:
        plan.lose("evalSpec", "initialEvalModel", "a candidate is compared with the champion of the job")
    plan.notes.append(
        "an edge worker runs the models of all tasks: where its source has no paths, --origin says what they would "
        "begin with in the feed"
    )
    options = ["--job-root", spec.output_dir, *_node(edge)]
    options += ["--source", edge.on_host(edge.take("test_data", "video_url")) or "SOURCE"]
    if masks := edge.take("INFERENCE_RESULT_DIR"):
        options += ["--sink", f"masks:{edge.on_host(masks)}"]
    _finish(plan, edge, [train, evaluation, edge], [EDGE_WORKER, *options])
    return plan


def _joint(job: Resource, files: _Files) -> Plan:
    spec: JointSpec = job.spec
    root = f"jobs/{job.name}"
    plan = Plan(job, "joint-inference", parameters={"job_root": root})
    edge = Worker("edgeWorker", spec.edge_worker.template, plan, EDGE)
    cloud = Worker("cloudWorker", spec.cloud_worker.template, plan, CLOUD)
    little = _set_model(plan, "base_model", files, spec.edge_worker.model.name, "edgeWorker")
    big = _set_model(plan, "big_model", files, spec.cloud_worker.model.name, "cloudWorker")
    if little and big:
        plan.parameters["epochs"] = 0  # both as they are
    _set_labelled_data(plan, files)
    outputs = [edge.take(name) for name in _OUTPUTS]
    options = ["--job-root", root, "--member", "little", *_node(edge)]
    source = edge.on_host(edge.take("video_url"))
    options += ["--source", source or "SOURCE"]
    mode = edge.take("MINING_MODE")
    options += ["--mode", mode] if mode else []
    if written := next(filter(None, outputs), ""):
        options += ["--sink", f"sedna:{edge.on_host(str(Path(written).parent))}"]
        plan.notes.append(f"the outputs are folders of these names in the folder of --sink: {', '.join(_OUTPUTS)}")
    if mining := spec.edge_worker.hard_example_mining:
        options += _mining_options(_mining(plan, "edgeWorker", mining))
        plan.notes.append(
            "the release brings a calibrated rule for the frames that go to the cloud, which replaces that of --miner"
        )
    server = ["--job-root", root, "--member", "big", *_node(cloud, "cloud"), "--host", "0.0.0.0", "--port", _PORT]
    options += ["--cloud-url", f"http://{cloud.pod.node_name or 'CLOUD'}:{_PORT}"]
    plan.notes.append("CLOUD_TOKEN of the cloud server and EDGE_CLOUD_TOKEN of the edge worker are the same secret")
    cloud.set_variables({name: f"big_{ours}" for name, ours in _SIZES.items()})
    edge.set_variables()
    for worker, program in ((cloud, CLOUD_PROGRAM), (edge, EDGE_PROGRAM)):
        worker.set_program(program)
        worker.lose_volumes()
    _set_replicas(plan, spec)
    _set_source(plan, source)
    plan.notes.append(
        "on a cluster, -p serving=deployment starts both programs in place of these commands, with the nodes and "
        "resources of the file; other options, such as EDGE_SINK or EDGE_MODE, go into the secret edge_secret"
    )
    plan.workers = [[CLOUD_SERVER, *server], [EDGE_WORKER, *options]]
    return plan


def _set_replicas(plan: Plan, spec: JointSpec) -> None:
    """How many cloud servers run."""
    if scale := spec.cloud_worker.hpa:
        plan.put("cloud_replicas", scale.min_replicas, "cloudWorker.hpa", "minReplicas")
        plan.put("cloud_max_replicas", scale.max_replicas, "cloudWorker.hpa", "maxReplicas")
        for name in scale.model_extra or {}:
            plan.lose("cloudWorker.hpa", name, "images/cloud/server.yaml says by what cloud servers are scaled")
    if spec.edge_worker.hpa:
        plan.lose("edgeWorker", "hpa", "one edge worker runs on every node with the labels of edge_node_selector")


def _set_source(plan: Plan, source: str) -> None:
    """What edge workers look at that the pipeline starts."""
    if HIDDEN in redacted(source):
        reason = "an address with a password goes into the secret edge_secret, as EDGE_SOURCE"
        plan.lose("edgeWorker", "env video_url", reason, "edge_source")
    elif source:
        plan.put("edge_source", source, "edgeWorker", "env video_url")
        if "://" not in source:
            plan.notes.append(
                "edge_source is a path of the node: pods of edge workers see its /var/lib/edge-learning, as /data"
            )


_OUTPUTS = (
    "all_examples_inference_output",
    "hard_example_edge_inference_output",
    "hard_example_cloud_inference_output",
)
_SIZES = {"input_shape": "image_size", "imgsz": "image_size", "image_size": "image_size"}
JOBS: dict[str, Callable[[Resource, _Files], Plan]] = {
    "IncrementalLearningJob": _incremental,
    "JointInferenceService": _joint,
    "LifelongLearningJob": _lifelong,
}


def _workers(plan: Plan, spec: IncrementalSpec | LifelongSpec) -> tuple[Worker, Worker, Worker]:
    if spec.credential_name:
        plan.lose("spec", f"credentialName {spec.credential_name}", _CREDENTIALS, "store_secret")
    return (
        Worker("trainSpec", spec.train_spec.template, plan, STEPS),
        Worker("evalSpec", spec.eval_spec.template, plan, STEPS),
        Worker("deploySpec", spec.deploy_spec.template, plan, EDGE),
    )


def _set_feed(plan: Plan, data: TrainingData, files: _Files) -> None:
    dataset = files.find("Dataset", data.name, plan.job)
    _set_dataset(plan, "feed_url", data.name, dataset)
    plan.parameters["train_ratio"] = data.train_prob
    default = 0.1
    if data.train_prob + default >= 1 - 1e-9:
        plan.parameters["val_ratio"] = round((1 - data.train_prob) / 2, 6)


def _set_dataset(plan: Plan, parameter: str, name: str, dataset: Any) -> None:
    place = f"Dataset {name}"
    plan.parameters[parameter] = dataset.url
    plan.parameters["data_format"] = _FORMATS.get(dataset.format.lower(), dataset.format)
    if dataset.node_name and "://" not in dataset.url:
        reason = f"pods see no folder of a node: run it there, or give {parameter} as an address of a store"
        plan.lose(place, f"nodeName {dataset.node_name}", reason, parameter)
    if dataset.credential_name:
        plan.lose(place, f"credentialName {dataset.credential_name}", _CREDENTIALS, "store_secret")


def _set_labelled_data(plan: Plan, files: _Files) -> None:
    """The data that the rule of joint inference is calibrated with, which Sedna has no field for."""
    datasets = files.free_datasets()
    if len(datasets) == 1:
        _set_dataset(plan, "data_url", *datasets[0])
    else:
        plan.lose("spec", "no data set", "labelled images calibrate the rule for the cloud: give data_url", "data_url")


def _set_trigger(plan: Plan, trigger: Trigger) -> None:
    plan.every = f"{trigger.check_period_seconds or _POLL_SECONDS}s"
    plan.parameters["trigger_conditions"] = [trigger.condition]
    if "num_of_samples" in trigger.condition:
        plan.notes.append("num_of_samples counts all new samples; Sedna counts those that trainProb gives to training")
    if trigger.timer:
        plan.parameters["trigger_window"] = trigger.timer
        plan.notes.append("the hours of a window are UTC: add a timezone to trigger_window for others")


def _set_gate(plan: Plan, trigger: Trigger | None) -> None:
    if trigger is None:
        return
    condition = _OF_CLASSES.sub(r"mean(\1\2)", trigger.condition, count=1)
    if condition != trigger.condition:
        plan.notes.append(f"{trigger.condition} has a value for each class here: {condition} takes the mean")
    plan.parameters["gate_conditions"] = [condition]
    limits = {name: GateSettings.model_fields[name].default for name in ("max_class_drop", "min_map50")}
    safe = ", ".join(f"{name}={value:g}" for name, value in limits.items())
    plan.notes.append(f"the gate also checks {safe}; max_class_drop=-1 and min_map50=0 turn that off")
    if trigger.timer:
        plan.parameters["deploy_window"] = trigger.timer
        plan.notes.append("outside deploy_window a candidate waits; Sedna discards it")
    if trigger.check_period_seconds:
        plan.lose("deploySpec.trigger", "checkPeriodSeconds", _INTERVALS)


def _set_model(plan: Plan, parameter: str, files: _Files, name: str, place: str) -> bool:
    """Start from a model, if it is one that an estimator of the suite reads."""
    model = files.find("Model", name, plan.job)
    _set_targets(plan, model)
    if model.credential_name:
        plan.lose(f"Model {name}", f"credentialName {model.credential_name}", _CREDENTIALS, "store_secret")
    has_digest = "://" not in model.url or "#sha256=" in model.url
    if model.format.lower().lstrip(".") == _WEIGHTS and has_digest:
        plan.parameters[parameter] = model.url
        return True
    what = f"Model {name} ({model.url}, {model.format})"
    if has_digest:
        reason = f"estimators read weights of PyTorch: give {parameter} in that form, or training starts from scratch"
    else:
        reason = f"what comes from another place is loaded with its digest alone: give {parameter}=URL#sha256=DIGEST"
    plan.lose(place, what, reason, parameter)
    return False


def _set_targets(plan: Plan, model: Any) -> None:
    for chip in model.device_soc_versions:
        try:
            parse_targets(chip)
        except InputError as error:
            plan.lose("Model", f"device_soc_versions {chip}", str(error))
            continue
        old = str(plan.parameters.get("targets", ConvertSettings.model_fields["targets"].default))
        if chip.lower() not in old.split(","):
            plan.parameters["targets"] = ",".join(filter(None, [old, chip.lower()]))


def _set_steps(plan: Plan, train: Worker, evaluation: Worker) -> None:
    """Variables, nodes and resources of the two workers that are steps here."""
    for worker in (train, evaluation):
        names = worker.take("class_names", "classes")
        if names:
            plan.put("classes", _classes(plan, names), worker.place, f"env class_names={names}")
        worker.set_variables()
        worker.set_nodes()
    train.set_resources("train_cpu", "train_memory", "train_gpus")
    evaluation.set_resources("step_cpu", "step_memory")


def _classes(plan: Plan, names: str) -> str:
    """Class names in order; an index of Sedna has their numbers, unless a file beside it names them."""
    if plan.parameters["data_format"] != "sedna" or _are_named(plan.parameters["feed_url"]):
        return names
    return ",".join(f"{number}:{name.strip()}" for number, name in enumerate(names.split(",")))


def _are_named(url: str) -> bool:
    try:
        return (folder_at(url).parent / "classes.txt").is_file()
    except (InputError, OSError):
        return False


def _mining(plan: Plan, place: str, mining: Mining) -> tuple[str, dict[str, Any]] | None:
    """The miner and its parameters; None if there is none of this name."""
    try:
        find_miner(mining.name)
    except InputError as error:
        plan.lose(place, f"hardExampleMining {mining.name}", str(error), "miner")
        return None
    return mining.name, {one.key: _number(one.value) for one in mining.parameters}


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _mining_options(mined: tuple[str, dict[str, Any]] | None) -> list[str]:
    if mined is None:
        return []
    options = ["--miner", mined[0]]
    for name, value in mined[1].items():
        options += ["-p", f"{name}={as_text(value)}"]
    return options


def _node(worker: Worker, prefix: str = "") -> list[str]:
    node = worker.pod.node_name
    return ["--node", f"{prefix}-{node}" if prefix else node] if node else []


def _finish(plan: Plan, edge: Worker, workers: list[Worker], command: list[str]) -> None:
    edge.lose_variables("the edge worker takes what it needs from the model and its options")
    edge.lose_the_rest()
    for worker in workers:
        worker.lose_volumes()
    plan.workers = [command]

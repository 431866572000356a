"""Training in a TrainJob: what is asked for, what travels through the store, and what becomes of failures."""

import copy
import logging

import jsonschema
import pytest

from components.core.errors import InputError, LostRaceError, OutOfReachError
from components.core.estimators import base
from components.core.estimators.base import check_place
from components.core.parameters import TrainerSettings, read
from components.core.stores.open import open_store
from components.train.place import train_at, train_in_trainjob
from components.train.train import train
from components.train.trainjob import render, standing
from tests.trainjobs import POD, FakeNamespace, samples

# The fields of a TrainJob of version v1alpha1 that are used here, as Kubeflow Trainer 2.2 and newer define them.
TEXT, NUMBER, ANY = {"type": "string"}, {"type": "integer", "minimum": 1}, {"type": "object"}


def record(required=(), **properties):
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


def records(**properties):
    return {"type": "array", "minItems": 1, "items": record(["name"], name=TEXT, **properties)}


POD_PATCH = record(
    serviceAccountName=TEXT, nodeSelector=ANY, tolerations={"type": "array"}, imagePullSecrets=records(),
    securityContext=ANY, volumes={"type": "array"},
    containers=records(volumeMounts={"type": "array"}, securityContext=ANY, env={"type": "array"}),
)  # fmt: skip
JOBS = records(template=record(spec=record(template=record(spec=POD_PATCH))))
PATCHES = {
    "type": "array",
    "items": record(
        ["manager"], manager=TEXT, trainingRuntimeSpec=record(template=record(spec=record(replicatedJobs=JOBS)))
    ),
}
SCHEMA = record(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "trainer.kubeflow.org/v1alpha1"},
    kind={"const": "TrainJob"},
    metadata=record(
        ["name"], name={**TEXT, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}, labels=ANY,
        ownerReferences={"type": "array", "items": record(apiVersion=TEXT, kind=TEXT, name=TEXT, uid=TEXT)},
    ),
    spec=record(
        ["runtimeRef"],
        runtimeRef=record(["name"], name=TEXT, kind=TEXT, apiGroup=TEXT),
        activeDeadlineSeconds=NUMBER,
        trainer=record(
            image=TEXT, command={"type": "array", "items": TEXT}, env={"type": "array"}, numNodes=NUMBER,
            numProcPerNode=NUMBER, resourcesPerNode=record(requests=ANY, limits=ANY),
        ),
        runtimePatches=PATCHES,
    ),
)  # fmt: skip

PLACE = read(TrainerSettings, {"trainer": "trainjob"})
TRAINING = {
    "estimator": "quick", "base_model": "nothing", "epochs": 3, "image_size": "96", "batch": 8, "patience": 0,
    "device": "cpu", "workers": 0, "seed": 0, "estimator_options": {}, "experiment_labels": "site=north",
    "confidence_threshold": 0.25, "nms_threshold": 0.7, "plugin_modules": "tests.quick_estimator",
}  # fmt: skip


@pytest.fixture
def manifest(tmp_path):
    return samples(tmp_path, 8)


@pytest.fixture
def namespace():
    return FakeNamespace()


@pytest.fixture
def run(tmp_path, manifest, namespace):
    """Trains in a TrainJob; each call is another try of the step."""
    tries = iter(range(100))

    def call(sleep=namespace.work, **changes):
        given, output = TRAINING | changes, tmp_path / f"model-{next(tries)}"
        return train_in_trainjob(namespace, PLACE, manifest, output, str(tmp_path / "job"), 4, given, sleep), output

    return call


def keys(tmp_path):
    return [info.key for info in open_store(str(tmp_path / "job")).list("checkpoints/")]


def asked(pod=POD, nodes=1, **settings):
    chosen = read(TrainerSettings, {"trainer": "trainjob", "train_nodes": nodes} | settings)
    made = render("train-1f", pod, chosen, "components.train.node", ["s3://jobs/h", "r0004-1a"], nodes > 1)
    jsonschema.validate(made, SCHEMA)
    return made


def patched(job):
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    return node["template"]["spec"]["template"]["spec"]


def test_a_trainjob_gets_what_the_step_has_and_nothing_of_what_its_runners_add():
    job = asked()
    trainer, pod = job["spec"]["trainer"], patched(job)
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    assert job["spec"]["activeDeadlineSeconds"] == 86400
    assert trainer["image"] == "registry.example.com/edge-learning/train:0.1.0"
    assert trainer["command"] == ["python3", "-m", "components.train.node", "s3://jobs/h", "r0004-1a"]
    assert [one["name"] for one in trainer["env"]] == ["EDGE_CACHE_DIR", "AWS_SECRET_ACCESS_KEY"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (1, 1)
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "2"}
    assert pod["nodeSelector"] == {"kubernetes.io/arch": "amd64"}
    assert [one["key"] for one in pod["tolerations"]] == ["gpu"]
    assert pod["serviceAccountName"] == "pipeline-runner"
    assert {one["name"] for one in pod["volumes"]} == {"cache", "shm", "edge-learning-store"}
    (container,) = pod["containers"]
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/cache", "/dev/shm", "/etc/edge-learning/store"]
    assert container["securityContext"] == {"runAsUser": 1000, "runAsNonRoot": True}
    assert job["metadata"]["labels"] == {"pipeline/runid": "1f0c", "kueue.x-k8s.io/queue-name": "team-a"}
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "helmets-x7", "uid": "7c-1"}
    ]


def test_several_nodes_train_one_model_with_a_process_for_each_gpu():
    trainer = asked(nodes=3)["spec"]["trainer"]
    assert trainer["command"][:4] == ["python3", "-m", "torch.distributed.run", "--module"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 2)


@pytest.mark.parametrize(
    ("resources", "processes"),
    [
        ({"nvidia.com/gpu": "8", "rdma/hca_shared_devices_a": "1"}, 8),
        ({"amd.com/gpu": "4", "vpc.amazonaws.com/efa": "4", "hugepages-2Mi": "5Gi"}, 4),
        ({"huawei.com/Ascend910": "2"}, 2),
    ],
)
def test_what_a_node_has_beside_gpus_gets_no_process(resources, processes):
    assert asked(node_resources=resources, nodes=2)["spec"]["trainer"]["numProcPerNode"] == processes


def test_nodes_may_have_other_resources_than_the_step():
    trainer = asked(node_resources={"cpu": 8, "nvidia.com/gpu": "1"}, nodes=2)["spec"]["trainer"]
    wanted = {"cpu": "8", "nvidia.com/gpu": "1"}
    assert trainer["resourcesPerNode"] == {"requests": wanted, "limits": wanted}
    assert trainer["numProcPerNode"] == 1
    with pytest.raises(InputError, match="node_resources: cpu must be a Kubernetes quantity"):
        read(TrainerSettings, {"node_resources": {"cpu": "many"}})


def test_a_bare_pod_is_enough():
    pod = copy.deepcopy(POD)
    pod["metadata"] = {"name": "step"}
    pod["spec"] = {"containers": [{"name": "main", "image": "train:1"}]}
    job = asked(pod)
    assert patched(job) == {"containers": [{"name": "node"}]}
    pod["spec"]["containers"][0]["name"] = "step"
    with pytest.raises(InputError, match="no container 'main', only step"):
        asked(pod)


def test_the_model_is_the_one_that_training_in_the_step_makes(run, tmp_path, manifest, namespace):
    trained, output = run()
    here = train(manifest, tmp_path / "here", job_root=str(tmp_path / "other"), round_number=4, **TRAINING)
    assert (output / "model.pt").read_bytes() == (tmp_path / "here" / "model.pt").read_bytes()
    assert trained.history == here.history
    assert trained.bundle.lineage["experiment_labels"] == {"site": "north"}
    assert [section.title for section in trained.sections] == [section.title for section in here.sections]
    assert trained.sections[0].body.__html__() == here.sections[0].body
    assert len(namespace.applied) == 1
    jsonschema.validate(namespace.applied[0], SCHEMA)


def test_nothing_is_left_behind(run, tmp_path, namespace):
    run()
    assert namespace.jobs == {}
    assert not [key for key in keys(tmp_path) if "-trainjob/" in key]  # the round removes its checkpoints


def test_a_store_that_goes_away_when_the_model_is_there_costs_no_training(run, namespace, monkeypatch, caplog):
    def away(*_):
        raise OutOfReachError("the store cannot be reached")

    monkeypatch.setattr("components.core.stores.files.FileStore.list", away)
    _, output = run()
    assert (output / "model.pt").is_file()
    assert "or its work area is left behind: the store" in caplog.text


def test_a_step_that_is_tried_again_finds_the_trainjob_that_runs(run, namespace, caplog):
    def lost(_seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lost)
    caplog.set_level(logging.INFO)
    run()
    assert len(namespace.applied) == 1
    assert "of an earlier try goes on" in caplog.text


def test_a_model_that_was_ready_when_the_step_was_lost_is_taken_as_it_is(run, namespace):
    def lost(_seconds):
        namespace.work()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lost)
    (job,) = namespace.jobs
    namespace.work = lambda _=0: pytest.fail("it is trained again")
    run()
    assert len(namespace.applied) == 1
    assert namespace.deleted == [job]


def test_other_parameters_are_another_training(run, namespace):
    run()
    run(epochs=2)
    run(experiment_labels="site=south")
    assert len({job["metadata"]["name"] for job in namespace.applied}) == 3


def test_a_failure_that_is_sure_ends_the_step_with_its_own_line(run, namespace, tmp_path):
    with pytest.raises(InputError, match=r"^estimator_options: quick has none|no such file") as failed:
        run(base_model="gone.pt")
    assert not isinstance(failed.value, OutOfReachError)
    assert namespace.jobs == {} and keys(tmp_path) == []


def test_a_failure_of_the_cluster_is_told_with_the_last_lines_and_may_be_tried_again(run, namespace, caplog):
    caplog.set_level(logging.INFO)
    namespace.ends, namespace.lines = "Failed", ["train | epoch 1/3", "RuntimeError: CUDA out of memory", ""]
    with pytest.raises(OutOfReachError, match="it is Failed; OOMKilled; RuntimeError: CUDA out of memory"):
        run()
    assert "node-0-0: train | epoch 1/3" in caplog.text
    assert namespace.jobs == {}
    namespace.ends = ""
    run()
    assert len(namespace.applied) == 2


def test_a_trainjob_that_has_failed_before_is_out_of_the_way(run, namespace):
    def lost(_seconds):
        namespace.ends = "Failed"
        namespace.work()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lost)
    namespace.ends = ""
    run()
    assert len(namespace.applied) == 2


def test_a_trainjob_that_is_gone_was_taken_by_another_run(run, namespace):
    with pytest.raises(LostRaceError, match="is gone without a result"):
        run(lambda _seconds: namespace.jobs.clear())


def test_an_api_server_that_is_away_for_a_while_does_no_harm(run, namespace):
    def sleep(_seconds):
        if not namespace.deleted and len(namespace.applied) == 1 and not getattr(namespace, "was_away", False):
            namespace.away, namespace.was_away = 5, True
            return
        namespace.work()

    run(sleep)
    assert len(namespace.applied) == 1


def test_an_api_server_that_stays_away_is_told(run, namespace):
    def sleep(_seconds):
        namespace.away = 10_000

    with pytest.raises(OutOfReachError, match="does not answer"):
        run(sleep)


def test_a_damaged_result_is_not_taken(run, namespace, tmp_path):
    store = open_store(str(tmp_path / "job"))

    def sleep(_seconds):
        namespace.work()
        (model,) = (key for key in keys(tmp_path) if key.endswith("bundle/model.onnx"))
        store.write(model, b"another")

    with pytest.raises(InputError, match=r"model\.onnx"):
        run(sleep)


def test_progress_names_the_epoch_and_why_a_node_waits(run, namespace, caplog):
    caplog.set_level(logging.INFO)
    run()
    assert "1 of 1 nodes run" in caplog.text
    pod = {"status": {"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: insufficient nvidia.com/gpu"}
    ]}}  # fmt: skip
    job = asked(nodes=2)
    assert standing(job, [pod]) == "0 of 2 nodes run; 0/3 nodes are available: insufficient nvidia.com/gpu"
    job["status"] = {
        "conditions": [{"type": "Suspended", "status": "True", "reason": "Suspended", "message": "queued"}]
    }
    assert standing(job, []) == "suspended (queued), in the queue team-a"


def test_estimators_that_train_on_one_node_are_refused_more(monkeypatch):
    monkeypatch.setattr(base, "in_cluster", lambda: True)
    place = read(TrainerSettings, {"trainer": "trainjob", "train_nodes": 2})
    with pytest.raises(InputError, match="the estimator yolo trains on one node: choose one that .*fpn"):
        check_place("yolo", place)
    check_place("fpn", place)
    with pytest.raises(InputError, match="train_nodes=2 needs trainer=trainjob"):
        check_place("fpn", read(TrainerSettings, {"train_nodes": 2}))


def test_outside_of_a_cluster_it_is_refused(manifest, tmp_path):
    with pytest.raises(InputError, match="trainer=trainjob needs a cluster"):
        train_at(PLACE, manifest, tmp_path / "model", job_root=str(tmp_path / "job"), **TRAINING)


def test_a_round_that_has_ended_takes_a_work_area_along(run, namespace, tmp_path):
    from components.core.job.job import Job
    from components.deploy.garbage import remove_leftovers

    def lost(_seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lost)
    job = Job.open(str(tmp_path / "job"))
    assert any("-trainjob/request.json" in key for key in keys(tmp_path))
    remove_leftovers(job, job.read()[0].model_copy(update={"round": 3}))
    assert keys(tmp_path)
    remove_leftovers(job, job.read()[0].model_copy(update={"round": 4}))
    assert keys(tmp_path) == []

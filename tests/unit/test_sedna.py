"""Files of Sedna: what their fields are here, what has no place, and what is no such file."""

import itertools
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from components.core.errors import InputError
from pipelines.__main__ import app
from pipelines.arguments import face_of, parse
from pipelines.interop.sedna import read
from pipelines.registry import PIPELINES

FILES = Path(__file__).resolve().parents[1] / "sedna"
INCREMENTAL, JOINT, LIFELONG = (
    FILES / f"{name}.yaml" for name in ("helmet_incremental", "helmet_joint", "robot_lifelong")
)


def options(command):
    """The options of a command, by name; those given several times as a list."""
    found = {}
    for name, value in zip(command[1::2], command[2::2], strict=True):
        found.setdefault(name, []).append(value)
    return found


def changed(path, tmp_path, *changes):
    """A file with other text in some places."""
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "job.yaml").write_text(text)
    return tmp_path / "job.yaml"


def losses(plan):
    return "\n".join(plan.lost())


def test_the_tutorial_on_incremental_learning_keeps_every_figure():
    (plan,) = read([INCREMENTAL])
    assert (plan.pipeline, plan.every) == ("incremental-learning", "60s")
    assert plan.parameters == {
        "job_root": "/output",
        "feed_url": "/data/site/train_data.txt",
        "data_format": "sedna",
        "train_ratio": 0.8,
        "trigger_conditions": ["num_of_samples > 50"],
        "trigger_window": {"start": "01:00", "end": "23:00"},
        "classes": "0:person,1:helmet,2:helmet-on,3:helmet-off",
        "batch": 8,
        "epochs": 1,
        "image_size": "352,640",
        "nms_threshold": 0.4,
        "confidence_threshold": 0.3,
        "node_selector": {"kubernetes.io/hostname": "train-1"},
        "gate_conditions": ["precision[2] >= 0"],
        "miner": "IBT",
        "miner_parameters": {"threshold_img": 0.9, "threshold_box": 0.9},
    }
    (worker,) = plan.workers
    assert worker[0] == "python -m components.serving.edge_worker"
    assert options(worker) == {
        "--job-root": ["/output"],
        "--node": ["edge-1"],
        "--source": ["/site/video/gate.mp4"],
        "--poll": ["60"],
        "--miner": ["IBT"],
        "-p": ["threshold_img=0.9", "threshold_box=0.9"],
    }


def test_what_has_no_place_is_one_line_with_its_reason():
    (plan,) = read([INCREMENTAL])
    starts = [line.split(":")[0] for line in plan.lost()]
    assert len(starts) == len(plan.lost()) == 7
    assert starts[0] == "trainSpec, evalSpec, deploySpec"
    assert "image registry.example/helmets:v1" in losses(plan)
    assert "Model start (/models/start, ckpt)" in losses(plan)
    assert "/site/he" in " ".join(plan.notes)


def test_strict_refuses_what_has_no_place_and_takes_what_has_one(tmp_path):
    with pytest.raises(InputError, match=r"(?s)not everything can be carried over.*document 4.*image registry"):
        read([INCREMENTAL], strict=True)
    path = changed(
        INCREMENTAL, tmp_path,
        ("registry.example/helmets:v1", "registry.example/edge-learning/train:0.1.0"),
        ("            imagePullPolicy: IfNotPresent\n", ""),
        ("/models/start", "/models/start.pt"), ('"ckpt"', '"pt"'), ('"at-the-gate"', '"start"'),
        ("            resources:\n              limits:\n                memory: 2Gi\n", ""),
    )  # fmt: skip
    (plan,) = read([path], ["feed_url=s3://feed/site"], strict=True)
    assert plan.parameters["feed_url"] == "s3://feed/site"
    assert plan.parameters["initial_model"] == "/models/start.pt"


def test_a_parameter_that_is_given_wins_and_makes_up_for_what_is_lost():
    (plan,) = read([INCREMENTAL], ["initial_model=/models/start.pt", "job_root=s3://jobs/gate", "batch=4"])
    assert plan.parameters["batch"] == 4
    assert "initial_model" not in losses(plan)
    assert options(plan.workers[0])["--job-root"] == ["s3://jobs/gate"]


def test_the_tutorial_on_joint_inference_makes_a_pipeline_a_server_and_a_worker():
    (plan,) = read([JOINT], ["data_url=/data/helmets.zip", "job_root=/jobs/two"])
    assert (plan.pipeline, plan.every) == ("joint-inference", "")
    assert plan.parameters == {
        "job_root": "/jobs/two",
        "data_url": "/data/helmets.zip",
        "image_size": "416,736",
        "big_image_size": "544,544",
        "cloud_node_selector": {"kubernetes.io/hostname": "cloud-1"},
        "cloud_memory": "2Gi",
        "edge_node_selector": {"kubernetes.io/hostname": "edge-1"},
        "edge_cpu": "100m",
        "edge_memory": "2Gi",
        "edge_source": "/joint_inference/video/gate.mp4",
    }
    server, worker = plan.workers
    assert server[0] == "python -m components.serving.cloud_server"
    assert options(server)["--member"] == ["big"]
    assert options(server)["--port"] == ["5000"]
    assert options(worker) == {
        "--job-root": ["/jobs/two"],
        "--member": ["little"],
        "--node": ["edge-1"],
        "--source": ["/joint_inference/video/gate.mp4"],
        "--sink": ["sedna:/joint_inference"],
        "--miner": ["IBT"],
        "-p": ["threshold_img=0.9", "threshold_box=0.9"],
        "--cloud-url": ["http://cloud-1:5000"],
    }


def test_what_scales_and_places_the_two_workers_is_given_to_the_rollout(tmp_path):
    cloud, edge = "        nodeName: cloud-1\n", "        nodeName: edge-1\n"
    tolerated = "tolerations: [{key: gpu, operator: Exists}]\n"
    path = changed(
        JOINT, tmp_path,
        (cloud, f"        nodeSelector: {{zone: hall}}\n        {tolerated}"),
        (edge, f"{edge}        {tolerated}"),
        ('      name: "big"', '      name: "big"\n    hpa: {minReplicas: 2, maxReplicas: 6, behavior: {}}'),
        ('      name: "little"', '      name: "little"\n    hpa: {maxReplicas: 3}'),
        ("memory: 2Gi\n          volumeMounts", "memory: 2Gi\n              cpu: 2\n          volumeMounts"),
        ("file://data/video/gate.mp4", "rtsp://me:hunter2@camera/1"),
    )  # fmt: skip
    (plan,) = read([path])
    given = plan.parameters
    assert (given["cloud_replicas"], given["cloud_max_replicas"]) == (2, 6)
    assert given["cloud_node_selector"] == {"zone": "hall"}
    assert given["cloud_tolerations"] == given["edge_tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert (given["edge_cpu"], given["edge_memory"]) == ("100m", "2Gi")
    assert "edge_source" not in given
    for lost in (
        "cloudWorker.hpa: behavior: images/cloud/server.yaml says",
        "edgeWorker: hpa: one edge worker runs on every node",
        "edgeWorker: resources memory=64M",
        "edgeWorker: resources cpu=2",
        "edgeWorker: env video_url: an address with a password goes into the secret edge_secret",
    ):
        assert lost in losses(plan)


def test_models_that_can_be_loaded_are_taken_as_they_are(tmp_path):
    path = changed(
        JOINT, tmp_path, ('format: "pb"', 'format: "pt"'), ("darknet.pb", "big.pt"), ("resnet18.pb", "little.pt")
    )
    (plan,) = read([path, FILES / "streets.yaml"])
    given = plan.parameters
    assert (given["base_model"], given["big_model"]) == ("/data/little-model/little.pt", "/data/big-model/big.pt")
    assert given["epochs"] == 0
    assert given["data_url"] == "/data/segmentation_data/data.txt"


def test_a_model_of_the_web_needs_a_digest(tmp_path):
    path = changed(INCREMENTAL, tmp_path, ("/models/start", "s3://models/start.pt"), ('"ckpt"', '"pt"'))
    (plan,) = read([path])
    assert "give initial_model=URL#sha256=DIGEST" in losses(plan)
    assert "initial_model" not in plan.parameters


def test_the_tutorial_on_lifelong_learning_keeps_every_figure():
    (plan,) = read([LIFELONG, FILES / "streets.yaml"])
    assert (plan.pipeline, plan.every) == ("lifelong-learning", "30s")
    expected = {
        "job_root": "/data/lifelonglearningjob/output/robot-walks",
        "feed_url": "/data/segmentation_data/data.txt",
        "data_format": "masks",
        "train_ratio": 0.8,
        "trigger_conditions": ["num_of_samples > 100"],
        "trigger_window": {"start": "00:00", "end": "24:00"},
        "epochs": 1,
        "task_definition": "TaskDefinitionByOrigin",
        "task_parameters": {"attribute": "real, sim", "city": "berlin"},
        "keep_conditions": [{"not": "score < 0"}],
        "train_cpu": "6",
        "train_memory": "12Gi",
        "step_cpu": "6",
    }
    assert {name: plan.parameters[name] for name in expected} == expected
    assert "/data/test_data" in plan.workers[0]
    assert "masks:/data/infer_results" in plan.workers[0]
    assert "--member" not in plan.workers[0], "it runs the models of all tasks"
    assert "compile --shm-size" in losses(plan)


@pytest.mark.parametrize(
    ("path", "pipeline"), [(INCREMENTAL, "incremental-learning"), (JOINT, "joint-inference")], ids=["loop", "two"]
)
def test_the_command_that_is_shown_gives_the_same_parameters(path, pipeline):
    done = CliRunner().invoke(app, ["sedna", str(path)])
    assert done.exit_code == 0
    words = shlex.split(done.stdout.split("\n# on a cluster")[0], comments=True)
    assert words[:5] == ["python", "-m", "pipelines", "run", pipeline]
    pairs = [word for before, word in itertools.pairwise(words) if before == "-p"]
    (plan,) = read([path])
    assert parse(face_of(PIPELINES[pipeline]), pairs, {}) == plan.parameters
    assert done.stdout.count("# not carried over: ") == len(plan.lost())


def test_a_split_leaves_something_to_test_on(tmp_path):
    (plan,) = read([changed(INCREMENTAL, tmp_path, ("trainProb: 0.8", "trainProb: 0.9"))])
    assert plan.parameters["train_ratio"] == 0.9
    assert plan.parameters["val_ratio"] == 0.05


def test_a_metric_of_classes_without_an_index_is_the_mean(tmp_path):
    (plan,) = read([changed(INCREMENTAL, tmp_path, ("precision[2]", "precision_delta"), ('">="', "gt"))])
    assert plan.parameters["gate_conditions"] == ["mean(precision_delta) > 0"]
    assert "takes the mean" in " ".join(plan.notes)


def test_class_names_that_a_file_gives_are_not_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("person\nhelmet\n")
    (plan,) = read([changed(INCREMENTAL, tmp_path, ("/data/site/train_data.txt", f"{tmp_path}/train_data.txt"))])
    assert plan.parameters["classes"] == "person,helmet,helmet-on,helmet-off"


def test_resources_and_nodes_of_two_steps_that_differ_are_a_loss(tmp_path):
    path = changed(
        INCREMENTAL, tmp_path,
        ('            args: ["eval.py"]', '            args: ["eval.py"]\n            resources: {limits: {cpu: 3}}'),
        (
            '            args: ["train.py"]',
            '            args: ["train.py"]\n            resources:\n              limits: {nvidia.com/gpu: 1, cpu: 2}',
        ),
        ("nodeName: train-1\n        containers:\n          - image: registry.example/helmets:v1\n            "
         "name: eval", "nodeName: eval-1\n        containers:\n          - image: registry.example/helmets:v1\n"
         "            name: eval"),
    )  # fmt: skip
    (plan,) = read([path])
    given = plan.parameters
    assert (given["train_cpu"], given["step_cpu"]) == ("2", "3")
    assert (given["train_gpus"], given["train_gpu_type"]) == ("1", "nvidia.com/gpu")
    assert "evalSpec: node kubernetes.io/hostname=eval-1: all steps share one node_selector" in losses(plan)


WRONG = {
    "key": (("    trigger:\n      checkP", "    triger:\n      checkP"),
            r"document 4 \(IncrementalLearningJob helmets-at-the-gate\): spec.trainSpec: unknown field 'triger': did "
            "you mean trigger"),
    "pod": (("        nodeName: edge-1", "        nodename: edge-1"),
            "unknown field 'nodename': did you mean nodeName"),
    "kind": (("kind: IncrementalLearningJob", "kind: IncrementalJob"), "unknown kind 'IncrementalJob': did you mean"),
    "other": (("kind: IncrementalLearningJob", "kind: FederatedLearningJob"),
              "FederatedLearningJob of Sedna has no counterpart here: choose from Dataset, Incr"),
    "version": (("sedna.io/v1alpha1\nkind: Dataset", "v1\nkind: Dataset"), "apiVersion 'v1' must be sedna.io/v1alpha1"),
    "operator": (('operator: ">="', 'operator: "=>"'), "unknown operator '=>'"),
    "metric": (("metric: precision[2] ", "metric: precision[ "), "spec.deploySpec.trigger.condition"),
    "timer": (("start: 01:00", "start: 25:00"), "'25:00' is not a time"),
    "share": (("trainProb: 0.8", "trainProb: 1.5"), "spec.dataset.trainProb"),
    "data": (('name: "site-images"', 'name: "site-image"'), "unknown Dataset 'site-image': did you mean site-images"),
    "model": (('name: "start"', 'name: "stop"'), "unknown Model 'stop'"),
    "variable": (("nodeName: edge-1", "nodeName: $WORKER_NODE"), r"has \$WORKER_NODE, a variable of a shell"),
    "number": (('value: "8"', 'value: "many"'), "batch='many'"),
    "list": (("        containers:", "        containers: []\n        others:"), "containers"),
    "nothing": (("spec:\n  initialModel:", "spec:\nextra:\n  initialModel:"), "unknown field 'extra'"),
    "name": (("name: at-the-gate", 'name: "at\\nthe gate"'), "document 3: metadata.name"),
    "twice": (("name: at-the-gate", "name: start"), "document 2 has the same name"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_that_names_the_document(tmp_path, case):
    change, message = WRONG[case]
    path = changed(INCREMENTAL, tmp_path, change)
    with pytest.raises(InputError, match=message) as caught:
        read([path])
    assert "\n" not in str(caught.value)
    assert f"{path}, document " in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "- 1\n- 2", "kind: [1]", "kind: Dataset",
     "{kind: Dataset, apiVersion: sedna.io/v1alpha1, metadata: 3}",
     "{kind: Dataset, apiVersion: sedna.io/v1alpha1, metadata: {name: [x]}, spec: {url: {}, format: txt}}",
     "{1: 2, kind: Model}", "kind: List\nitems: [3]", "a: [", "\x00", "a: &a [*a]", "!!python/object:os.system {}",
     "{kind: Dataset, apiVersion: sedna.io/v1alpha1, metadata: {name: x}, spec: {url: /x, format: txt}}"],
)  # fmt: skip
def test_odd_files_are_refused_in_one_line(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    done = CliRunner().invoke(app, ["sedna", str(path)])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_list_as_kubectl_prints_it_is_read_like_its_documents(tmp_path):
    documents = list(yaml.load_all(INCREMENTAL.read_text(), Loader=yaml.BaseLoader))
    for document in documents:
        document["metadata"] |= {"namespace": "default", "uid": "1"}
        document["status"] = {}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": documents}))
    assert read([tmp_path / "list.yaml"])[0].parameters == read([INCREMENTAL])[0].parameters


def test_what_is_printed_runs_nothing_but_the_commands_and_tells_no_secret(tmp_path):
    """A comment stays one line, whatever stands in a file; a variable without a place is named without its value."""
    change = (
        '              - name: "batch_size"\n                value: "8"',
        '              - {name: "A\\ntouch x", value: "b\\ntouch y"}\n'
        '              - {name: API_KEY, value: "hunter2"}',
    )
    done = CliRunner().invoke(app, ["sedna", str(changed(INCREMENTAL, tmp_path, change))])
    assert done.exit_code == 0
    assert "env A touch x: " in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("touch")]
    assert "env API_KEY: " in done.stdout
    assert "hunter2" not in done.stdout


def test_only_one_thing_is_done_with_a_file():
    done = CliRunner().invoke(app, ["sedna", str(INCREMENTAL), "--run", "--schedule"])
    assert done.exit_code == 1
    assert "choose one of --show, --run and --schedule" in done.stderr


def test_joint_inference_without_images_does_not_run():
    done = CliRunner().invoke(app, ["sedna", str(JOINT), "--run"])
    assert done.exit_code == 1
    assert "data_url is required" in done.stderr

"""The files of Sedna's tutorials, run to the end."""

import numpy as np

from components.core.job.job import Job
from components.core.lifelong.knowledge_base import KnowledgeBase
from tests.images import jpeg, squares
from tests.pipelines.test_helmet_detection import REPOSITORY, command, voc_zip

FILES = REPOSITORY / "tests" / "sedna"
HEAD = "apiVersion: sedna.io/v1alpha1\nkind: L"
QUICK = {"plugins": "tests.quick_estimator", "estimator": "quick"}


def run(name, folder, changes, **parameters):
    """Run a file with other texts in it, and give back what was printed and the job's state."""
    text = (FILES / f"{name}.yaml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "job.yaml").write_text(text)
    given = QUICK | parameters | {"job_root": f"{folder}/job"}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    done = command("sedna", "job.yaml", "--run", *words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, Job.open(str(folder / "job")).read()[0]


def test_a_job_of_incremental_learning_makes_a_champion(tmp_path):
    feed = tmp_path / "feed"
    (feed / "images").mkdir(parents=True)
    lines = []
    for number in range(60):  # more than 50
        image, boxes = squares(np.random.default_rng(number), size=64)
        (feed / "images" / f"{number:02}.jpg").write_bytes(jpeg(image))
        lines.append(" ".join([f"images/{number:02}.jpg", *(f"{x},{y},{u},{v},{c + 2}" for c, (x, y, u, v) in boxes)]))
    (feed / "train_data.txt").write_text("\n".join(lines) + "\n")
    changes = {
        "/data/site/train_data.txt": f"{feed}/train_data.txt", "01:00": "00:00", "23:00": "24:00", "352,640": "64,96",
        "person,helmet,helmet-on,helmet-off": "person,helmet,red,blue",  # the quick estimator sees red and blue
    }  # fmt: skip
    said, state = run("helmet_incremental", tmp_path, changes, initial_model="nothing", min_samples=2, min_map50=0)
    assert state.round == 1
    assert state.champion
    assert "# not carried over: " in said


def test_a_service_of_joint_inference_makes_a_pair(tmp_path):
    parameters = {
        "data_url": str(voc_zip(tmp_path / "data.zip")), "data_format": "voc", "base_model": "nothing",
        "big_model": "nothing", "epochs": 1, "train_ratio": 0.3, "val_ratio": 0.4, "min_recall_of_cloud": 0,
        "max_offload": 0.6, "confidence": 0.8, "offload_miner": "Threshold", "joint_conditions": '["gain >= -1"]',
    }  # fmt: skip
    changes = {"416,736": "64,96", "544,544": "96,96"}
    _, state = run("helmet_joint", tmp_path, changes, **parameters)
    assert state.champion


def test_a_job_of_lifelong_learning_makes_a_model_for_real_and_one_for_sim(tmp_path):
    feed = tmp_path / "feed"
    lines = []
    for number in range(48):
        image, boxes = squares(np.random.default_rng(number), size=64)
        path = feed / ("berlin", "drawn")[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(image))
        lines.append(
            " ".join([f"{path.parent.name}/{path.name}", *(f"{x},{y},{u},{v},{c}" for c, (x, y, u, v) in boxes)])
        )
    (feed / "data.txt").write_text("\n".join(lines) + "\n")
    dataset = (FILES / "streets.yaml").read_text().replace("/data/segmentation_data", str(feed))
    # The estimator of the tests is a detector: the index has boxes where that of the tutorial has masks.
    _, state = run(
        "robot_lifelong", tmp_path,
        {"threshold: 100": "threshold: 40", HEAD: f"{dataset}---\n{HEAD}"},
        data_format="sedna", classes="0:red,1:blue", image_size="64,96", initial_model="nothing", min_samples=2,
        min_map50=0, gate_conditions='["map50 >= 0"]',
    )  # fmt: skip
    assert state.round == 1
    job = Job.open(str(tmp_path / "job"))
    base = KnowledgeBase.of(job.registry.release(state.champion, state.vouched[state.champion]), state.champion)
    assert base.tasks.keys() == {"real", "sim"}

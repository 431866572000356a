"""Benchmarking jobs of ianvs as benchmarks of this suite."""

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from components.benchmark.algorithms import read_algorithms
from components.core.errors import InputError
from pipelines.__main__ import app
from pipelines.interop.ianvs import read

FILES = Path(__file__).resolve().parent.parent / "ianvs"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The files in a folder of their own, with index files beside them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FILES, tmp_path / "ianvs")
    for side in ("train", "test"):
        (tmp_path / "boards" / side).mkdir(parents=True)
        (tmp_path / "boards" / side / "index.txt").write_text("images/1.jpg annotations/1.xml\n")
    return tmp_path / "ianvs" / "benchmarkingjob.yaml"


def change(job, name, old, new):
    path = job.with_name(f"{name}.yaml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_published_shape_is_a_benchmark_of_two_algorithms(job):
    plan = read(job)
    first = plan.parameters
    assert first["data_url"] == "boards/train" and first["test_url"] == "boards/test"
    assert (first["stream"], first["rounds"], first["data_format"]) == ("order", 2, "voc")
    assert first["sort_by"] == "f1_ianvs,samples_transfer_ratio"
    assert first["train_ratio"] / (first["train_ratio"] + first["val_ratio"]) == pytest.approx(0.8)
    made = read_algorithms(first["algorithms"])
    assert [one.name for one in made] == ["fpn_boards momentum=0.95", "fpn_boards momentum=0.5"]
    for one in made:
        assert (one.estimator, one.base_model) == ("fpn", "fasterrcnn_resnet50_fpn")
        assert one.estimator_options["lr"] == 0.1
        assert one.miner == "IBT"
        assert one.miner_parameters == {"threshold_img": 0.9, "threshold_box": 0.9, "on_empty": "easy"}
        assert (one.label_budget, one.replay_ratio, one.min_score) == (-1, 0, 0.5)
        assert (one.gate_metric, one.min_gain) == ("f1_ianvs", 0.01)


def test_every_line_that_is_not_carried_over_is_named_with_its_file_and_number(job):
    lost = read(job).lost()
    where = {line.split(": ")[0].rpartition("/")[2] for line in lost}
    assert where == {
        "algorithm.yaml:6", "algorithm.yaml:10", "algorithm.yaml:21", "benchmarkingjob.yaml:13",
        "benchmarkingjob.yaml:16", "benchmarkingjob.yaml:21",
    }  # fmt: skip
    assert any("model.zip: not weights of this suite" in line for line in lost)
    with pytest.raises(InputError, match="not everything can be carried over"):
        read(job, strict=True)


def test_what_is_printed_is_a_file_for_run(job):
    done = CliRunner().invoke(app, ["ianvs", str(job), "-p", "job_root=/jobs/boards", "-p", "seeds=7"])
    assert done.exit_code == 0, done.output
    printed = yaml.safe_load(done.stdout)
    assert printed["job_root"] == "/jobs/boards" and printed["seeds"] == "7"
    assert "# not carried over: " in done.stdout and "# note: " in done.stdout


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (
            "benchmarkingjob",
            "testenv:",
            "testenvs:",
            "benchmarkingjob.yaml:2: unknown key 'testenvs': did you mean testenv?",
        ),
        ("testenv", "threshold: 0.01", "treshold: 0.01", "unknown key 'treshold': did you mean threshold?"),
        ("testenv", "incremental_rounds: 2", "incremental_rounds: 1", "testenv.yaml:15"),
        (
            "algorithm",
            "incrementallearning",
            "lifelonglearning",
            "algorithm.yaml:2: lifelonglearning is another paradigm",
        ),
        ("algorithm", '"FPN"', '"Other"', "algorithm.yaml:9: no estimator Other"),
        ("algorithm", '"IBT"', '"Other"', "algorithm.yaml:20: unknown miner 'Other'"),
        ("benchmarkingjob", "ianvs/testenv.yaml", "ianvs/no.yaml", "benchmarkingjob.yaml:5: no file ./ianvs/no.yaml"),
        ("algorithm", "- 0.1", "- abc", "lr='abc'"),
        ("testenv", "0.01", "5", "min_gain=5: Input should be less"),
        ("algorithm", "algorithm:", "algorithms:", "must have the one key algorithm, not algorithms"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_its_place(job, name, old, new, words):
    change(job, name, old, new)
    with pytest.raises(InputError) as caught:
        read(job)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_metrics_and_hyperparameters_of_its_own_code_are_lost_by_name(job):
    change(job, "testenv", '- name: "samples_transfer_ratio"', '- name: "own_metric"')
    change(job, "algorithm", "- momentum:", "- temperature:")
    lost = read(job).lost()
    assert any("testenv.yaml:14: metric own_metric: code of ianvs does not run here" in line for line in lost)
    assert any("algorithm.yaml:12: hyperparameter temperature" in line for line in lost)


def test_files_of_hyperparameters_are_lost_by_name(job):
    files = "other_hyperparameters:\n            values:\n              - hp.yaml\n        - "
    change(job, "algorithm", "momentum:", f"{files}momentum:")
    change(job, "algorithm", "threshold_img:", f"{files}threshold_img:")
    plan = read(job)
    for number in (12, 26):
        assert any(f"algorithm.yaml:{number}: hp.yaml: files of hyper-parameters" in line for line in plan.lost())
    (made,) = plan.parameters["algorithms"]
    assert made["estimator_options"] == {"momentum": [0.95, 0.5], "lr": [0.1]}
    assert made["miner_parameters"] == {"threshold_img": [0.9], "threshold_box": [0.9], "on_empty": "easy"}


def test_what_behaves_otherwise_is_noted_once(job):
    change(job, "benchmarkingjob", "  rank:", "      - name: other\n        url: ./ianvs/other.yaml\n  rank:")
    shutil.copy(job.with_name("algorithm.yaml"), job.with_name("other.yaml"))
    change(job, "other", "- 0.1", "- 0.2")
    notes = read(job).notes
    assert len(notes) == len(set(notes))
    for words in ("the first round is labelled whole", "validation samples of all rounds so far"):
        assert any(words in note for note in notes)


def test_data_that_is_given_is_not_asked_for(job):
    change(job, "testenv", "./boards/train/index.txt", "./elsewhere/train/index.txt")
    assert any("give data_url" in note for note in read(job).notes)
    assert not any("give data_url" in note for note in read(job, ["data_url=boards/train"]).notes)


def test_a_second_index_is_lost_by_name(job):
    change(job, "testenv", "    test_index:", "    train_data: ./boards/other.txt\n    test_index:")
    assert any("testenv.yaml:4: train_data: train_index is taken" in line for line in read(job).lost())


@pytest.mark.parametrize("name", ["benchmarkingjob", "testenv"])
def test_a_name_too_long_for_a_file_is_one_that_is_not_there(job, name):
    place = {"benchmarkingjob": "./ianvs/algorithm.yaml", "testenv": "./boards/train/index.txt"}[name]
    change(job, name, place, "a" * 5000)
    if name == "testenv":
        assert any("is not here: give data_url" in note for note in read(job).notes)
    else:
        with pytest.raises(InputError, match=r"benchmarkingjob.yaml:10: no file aaa"):
            read(job)


def test_an_index_of_boxes_is_read_as_it_is(job, tmp_path):
    (tmp_path / "boards" / "train" / "index.txt").write_text("images/1.jpg 1,2,30,40,0\n")
    (tmp_path / "boards" / "test" / "index.txt").write_text("images/1.jpg 1,2,30,40,0\n")
    plan = read(job)
    assert plan.parameters["data_url"] == "boards/train/index.txt"
    assert "data_format" not in plan.parameters


def test_weights_beside_the_file_are_found(job, tmp_path):
    (tmp_path / "ianvs" / "start.pt").write_bytes(b"weights")
    change(job, "algorithm", "/models/boards/model.zip", "./start.pt")
    (first,) = read(job).parameters["algorithms"]
    assert (first["base_model"], first["initial_epochs"]) == (str(tmp_path / "ianvs" / "start.pt"), 0)


def test_weights_of_this_suite_are_the_first_model(job, tmp_path):
    (tmp_path / "start.pt").write_bytes(b"weights")
    change(job, "algorithm", "/models/boards/model.zip", str(tmp_path / "start.pt"))
    (first,) = read(job).parameters["algorithms"]
    assert (first["base_model"], first["initial_epochs"]) == (str(tmp_path / "start.pt"), 0)


def test_a_learning_rate_of_a_yolo_comes_with_the_optimizer_that_it_is_of(job):
    change(job, "algorithm", '"FPN"', '"yolo"')
    for one in read_algorithms(read(job).parameters["algorithms"]):
        assert (one.estimator_options["lr0"], one.estimator_options["optimizer"]) == (0.1, "SGD")

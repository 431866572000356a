import pytest

from components.core import parameters
from components.core.errors import InputError

PHASES = parameters.WORKFLOWS["helmet-detection"]
GOOD = {"job_root": "jobs/helmet", "data_url": "data.zip"}


def test_the_defaults_are_right():
    assert parameters.problems(GOOD, PHASES) == []


def test_every_mistake_is_reported_at_once():
    found = parameters.problems(
        {"job_root": "", "epochs": -1, "image_size": "650", "train_ratio": 1.5, "nms_treshold": 0.4}, PHASES
    )
    text = "\n".join(found)
    assert len(found) == 6
    for words in (
        "nms_treshold is not a parameter of this pipeline: did you mean nms_threshold?",
        "data_url is required",
        "job_root is required",
        "epochs=-1",
        "650 is not a multiple of 32 between 32 and 4096: the nearest is 640",
        "train_ratio=1.5",
    ):
        assert words in text


def test_ratios_that_leave_no_test_split_are_reported():
    assert "leave nothing to test on" in parameters.problems({**GOOD, "train_ratio": 0.9, "val_ratio": 0.1}, PHASES)[0]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("base_model", "https://example.com/a.pt", "append #sha256="),
        ("device", "gpu", "must be auto, cpu"),
        ("batch", float("nan"), "batch"),
        ("confidence_threshold", float("nan"), "confidence_threshold"),
        ("step_memory", "4 gigs", "Kubernetes quantity"),
        ("store_secret", "My Secret", "Kubernetes object name"),
        ("classes", "hat:helmet,hat:head", "'hat' is given twice"),
        ("experiment_labels", "site", "'site' is not name=value"),
        ("group_pattern", "(a)(b)", "2 groups"),
        ("group_pattern", "(", "not a regular expression"),
        ("split_by", "random", "split_by"),
        ("tolerations", "none", "tolerations"),
    ],
)
def test_a_wrong_value_is_reported_by_name(name, value, words):
    (problem,) = parameters.problems({**GOOD, name: value}, PHASES)
    assert words in problem


def test_a_checksum_may_be_in_capital_letters():
    assert not parameters.problems({**GOOD, "base_model": f"https://example.com/a.pt#sha256={'AB' * 32}"}, PHASES)


def test_names_of_the_old_pipelines_lead_to_ours():
    assert "did you mean confidence_threshold?" in parameters.problems({**GOOD, "obj_threshold": 0.3}, PHASES)[0]
    assert "did you mean data_path?" in parameters.problems({**GOOD, "datapath": "x"}, PHASES)[0]


def test_image_sizes():
    assert parameters.parse_image_size("640") == (640, 640)
    assert parameters.parse_image_size("352,640") == (352, 640)
    assert parameters.parse_image_size("(416, 736)") == (416, 736)
    assert parameters.parse_image_size("640x640") == (640, 640)
    with pytest.raises(InputError, match="'640x480' does not say which is the height"):
        parameters.parse_image_size("640x480")
    for wrong in ("", "a", "0", "32,64,96", "-32", "640.5"):
        with pytest.raises(InputError):
            parameters.parse_image_size(wrong)


def test_check_raises_one_line():
    with pytest.raises(InputError, match="2 parameters are wrong: .*; .*") as caught:
        parameters.check({"epochs": -1, "job_root": "x", "data_url": ""}, PHASES)
    assert "\n" not in str(caught.value)


def test_numbers_that_kfp_turned_into_floats_are_taken():
    assert parameters.problems({**GOOD, "epochs": 3.0}, PHASES) == []
    assert parameters.problems({**GOOD, "epochs": 3.5}, PHASES) != []


def test_a_password_in_a_url_is_not_shown():
    (problem,) = parameters.problems({**GOOD, "base_model": "https://me:secret@example.com/a.pt"}, PHASES)
    assert "secret" not in problem
    assert "https://example.com/a.pt" in problem


@pytest.mark.parametrize("value", [True, "true"])
def test_true_is_no_number(value):
    assert parameters.problems({**GOOD, "train_ratio": value}, PHASES)
    assert parameters.problems({**GOOD, "epochs": value}, PHASES)


def test_the_settings_of_all_sections_are_checked_together():
    parameters.check_settings({"train": {"epochs": 3}, "label": {"label_format": "coco"}, "group_pattern": "(a)"})
    with pytest.raises(InputError, match=r"2 parameters are wrong: labels is not .*; batch=0: must be"):
        parameters.check_settings({"train": {"batch": 0, "labels": "a"}})


def test_a_poll_reports_what_a_round_would_refuse(tmp_path, capsys):
    from kfp import dsl

    from components.trigger.component import trigger

    report = dsl.HTML(name="report", uri=str(tmp_path / "report"), metadata={})
    with pytest.raises(SystemExit):
        trigger.python_func(str(tmp_path), str(tmp_path / "job"), report, settings={"train": {"batch": 0}})
    assert "trigger error: 1 parameter is wrong: batch=0: must be a whole number >= 1" in capsys.readouterr().out

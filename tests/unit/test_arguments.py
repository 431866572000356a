"""Parameters as people give them, sorted into what KFP takes."""

import json
import random

import pytest
from kfp import dsl
from typer.testing import CliRunner

from components.core.errors import InputError
from components.core.parameters import (
    MODELS,
    ROWS,
    DataSettings,
    MineSettings,
    TrainSettings,
    read,
    read_value,
    renamed,
)
from pipelines import __main__ as command_line
from pipelines.__main__ import app
from pipelines.arguments import Face, check, face_of, parse, problems, sort_into_place
from pipelines.registry import PIPELINES
from pipelines.terminal import parameters_from

HELMET = face_of(PIPELINES["helmet-detection"])
GOOD = {"data_url": "s3://images/voc.zip", "job_root": "s3://jobs/helmet"}


def test_each_parameter_goes_into_its_section():
    placed = sort_into_place(
        PIPELINES["helmet-detection"], GOOD | {"epochs": 3, "classes": "a,b", "train_gpus": 1, "targets": "rk3588"}
    )
    assert placed == GOOD | {
        "train_gpus": "1",
        "settings": {"train": {"epochs": 3}, "data": {"classes": "a,b"}, "convert": {"targets": "rk3588"}},
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_by_its_own_name_runs_with_its_default(name):
    face = face_of(PIPELINES[name])
    required = {"data_url": "a", "feed_url": "b", "job_root": "c"}
    given = {row: required.get(row, face.default_of(row)) for row in face.names}
    placed = sort_into_place(face, given)
    assert placed.keys() == face.inputs.keys()
    assert placed["settings"] == PIPELINES[name].component_spec.inputs["settings"].default


def test_settings_may_be_given_whole_and_names_beside_them_win():
    whole = GOOD | {"settings": {"train": {"epochs": 3, "batch": 4}}, "epochs": 5}
    assert sort_into_place(HELMET, whole)["settings"] == {"train": {"epochs": 5, "batch": 4}}
    assert sort_into_place(HELMET, GOOD | {"settings": {"epochs": 3}})["settings"] == {"train": {"epochs": 3}}
    words = ['settings={"train": {"epochs": 3}}', "epochs=7"]
    assert parse(HELMET, words, {"train": {"epochs": 1, "batch": 2}}) == {"epochs": 7, "batch": 2}


def test_the_command_line_wins_over_the_file_by_whatever_name():
    assert parse(HELMET, ["gpu_limit=1"], {"train_gpus": 2}) == {"gpu_limit": "1"}
    assert parse(HELMET, ["train_gpus=1"], {"gpu_limit": 2}) == {"train_gpus": "1"}


def test_old_names_are_taken_with_a_note_and_lead_to_the_new_ones():
    loop = face_of(PIPELINES["incremental-learning"])
    given = parse(loop, ["max_loss=0.1", "trial_fraction=0.2", "cpu_request=4", "random_share=0"], {})
    assert renamed(given) == [
        "max_loss has been renamed to max_map50_drop",
        "trial_fraction has been renamed to canary_fraction",
        "cpu_request has been renamed to train_cpu",
        "random_share has been renamed to random_fraction",
    ]
    placed = sort_into_place(loop, given | {"feed_url": "a", "job_root": "b"})
    assert placed["train_cpu"] == "4"
    assert placed["settings"] == {
        "gate": {"max_map50_drop": 0.1},
        "rollout": {"canary_fraction": 0.2},
        "mine": {"random_fraction": 0},
    }
    assert read(MineSettings, {"mine": {"least_score": 0.2}}).min_score == 0.2


def test_twice_by_two_names_is_refused():
    with pytest.raises(InputError, match="max_map_drop is given twice, once by its old name max_map_loss"):
        check(HELMET, GOOD | {"max_map_loss": 0.1, "max_map_drop": 0.2})


def test_unknown_names_are_reported_wherever_they_are():
    for given in ({"epoch": 3}, {"settings": {"epoch": 3}}, {"settings": {"train": {"epoch": 3}}}):
        (line,) = problems(HELMET, GOOD | given)
        assert line == "epoch is not a parameter of this pipeline: did you mean epochs?"
    with pytest.raises(InputError, match="epochz is not a setting: did you mean epochs?"):
        read(TrainSettings, {"train": {"epochz": 3}})
    assert problems(HELMET, GOOD | {"label_budget": 3}) != [], "another pipeline's"
    assert problems(HELMET, GOOD | {"settings": 3}) == ["settings=3 must be a mapping of parameter names to values"]


def test_a_step_leaves_the_settings_of_others_alone():
    assert read(DataSettings, {"train": {"batch": 0}, "data": {"classes": "a"}}).classes == "a"
    with pytest.raises(InputError, match="batch=0: must be a whole number >= 1 and <= 4096"):
        read(TrainSettings, {"train": {"batch": 0}})


# The grammar


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("epochs=010", 10),
        ("epochs=3.0", 3),
        ("epochs=1e2", 100),
        ("max_bad_fraction=1e-3", 0.001),
        ("max_unpacked_gb=1e3", 1000.0),
        ("classes=yes,no", "yes,no"),
        ("experiment_labels=site=north", "site=north"),
        ('estimator_options={"lr0": 1e-4, "mosaic": 0}', {"lr0": 0.0001, "mosaic": 0}),
        ("estimator_options={lr0: 1e-4}", {"lr0": 0.0001}),
        ("image_size=640", "640"),
        ("tolerations=[]", []),
        ("epochs=", 100),
        ("device=", "auto"),
        ("quantization_retries=", ""),
    ],
)
def test_a_word_is_read(word, value):
    name = word.split("=")[0]
    given = parse(HELMET, [word], {})
    assert (given[name], type(given[name])) == (value, type(value))
    assert problems(HELMET, GOOD | given) == []


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("classes=[helmet, no]", "helmet,no"),
        ("classes={hat: helmet, 010: no}", "hat:helmet,010:no"),
        ("image_size=[352, 640]", "352,640"),
        ("targets=[]", ""),
    ],
)
def test_a_list_may_be_typed_in_where_texts_are_joined(word, value):
    assert parse(HELMET, [word], {}) == {word.partition("=")[0]: value}


def test_a_parameter_that_is_typed_in_twice_is_refused():
    with pytest.raises(InputError, match="^epochs: given more than once"):
        parse(HELMET, ["epochs=3", "batch=4", "epochs=5"], {})


def test_a_number_of_a_file_stays_as_it_is_written(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "classes: [010, 1.10, 7]\nepochs: 010\nsettings: {train: {experiment: 1e3}, data: {ignore_classes: 007}}\n"
        "estimator_options: {lr0: 1e-2}\n"
    )
    given = parse(HELMET, [], parameters_from(tmp_path / "p.yaml"))
    assert given == {
        "classes": "010,1.10,7", "epochs": 10, "experiment": "1e3", "ignore_classes": "007",
        "estimator_options": {"lr0": 0.01},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"classes": None}, ""),
        ({"classes": ["helmet", "head"]}, "helmet,head"),
        ({"classes": {"hat": "helmet"}}, "hat:helmet"),
        ({"base_model": None}, "yolo11n.yaml"),
        ({"experiment_labels": {"site": "north", "camera": 7}}, "site=north,camera=7"),
        ({"image_size": [352, 640]}, "352,640"),
        ({"device": 0}, "0"),
        ({"device": [0, 1]}, "0,1"),
        ({"targets": ["rk3588"]}, "rk3588"),
        ({"train_gpus": 1}, "1"),
        ({"epochs": "3"}, 3),
    ],
)
def test_a_value_of_a_file_is_read(given, value):
    (name,) = given
    assert parse(HELMET, [], given) == {name: value}
    assert problems(HELMET, GOOD | given) == []


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"seed": "12:30"}, "seed='12:30': must be a whole number >= 0 and < 2147483648"),
        ({"epochs": 3.5}, "epochs=3.5: must be a whole number >= 0 and <= 100000"),
        ({"epochs": [3]}, "epochs=[3]: must be a whole number >= 0 and <= 100000"),
        ({"classes": ["a,b"]}, "classes=['a,b']: the item 'a,b' must be text without ','"),
        ({"classes": True}, "classes=True: must be text"),
        ({"base_model": ["a"]}, "base_model=['a']: must be text"),
        ({"split_by": "name"}, "split_by='name': must be one of hash, source"),
        ({"train_gpus": "1.5"}, "train_gpus='1.5': must be a whole number of GPUs: Kubernetes gives no part of one"),
        ({"node_selector": {"pool": 3}}, "node_selector: the value of pool must be text of at most 63 letters"),
        ({"node_selector": {"a b": "c"}}, "node_selector: the label 'a b' must be a Kubernetes label such as"),
        ({"estimator_options": "{a: [}"}, "estimator_options='{a: [}': must be a mapping, such as"),
        ({"estimator_options": {"lr0": float("nan")}}, "estimator_options={'lr0': nan}: nan is not a finite number"),
        ({"max_map_drop": "1e400"}, "max_map_drop='1e400': must be a number >= 0 and <= 1"),
        ({"max_files": "9" * 30}, "must be a whole number >= 1, and is too large"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_it_must_be(given, line):
    (found,) = problems(HELMET, GOOD | given)
    assert line in found


@pytest.mark.parametrize(
    ("toleration", "words"),
    [
        ({"key": "a", "operater": "Exists"}, "unknown field 'operater': choose from effect, key, operator"),
        ({"key": "a", "operator": "exists"}, "operator 'exists' must be Equal or Exists"),
        ({"key": "a", "operator": "Exists", "effect": "noschedule"}, "effect 'noschedule' must be NoSchedule"),
        ({"key": "a", "operator": "Exists", "value": "x"}, "operator Exists takes no value"),
        ({"key": "a", "value": True}, "value must be text, not True"),
        ({"value": "x"}, "an empty key matches every taint and needs operator Exists"),
        ({"key": "-a", "operator": "Exists"}, "must be a Kubernetes label"),
        ({"key": "a", "operator": "Exists", "tolerationSeconds": 3}, "needs effect NoExecute"),
        ("a", "must be a mapping"),
    ],
)
def test_tolerations_are_checked_as_kubernetes_does(toleration, words):
    (found,) = problems(HELMET, GOOD | {"tolerations": [toleration]})
    assert words in found


def test_right_tolerations_pass():
    right = [
        {"operator": "Exists"},
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "pool", "value": "gpu", "effect": "NoExecute", "tolerationSeconds": 60.0},
    ]
    assert problems(HELMET, GOOD | {"tolerations": right}) == []


def test_one_condition_needs_no_brackets():
    loop = face_of(PIPELINES["incremental-learning"])
    assert parse(loop, ["trigger_conditions=num_of_samples>=50"], {}) == {"trigger_conditions": ["num_of_samples>=50"]}


ODD = [
    "", "0", "-1", "1e400", "1" * 5000, "12:30", "0x10", "²", "٣", "nan", ".inf", "true", "null", "!!bool maybe",
    '!!int ""', "!!python/object:os.system x", "[" * 2000, "{" * 2000, "[1", "{1: 2}", "*x", "a: &a [1]\nb: *a", ",,,",
    "(", "(" * 5000, "a{99999999999}", "\x00", "\ud800", "é", "640x352", "champion", "https://u:p@h/x.pt",
    "[null]", "[[]]", '{"any": []}', '{"start": 22}', "x" * 100_000,
    None, True, 10**400, 2.5, float("nan"), float("inf"), [], [None], [[3]], {}, {1: 2},
    {None: True}, {"any": {"a": []}},
]  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_no_value_of_any_parameter_gives_more_than_a_line(name):
    face = face_of(PIPELINES[name])
    rng = random.Random(7)
    good = {given: "/tmp/x" for given, port in face.inputs.items() if not port.optional}
    for parameter in sorted(face.names | {"settings", "train"}):
        for value in rng.sample(ODD, 12):
            for given in ({parameter: value}, {"settings": {parameter: value}}):
                try:
                    placed = sort_into_place(face, good | (parse(face, [], given) if parameter in given else given))
                    sent = json.loads(json.dumps(placed.get("settings", {}), allow_nan=False), parse_int=float)
                    for model in MODELS:
                        if model.section:
                            read(model, sent)
                except InputError as error:
                    assert "\n" not in str(error)
                    assert len(str(error)) < 2500, (parameter, str(error)[:200])


def test_numbers_of_every_kind_are_read_strictly():
    assert read_value(int, " 007 ") == 7
    assert read_value(bool, "Yes") is True
    for kind, wrong in (
        (int, "1_000"),
        (int, "٣"),
        (float, "1,5"),
        (bool, "2"),
        (bool, None),
        (list, "a"),
        (dict, "[]"),
    ):
        with pytest.raises(ValueError, match="must be"):
            read_value(kind, wrong)


# Pipelines of a user's own


@dsl.component(base_image="example/tool:1", install_kfp_package=False)
def step(data_url: str, epochs: float, image_size: int, settings: dict):
    print(data_url, epochs, image_size, settings)


@dsl.pipeline(name="own")
def own(data_url: str, image_size: int, flag: bool, epochs: float = 3.0, gpu_type: str = "x", settings: dict = {}):  # noqa: B006
    step(data_url=data_url, epochs=epochs, image_size=image_size, settings=settings)


def test_each_known_name_of_a_pipeline_of_ones_own_is_checked():
    face = face_of(own)
    found = problems(face, {"data_url": "a", "epochs": -5, "image_size": "banana", "flag": "perhaps"})
    assert [line.split("=")[0] for line in found] == ["epochs", "flag", "image_size"]
    assert problems(face, {"data_url": "a"}) == ["flag is required", "image_size is required"]
    assert problems(face, {"data_url": "a", "image_size": 64, "flag": 1, "batches": 3}) == [
        "batches is not a parameter of this pipeline: did you mean batch?"
    ]


def test_a_pipeline_of_ones_own_gets_the_types_that_it_declares_and_keeps_its_names():
    given = {"data_url": "a", "image_size": "64", "flag": "yes", "epochs": 5, "batch": 4, "gpu_type": "y"}
    placed = sort_into_place(own, given)
    assert placed == {
        "data_url": "a", "image_size": 64, "flag": True, "epochs": 5.0, "gpu_type": "y",
        "settings": {"train": {"batch": 4}},
    }  # fmt: skip
    assert isinstance(placed["epochs"], float)


@dsl.pipeline(name="careful")
def careful(data_url: str, settings: dict = {"train": {"epochs": 5, "image_size": "320"}}):  # noqa: B006
    step(data_url=data_url, epochs=1.0, image_size=1, settings=settings)


def test_what_a_pipeline_of_ones_own_chooses_stays_where_nothing_else_is_given():
    assert sort_into_place(careful, {"data_url": "a"}) == {"data_url": "a"}
    placed = sort_into_place(careful, {"data_url": "a", "epochs": 7, "classes": "a,b", "device": None})
    assert placed["settings"] == {"train": {"epochs": 7, "image_size": "320"}, "data": {"classes": "a,b"}}


def test_a_pipeline_without_settings_takes_its_inputs_alone():
    face = Face({name: port for name, port in face_of(own).inputs.items() if name != "settings"}, {})
    assert (
        "batch is not a parameter" in problems(face, {"data_url": "a", "image_size": 64, "flag": True, "batch": 1})[0]
    )


# The command line


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", PIPELINES)
def test_help_for_a_pipeline_lists_its_parameters(name, flag):
    done = CliRunner().invoke(app, ["run", name, flag], terminal_width=100)
    assert done.exit_code == 0
    listed = [line.strip() for line in done.output.splitlines() if line.startswith("  ") and line[2:3].strip()]
    for parameter in face_of(PIPELINES[name]).names:
        assert any(line == parameter or line.startswith(f"{parameter}=") for line in listed), parameter
    assert "Required." in done.output
    assert ROWS["job_root"].description.split(":")[0] in " ".join(done.output.split())


def test_version():
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.output.startswith("edge-learning 0.1.0")


def test_names_that_no_registry_has_are_reported_with_all_other_errors(tmp_path):
    words = ["-p", "batch=0", "-p", "estimator=yolov8", "-p", "data_format=vocc", "-p", "runtime=tpu"]
    done = CliRunner().invoke(app, ["run", "helmet-detection", *words])
    assert done.exit_code == 1
    assert done.output.startswith("error: 5 parameters are wrong: batch=0: must be a whole number >= 1")
    for words in ("unknown estimator 'yolov8'", "'vocc'", "unknown runtime 'tpu'"):
        assert words in done.output


def test_plugins_lists_every_kind_and_takes_modules_as_a_parameter():
    done = CliRunner().invoke(app, ["plugins", "-p", "plugins=tests.broken_miner"])
    kinds = {line.split("  ")[0] for line in done.output.splitlines()}
    assert {"estimator", "miner", "runtime", "head", "decoder", "examination"} <= {kind.strip() for kind in kinds}
    assert "label-studio" in done.output
    refused = CliRunner().invoke(app, ["plugins", "-p", "epochs=3"])
    assert (refused.exit_code, refused.output) == (1, "error: epochs: only plugins=MODULES is possible here\n")


def test_a_file_of_parameters_that_is_no_mapping_is_refused_and_an_empty_one_is_none(tmp_path):
    path = tmp_path / "p.yaml"
    for text in ("[]", "0", "false", '""'):
        path.write_text(text)
        with pytest.raises(InputError, match="not a mapping of parameter names to values"):
            parameters_from(path)
    path.write_text("# nothing yet\n")
    assert parameters_from(path) == {}


def test_a_required_path_that_is_left_empty_in_a_file_is_required(tmp_path):
    (tmp_path / "p.yaml").write_text("data_url: null\n")
    done = CliRunner().invoke(app, ["run", "helmet-detection", "--params", str(tmp_path / "p.yaml")])
    assert (done.exit_code, done.output) == (1, "error: 1 parameter is wrong: data_url is required\n")


def test_paths_become_whole_and_what_is_none_stays_for_the_checks_to_tell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    given = {
        "job_root": "s3:/jobs/helmet", "data_url": "~nosuchuser/data", "feed_url": "loop", "test_url": "a\0b",
        "base_model": "m" * 300, "initial_model": "yolo11n.yaml",
    }  # fmt: skip
    paths = {"data_url": str(tmp_path / "~nosuchuser/data"), "feed_url": str(tmp_path / "loop")}
    assert command_line._absolute(given) == given | paths


def test_an_address_with_one_slash_is_no_folder_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    done = CliRunner().invoke(app, ["run", "helmet-detection", "-p", "data_url=data", "-p", "job_root=s3:/jobs/helmet"])
    assert done.exit_code == 1
    assert "s3:/jobs/helmet: two slashes must follow the colon" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("words", [["jobs"], ["rollback"]])
def test_a_user_that_there_is_not_is_a_plain_name_as_in_a_shell(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, "~nosuchuser/job"])
    assert done.exit_code == 1
    assert done.output.startswith(f"error: file://{tmp_path}/~nosuchuser/job: ")


# What is compiled


@pytest.mark.parametrize("words", [[], ["--output", "compiled"], ["--output", "compiled", "--image-tag", "mine"]])
def test_the_committed_files_are_never_compiled_with_other_images(words, monkeypatch):
    monkeypatch.chdir(command_line.COMPILED.parent)
    monkeypatch.setenv("EDGE_IMAGE_TAG", "mine")
    done = CliRunner().invoke(app, ["compile", *words])
    assert done.exit_code == 1
    assert "with other images, sizes or a queue (EDGE_IMAGE_TAG), give --output" in done.output


def test_a_check_writes_no_manifests(tmp_path):
    done = CliRunner().invoke(app, ["compile", "--check", "--manifests", str(tmp_path / "objects")])
    assert done.exit_code == 1
    assert "--check writes nothing" in done.output
    assert not (tmp_path / "objects").exists()

"""Parameters as people write them, as the types that KFP insists on."""

import builtins
import io
from types import SimpleNamespace

import pytest
from kfp import dsl
from kfp.local.logging_utils import indented_print

from components.core import parameters
from components.core.parameters import ROWS, WORKFLOWS, kind_of
from pipelines.arguments import face_of
from pipelines.local import RunLog, parse_arguments, run
from pipelines.registry import PIPELINES


@pytest.mark.parametrize("name", PIPELINES)
def test_every_number_may_be_written_whole_or_not_and_every_truth_as_a_number(name):
    pipeline = PIPELINES[name]
    for parameter in face_of(pipeline).names:
        kind = kind_of(ROWS[parameter].annotation)
        spellings = {float: ("1", "1.0", 1, 1.0), int: ("1", "1.0", 1, 1.0), bool: ("true", "1", True, 1)}
        for spelling in spellings.get(kind, ()):
            pairs = [f"{parameter}={spelling}"] if isinstance(spelling, str) else []
            given = parse_arguments(pipeline, pairs, {} if pairs else {parameter: spelling})
            assert (type(given[parameter]), given[parameter]) == (kind, 1), (parameter, spelling)


def test_what_is_no_such_number_is_left_for_the_check_to_tell():
    given = parse_arguments(
        PIPELINES["incremental-learning"],
        ["epochs=3.5", "canary_hours=true", "max_map50_drop=few", "force_train=2"],
        {},
    )
    assert given == {"epochs": "3.5", "canary_hours": "true", "max_map50_drop": "few", "force_train": "2"}
    told = "\n".join(parameters.problems(given, WORKFLOWS["incremental-learning"]))
    assert all(name in told for name in given)


def test_what_a_step_says_is_shown_whatever_its_task_is_called():
    terminal, heard = io.StringIO(), []
    log = RunLog(io.StringIO(), terminal, lambda step, words: heard.append((step, words)))
    log.write("train_hall-1 | epoch 1/3\n    train_site.north | epoch 2/3\nKFP: a line | of its own\n")
    log.write("train_hall-1 error: no such file\n")
    assert heard == [("train_hall-1", "epoch 1/3"), ("train_site.north", "epoch 2/3")]
    assert "train_site.north | epoch 2/3" in terminal.getvalue()
    assert log.error == ("train_hall-1", "no such file")


def test_a_line_of_a_library_is_no_failure_of_a_step():
    log = RunLog(io.StringIO(), io.StringIO(), tasks=["setup-joint", "mine", "drop-crowded"])
    for line in ("libpng error: Read Error", "  mp error: 3", "se error: no", "mining error: no"):
        log.write(f"{line}\n")
        assert log.error is None
    for step in ("setup", "mine", "drop_crowded"):
        log.write(f"{step} error: no such file\nlibpng error: Read Error\n")
        assert log.error == (step, "no such file")


@dsl.component(base_image="example/tool:1", install_kfp_package=False)
def look() -> str:
    import sys

    print("look | one image is damaged: skipped")
    print("libpng error: Read Error", file=sys.stderr)
    return "done"


@dsl.pipeline(name="looks")
def looks() -> str:
    return look().output


def test_a_run_succeeds_whose_step_has_skipped_a_damaged_image(tmp_path):
    assert run(looks, {}, tmp_path) == "done"
    assert "libpng error: Read Error" in (tmp_path / "run.log").read_text()


def test_print_is_as_before_after_steps_that_ran_in_parallel(tmp_path, monkeypatch):
    """KFP indents what is printed while a step runs: of two steps, the second that begins restores the first's."""

    class Parallel:
        name = "parallel"
        pipeline_spec = PIPELINES["benchmark"].pipeline_spec

        def __call__(self, **arguments):
            first, second = indented_print(), indented_print()
            first.__enter__()
            second.__enter__()
            first.__exit__(None, None, None)
            second.__exit__(None, None, None)
            return SimpleNamespace(outputs={"Output": "done"})

    before = builtins.print
    monkeypatch.setattr("pipelines.local.sort_into_place", lambda pipeline, arguments: {})
    assert run(Parallel(), {}, tmp_path) == "done"
    assert builtins.print is before

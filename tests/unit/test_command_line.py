"""Of an option that is given twice no program takes the last value silently, and numbers are finite."""

import json

import pytest
import typer
from typer.testing import CliRunner

from components.core.command_line import named
from components.core.errors import InputError
from components.serving import board_check, cloud_server, edge_worker
from pipelines.__main__ import app
from pipelines.demo import streets
from tests.edge import folder_of_images

PROGRAMS = {
    "pipelines": app, "edge_worker": edge_worker.app, "cloud_server": cloud_server.app,
    "board_check": board_check.app, "streets": streets.app,
}  # fmt: skip


def options():
    """Every option of every command: the program, the words before it, its name, and the words of one use of it."""
    for program, one in PROGRAMS.items():
        command = typer.main.get_command(one)
        for name, verb in getattr(command, "commands", {"": command}).items():
            for param in verb.params:
                if param.param_type_name == "option" and not param.multiple and not param.is_eager:
                    words = [param.opts[0]] if param.is_flag else [param.opts[0], "1"]
                    yield pytest.param(one, [name] * bool(name), words, id=f"{program} {name} {param.opts[0]}")


@pytest.mark.parametrize(("program", "before", "words"), list(options()))
def test_an_option_that_is_given_twice_is_refused(program, before, words):
    done = CliRunner().invoke(program, [*before, *words, *words], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "given 2 times, give it once" in done.output and words[0] in done.output


@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize(("program", "prefix"), [(edge_worker.app, "EDGE"), (cloud_server.app, "CLOUD")])
def test_a_number_without_an_end_is_refused(program, prefix, by_variable):
    needed = {"EDGE": ["--source", "nowhere"], "CLOUD": []}[prefix]
    names = [one.opts[0] for one in typer.main.get_command(program).params if isinstance(one.default, float)]
    assert len(names) > 1
    for name in names:
        words = [] if by_variable else [name, "inf"]
        given = {f"{prefix}_{name[2:].replace('-', '_').upper()}": "inf"} if by_variable else {}
        done = CliRunner().invoke(program, ["--job-root", "nowhere", *needed, *words], env=given | {"COLUMNS": "200"})
        assert done.exit_code == 2 and name in done.output, done.output


def test_an_option_that_can_be_repeated_is_taken_each_time(tmp_path):
    words = ["--sink", "jsonl:a", "--sink", "nonsense:b"]
    done = CliRunner().invoke(edge_worker.app, ["--source", str(tmp_path), "--bundle", "nowhere", *words])
    assert done.exit_code == 1 and "given 2 times" not in done.output


@pytest.mark.parametrize(
    ("words", "variable", "message"),
    [
        (["-p", "a=1", "-p", "a=2"], "", "--miner-parameter a: given more than once; which value is meant?"),
        (["--privacy", "blur", *["--privacy-parameter", "classes=face"] * 2], "", "--privacy-parameter classes: given"),
        ([], json.dumps([{"key": "a", "value": 1}, {"key": "a", "value": 2}]), "a key is given more than once"),
    ],
)
def test_a_parameter_of_a_worker_that_is_given_twice_is_refused(tmp_path, words, variable, message):
    source = folder_of_images(tmp_path / "images", 1)
    done = CliRunner().invoke(
        edge_worker.app, ["--source", str(source), "--job-root", str(tmp_path / "job"), *words],
        env={"HEM_PARAMETERS": variable},
    )  # fmt: skip
    assert done.exit_code == 1 and message in done.output


def test_words_are_values_by_name():
    assert named("-p", ["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(InputError, match="-p 'a': write NAME=VALUE"):
        named("-p", ["a"])
    done = CliRunner().invoke(app, ["plugins", "-p", "plugins=a", "-p", "plugins=b"])
    assert done.exit_code == 1 and "error: -p plugins: given more than once" in done.output

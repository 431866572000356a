import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp import dsl

from pipelines.compile import compile_all, stale

NAMES = ["components/say.yaml", "pipelines/greeting.yaml", "pipelines/two-greetings.yaml"]


@dsl.component(base_image="example/tool:1", install_kfp_package=False)
def say(text: str) -> str:
    """Say it.

    Args:
        text: what to say.

    """
    return text


@dsl.pipeline(name="greeting")
def greeting(text: str = "hello") -> str:
    return say(text=text).output


@dsl.pipeline(name="two-greetings")
def two_greetings():
    with dsl.ParallelFor(["hello", "good morning"]) as item:
        say(text=item)


PIPELINES = {"two-greetings": two_greetings, "greeting": greeting}
COMPONENTS = {"say": say}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_pipeline_and_component_gets_its_file_and_nothing_else_is_left(tmp_path):
    written = compile_all(tmp_path / "compiled", PIPELINES, COMPONENTS)
    assert sorted(contents(tmp_path / "compiled")) == NAMES
    assert sorted(path.relative_to(tmp_path / "compiled").as_posix() for path in written) == NAMES
    document = yaml.safe_load((tmp_path / "compiled/pipelines/greeting.yaml").read_text())
    assert document["pipelineInfo"]["name"] == "greeting"
    assert stale(tmp_path / "compiled", PIPELINES, COMPONENTS) == []


def test_compiling_again_gives_the_same_bytes(tmp_path):
    compile_all(tmp_path, PIPELINES, COMPONENTS)
    first = contents(tmp_path)
    compile_all(tmp_path, PIPELINES, COMPONENTS)
    assert contents(tmp_path) == first


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_gives_the_same_bytes_and_says_nothing(tmp_path, seed):
    compile_all(tmp_path / "here", PIPELINES, COMPONENTS)
    code = (
        "import sys, pathlib, pipelines.compile, test_compile as t; "
        "pipelines.compile.compile_all(pathlib.Path(sys.argv[1]), t.PIPELINES, t.COMPONENTS)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_stale_names_what_is_missing_what_differs_and_what_nothing_compiles_to(tmp_path):
    compile_all(tmp_path, PIPELINES, COMPONENTS)
    (tmp_path / "components/say.yaml").unlink()
    with (tmp_path / "pipelines/greeting.yaml").open("a") as file:
        file.write("# by hand\n")
    (tmp_path / "pipelines/old.yaml").write_text("{}\n")
    before = contents(tmp_path)

    assert stale(tmp_path, PIPELINES, COMPONENTS) == [
        "components/say.yaml: is missing; run python -m pipelines compile",
        "pipelines/greeting.yaml: does not match the code; run python -m pipelines compile",
        "pipelines/old.yaml: no pipeline or component compiles to it; delete it",
    ]
    assert contents(tmp_path) == before


def test_without_a_folder_everything_is_missing_and_none_is_made(tmp_path):
    assert len(stale(tmp_path / "compiled", PIPELINES, COMPONENTS)) == len(NAMES)
    assert not (tmp_path / "compiled").exists()


def test_when_one_does_not_compile_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="Unsupported pipeline_func type"):
        compile_all(tmp_path, PIPELINES | {"broken": lambda: None}, COMPONENTS)
    assert contents(tmp_path) == {}


def test_when_writing_fails_the_old_file_stays(tmp_path, monkeypatch):
    compile_all(tmp_path, {}, COMPONENTS)
    before = contents(tmp_path)

    def full_disk(self, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        compile_all(tmp_path, {}, {"say": greeting})
    assert contents(tmp_path) == before

"""Every command that the documentation shows is one that there is: its options are taken, and what is cheap is run."""

import argparse
import importlib
import importlib.util
import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import typer
from kfp.client import Client
from typer.testing import CliRunner

from components.core.job.job import Job
from pipelines.__main__ import app
from pipelines.arguments import face_of, parse, problems
from pipelines.registry import PIPELINES
from tests.client.fake_api import FakeApi
from tests.edge import deploy

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES += [REPOSITORY / folder / "README.md" for folder in ("benchmarks", "components", "pipelines")]
PROGRAMS = {
    ".venv/bin/python", "python", "python3", "make", "pip", "images/build.sh", "kubectl", "docker", "edge-learning",
    "edge-learning-worker",
}  # fmt: skip
SHELL = ("", "sh", "bash", "shell", "console")  # languages of fenced blocks with commands
ELLIPSIS = "..."
PLACEHOLDER = re.compile(r"[A-Z_]{2,}|\.\.\.")
GROUP = typer.main.get_command(app)
REMOTE = ("submit", "schedule", "upload", "status", "pause", "resume", "remove")


class Command(NamedTuple):
    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}: {shlex.join(self.words)[:70]}"


def commands(page: Path) -> list[Command]:
    """The commands of a page: lines of fenced blocks, and code in the text that begins with a program."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    lines = [line for lang, block in fence.findall(text) if lang in SHELL for line in joined(block)]
    lines += re.findall(r"(?<!`)`([^`\n]+ [^`\n]+)`", fence.sub("", text))
    lines = [re.sub(r"\s+#.*", "", line) for line in lines]
    found = (shlex.split(line) for line in lines if line.count('"') % 2 == line.count("'") % 2 == 0)
    return [Command(page, words) for line in found if (words := bare(line)) and words[0] in PROGRAMS]


def joined(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", block).splitlines()


def bare(words: list[str]) -> tuple[str, ...]:
    """Without variables in front and what becomes of the output."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    end = next((place for place, word in enumerate(words) if word in (">", "|", "&&", ";")), len(words))
    return tuple(words[:end])


ALL = [command for page in PAGES for command in commands(page)]


def test_the_pages_have_commands_and_every_verb_is_shown():
    assert len(ALL) > 60
    shown = {words[3] for _, words in ALL if words[1:3] == ("-m", "pipelines") and len(words) > 3}
    assert {"run", "submit", "schedule", "compile", "upload", "metrics", "status", "jobs", "rollback"} <= shown


@pytest.mark.parametrize("command", ALL, ids=str)
def test_a_command_is_one_that_there_is(command, monkeypatch, tmp_path):
    program, *words = command.words
    monkeypatch.chdir(tmp_path)
    if "python" in program:
        check_python(words, monkeypatch)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
    elif program == "images/build.sh":
        assert all((REPOSITORY / "images" / word / "Dockerfile").exists() for word in words)
    elif program == "pip":
        assert words[0] == "install"
        assert all((REPOSITORY / name).exists() for name in words if name.endswith((".txt", ".in")) or name == ".")
    elif program == "kubectl":
        check_files(command)


def check_python(words: list[str], monkeypatch) -> None:
    if words[0] == "-m" and words[1] == "pipelines":
        check_verb(words[2:])
    elif words[0] == "-m":
        module = importlib.import_module(words[1])
        if isinstance(getattr(module, "app", None), typer.Typer):
            parsed(typer.main.get_command(module.app), words[1], words[2:])
        else:
            check_arguments(module, words[2:], monkeypatch)
    elif words[0].endswith(".py"):
        path = REPOSITORY / words[0]
        spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "path", [str(REPOSITORY), *sys.path])
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        check_arguments(module, words[1:], monkeypatch)


class Parsed(Exception):  # noqa: N818 - the end of a program's beginning
    pass


def check_arguments(module, words: list[str], monkeypatch) -> None:
    """A program's own parser takes the words; nothing behind it runs."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(self, *_):
        real(self, words)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    if hasattr(module, "main") and "argparse" in Path(module.__file__).read_text():
        with pytest.raises(Parsed):
            module.main()


def check_verb(words: list[str]) -> None:
    verb, *rest = (word for word in words if word != ELLIPSIS)
    assert verb in GROUP.commands, f"there is no verb {verb}"
    given = parsed(GROUP.commands[verb], verb, rest)
    pipeline = given.get("pipeline")
    if verb in ("run", "submit", "schedule") and pipeline in PIPELINES and "--params" not in rest:
        face = face_of(PIPELINES[pipeline])
        values = parse(face, given["parameter"] or [], {})
        if "--help" not in rest:
            found = problems(face, {"job_root": "jobs/x", **values} if verb == "run" else values)
            assert not [line for line in found if ELLIPSIS not in words or not line.endswith(" is required")]
    elif verb in ("run", "submit", "schedule"):
        assert pipeline in PIPELINES or PLACEHOLDER.fullmatch(pipeline) or pipeline.endswith(".yaml")


def parsed(command, name: str, words: list[str]) -> dict:
    """What a verb makes of words; fails for an option that it does not have, or one that is missing."""
    try:
        return command.make_context(name, list(words)).params
    except typer.Exit:
        return {"pipeline": next((word for word in words if word in PIPELINES), None), "parameter": []}


def check_files(command: Command) -> None:
    """A manifest that is applied is in the repository, or a command before on the page writes it."""
    words = command.words
    files = [after for word, after in pairwise(words) if word == "-f"]
    before = [one.words for one in ALL[: ALL.index(command)] if one.page == command.page]
    for file in files:
        written = any(file in earlier for earlier in before)
        assert PLACEHOLDER.fullmatch(file) or written or (REPOSITORY / file).exists(), file


def test_a_command_that_is_gone_fails(monkeypatch):
    with pytest.raises(AssertionError, match="there is no verb train"):
        check_verb(["train", "helmet-detection"])
    with pytest.raises(Exception, match="No such option: --hots"):
        check_verb(["submit", "helmet-detection", "--hots", "http://localhost:8080"])
    with pytest.raises(AssertionError):
        check_verb(["run", "helmet-detection", "-p", "data_url=a.zip", "-p", "epoch=3"])
    with pytest.raises(SystemExit):
        check_python(["benchmarks/poll.py", "--counts", "many"], monkeypatch)


HERE = [one for one in ALL if one.words[1:3] == ("-m", "pipelines") and one.words[3:4] in (("jobs",), ("plugins",))]
HERE += [one for one in ALL if one.words[1:4] == ("-m", "pipelines", "predict")]
THERE = [one for one in ALL if one.words[1:3] == ("-m", "pipelines") and one.words[3:4] and one.words[3] in REMOTE]
THERE = [one for one in THERE if "my-compiled" not in one.words and "my-helmets.yaml" not in one.words]


@pytest.mark.parametrize("command", HERE, ids=str)
def test_what_is_cheap_runs_here(command, tmp_path, monkeypatch):
    job = Job.open(str(tmp_path / "jobs" / "helmet"))
    deploy(job, "r0001-1a2b3c4d", tmp_path / "bundle")
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.jpg"), np.full((64, 96, 3), 120, np.uint8))
    video = cv2.VideoWriter(str(tmp_path / "gate.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (96, 64))
    for _ in range(3):
        video.write(np.full((64, 96, 3), 120, np.uint8))
    video.release()
    monkeypatch.chdir(tmp_path)
    words = ["jobs/helmet" if word == "JOB_ROOT" else word for word in command.words[3:]]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output


@pytest.mark.parametrize("command", THERE, ids=str)
def test_what_talks_to_a_cluster_runs_against_a_server(command, tmp_path, monkeypatch):
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.chdir(tmp_path)
    with FakeApi() as api:
        words = [api.url if word == "http://localhost:8080" else word for word in command.words[3:]]
        said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert api.requests


def test_the_command_for_files_of_sedna_runs(tmp_path, monkeypatch):
    shutil.copy(REPOSITORY / "tests" / "sedna" / "helmet_incremental.yaml", tmp_path / "helmet.yaml")
    monkeypatch.chdir(tmp_path)
    (command,) = [one for one in ALL if one.words[3:] == ("sedna", "helmet.yaml")]
    said = CliRunner().invoke(app, command.words[3:])
    assert said.exit_code == 0
    assert "-m pipelines run incremental-learning" in said.stdout


MARKDOWN = [
    path for path in sorted(REPOSITORY.rglob("*.md"))
    if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(REPOSITORY).parts)
]  # fmt: skip


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, part in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]+)?\)", text):
        there = page.parent / target if target else page
        assert there.exists(), target
        if part and there.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert part[1:] in anchors, f"{target}{part}"

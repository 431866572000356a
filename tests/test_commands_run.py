"""The commands of the pages are run: in a folder and against servers of this machine, with small data.

Parameters that make a run small replace those of the page. Addresses become paths of the folder: ``s3://jobs/helmet``
is ``buckets/jobs/helmet``.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from kfp.client import Client
from typer.testing import CliRunner

from components.core.estimators.base import estimators
from components.core.job.job import Job
from components.report.report import keep
from components.rollout.processes import running_in
from pipelines import __main__ as command_line
from pipelines.__main__ import app
from pipelines.cluster import CREDENTIALS
from tests import sites
from tests.client.fake_api import FakeApi
from tests.edge import deploy, video
from tests.fake_label_studio import fake_label_studio
from tests.images import jpeg, squares
from tests.models import colour_model, write_bundle
from tests.test_commands import ALL, ELLIPSIS, HERE, REPOSITORY, THERE, Command

PLACES = (("https://example.com/", ""), ("s3://", "buckets/"), ("/data/", "data/"), ("/models/", "models/"),
          ("/videos/", "videos/"))  # fmt: skip
SMALL = {
    "plugins": "tests.quick_estimator", "estimator": "quick", "image_size": "96,96", "min_map50": "0",
    "min_samples": "2", "train_ratio": "0.6", "val_ratio": "0.2", "epochs": "1",
}  # fmt: skip
PAIR = {
    "base_model": "nothing", "big_model": "nothing", "big_image_size": "96,96", "train_ratio": "0.3",
    "val_ratio": "0.4", "min_recall_of_cloud": "0", "max_offload": "0.6", "confidence": "0.8",
    "offload_miner": "Threshold", "joint_conditions": '["gain >= -1"]',
}  # fmt: skip
FOR = {
    "helmet-detection": SMALL | {"base_model": "nothing"},
    "incremental-learning": SMALL | {"initial_model": "nothing", "gate_conditions": "[]"},
    "joint-inference": {name: value for name, value in SMALL.items() if not name.startswith("min_")} | PAIR,
    "lifelong-learning": {name: str(value) for name, value in sites.SETTINGS.items() if not isinstance(value, list)}
    | {"gate_conditions": "[]", "trigger_conditions": '["num_of_samples >= 1"]'},
    "lifelong-round": {"epochs": "1"},
    "benchmark": {},
}


def of(*verbs: str) -> list[Command]:
    return [one for one in ALL if one.words[1:3] == ("-m", "pipelines") and one.words[3:4] and one.words[3] in verbs]


def placed(word: str) -> str:
    """A word of a command with the paths of this folder for addresses, and the classes of the quick estimator."""
    if word.startswith("classes=") and "building" not in word:
        for name, colour in (("helmet", "red"), ("head", "blue"), ("0:person", "0:red"), ("1:hat", "1:blue")):
            word = word.replace(name, colour)
    for there, here in PLACES:
        word = re.sub(rf"(^|=){re.escape(there)}", rf"\g<1>{here}", word)
    return word


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that a command is given in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # of the steps, for the plug-ins of the tests
    yield tmp_path
    for folder in tmp_path.rglob("programs"):  # those of `serving` outlive their run
        if running := running_in(folder):
            running.stop()


def voc(path: Path, names: tuple[str, str], count: int = 40) -> None:
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            image, boxes, labels = sites.tiles(rng, 1.0)
            objects = "".join(
                f"<object><name>{names[c == 'blue']}</name><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
                f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
                for c, b in zip(labels, boxes, strict=True)
            )
            size = "<size><width>96</width><height>96</height><depth>3</depth></size>"
            archive.writestr(f"set/JPEGImages/{number:03}.png", cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
            archive.writestr(f"set/Annotations/{number:03}.xml", f"<annotation>{size}{objects}</annotation>")


def index(path: Path, count: int = 60) -> None:
    """An index file as Sedna's, with images beside it."""
    (path.parent / "images").mkdir(parents=True)
    lines = []
    for number in range(count):
        image, boxes = squares(np.random.default_rng(number), size=64)
        (path.parent / "images" / f"{number:02}.jpg").write_bytes(jpeg(image))
        lines.append(" ".join([f"images/{number:02}.jpg", *(f"{x},{y},{u},{v},{c}" for c, (x, y, u, v) in boxes)]))
    path.write_text("\n".join(lines) + "\n")


def prepare(folder: Path, pipeline: str, words: list[str]) -> dict[str, str]:
    """Put what a command names into the folder; gives parameters that go with it."""
    given = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("-"))
    if pipeline in ("helmet-detection", "joint-inference"):
        renamed = "classes" in given  # `hat:helmet,person:head`
        voc(folder / "VOC2007.zip", ("hat", "person") if renamed else ("red", "blue"))
    elif pipeline == "incremental-learning":
        feed = folder / given["feed_url"]
        index(feed if feed.suffix == ".txt" else feed / "train_data.txt")
        if not feed.suffix:
            return {"feed_url": f"{given['feed_url']}/train_data.txt", "classes": "0:red,1:blue"}
    elif pipeline == "lifelong-learning":
        for number, light in enumerate(("day", "night")):
            sites.arrive(folder / given["feed_url"], light, 16, seed=number)
        for path in (folder / given["feed_url"],):
            table = path / "labels.jsonl"
            table.write_text(table.read_text().replace("day/", "site-a/").replace("night/", "site-b/"))
            (path / "day").rename(path / "site-a")
            (path / "night").rename(path / "site-b")
    if "edge_source" in given:
        (folder / given["edge_source"]).parent.mkdir()
        video(folder / given["edge_source"], 5)
    if given.get("base_model") == "best.pt":
        (folder / "best.pt").write_text(json.dumps({"learned": "c0ffee", "epoch": 3}))
        # The model of the quick estimator is none that the toolkit converts; test_lifelong_conversion.py has one.
        return {"base_model": "best.pt", "epochs": "0", "targets": ""}
    return {}


def run(words: list[str]) -> str:
    said = CliRunner().invoke(app, words)
    assert said.exit_code == (130 if "--every" in words else 0), said.output[-3000:]
    return said.output


def without(words: list[str], names: Iterable[str]) -> list[str]:
    """The words without the parameters of these names, which are two words each."""
    places = {place for place, word in enumerate(words) if word.partition("=")[0] in names}
    return [word for place, word in enumerate(words) if not {place, place + 1} & places]


RUNS = [one for one in of("run") if one.words[4] in FOR and "--params" not in one.words]


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in RUNS if "--help" not in one.words], ids=str)
def test_a_pipeline_runs_here(command, here, monkeypatch):
    pipeline, *rest = (placed(word) for word in command.words[4:])
    if ELLIPSIS in rest:  # what the command before it on the page says
        before = next(one for one in RUNS if one.words[4] == pipeline and ELLIPSIS not in one.words)
        rest = [*(placed(word) for word in before.words[5:]), *(word for word in rest if word != ELLIPSIS)]
    more = FOR[pipeline] | prepare(here, pipeline, rest)
    rest = without(rest, more)
    if pipeline == "lifelong-round":
        subprocess.run([sys.executable, "-m", "pipelines.demo.streets", "feed", "day"], check=True, cwd=here)
    if "--every" in rest:  # ends with the second look, as by Ctrl-C
        rest[rest.index("--every") + 1] = "1s"
        looks, real = iter((True,)), command_line._run

        def look(*given):
            if not next(looks, False):
                raise KeyboardInterrupt
            real(*given)

        monkeypatch.setattr(command_line, "_run", look)
    with fake_label_studio() as studio:
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0123456789abcdef0123456789abcdef01234567")
        rest = [word.replace("http://label-studio:8080", studio.address) for word in rest]
        said = run(
            ["run", pipeline, *rest, *(word for name, value in more.items() for word in ("-p", f"{name}={value}"))]
        )
    assert "report: " in said
    roots = [word.removeprefix("job_root=") for word in rest if word.startswith("job_root=")]
    root = (roots or [f"jobs/{pipeline}"])[0]
    assert Job.open(root).read()[0].round == 1


@pytest.mark.parametrize("command", [one for one in ALL if one.words[-1] == "--help"], ids=str)
def test_help_is_given(command):
    said = run(list(command.words[3:]))
    assert command.words[4] in said


@pytest.mark.parametrize("command", of("rollback"), ids=str)
def test_a_rollback_runs(command, here):
    job = Job.open("job")
    for version in ("r0001-00000000", "r0003-aaaaaaaa", "r0004-bbbbbbbb"):
        deploy(job, version, here / version)
    said = run([{"JOB_ROOT": "job"}.get(word, word).replace("r0003", "r0003-aaaaaaaa") for word in command.words[3:]])
    assert "the champion is r0003-aaaaaaaa, before it was r0004-bbbbbbbb" in said


@pytest.mark.parametrize("command", of("conformance"), ids=str)
def test_an_estimator_of_ones_own_is_tested(command, here, monkeypatch):
    (here / "my_models.py").write_text(
        "from components.core.estimators.base import estimators\nfrom tests.quick_estimator import Quick\n\n\n"
        "@estimators.register('my-detector')\nclass Mine(Quick):\n    '''Mine.'''\n"
    )
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setitem(estimators._entries, "my-detector", None)  # is gone after the test
    monkeypatch.delitem(estimators._entries, "my-detector")
    said = CliRunner().invoke(app, [*command.words[3:], "-p", "base_model=nothing", "-p", "image_size=64,96"])
    # Its only fault: it writes the name of the class that it is made of.
    assert said.output.splitlines()[1:] == ["       save: estimator in model.json is 'quick', expected 'my-detector'"]


@pytest.mark.parametrize("command", of("metrics"), ids=str)
def test_figures_of_a_run_are_printed(command, here, monkeypatch):
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(here / "context.json"))
    (here / "page.html").write_text("<html></html>")
    with FakeApi() as api:
        given = ["-p", "data_url=s3://images/VOC2007.zip", "-p", f"job_root={here}/job"]
        run(["submit", "helmet-detection", "--host", api.url, *given])
        (run_id,) = api.runs
        keep("page.html", "job", "Helmet detection", {"map50": 0.5}, run_id)
        words = {"RUN": run_id, "http://localhost:8080": api.url}
        said = run([words.get(word, word) for word in command.words[3:]])
    assert json.loads(said)["figures"]["map50"] == 0.5


@pytest.mark.slow
def test_pipelines_with_images_of_ones_own_are_compiled_and_uploaded(here, monkeypatch):
    """One command after the other, as the page has them; then the pipelines of a user's own are submitted."""
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(here / "context.json"))
    (compiling,), (uploading,) = of("compile")[:1], of("upload")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        [sys.executable, *compiling.words[1:]], check=True, cwd=here, env=environment, stdout=subprocess.PIPE
    )
    with FakeApi() as api:
        said = run([api.url if word == "http://localhost:8080" else word for word in uploading.words[3:]])
        assert "helmet-detection" in said
        assert {one["display_name"] for one in api.pipelines.values()} >= {"helmet-detection", "incremental-learning"}
        assert "registry.example.com/edge-learning/train:" in next(iter(api.versions.values()))["_package"]
        shutil.copy("my-compiled/pipelines/helmet-detection.yaml", "my-helmets.yaml")
        (submitting,) = [one for one in of("submit") if "my-helmets.yaml" in one.words]
        given = ["--host", api.url, "-p", "data_url=s3://images/VOC2007.zip", "-p", "job_root=s3://jobs/helmet"]
        run([*(word for word in submitting.words[3:] if word != ELLIPSIS), *given])
        assert len(api.runs) == 1


@pytest.mark.parametrize("command", [one for one in of("ianvs") if "--run" not in one.words], ids=str)
def test_a_benchmark_of_ianvs_is_read(command, here):
    copy_ianvs(here)
    said = run([{"FILE": "benchmarkingjob.yaml"}.get(word, word) for word in command.words[3:]])
    assert yaml.safe_load(said)["algorithms"]


def copy_ianvs(folder: Path) -> None:
    shutil.copytree(REPOSITORY / "tests" / "ianvs", folder / "ianvs")
    shutil.copy(folder / "ianvs" / "benchmarkingjob.yaml", folder)


BRIGHTNESS = {
    "estimator": "brightness", "base_model": "nothing", "initial_epochs": 1, "epochs": 1, "image_size": 96,
    "miner": "IBT", "label_budget": 4, "replay_ratio": 0, "min_gain": -1,
}  # fmt: skip
SMALL_BENCHMARK = {
    "classes": "red,blue", "plugins": "tests.site_estimator", "workers": 0, "seeds": 0, "baselines": "frozen",
    "train_ratio": 0.6, "val_ratio": 0.2, "sort_by": "map50",
}  # fmt: skip


def arrive_in_groups(folder: Path, *groups: str) -> None:
    for number, (group, light) in enumerate(zip(groups, ("day", "night"), strict=False)):
        sites.arrive(folder, light, 20, seed=number)
        (folder / light).rename(folder / group)
        table = folder / "labels.jsonl"
        table.write_text(table.read_text().replace(f"{light}/", f"{group}/"))


@pytest.mark.slow
def test_a_benchmark_of_ianvs_runs(here):
    (command,) = [one for one in of("ianvs") if "--run" in one.words]
    copy_ianvs(here)
    arrive_in_groups(here / "PCB-AoI" / "train_data", "first", "second")
    arrive_in_groups(here / "PCB-AoI" / "test_data", "third")
    small = SMALL_BENCHMARK | {"algorithms": json.dumps([BRIGHTNESS]), "data_format": "auto", "job_root": "job"}
    said = run([*command.words[3:], *(word for name, value in small.items() for word in ("-p", f"{name}={value}"))])
    assert "report: " in said


@pytest.mark.slow
def test_the_benchmark_of_the_page_runs(here):
    """With a smaller grid, and the plug-in that trains in milliseconds in place of the first estimator."""
    (page,) = {one.page for one in of("run") if "benchmark.yaml" in one.words}
    (text,) = re.findall(r"^```yaml\n(data_url.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    given = yaml.safe_load(text)
    (algorithm,) = given["algorithms"]
    del algorithm["estimator_options"]
    algorithm |= BRIGHTNESS
    arrive_in_groups(here / "images", "site-a", "site-b")
    (here / "benchmark.yaml").write_text(yaml.safe_dump(given | SMALL_BENCHMARK | {"data_url": "images"}))
    (command,) = [one for one in of("run") if one.words[-1] == "benchmark.yaml"]
    assert "report: " in run(list(command.words[3:]))


PROGRAMS = [one for one in ALL if one.words[1:2] == ("-m",) and one.words[2].startswith("components.serving.")]


@pytest.mark.parametrize("command", [one for one in PROGRAMS if "--job-root" in one.words], ids=str)
def test_a_program_of_the_edge_or_the_cloud_starts_and_ends_when_it_is_told_to(command, here):
    """With a folder of images for a camera; a plain model stands for the member of a pair or a knowledge base."""
    words = [placed(word) for word in command.words[1:]]
    root = words[words.index("--job-root") + 1]
    deploy(Job.open(root), "r0001-1a2b3c4d", here / "bundle")
    for option, value in (("--source", "photos"), ("--cloud-url", "http://127.0.0.1:9"), ("--port", "0")):
        if option in words:
            words[words.index(option) + 1] = value
    for option in ("--member", "--origin"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    if "cloud_server" in words[1]:
        words += ["--port", "0"]
    (here / "photos").mkdir()
    cv2.imwrite("photos/a.jpg", np.full((64, 96, 3), 120, np.uint8))
    environment = os.environ | {"CLOUD_TOKEN": "a" * 32, "EDGE_CLOUD_TOKEN": "a" * 32, "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    timer = threading.Timer(120, process.kill)
    timer.start()
    seen = ""
    for line in process.stdout:
        seen += line
        if "r0001-1a2b3c4d" in line or "Started server process" in line:
            break
    process.send_signal(signal.SIGTERM)
    seen += process.communicate()[0]
    timer.cancel()
    assert "cloud_server" in words[1] or "r0001-1a2b3c4d" in seen, seen
    assert process.returncode == 0, seen


@pytest.mark.parametrize("command", [one for one in PROGRAMS if "--bundle" in one.words], ids=str)
def test_a_board_without_rockchips_library_is_told(command, here):
    write_bundle(here / "bundle", colour_model())
    words = [{"FOLDER": "bundle"}.get(word, word) for word in command.words[1:]]
    done = subprocess.run([sys.executable, *words], check=False, cwd=here, capture_output=True, text=True)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [one for one in ALL if one.words[2:3] == ("pipelines.demo.streets",)], ids=str)
def test_streets_are_drawn(command, here):
    done = subprocess.run([sys.executable, *command.words[1:], "--count", "2"], check=False, cwd=here)
    assert done.returncode == 0
    assert (here / command.words[3] / "index.txt").read_text()


BUILDS = [one for one in ALL if one.words[0] == "images/build.sh"]


@pytest.fixture
def docker(here):
    """A client that notes what it is asked for; it can do what build.sh asks of one."""
    (here / "docker").write_text(f'#!/bin/sh\necho "$@" >> {here}/asked\n[ "$2" != --help ] || echo "  --secret id"\n')
    (here / "docker").chmod(0o755)
    return here / "docker"


@pytest.mark.parametrize("command", BUILDS, ids=str)
def test_images_are_built_from_files_that_there_are(command, here, docker):
    built = subprocess.run(
        [REPOSITORY / "images" / "build.sh", *command.words[1:]], check=False, capture_output=True, text=True,
        env=os.environ | {"DOCKER": str(docker), "EDGE_IMAGE_PREFIX": "registry.example.com/edge-learning"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    asked = [line.split() for line in (here / "asked").read_text().splitlines() if line.startswith("build --build-arg")]
    names = command.words[1:] or ("trigger", "train", "convert", "edge", "cloud")
    assert [line[line.index("--tag") + 1].rsplit(":", 1)[0] for line in asked] == [
        f"registry.example.com/edge-learning/{name}" for name in names
    ]
    for line in asked:
        file = REPOSITORY / line[line.index("--file") + 1]
        for copied in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", file.read_text(), re.MULTILINE):
            assert all(list(REPOSITORY.glob(name)) for name in copied.split()), copied


@pytest.mark.parametrize("script", sorted(REPOSITORY.glob("images/*.sh")), ids=lambda path: path.name)
def test_a_script_is_valid(script):
    subprocess.run(["bash", "-n", script], check=True)


def test_a_pipeline_in_containers_needs_an_engine(here, monkeypatch):
    """What the command does with one is shown by tests/docker; without one it says so in one line."""
    (command,) = [one for one in of("run") if "--runner" in one.words]
    monkeypatch.setenv("DOCKER_HOST", f"unix://{here}/no.sock")
    voc(here / "VOC2007.zip", ("red", "blue"), 4)
    words = [{"PIPELINE": "helmet-detection"}.get(word, word) for word in command.words[3:]]
    said = CliRunner().invoke(app, [*words, "-p", "data_url=VOC2007.zip", "-p", "job_root=job"])
    assert said.exit_code == 1
    assert re.search(r"error: .*Docker", said.output) and len(said.output.splitlines()) == 1


@pytest.mark.parametrize("command", [one for one in ALL if one.words[0] == "make"], ids=str)
def test_make_knows_what_to_do(command):
    done = subprocess.run(["make", "--dry-run", *command.words[1:]], check=False, cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr


SECRETS = [one for one in ALL if one.words[:3] == ("kubectl", "create", "secret")]


@pytest.mark.parametrize("command", SECRETS, ids=str)
def test_a_secret_has_keys_that_steps_or_programs_read(command, here):
    keys = [word.split("=")[1] for word in command.words if word.startswith("--from-literal=")]
    assert set(keys) <= {*CREDENTIALS, "CLOUD_TOKEN"}
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    for name in ("company-ca.pem", "edge-worker.env"):
        (here / name).write_text("EDGE_CLOUD_TOKEN=1\n")
    words = [word for word in command.words if word != ELLIPSIS]
    made = subprocess.run([*words, "--dry-run=client", "--output", "json"], check=True, capture_output=True)
    assert json.loads(made.stdout)["kind"] == "Secret"


ELSEWHERE = {  # a word of a command, and the test that runs it
    "benchmarks/": "tests/test_benchmarks.py",
    "benchmarks/pcb-class.yaml": "tests/test_benchmarks.py",
    "sedna": "tests/pipelines/test_sedna_run.py",
    "my-helmets.yaml": "tests/compiled/test_own_pipeline.py",
    "pip": "tests/unit/test_package.py",
    "kubectl": "tests/cluster/test_commands_on_a_cluster.py",
    "docker": "tests/docker/test_every_image.py",
}


def test_no_command_is_left_out():
    """A new command of a page needs a test that runs it."""
    tested = {*HERE, *THERE, *RUNS, *PROGRAMS, *BUILDS, *SECRETS, *of("rollback", "conformance", "metrics", "ianvs")}
    tested |= {*of("compile", "upload"), *(one for one in ALL if one.words[0] == "make" or one.words[-1] == "--help")}
    tested |= {one for one in ALL if one.words[2:3] == ("pipelines.demo.streets",)}
    tested |= {one for one in of("run") if "--runner" in one.words or "benchmark.yaml" in one.words}
    left = [
        one for one in ALL
        if one not in tested and not any(word.startswith(tuple(ELSEWHERE)) for word in one.words)
    ]  # fmt: skip
    assert left == []
    assert all((REPOSITORY / path).exists() for path in ELSEWHERE.values())

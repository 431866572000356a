"""Cloud server and edge worker as processes of this machine, started and ended by the step that a cluster has, too."""

import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.parameters import ServingSettings, read
from components.deploy.candidate import Candidate
from components.deploy.deploy import deploy
from components.rollout import processes, serve
from components.rollout.component import rollout
from components.rollout.manifests import Images
from components.rollout.processes import CLOUD, EDGE, pair, running_in, start
from tests.edge import folder_of_images
from tests.models import BUNDLE, colour_model, write_bundle

pytestmark = pytest.mark.slow

IMAGES = Images("cloud", "edge")
QUICK = {"cloud_options": ["--poll", "0.1", "--threads", "1"], "edge_options": ["--poll", "0.1", "--threads", "1"]}


def release(folder: Path) -> str:
    """The root of a job whose champion is a pair, of which every frame goes to the cloud."""
    little = write_bundle(folder / "little", colour_model())
    big = write_bundle(folder / "big", colour_model(96, 96), replace(BUNDLE, image_size=(96, 96)))
    row = {
        "id": "ab" * 32, "uri": "file:///a.jpg", "width": 1, "height": 1, "split": "test", "group": "a",
        "source": "a.jpg", "round": 1, "annotations": [],
    }  # fmt: skip
    Manifest.of([row], ["red", "blue"]).write(folder / "samples")
    candidate = Candidate({"little": little, "big": big}, {"miner": "CloudOnly", "parameters": {}})
    deploy(
        str(folder / "job"), candidate, folder / "samples", round_number=1, outcome="promoted", why="first",
        run_id="run-1", cursor="", champion=None,
    )  # fmt: skip
    return str(folder / "job")


@pytest.fixture(scope="module")
def job_root(tmp_path_factory):
    return release(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(folder_of_images(tmp_path_factory.mktemp("source") / "images", 6))


@pytest.fixture
def ended(monkeypatch):
    """Whatever a test starts, ended."""
    folders = []
    original = processes.start
    monkeypatch.setattr(
        processes,
        "start",
        lambda job, source, folder, **more: folders.append(folder) or original(job, source, folder, **more),
    )
    yield folders
    for folder in folders:
        for program in (EDGE, CLOUD):
            processes._end(folder, program)


def metric(url: str, name: str) -> float:
    text = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def alive(folder: Path, program: str) -> bool:
    """Whether a program holds its lock."""
    with (folder / f"{program}.lock").open("ab") as lock:
        return not processes._locked(lock)


def number(folder: Path) -> str:
    return (folder / "cloud-server.lock").read_text()


def test_they_talk_to_each_other_past_a_proxy_that_leads_outside(job_root, source, tmp_path, monkeypatch):
    with ExitStack() as stack:
        with monkeypatch.context() as behind_a_proxy:
            for name in ("NO_PROXY", "no_proxy"):
                behind_a_proxy.delenv(name, raising=False)
            behind_a_proxy.setenv("http_proxy", "http://127.0.0.1:1")  # where nothing answers
            running = stack.enter_context(pair(job_root, source, tmp_path, **QUICK))
        end = time.monotonic() + 60
        while metric(running.edge_url, "edge_joint_answered_total") < 6:
            assert time.monotonic() < end, running.log(EDGE).read_text()
            time.sleep(0.1)


def test_both_run_talk_to_each_other_and_end(job_root, source, tmp_path, monkeypatch):
    monkeypatch.setattr(processes.secrets, "token_urlsafe", lambda _: "a-token-of-this-test")
    with pair(job_root, source, tmp_path, **QUICK) as running:
        end = time.monotonic() + 60
        while metric(running.edge_url, "edge_joint_answered_total") < 6:
            assert time.monotonic() < end, running.log(EDGE).read_text()
            time.sleep(0.1)
        assert all(alive(tmp_path, program) for program in (CLOUD, EDGE))
        said = running.describe()
        assert running.cloud_url in said
        assert str(running.log(EDGE)) in said
        # Who else asks the cloud server needs the token, which no file has.
        request = urllib.request.Request(f"{running.cloud_url}/v1/models")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)
        request.add_header("Authorization", "Bearer a-token-of-this-test")
        assert urllib.request.urlopen(request, timeout=10).status == 200
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"a-token-of" in path.read_bytes()]
        # Nor do command lines, which everybody may read, tell a token or the address of a camera.
        command = Path(f"/proc/{(tmp_path / 'edge-worker.lock').read_text()}/cmdline").read_bytes()
        assert b"edge_worker" in command
        assert source.encode() not in command
        # What runs as it is wanted is left alone; what runs otherwise is replaced.
        before = number(tmp_path)
        assert start(job_root, source, tmp_path, **QUICK) == running == running_in(tmp_path)
        assert number(tmp_path) == before
        other = QUICK | {"edge_options": ["--poll", "0.2", "--threads", "1"]}
        assert start(job_root, source, tmp_path, **other).edge_url != running.edge_url
        assert number(tmp_path) != before
    assert not any(alive(tmp_path, program) for program in (CLOUD, EDGE))
    assert "6 frames" in running.log(EDGE).read_text()  # it ended in order


def test_a_worker_that_cannot_start_is_an_error_with_its_own_words_and_leaves_nothing_behind(job_root, tmp_path):
    with pytest.raises(InputError, match="the edge-worker ended: .*nothing-there.*log: .*edge-worker.log"):
        start(job_root, "/nothing-there", tmp_path, **QUICK)
    assert not any(alive(tmp_path, program) for program in (CLOUD, EDGE))
    assert running_in(tmp_path) is None


def test_a_server_that_is_never_ready_is_an_error_in_time(tmp_path, source):
    with pytest.raises(InputError, match="the cloud-server is not ready after 2 s"):
        start(str(tmp_path / "empty"), source, tmp_path / "programs", timeout_s=2, **QUICK)
    assert not alive(tmp_path / "programs", CLOUD)


def settings(**others):
    return {"serving": "deployment"} | others


def test_the_step_starts_both_where_there_is_no_cluster(job_root, source, capsys, ended):
    options = {"job_root": job_root, "cloud_image": "a", "edge_image": "b", "store_secret": "c"}
    rollout.python_func(settings=settings(edge_source=source, serving_timeout=90), **options)
    (folder,) = ended
    assert folder == Path(job_root) / "programs"
    running = running_in(folder)
    assert urllib.request.urlopen(f"{running.edge_url}/readyz", timeout=10).status == 200
    assert f"rollout | cloud server at {running.cloud_url}" in capsys.readouterr().out


def test_nothing_is_started_unless_it_is_asked_for_and_there_is_a_champion(tmp_path, job_root, caplog, ended):
    caplog.set_level("INFO")
    serve.serve(job_root, read(ServingSettings, {}), IMAGES, "secret", 0.95)
    serve.serve(str(tmp_path / "new"), read(ServingSettings, settings(edge_source="x")), IMAGES, "secret", 0.95)
    assert not ended
    assert ["serving=none" in caplog.messages[0], "has no champion" in caplog.messages[1]] == [True, True]


def test_a_source_is_needed_before_any_work_is_done(job_root, monkeypatch):
    monkeypatch.delenv("EDGE_SOURCE", raising=False)
    with pytest.raises(InputError, match="serving=kserve starts an edge worker on this machine: set edge_source"):
        serve.check(job_root, read(ServingSettings, {"serving": "kserve"}), IMAGES, "secret", 0.95)
    monkeypatch.setenv("EDGE_SOURCE", "/somewhere")
    serve.check(job_root, read(ServingSettings, {"serving": "kserve"}), IMAGES, "secret", 0.95)
    serve.check(job_root, read(ServingSettings, {}), IMAGES, "secret", 0.95)

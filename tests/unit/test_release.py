"""Releases of several models, and what a job asks of its store."""

import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kfp import dsl

from components.core.bundle import Bundle
from components.core.errors import ConflictError, InputError, NotFoundError
from components.core.heads import SplitHead
from components.core.job.fleet import POINTER, SEDNA_POINTER, Pointer, WorkerStatus, status_key
from components.core.job.job import Job
from components.core.job.state import STATE, State
from components.core.manifest import Manifest
from components.core.release import MODEL, RELEASE, Member, Release
from components.deploy.canary import CanaryPlan, settle_canary
from components.deploy.candidate import Candidate
from components.deploy.deploy import Deployed, deploy
from components.deploy.garbage import collect_garbage
from components.deploy.pointer import publish_pointer
from components.deploy.settle import settle
from components.ingest.feed import take_new
from components.serving.model_cache import ModelCache
from components.serving.pointers import STALE_SECONDS, JobPointer
from components.trigger.component import trigger
from tests.counting import count_requests

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.fixture
def job(tmp_path) -> Job:
    return Job.open(str(tmp_path / "job"))


@pytest.fixture
def end_round(job, tmp_path):
    """Ends a round with a candidate of members that are made of texts; returns the version."""

    def run(number: int, *, routing: dict | None = None, **options) -> Deployed:
        settings = {
            "outcome": "promoted", "why": "better", "run_id": f"run-{number}", "cursor": "",
            "champion": job.read()[0].champion,
        }  # fmt: skip
        members = {role: bundle(tmp_path, options.pop(role)) for role in ("little", "big", MODEL) if role in options}
        path = tmp_path / f"manifest-{number}"
        row = {
            "id": "ab" * 32, "uri": "file:///a.jpg", "width": 1, "height": 1, "split": "test", "group": "a",
            "source": "a.jpg", "round": number, "annotations": [],
        }  # fmt: skip
        Manifest.of([row], ["helmet"]).write(path)
        candidate = Candidate(members, routing or {})
        return deploy(job.store.uri, candidate, path, round_number=number, **{**settings, **options})

    return run


def bundle(tmp_path: Path, content: str) -> Path:
    folder = tmp_path / f"bundle-{content}"
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_text(content)
    (folder / "model.pt").write_text(f"weights of {content}")
    Bundle(
        classes=("helmet",), image_size=(64, 64), estimator="yolo", head=SplitHead((8,), 1, False),
        outputs=("box0", "cls0"), confidence_threshold=0.25, nms_threshold=0.7,
    ).write(folder)  # fmt: skip
    return folder


def pointer(job: Job) -> Pointer:
    return Pointer.model_validate_json(job.store.read(POINTER))


def versions(job: Job, release: str) -> dict[str, str]:
    state, _ = job.read()
    found = job.registry.release(release, state.vouched[release])
    return {role: member.version for role, member in found.members.items()}


def report(job: Job, node: str, version: str, state: str = "loaded", frames: int = 0) -> None:
    status = WorkerStatus(node=node, version=version, state=state, error="", frames=frames, time=NOW)
    job.store.write(status_key(node), status.model_dump_json().encode())


def test_a_release_of_two_members_becomes_the_champion_in_one_commit(job, end_round):
    ended = end_round(1, little="l1", big="b1", routing={"confidence": [0.3, 0.8]})
    state, _ = job.read()
    assert ended == Deployed("deployed", state.champion, state.champion)
    assert (state.revision, [change.version for change in state.history]) == (1, [ended.version])
    release = job.registry.release(ended.version, state.vouched[ended.version])
    assert release.routing == {"confidence": [0.3, 0.8]}
    for role, content in {"little": "l1", "big": "b1"}.items():
        member = release.members[role]
        assert member.version == f"r0001-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
        description = job.store.read(f"bundles/{member.version}/model.json")
        assert member.sha256 == hashlib.sha256(description).hexdigest()
    assert ended.version == f"r0001-{state.vouched[ended.version][:8]}"


def test_the_pointer_of_a_release_names_every_file_of_its_members(job, end_round):
    end_round(1, little="l1", big="b1", routing={"confidence": 0.3})
    found = json.loads(job.store.read(POINTER))
    assert found.keys() == {"version", "members", "routing", "format", "move", "updated", "trial"}
    assert (found["format"], found["routing"]) == (2, {"confidence": 0.3})
    for member in found["members"].values():
        assert member["files"].keys() == {"model.json", "model.onnx", "model.pt"}
        for name, file in member["files"].items():
            assert file["sha256"] == hashlib.sha256(job.store.read(f"bundles/{member['version']}/{name}")).hexdigest()
    assert job.store.stat(SEDNA_POINTER) is None, "the workers of KubeEdge Sedna know one model alone"


def test_the_pointer_of_one_model_is_what_older_workers_read(job, end_round):
    end_round(1, model="m1")
    found = json.loads(job.store.read(POINTER))
    assert found.keys() == {"version", "uri", "files", "format", "move", "updated", "trial"}
    assert (found["format"], found["move"], found["trial"]) == (1, 1, None)
    assert found["uri"] == job.store.uri_of(f"bundles/{found['version']}")


def test_a_member_that_does_not_change_keeps_its_version_and_is_not_stored_again(job, end_round, monkeypatch):
    first = end_round(1, little="l1", big="b1")
    asked = count_requests(monkeypatch)
    second = end_round(2, little="l1", big="b2")
    before, after = versions(job, first.version), versions(job, second.version)
    assert before["little"] == after["little"]
    assert before["big"] != after["big"]
    assert sum(count for request, count in asked.items() if request.startswith("upload bundles")) == 3


def test_a_release_goes_back_as_one(job, end_round):
    first = end_round(1, little="l1", big="b1", routing={"confidence": 0.3})
    end_round(2, little="l2", big="b2", routing={"confidence": 0.5})
    assert job.roll_back().champion == first.version
    publish_pointer(job)
    found = pointer(job)
    assert {role: one.version for role, one in found.bundles().items()} == versions(job, first.version)
    assert (found.routing, found.generation) == ({"confidence": 0.3}, 3)


def test_a_release_is_a_canary_on_some_workers_and_then_for_all(job, end_round):
    first = end_round(1, little="l1", big="b1")
    for node in ("a", "b"):
        report(job, node, first.version)
    second = end_round(2, little="l2", big="b1", canary=CanaryPlan(0.5, frames=10, hours=1))
    assert (second.outcome, second.champion) == ("canary", first.version)
    canary = job.read()[0].canary
    (node,) = canary.nodes
    (other,) = {"a", "b"} - {node}
    assert pointer(job).for_node(node).version == second.version
    assert pointer(job).for_node(node).bundles().keys() == {"little", "big"}
    assert pointer(job).for_node(other).version == first.version
    report(job, node, second.version, frames=10)
    assert settle_canary(job, NOW).outcome == "promoted"
    assert pointer(job).for_node(other).version == second.version


def test_of_two_runs_that_commit_a_release_at_once_one_wins_whole(job, end_round):
    end_round(1, little="l1", big="b1")
    champion, start, ends = job.read()[0].champion, threading.Barrier(3), []

    def attempt(run: str) -> None:
        start.wait()
        try:
            ends.append(end_round(2, little=f"l-{run}", big=f"b-{run}", run_id=run, champion=champion).version)
        except ConflictError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=attempt, args=(run,)) for run in ("x", "y", "z")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state, _ = job.read()
    assert sum(end == state.champion for end in ends) == 1
    assert sum("another run committed round 2 first" in end for end in ends) == 2
    contents = {job.store.read(f"bundles/{one}/model.onnx").decode() for one in versions(job, state.champion).values()}
    assert len({content.split("-")[1] for content in contents}) == 1, "both members are of the same run"
    assert pointer(job).version == state.champion


def test_garbage_leaves_every_member_of_what_may_be_rolled_back_to(job, end_round):
    ends = [
        end_round(1, little="l1", big="b1"),
        end_round(2, little="l1", big="b2", outcome="rejected"),
        end_round(3, little="l3", big="b3", outcome="rejected"),
        end_round(4, little="l4", big="b1"),
    ]
    gone = {ends[1].version, versions(job, ends[1].version)["big"]}
    assert set(collect_garbage(job, keep=1)) == gone
    state, _ = job.read()
    for end in (ends[0], ends[2], ends[3]):
        assert job.registry.published(end.version, state.vouched[end.version])[1].keys() == {"little", "big"}
    with pytest.raises(NotFoundError, match="unknown model version"):
        job.registry.release(ends[1].version, state.vouched[ends[1].version])
    assert job.roll_back().champion == ends[0].version
    removed = collect_garbage(job, keep=0)
    assert set(removed) == {ends[2].version, *versions_of(("l3", "b3"), 3)}


def test_garbage_leaves_the_last_candidate_and_not_what_an_earlier_try_of_its_round_left(job, end_round):
    end_round(1, little="l1", big="b1")
    last = end_round(2, little="l1", big="b2", outcome="rejected")
    job.store.write("bundles/r0002-ffffffff/release.json", job.store.read(f"bundles/{last.version}/release.json"))
    assert collect_garbage(job, keep=1) == ["r0002-ffffffff"]
    end_round(3, little="l1", big="b3", outcome="rejected")


def versions_of(contents: tuple[str, ...], number: int) -> set[str]:
    return {f"r{number:04d}-{hashlib.sha256(content.encode()).hexdigest()[:8]}" for content in contents}


def test_garbage_is_left_where_a_release_cannot_be_read(job, end_round, caplog):
    end_round(1, little="l1", big="b1")
    second = end_round(2, little="l2", big="b2", outcome="rejected")
    job.store.write(f"bundles/{second.version}/{RELEASE}", b"{")
    assert collect_garbage(job, keep=0) == []
    assert "old candidates are not removed, because a release cannot be read" in caplog.text


@pytest.mark.parametrize(("file", "said"), [
    (RELEASE, "release.json was changed in the store"),
    ("model.json", "model.json was changed in the store"),
])  # fmt: skip
def test_a_release_that_was_changed_in_the_store_is_not_published(job, end_round, file, said):
    ended = end_round(1, little="l1", big="b1")
    before = job.store.read(POINTER)
    version = ended.version if file == RELEASE else versions(job, ended.version)["big"]
    content = json.loads(job.store.read(f"bundles/{version}/{file}"))
    content["routing" if file == RELEASE else "lineage"] = {"changed": 1}
    job.store.write(f"bundles/{version}/{file}", json.dumps(content).encode())
    with pytest.raises(InputError, match=said):
        publish_pointer(job)
    assert job.store.read(POINTER) == before


def test_a_worker_fetches_only_the_members_that_changed(job, end_round, tmp_path, monkeypatch):
    workers = {
        role: (JobPointer(job.store, role, role), ModelCache(tmp_path / role, "onnx")) for role in ("little", "big")
    }

    def fetched() -> dict[str, int]:
        """The files that each worker downloads on its way to the release of the pointer."""
        found = {}
        for role, (reader, cache) in workers.items():
            asked.clear()
            desired = reader.read()
            model = cache.bring(desired)
            assert (model.folder / "model.onnx").read_text() == contents[role]
            assert desired.version == job.read()[0].champion
            cache.accept(model)
            found[role] = sum(count for request, count in asked.items() if request.startswith("download"))
        return found

    asked = count_requests(monkeypatch)
    contents = {"little": "l1", "big": "b1"}
    end_round(1, **contents)
    assert fetched() == {"little": 2, "big": 2}, "the description and the model, not the weights to train on"
    contents = {"little": "l1", "big": "b2"}
    end_round(2, **contents)
    assert fetched() == {"little": 0, "big": 2}
    contents = {"little": "l3", "big": "b2"}
    end_round(3, **contents)
    assert fetched() == {"little": 2, "big": 0}
    job.roll_back()
    publish_pointer(job)
    contents = {"little": "l1", "big": "b2"}
    assert fetched() == {"little": 0, "big": 0}, "the model before is still here"


def test_a_worker_is_told_which_members_there_are(job, end_round):
    end_round(1, little="l1", big="b1")
    with pytest.raises(InputError, match="has no member 'model'; choose --member from big, little"):
        JobPointer(job.store, "n1").read()


def test_what_needs_one_model_is_told_which_members_there_are(job, end_round, tmp_path):
    version = end_round(1, little="l1", big="b1").version
    said = f"version {version} is a release of several models .big, little., but one model is needed here"
    with pytest.raises(InputError, match=said):
        job.fetch_bundle(version, tmp_path / "fetched")


def test_a_description_of_a_release_is_read_back_and_equal_ones_have_equal_digests():
    members = {"b": Member(version="v2", sha256="1" * 64), "a": Member(version="v1", sha256="0" * 64)}
    release = Release(members=members, routing={"y": 1, "x": [1, {"z": None}]})
    turned = Release(members=dict(reversed(members.items())), routing={"x": [1, {"z": None}], "y": 1})
    assert release.sha256 == turned.sha256
    assert Release.parse(release.describe(), "it") == release
    with pytest.raises(InputError, match=r"r/release\.json does not describe a release: members: .*at least 1"):
        Release.parse(b'{"members": {}}', "r/release.json")


# What `state.json` of a job with three rounds said before there were releases.
OLD_STATE = """{
  "format": 1, "revision": 4, "round": 3, "cursor": "feed/8ab1.parquet", "manifest": "manifests/r0003-0123abcd.parquet",
  "champion": "r0001-aaaaaaaa", "candidate": "r0003-cccccccc", "pending": null,
  "trial": {"version": "r0003-cccccccc", "nodes": ["a"], "frames": 100, "until": "2026-11-21T10:00:00Z", "why": "promoted: x"},
  "trials": 3,
  "history": [{"version": "r0001-aaaaaaaa", "before": null, "at": "2026-11-20T10:00:00Z", "why": "promoted: x"}],
  "runs": ["a", "b", "c"],
  "vouched": {"r0001-aaaaaaaa": "0000000000000000000000000000000000000000000000000000000000000000",
              "r0003-cccccccc": "1111111111111111111111111111111111111111111111111111111111111111"}
}"""  # noqa: E501


def test_a_state_of_before_there_were_releases_is_read_and_goes_on(job):
    job.store.write(STATE, OLD_STATE.encode())
    state, etag = job.read()
    assert (state.champion, state.round, state.generation) == ("r0001-aaaaaaaa", 3, 4)
    assert state.canary.nodes == ("a",)
    made = job.commit(state.pointing_at("r0003-cccccccc", "promoted"), etag)
    assert job.read()[0] == made
    assert (made.canary, made.generation) == (None, 5)


def test_a_champion_of_before_its_description_was_vouched_for_can_be_published(job, tmp_path):
    job.registry.publish(bundle(tmp_path, "old"), "r0001-aaaaaaaa")
    old = json.loads(OLD_STATE)
    job.store.write(STATE, json.dumps({**old, "trial": None, "vouched": {}}).encode())
    assert publish_pointer(job).version == "r0001-aaaaaaaa"


# --- a pointer that goes back ---


def test_a_pointer_of_a_job_that_was_put_back_and_goes_on_is_followed_at_once(job, end_round, caplog):
    end_round(1, model="m1")
    early = job.store.read(STATE)
    for number in (2, 3):
        end_round(number, model=f"m{number}")
    reader = JobPointer(job.store, "n1")
    assert reader.read().generation == "3"
    job.store.write(STATE, early)
    again = end_round(2, model="other")
    assert reader.read().version == again.version
    assert "went back from generation 3" in caplog.text
    assert "following it, because the job was restored to an earlier state" in caplog.text


def test_a_stale_pointer_is_reported_and_followed_only_when_it_stays(job, end_round, caplog):
    end_round(1, model="m1")
    stale = job.store.read(POINTER)
    end_round(2, model="m2")
    seconds = [0.0]
    reader = JobPointer(job.store, "n1", clock=lambda: seconds[0])
    newest = reader.read()
    fresh = job.store.read(POINTER)
    job.store.write(POINTER, stale)
    assert reader.read() is None
    assert caplog.text.count("a stale copy, or the job was restored") == 1
    job.store.write(POINTER, fresh)
    assert reader.read() == newest
    job.store.write(POINTER, stale)
    seconds[0] = STALE_SECONDS
    assert reader.read() is None, "it is counted from when it went back"
    seconds[0] += STALE_SECONDS
    assert reader.read().generation == "1"


# --- what is asked of the store ---


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_an_idle_poll_asks_little_of_the_store(s3, workspace, monkeypatch):
    feed = Job.open(f"{s3}/feed").store
    feed.write("classes.txt", b"helmet")
    arguments = {"feed_url": feed.uri, "job_root": f"{s3}/job"}

    def poll() -> str:
        return trigger.python_func(**arguments, report=dsl.HTML(name="t", uri=str(workspace / "report"), metadata={}))

    commit_champions(Job.open(arguments["job_root"]), workspace, take_new(**arguments).cursor)
    poll()
    asked = count_requests(monkeypatch)
    assert poll() == "WAIT"
    assert asked.total() <= 10, asked
    assert asked["read_versioned state.json"] == 1


def commit_champions(job: Job, folder: Path, cursor: str) -> None:
    """A job with a champion, and one before that, which has read its feed."""
    path = folder / "manifest"
    Manifest.of([], ["helmet"]).write(path)
    for number in (1, 2):
        deploy(
            job.store.uri, Candidate.of_one(bundle(folder, f"m{number}")), path, outcome="promoted", why="",
            round_number=number, run_id="r", cursor=cursor, champion=job.read()[0].champion,
        )  # fmt: skip


def test_a_deployment_reads_the_state_twice(job, end_round, monkeypatch):
    end_round(1, model="m1")
    asked = count_requests(monkeypatch)
    end_round(2, model="m2", champion=pointer(job).version)
    assert asked["read_versioned state.json"] - 1 == 2, asked  # one is the fixture's


def test_settling_where_nothing_is_open_reads_the_state_once(job, end_round, monkeypatch):
    end_round(1, model="m1")
    asked = count_requests(monkeypatch)
    state = settle(job, window=None, now=NOW + timedelta(days=1), fraction=1.0)
    assert state.champion == pointer(job).version
    assert asked["read_versioned state.json"] == 1
    assert asked.total() - 1 <= 6, asked  # one is the test's


def test_a_state_without_members_is_the_state_of_one_model():
    assert Release.of_one("v1", "0" * 64).is_one_model
    assert State().champion is None

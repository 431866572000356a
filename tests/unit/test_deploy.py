import hashlib
import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.core.bundle import Bundle
from components.core.errors import ConflictError, InputError, NotFoundError
from components.core.heads import SplitHead
from components.core.job.fleet import POINTER, SEDNA_POINTER, Pointer, WorkerStatus, status_key
from components.core.job.job import Job
from components.core.job.state import REMEMBERED_RUNS, STATE, RoundResult, State
from components.core.manifest import Manifest
from components.core.rules.window import Window
from components.core.stores.files import FileStore
from components.core.stores.s3 import S3Store
from components.deploy.candidate import Candidate, publish
from components.deploy.deploy import Deployed, deploy, promote_pending, section
from components.deploy.garbage import collect_garbage
from components.deploy.pointer import publish_pointer
from components.deploy.workers import Acknowledgement, await_workers

NIGHT = Window.parse("22:00-06:00")
NOON = datetime(2025, 3, 4, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2025, 3, 4, 23, 0, tzinfo=UTC)


@pytest.fixture(params=["file", "s3"])
def root(request, tmp_path) -> str:
    return str(tmp_path / "job") if request.param == "file" else request.getfixturevalue("s3")


@pytest.fixture
def end_round(tmp_path):
    """Deploys a candidate made of a text; each test overrides what it is about."""

    def run(root: str, number: int, **options) -> Deployed:
        settings = {
            "outcome": "promoted", "why": "better", "run_id": f"run-{number}", "cursor": f"cursor-{number}",
            "champion": Job.open(root).read()[0].champion, "poll_s": 0.02,
        }  # fmt: skip
        settings |= options
        content = settings.pop("content", f"model {number}")
        candidate = Candidate.of_one(bundle(tmp_path, content))
        return deploy(root, candidate, manifest(tmp_path, number, content), round_number=number, **settings)

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


def manifest(tmp_path: Path, number: int, content: str) -> Path:
    path = tmp_path / f"manifest-{number}-{content}"
    row = {
        "id": "ab" * 32, "uri": "file:///a.jpg", "width": 1, "height": 1, "split": "test", "group": "a",
        "source": "a.jpg", "round": number, "annotations": [],
    }  # fmt: skip
    Manifest.of([row], ["helmet"]).write(path)
    return path


def name(number: int, content: str | None = None) -> str:
    return f"r{number:04d}-{hashlib.sha256((content or f'model {number}').encode()).hexdigest()[:8]}"


def test_a_promoted_candidate_becomes_the_champion_in_one_commit(root, end_round, tmp_path):
    assert end_round(root, 1) == Deployed("deployed", name(1), name(1))
    job = Job.open(root)
    state, _ = job.read()
    assert (state.revision, state.round, state.cursor, state.runs) == (1, 1, "cursor-1", ("run-1",))
    assert (state.champion, state.pending) == (name(1), None)
    assert [(change.before, change.version, change.why) for change in state.history] == [
        (None, name(1), "promoted: better")
    ]
    assert job.manifest(state, tmp_path).table["round"].to_list() == [1]
    assert job.fetch_bundle(name(1), tmp_path / "fetched").files.keys() == {"model.onnx", "model.pt"}
    end_round(root, 2)
    state, _ = job.read()
    assert (state.round, state.champion, state.history[-1].before) == (2, name(2), name(1))


def test_a_rejected_candidate_changes_everything_but_the_pointer(root, end_round):
    end_round(root, 1)
    before = Job.open(root).store.read(POINTER)
    assert end_round(root, 2, outcome="rejected", why="no gain") == Deployed("kept", name(2), name(1))
    job = Job.open(root)
    state, _ = job.read()
    assert (state.round, state.cursor, state.champion, state.pending) == (2, "cursor-2", name(1), None)
    assert len(state.history) == 1
    assert job.registry.versions() == [name(1), name(2)]
    assert job.store.read(POINTER) == before


def test_a_pending_candidate_waits_for_its_window_and_no_older_one_comes_after_a_newer(root, end_round):
    end_round(root, 1)
    assert end_round(root, 2, outcome="pending") == Deployed("pending", name(2), name(1))
    job = Job.open(root)
    assert (job.read()[0].champion, job.read()[0].pending) == (name(1), name(2))
    assert promote_pending(Job.open(root), window=NIGHT, now=NOON) is None
    end_round(root, 3, outcome="rejected")
    assert job.read()[0].pending == name(2)
    assert promote_pending(Job.open(root), window=NIGHT, now=MIDNIGHT) == name(2)
    assert promote_pending(Job.open(root), window=NIGHT, now=MIDNIGHT) is None
    state, _ = job.read()
    assert (state.round, state.champion, state.pending) == (3, name(2), None)
    assert (state.history[-1].at, state.history[-1].why) == (MIDNIGHT, "promoted: it waited for the window")
    assert Pointer.model_validate_json(job.store.read(POINTER)).version == name(2)

    end_round(root, 4, outcome="pending")
    end_round(root, 5)
    assert (job.read()[0].champion, job.read()[0].pending) == (name(5), None)
    assert promote_pending(Job.open(root), window=None, now=NOON) is None


def test_an_error_of_the_gate_commits_nothing(root, end_round):
    with pytest.raises(InputError, match="round 1 is not committed, because the gate could not decide: no metric"):
        end_round(root, 1, outcome="error", why="no metric 'x'")
    assert list(Job.open(root).store.list()) == []


def test_the_same_run_again_does_nothing_twice(root, end_round):
    first = end_round(root, 1)
    again = end_round(root, 1, champion=None)
    assert again == first
    job = Job.open(root)
    assert job.read()[0].revision == 1
    end_round(root, 2)
    assert end_round(root, 1, champion=None).champion == name(2)  # the round after has been committed meanwhile
    assert job.read()[0].revision == 2


def test_another_run_of_the_same_round_is_told_that_it_lost(root, end_round):
    end_round(root, 1)
    with pytest.raises(
        ConflictError, match="another run committed round 1 first; the results of this run are discarded"
    ):
        end_round(root, 1, run_id="other", content="other", champion=None)
    assert Job.open(root).registry.versions() == [name(1)]


def test_a_champion_that_changed_while_the_candidate_was_judged_drops_the_round(root, end_round):
    end_round(root, 1)
    end_round(root, 2)
    Job.open(root).roll_back()
    with pytest.raises(
        ConflictError, match=rf"the champion became {name(1)} while round 3 was evaluated against {name(2)}"
    ):
        end_round(root, 3, champion=name(2))
    state, _ = Job.open(root).read()
    assert (state.round, state.cursor, state.champion) == (2, "cursor-2", name(1))


def test_rounds_follow_each_other(root, end_round):
    with pytest.raises(InputError, match="round 3 cannot follow round 0"):
        end_round(root, 3)
    assert Job.open(root).read()[1] is None


def test_of_two_runs_that_commit_at_once_one_wins_and_the_other_says_so(root, end_round):
    end_round(root, 1)
    start = threading.Barrier(4)
    ends = {}

    def attempt(run: str) -> None:
        start.wait()
        try:
            ends[run] = end_round(root, 2, run_id=run, content=run, champion=name(1)).champion
        except ConflictError as error:
            ends[run] = str(error)

    threads = [threading.Thread(target=attempt, args=(run,)) for run in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [run for run, end in ends.items() if end == name(2, run)]
    assert len(winners) == 1
    losers = [end for run, end in ends.items() if run not in winners]
    assert len(losers) == 3
    assert all("another run committed round 2 first" in end for end in losers)
    state, _ = Job.open(root).read()
    assert (state.revision, state.champion, state.runs) == (2, name(2, winners[0]), ("run-1", winners[0]))
    assert len(state.history) == 2
    assert Pointer.model_validate_json(Job.open(root).store.read(POINTER)).version == state.champion


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_killed_at_any_write_leaves_the_old_state_or_the_new_and_is_finished_by_the_next(
    root, end_round, monkeypatch, after
):
    end_round(root, 1)
    job = Job.open(root)
    kind = FileStore if isinstance(job.store, FileStore) else S3Store
    writes = {method: getattr(kind, method) for method in ("write", "upload")}
    left = -1

    def dying(method):
        def call(self, *args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0 and not after:
                raise Killed
            result = writes[method](self, *args, **kwargs)
            if left == 0:
                raise Killed
            return result

        return call

    for method in writes:
        monkeypatch.setattr(kind, method, dying(method))
    deaths = 0
    for number in range(2, 20):
        left = number - 1
        before, _ = job.read()
        try:
            end_round(root, number, champion=before.champion)
        except Killed:
            deaths += 1
        else:
            break
        state, _ = job.read()
        assert state == before or (state.round, state.champion) == (number, name(number))
        assert state.champion in job.registry.versions()
        left = -1
        publish_pointer(job)  # as the next poll does
        assert Pointer.model_validate_json(job.store.read(POINTER)).version == state.champion
        assert end_round(root, number, champion=before.champion) == Deployed("deployed", name(number), name(number))
        state, _ = job.read()
        assert (state.round, state.cursor, state.champion) == (number, f"cursor-{number}", name(number))
        assert [change.version for change in state.history] == [name(n) for n in range(1, number + 1)]
        assert Pointer.model_validate_json(job.store.read(POINTER)).version == name(number)
    # Three files of the bundle, the manifest, the state and two pointers.
    assert deaths == 7


def test_the_pointers_describe_the_champion(root, end_round):
    end_round(root, 1)
    job = Job.open(root)
    pointer = Pointer.model_validate_json(job.store.read(POINTER))
    assert (pointer.generation, pointer.version, pointer.format) == (1, name(1), 1)
    assert pointer.uri == job.store.uri_of(f"bundles/{name(1)}")
    assert pointer.updated == job.read()[0].history[-1].at
    assert pointer.files.keys() == {"model.json", "model.onnx", "model.pt"}
    for file, described in pointer.files.items():
        content = job.store.read(f"bundles/{name(1)}/{file}")
        assert (described.sha256, described.size) == (hashlib.sha256(content).hexdigest(), len(content))
    sedna = json.loads(job.store.read(SEDNA_POINTER))
    assert sedna.keys() == {"model_config"}
    assert sedna["model_config"].keys() == {"model_path", "model_update_time"}
    assert sedna["model_config"]["model_path"].endswith(f"/bundles/{name(1)}/model.onnx")
    if not root.startswith("s3://"):
        assert Path(sedna["model_config"]["model_path"]).read_text() == "model 1"


def test_the_pointers_follow_a_way_back_with_a_higher_move(root, end_round):
    end_round(root, 1)
    end_round(root, 2)
    job = Job.open(root)
    times = [json.loads(job.store.read(SEDNA_POINTER))["model_config"]["model_update_time"]]
    job.roll_back()
    pointer = publish_pointer(job)
    times.append(json.loads(job.store.read(SEDNA_POINTER))["model_config"]["model_update_time"])
    assert pointer is not None
    assert (pointer.generation, pointer.version) == (3, name(1))
    assert times[0] != times[1]
    written = job.store.stat(POINTER)
    assert publish_pointer(job) == pointer
    assert job.store.stat(POINTER) == written  # nothing to do, nothing written


def test_a_job_without_a_champion_has_no_pointer(root):
    assert publish_pointer(Job.open(root)) is None
    assert list(Job.open(root).store.list()) == []


@pytest.mark.parametrize("absent", [True, False])
def test_a_slow_publisher_does_not_bring_an_old_pointer_back(root, end_round, monkeypatch, absent):
    end_round(root, 1)
    stale = {key: Job.open(root).store.read(key) for key in (POINTER, SEDNA_POINTER)}
    end_round(root, 2)
    job = Job.open(root)
    for key, content in stale.items():
        if absent:
            job.store.delete(key)
        else:
            job.store.write(key, content)
    real, slept = Job.read, []

    def slow(self):
        found = real(self)
        if not slept:
            slept.append(True)
        elif len(slept) == 1:  # the state that the first pointer is made of is old before it is written
            slept.append(True)
            self.commit(found[0].pointing_at(name(1), "rolled back"), found[1])
            publish_pointer(self)
        return found

    monkeypatch.setattr(Job, "read", slow)
    assert publish_pointer(job).version == name(1)
    assert job.read()[0].champion == name(1)
    assert name(1) in json.loads(job.store.read(SEDNA_POINTER))["model_config"]["model_path"]


def report(job: Job, node: str, version: str, state: str = "loaded", error: str = "") -> None:
    status = WorkerStatus(node=node, version=version, state=state, error=error, time=NOON)
    job.store.write(status_key(node), status.model_dump_json().encode())


def test_workers_that_load_the_model_confirm_it(root, end_round):
    job = Job.open(root)
    end_round(root, 1)
    for node in ("a", "b"):
        report(job, node, name(1))

    def load() -> None:
        while job.read()[0].champion != name(2):
            time.sleep(0.01)
        for node in ("a", "b"):
            time.sleep(0.05)
            report(job, node, name(2))

    worker = threading.Thread(target=load)
    worker.start()
    deployed = end_round(root, 2, rollout_timeout=20)
    worker.join()
    assert deployed.outcome == "deployed"
    assert deployed.workers == Acknowledgement("confirmed", ("a", "b"), {}, ())
    assert "confirmed: 2 of 2 workers run it, 0 failed, 0 wait" in section(deployed).body


def test_workers_that_stay_silent_leave_it_not_confirmed(root, end_round):
    job = Job.open(root)
    report(job, "a", "r0000-00000000")
    job.store.write(status_key("broken"), b"{")
    deployed = end_round(root, 1, rollout_timeout=0.1)
    assert deployed == Deployed(
        "not confirmed", name(1), name(1), Acknowledgement("not confirmed", (), {}, ("a", "broken"))
    )
    assert job.read()[0].champion == name(1)
    assert "note warn" in section(deployed).body


def test_a_failed_worker_ends_the_waiting_when_too_few_are_left(root):
    job = Job.open(root)
    for node, state in {"a": "loaded", "b": "failed", "c": "loaded"}.items():
        report(job, node, "v2", state, error="no memory" if state == "failed" else "")
    report(job, "d", "v1")
    started = time.monotonic()
    found = await_workers(job, "v2", timeout_s=60, fraction=1.0)
    assert time.monotonic() - started < 10
    assert found == Acknowledgement("not confirmed", ("a", "c"), {"b": "no memory"}, ("d",))
    assert found.describe() == "2 of 4 workers run it, 1 failed, 1 wait (b: no memory)"
    assert await_workers(job, "v2", timeout_s=0, fraction=0.75).outcome == "not confirmed"
    assert await_workers(job, "v2", timeout_s=60, fraction=0.5).outcome == "confirmed"


def test_a_fleet_without_workers_keeps_nobody_waiting(root, end_round):
    deployed = end_round(root, 1, rollout_timeout=60)
    assert deployed.outcome == "deployed"
    assert deployed.workers == Acknowledgement("no workers", (), {}, ())
    assert "no workers have reported" in section(deployed).body


def test_a_share_of_the_workers_is_counted_without_rounding_errors():
    nodes = tuple(f"n{place:03d}" for place in range(100))
    assert not Acknowledgement("not confirmed", nodes[:7], dict.fromkeys(nodes[7:], ""), ()).hopeless(0.07)
    assert Acknowledgement("not confirmed", nodes[:6], dict.fromkeys(nodes[6:], ""), ()).hopeless(0.07)


def test_garbage_is_what_was_never_deployed(root, end_round):
    job = Job.open(root)
    for number, outcome in enumerate(
        ["promoted", "rejected", "rejected", "promoted", "rejected", "pending", "rejected"], start=1
    ):
        end_round(root, number, outcome=outcome)
    job.store.write("bundles/r0008-0123abcd/model.onnx", b"a round in progress")
    job.store.write("bundles/r0003-ffffffff/model.onnx", b"left by a run that was killed")
    job.store.write("bundles/by-hand/model.onnx", b"somebody's own")
    assert collect_garbage(job, keep=2) == sorted([name(2), name(3), "r0003-ffffffff"])
    left = {info.key.split("/")[1] for info in job.store.list("bundles/")}
    assert left == {name(1), name(4), name(5), name(6), name(7), "r0008-0123abcd", "by-hand"}
    assert collect_garbage(job, keep=2) == []
    assert collect_garbage(job, keep=0) == [name(5), name(7)]
    assert job.registry.versions() == [name(1), name(4), name(6)]
    assert job.roll_back().champion == name(1)
    with pytest.raises(InputError, match="keep=-1 must be >= 0"):
        collect_garbage(job, keep=-1)


def test_a_bundle_half_removed_is_not_there(root, end_round, monkeypatch):
    end_round(root, 1)
    end_round(root, 2, outcome="rejected")
    job = Job.open(root)
    kind, real = type(job.store), type(job.store).delete

    def once(self, key):
        real(self, key)
        raise Killed

    monkeypatch.setattr(kind, "delete", once)
    with pytest.raises(Killed):
        collect_garbage(job, keep=0)
    monkeypatch.setattr(kind, "delete", real)
    assert job.registry.versions() == [name(1)]
    assert collect_garbage(job, keep=0) == [name(2)]
    assert [info.key for info in job.store.list(f"bundles/{name(2)}")] == []


def test_what_cannot_be_deployed_is_refused_before_anything_is_written(tmp_path, end_round):
    job = Job.open(str(tmp_path / "job"))
    root = str(tmp_path / "job")
    with pytest.raises(InputError, match="rollout_fraction=0: must be above 0"):
        end_round(root, 1, rollout_fraction=0)
    with pytest.raises(NotFoundError, match=r"no model\.json in it"):
        publish(Candidate.of_one(tmp_path), job, State(), 1)
    folder = bundle(tmp_path, "x")
    (folder / "model.onnx").unlink()
    replace(Bundle.read(bundle(tmp_path, "y"))).write(folder)
    with pytest.raises(InputError, match=r"no model\.onnx in it: convert the model before it is deployed"):
        publish(Candidate.of_one(folder), job, State(), 1)
    settings = {"outcome": "promoted", "why": "", "run_id": "r", "cursor": "", "champion": None}
    with pytest.raises(InputError, match=r"manifest .*nothing: no such file"):
        deploy(root, Candidate.of_one(tmp_path / "bundle-y"), tmp_path / "nothing", round_number=1, **settings)
    assert Job.open(root).store.stat(STATE) is None


def test_the_runs_of_the_last_rounds_are_remembered():
    state = State()
    for number in range(1, REMEMBERED_RUNS + 6):
        state = state.after(
            RoundResult(
                number=number, run=f"run-{number}", cursor="", manifest="m", champion=None, version="v",
                description="0" * 64, outcome="rejected", why="",
            )
        )  # fmt: skip
    assert len(state.runs) == REMEMBERED_RUNS
    assert [state.run_of(number) for number in (5, 6, REMEMBERED_RUNS + 5, REMEMBERED_RUNS + 6)] == [
        None, "run-6", f"run-{REMEMBERED_RUNS + 5}", None,
    ]  # fmt: skip


def test_a_state_from_before_runs_were_remembered_can_be_read(tmp_path):
    job = Job.open(str(tmp_path / "job"))
    job.store.write(STATE, b'{"format": 1, "revision": 3, "round": 3, "cursor": "c"}')
    state, _ = job.read()
    assert (state.round, state.runs, state.run_of(3)) == (3, (), None)

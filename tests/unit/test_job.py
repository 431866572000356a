import contextlib
import json
import threading
from dataclasses import replace

import pytest

from components.core.bundle import Bundle
from components.core.errors import ConflictError, InputError, NotFoundError
from components.core.heads import SplitHead
from components.core.job.job import Job
from components.core.job.state import STATE, State


@pytest.fixture(params=["file", "s3"])
def job(request, tmp_path) -> Job:
    root = str(tmp_path / "job") if request.param == "file" else request.getfixturevalue("s3")
    return Job.open(root)


def bundle_in(folder, content: bytes = b"weights") -> Bundle:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(content)
    return Bundle(
        classes=("helmet",), image_size=(64, 64), estimator="yolo", head=SplitHead((8,), 1, False),
        outputs=("box0", "cls0"), confidence_threshold=0.25, nms_threshold=0.7,
    ).write(folder)  # fmt: skip


def test_a_job_that_has_not_begun_has_an_empty_state(job):
    state, etag = job.read()
    assert state == State()
    assert etag is None


def test_a_commit_is_seen_and_counted(job):
    state, etag = job.read()
    made = job.commit(replace_round(state, 1), etag)
    assert made.revision == 1
    again, etag = job.read()
    assert again == made
    assert job.commit(replace_round(again, 2), etag).revision == 2


def replace_round(state: State, number: int) -> State:
    return state.model_copy(update={"round": number})


def test_who_read_an_older_state_has_lost(job):
    first, etag = job.read()
    job.commit(replace_round(first, 1), etag)
    with pytest.raises(ConflictError):
        job.commit(replace_round(first, 9), etag)
    state, etag = job.read()
    job.commit(replace_round(state, 2), etag)
    with pytest.raises(ConflictError):
        job.commit(replace_round(state, 9), etag)
    assert job.read()[0].round == 2


def test_of_many_commits_at_once_one_wins(job):
    state, etag = job.read()
    job.commit(state, etag)
    state, etag = job.read()
    won = []

    def attempt(number: int) -> None:
        with contextlib.suppress(ConflictError):
            won.append(job.commit(replace_round(state, number), etag).round)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert job.read()[0].round == won[0]


def test_what_is_no_state_is_an_error(job):
    job.store.write(STATE, b'{"format": 2, "rounds": 3}')
    with pytest.raises(InputError, match=r"state\.json is not the state of a job: .*format.*rounds"):
        job.read()


def test_a_bundle_is_there_only_when_it_is_whole(job, tmp_path):
    bundle = bundle_in(tmp_path / "b")
    job.store.upload(tmp_path / "b" / "model.onnx", "bundles/half/model.onnx")
    assert job.registry.versions() == []
    with pytest.raises(NotFoundError, match="unknown model version 'half'; choose from none"):
        job.fetch_bundle("half", tmp_path / "half")
    job.registry.publish(tmp_path / "b", "v1")
    assert job.registry.versions() == ["v1"]
    assert job.fetch_bundle("v1", tmp_path / "v1") == bundle


def test_a_bundle_that_was_changed_in_the_store_is_refused(job, tmp_path):
    bundle_in(tmp_path / "b")
    job.registry.publish(tmp_path / "b", "v1")
    job.store.write("bundles/v1/model.onnx", b"something else")
    with pytest.raises(InputError, match=r"model\.onnx does not have the SHA-256"):
        job.fetch_bundle("v1", tmp_path / "v1")


def test_the_pointer_moves_and_goes_back_with_its_history(job, tmp_path):
    for version in ("v1", "v2", "v3"):
        bundle_in(tmp_path / version, version.encode())
        job.registry.publish(tmp_path / version, version)
        state, etag = job.read()
        job.commit(state.pointing_at(version, "promoted: mAP50 rose"), etag)
    assert job.roll_back().champion == "v2"
    assert job.roll_back("v1").champion == "v1"
    history = job.read()[0].history
    assert [(change.before, change.version) for change in history] == [
        (None, "v1"), ("v1", "v2"), ("v2", "v3"), ("v3", "v2"), ("v2", "v1"),
    ]  # fmt: skip
    with pytest.raises(NotFoundError, match="unknown model version 'v9'; choose from v1, v2, v3"):
        job.roll_back("v9")


def test_going_back_from_nothing_is_an_error(job):
    with pytest.raises(InputError, match="there is no model before None"):
        job.roll_back()


def test_a_candidate_that_waited_no_longer_waits_when_promoted():
    state = State(champion="v1", pending="v2")
    assert state.pointing_at("v2", "promoted").pending is None
    assert state.pointing_at("v3", "forced").pending == "v2"


def test_a_bundle_can_be_described_anew(tmp_path):
    bundle = bundle_in(tmp_path / "b")
    assert replace(bundle, metrics={"map50": 0.5}).write(tmp_path / "b").metrics == {"map50": 0.5}


@pytest.mark.parametrize(
    "changes",
    [{"vouched": {"v1": "zz"}}, {"vouched": []}, {"history": None}, {"cursor": 3}, {"champion": "a/b"}, {"round": -1}],
)
def test_a_state_that_was_damaged_by_hand_is_named(job, changes):
    job.store.write(STATE, json.dumps({**State().model_dump(mode="json"), **changes}).encode())
    with pytest.raises(
        InputError, match=rf"state\.json is not the state of a job: {next(iter(changes))}.*from a backup"
    ):
        job.read()


def test_a_job_whose_state_is_gone_is_not_begun_anew(job, tmp_path):
    bundle_in(tmp_path / "b")
    job.registry.publish(tmp_path / "b", "r0001-aaaaaaaa")
    assert job.read() == (State(), None), "a first round that was killed before its commit leaves this"
    job.registry.publish(tmp_path / "b", "r0002-bbbbbbbb")
    with pytest.raises(InputError, match=r"state\.json is gone, although this job has had rounds: restore it"):
        job.read()

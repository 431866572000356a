"""What is put on record of rounds that fail, and how long they rest."""

from datetime import UTC, datetime, timedelta

import pytest

from components.core.job.failures import FAILURES, Failures, note_failure, parameters_key, read_failures
from components.core.stores.open import open_store

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def failed(count, at=NOW):
    return Failures(round=4, count=count, step="judge", error="no such class", at=at)


@pytest.mark.parametrize(("count", "minutes"), [(3, 10), (4, 20), (7, 160), (8, 320), (9, 360), (90, 360)])
def test_from_the_third_failure_on_a_round_rests_for_longer_and_longer(count, minutes):
    end = NOW + timedelta(minutes=minutes)
    assert failed(count).rests_until(NOW) == end
    assert failed(count).rests_until(end - timedelta(seconds=1)) == end
    assert failed(count).rests_until(end) is None


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_failures_are_no_reason_to_wait(count):
    assert failed(count).rests_until(NOW) is None


def test_a_failure_in_the_future_is_no_reason_to_wait():
    assert failed(9, NOW + timedelta(days=2)).rests_until(NOW) is None


def test_failures_of_one_round_are_counted_and_those_of_the_next_anew(tmp_path):
    store = open_store(str(tmp_path / "job"))
    assert read_failures(store) is None
    note_failure(store.uri, 1, "train", "out of memory")
    note_failure(store.uri, 1, "judge", "x" * 2000)
    found = read_failures(store)
    assert (found.round, found.count, found.step, found.error) == (1, 2, "judge", "x" * 500)
    note_failure(store.uri, 2, "train", "out of memory")
    assert (read_failures(store).round, read_failures(store).count) == (2, 1)


def test_failures_with_other_parameters_are_counted_anew(tmp_path):
    store = open_store(str(tmp_path / "job"))
    for _ in range(3):
        note_failure(store.uri, 1, "train", "out of memory", {"train": {"batch": 64}})
    found = read_failures(store)
    assert found.count == 3
    assert found.is_of(1, parameters_key({"batch": 64.0})), "however they are written"
    assert not found.is_of(1, parameters_key({"batch": 16}))
    assert not found.is_of(2, parameters_key({"batch": 64}))
    note_failure(store.uri, 1, "train", "out of memory", {"batch": 16})
    assert read_failures(store).count == 1


def test_how_a_round_was_forced_is_no_other_parameter():
    assert parameters_key({"batch": 16, "force_train": True}) == parameters_key({"batch": 16})


def test_a_run_that_was_overtaken_leaves_the_record_of_the_next_round_alone(tmp_path):
    store = open_store(str(tmp_path / "job"))
    note_failure(store.uri, 2, "judge", "no such class")
    note_failure(store.uri, 1, "train", "round 1 is committed")
    assert read_failures(store).round == 2


def test_a_damaged_record_is_none(tmp_path, caplog):
    store = open_store(str(tmp_path / "job"))
    store.write(FAILURES, b'{"round": 0}')
    assert read_failures(store) is None
    assert "failures.json is damaged and ignored" in caplog.text
    note_failure(store.uri, 1, "train", "out of memory")
    assert read_failures(store).count == 1


def test_where_nothing_can_be_put_on_record_nothing_happens(tmp_path):
    (tmp_path / "file").write_text("in the way")
    note_failure(str(tmp_path / "file" / "job"), 1, "train", "out of memory")
    note_failure("ftp://nowhere", 1, "train", "out of memory")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

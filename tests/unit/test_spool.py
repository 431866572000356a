import errno
import multiprocessing
import os
import random
import resource
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from itertools import count
from multiprocessing.managers import BaseManager

import pytest

from components.core.errors import ConflictError, InputError
from components.core.stores.open import open_store
from components.serving.ledger import Ledger, Record
from components.serving.spool import Spool
from components.serving.spool_files import DamagedError
from components.serving.uploader import Uploader
from tests.hard_examples import check_stored, drain, example, files_in, open_spool

fork = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "job"))


def waiting(spool):
    return [sidecar.frame for sidecar in spool.pending()]


def send_one(spool):
    entry = spool.take()
    spool.sent(entry)


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- what is kept, and for how long ---


def test_what_is_kept_is_there_after_a_restart(folder):
    examples = [example(number) for number in range(5)]
    with open_spool(folder) as spool:
        assert [spool.add(*each) for each in examples] == ["kept"] * 5
    with open_spool(folder) as spool:
        assert spool.pending() == [sidecar for _, sidecar in examples]
        entry = spool.take()
        assert spool.read(entry)[::2] == examples[0]
        assert len(spool) == 5


def test_the_same_image_is_kept_once(folder):
    image, sidecar = example(1)
    with open_spool(folder) as spool:
        assert spool.add(image, sidecar) == "kept"
        assert spool.add(*example(99, image)) == "known"
        send_one(spool)
        assert spool.add(image, sidecar) == "known"
    with open_spool(folder) as spool:
        assert spool.add(image, sidecar) == "known"
        assert len(spool) == 0


def test_first_come_first_served_whatever_the_clock_says(folder):
    numbers = [5, 3, 9, 1]  # each was taken so many seconds after noon
    with open_spool(folder) as spool:
        for number in numbers[:2]:
            spool.add(*example(number))
    with open_spool(folder) as spool:
        send_one(spool)
        for number in numbers[2:]:
            spool.add(*example(number))
        assert waiting(spool) == [3, 9, 1]


def test_sequence_numbers_are_not_given_twice(folder):
    with open_spool(folder) as spool:
        spool.add(*example(1))
        send_one(spool)
    with open_spool(folder) as spool:
        assert spool.next_sequence == 2


def test_a_sidecar_of_another_image_is_a_mistake(folder):
    with open_spool(folder) as spool, pytest.raises(ValueError, match="a different image"):
        spool.add(b"other bytes", example(1)[1])


def test_one_process_at_a_time(folder):
    with open_spool(folder), pytest.raises(InputError, match=r"spool: another process uses it") as caught:
        open_spool(folder)
    assert "\n" not in str(caught.value)
    open_spool(folder).close()


def test_after_closing_nothing_is_written(folder):
    spool = open_spool(folder)
    spool.add(*example(1))
    entry = spool.take()
    spool.close()
    with open_spool(folder) as other:
        spool.sent(entry)  # by an upload that ends late
        assert waiting(other) == [1]
    with pytest.raises(RuntimeError, match="closed"):
        spool.add(*example(2))


def test_age_and_bytes(folder, monkeypatch):
    with open_spool(folder) as spool:
        assert (spool.oldest_age, spool.used_bytes) == (0, 0)
        spool.add(*example(1))
        assert 0 <= spool.oldest_age < 5
        assert bytes_in(folder) <= spool.used_bytes <= bytes_in(folder) + 2 * 4096
    hour_ago = time.time() - 3600
    for path in (folder / "pending").iterdir():
        os.utime(path, (hour_ago, hour_ago))
    with open_spool(folder) as spool:
        assert 3600 <= spool.oldest_age < 3610
    monkeypatch.setattr(time, "time", lambda: hour_ago - 9999)
    with open_spool(folder) as spool:
        assert 0 <= spool.oldest_age < 5


def test_everything_is_counted(folder):
    counts = Counter()
    with open_spool(folder, 70_000, on_event=lambda name, amount: counts.update({name: amount})) as spool:
        for number in range(10):
            spool.add(*example(number, score=0.1 * number))
        spool.add(*example(9, score=0.9))
        spool.add(*example(10, score=0.0))
        assert counts == {"kept": 10, "known": 1, "full": 1, "dropped": 10 - len(spool)}


# --- broken files ---


def test_unfinished_files_are_removed(folder):
    with open_spool(folder) as spool:
        spool.add(*example(1))
        spool.add(*example(2))
    pending = folder / "pending"
    for place in (folder, pending):
        (place / ".edge-0123456789").write_bytes(b"half a file")
    next(pending.glob("000000000001-*.json")).unlink()
    (pending / f"000000000003--{'0' * 64}.jpg").write_bytes(b"without a sidecar")
    with open_spool(folder) as spool:
        assert waiting(spool) == [2]
        assert len(files_in(pending)) == 2
        assert len(files_in(folder)) == 3  # and the lock


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 2}', "other"])
def test_a_broken_sidecar_is_set_aside_at_the_start(folder, caplog, damage):
    with open_spool(folder) as spool:
        spool.add(*example(1), 77)
        spool.add(*example(2))
    other = example(3)[1].model_dump_json().encode()
    next((folder / "pending").glob("000000000001-*.json")).write_bytes(other if damage == "other" else damage)
    with open_spool(folder) as spool:
        assert waiting(spool) == [2]
        assert spool.fingerprints() == [77]
        assert len(files_in(folder / "damaged")) == 2
        assert spool.used_bytes >= bytes_in(folder)
        assert spool.add(*example(1)) == "kept"
    assert "is damaged" in caplog.text


def test_damage_is_found_before_anything_is_sent(folder):
    with open_spool(folder) as spool:
        for number in range(3):
            spool.add(*example(number))
        images = sorted((folder / "pending").glob("*.jpg"))
        images[0].write_bytes(images[0].read_bytes()[:-1] + b"?")
        images[1].unlink()
        for message in ("changed", "No such file"):
            entry = spool.take()
            with pytest.raises(DamagedError, match=message) as caught:
                spool.read(entry)
            spool.set_aside(entry, caught.value)
        assert waiting(spool) == [2]
        assert len(files_in(folder / "damaged")) == 3


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="spool folder .*file"):
        open_spool(tmp_path / "file")
    with pytest.raises(InputError, match="at least 65536"):
        Spool(tmp_path / "spool", 1000)


# --- a full spool, a full disk ---

ROOM = 200_000  # 21 examples of 8192 bytes, and the ledger


def test_the_least_valuable_go_first(folder):
    with open_spool(folder, ROOM) as spool:
        scores = random.Random(1).choices([0.2, 0.4, 0.6, 0.8], k=60)
        for number, score in enumerate(scores):
            spool.add(*example(number, score=score, kind="audit" if number % 3 == 0 else "hard"))
            assert bytes_in(folder) <= spool.used_bytes <= ROOM
        best = sorted(range(60), key=lambda number: (number % 3 != 0, scores[number], number))[-len(spool) :]
        assert len(spool) == 21
        assert waiting(spool) == sorted(best)


def test_what_is_worth_less_than_all_that_is_here_is_refused(folder):
    with open_spool(folder, ROOM) as spool:
        while spool.add(*example(spool.next_sequence, score=0.5)) == "kept" and spool.next_sequence < 22:
            pass
        before = waiting(spool)
        assert spool.add(*example(100, score=0.4)) == "full"
        assert spool.add(*example(101, score=0.9, kind="audit")) == "full"
        assert spool.add(*example(102, random.Random(1).randbytes(ROOM), score=1)) == "full"
        assert waiting(spool) == before
        assert spool.add(*example(103, score=0.5)) == "kept"
        assert waiting(spool) == [*before[1:], 103]


def test_nothing_is_given_up_for_what_does_not_fit(folder):
    """Room for it would need the valuable ones as well, so the others stay too."""
    with open_spool(folder, ROOM) as spool:
        for number in range(21):
            spool.add(*example(number, score=0.1 if number < 3 else 0.9))
        assert spool.add(*example(99, random.Random(1).randbytes(50_000), score=0.5)) == "full"
        assert len(spool) == 21


def test_what_is_being_sent_is_not_dropped(folder):
    with open_spool(folder, ROOM) as spool:
        for number in range(21):
            spool.add(*example(number, score=0.1 * (number > 0)))
        entry = spool.take()
        spool.add(*example(99, score=0.9))
        assert waiting(spool) == [0, *range(2, 21), 99]
        spool.sent(entry)
        assert spool.add(*example(0)) == "known"
        assert spool.add(*example(1, score=0.9)) == "kept"


def test_damaged_files_make_room_first(folder):
    with open_spool(folder, ROOM) as spool:
        for number in range(21):
            spool.add(*example(number))
        spool.set_aside(spool.take(), DamagedError("test"))
        assert spool.add(*example(99, score=0)) == "kept"
        assert files_in(folder / "damaged") == []
        assert len(spool) == 21


def test_a_smaller_spool_than_before(folder):
    with open_spool(folder) as spool:
        for number in range(60):
            spool.add(*example(number, score=number / 100))
    with open_spool(folder, ROOM) as spool:
        assert waiting(spool) == list(range(39, 60))
        assert bytes_in(folder) <= ROOM


def test_drops_are_logged_seldom(folder, caplog):
    with open_spool(folder, ROOM) as spool:
        for number in range(50):
            spool.add(*example(number))
    assert [record.message for record in caplog.records] == [
        "hard examples: 1 dropped from the full spool, the least valuable first"
    ]


@contextmanager
def files_no_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 1000, 2999])  # of the sidecar too, of the image only
def test_a_disk_that_takes_no_more(folder, caplog, limit):
    with open_spool(folder) as spool:
        spool.add(*example(1))
        before = files_in(folder)
        with files_no_larger_than(limit):
            assert [spool.add(*example(number)) for number in range(2, 12)] == ["full"] * 10
        assert files_in(folder) == before
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "no space left (File too large)" in caplog.text
        assert spool.add(*example(2)) == "kept"
    with open_spool(folder) as spool:
        assert waiting(spool) == [1, 2]


def test_a_disk_with_room_for_the_image_only(folder, monkeypatch):
    fsync, calls = os.fsync, []

    def fill_up(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with open_spool(folder) as spool:
        monkeypatch.setattr(os, "fsync", fill_up)
        assert spool.add(*example(1)) == "full"
        assert files_in(folder) == ["lock"]


def test_what_was_sent_leaves_a_full_disk(folder, caplog):
    with open_spool(folder) as spool:
        for number in range(3):
            spool.add(*example(number))
        send_one(spool)
        with files_no_larger_than((folder / "ledger").stat().st_size + 10):  # half a line fits
            send_one(spool)
            assert waiting(spool) == [2]
            assert spool.add(*example(1)) == "known"
        assert "left out of the ledger: no space left" in caplog.text
        send_one(spool)
    with open_spool(folder) as spool:
        assert len(spool) == 0
        assert spool.add(*example(0)) == spool.add(*example(2)) == "known"


# --- the ledger ---


def test_the_ledger_is_bounded_and_has_the_newest(folder):
    folder.mkdir()
    ledger = Ledger(folder / "ledger", 2000)
    images = [f"{number:064x}" for number in range(100)]
    for number, image in enumerate(images):
        ledger.append(Record("sent", number, None, image))
        assert ledger.size == bytes_in(folder) <= 2000
    again = Ledger(folder / "ledger", 2000)
    for each in (ledger, again):
        known = [each.has_sent(image) for image in images]
        assert known == sorted(known)
        assert 10 <= sum(known) <= 22
    assert [record.sequence for record in again.records()] == list(range(100 - sum(known), 100))


def test_half_a_line_spoils_no_other(folder):
    folder.mkdir()
    ledger = Ledger(folder / "ledger", 10_000)
    records = [Record("sent", 1, 5, "a" * 64), Record("dropped", 2, None, "b" * 64), Record("sent", 3, 0, "c" * 64)]
    ledger.append(records[0])
    for torn in (b"\nsent 0000000", b"\0" * 50, b"\nsent \xff\xfe"):
        with (folder / "ledger").open("ab") as file:
            file.write(torn)
    for record in records[1:]:
        ledger.append(record)
    again = Ledger(folder / "ledger", 10_000)
    assert list(again.records()) == records
    assert [again.has_sent(record.image) for record in records] == [True, False, True]


def test_fingerprints_of_all_that_was_kept(folder):
    with open_spool(folder) as spool:
        for number in range(6):
            spool.add(*example(number), number)
        spool.add(*example(6))
        send_one(spool)
        spool.set_aside(spool.take(), DamagedError("test"))
        assert spool.fingerprints() == list(range(6))
    with open_spool(folder) as spool:
        assert spool.fingerprints() == list(range(6))


def test_fingerprints_stay_in_the_order_of_arrival(folder):
    with open_spool(folder, ROOM) as spool:
        for number in range(40):
            spool.add(*example(number, score=1 - number / 100 if number < 21 else 1), number)
        before = spool.fingerprints()
    with open_spool(folder, ROOM) as spool:  # the last of the first 21 went first
        assert spool.fingerprints() == before == list(range(40))


# --- kill -9 ---


class CountingStore:
    """A store in a process of its own, which nobody kills; it counts what reaches it."""

    def __init__(self, root):
        self._store, self._stored, self._conflicts, self._busy = open_store(root), Counter(), 0, threading.Lock()

    def write(self, key, data, if_absent):
        with self._busy:
            try:
                self._store.write(key, data, if_absent=if_absent)
            except ConflictError:
                self._conflicts += 1
                raise
            self._stored[key] += 1

    def stat(self, key):
        with self._busy:
            return self._store.stat(key)

    def counts(self):
        return self._stored, self._conflicts


class StoreServer(BaseManager):
    pass


StoreServer.register("store", CountingStore, exposed=("write", "stat", "counts"))


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def work(folder, store, log_path):
    """An edge worker: goes on with the frame after the last one that it has logged as spooled."""
    done = lines_in(log_path)
    spool, stop = open_spool(folder), threading.Event()
    threading.Thread(target=Uploader(spool, store).run, args=(stop,), daemon=True).start()
    with log_path.open("a", buffering=1) as log:
        for number in count(done):
            assert spool.add(*example(number), number) in ("kept", "known")
            log.write(f"{number}\n")
            if len(spool) > 20:
                time.sleep(0.01)


def test_killed_sixty_times_under_load(folder, tmp_path):
    rng, log_path = random.Random(4), tmp_path / "spooled"
    with StoreServer(ctx=fork) as server:
        store = server.store(str(tmp_path / "job"))
        left = []
        for _ in range(60):
            process = fork.Process(target=work, args=(folder, store, log_path))
            process.start()
            goal = lines_in(log_path) + rng.randrange(6)
            while lines_in(log_path) < goal and process.is_alive():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            process.join()
            assert process.exitcode == -9
            left.append(len(files_in(folder / "pending")))
        spooled = lines_in(log_path)
        with open_spool(folder) as spool:
            assert spool.next_sequence - 1 in (spooled, spooled + 1)  # the last one was kept, but not yet logged
            spooled = spool.next_sequence - 1
            assert spool.fingerprints() == list(range(spooled))[-1024:]
            drain(spool, store)
        stored, conflicts = store.counts()
    assert spooled > 100
    assert sum(number > 0 for number in left) > 20  # killed with something to do
    check_stored(open_store(str(tmp_path / "job")), [example(number) for number in range(spooled)])
    assert set(stored.values()) == {1}
    assert conflicts == 0
    assert [name for name in files_in(folder) if "-" in name] == []


def die_at(number):
    """End this process without a word just before its so-many-th change of the file system."""
    changes = count()
    changing = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate"}

    def watch(event, _):
        if event in changing and next(changes) == number:
            os._exit(9)

    sys.addaudithook(watch)


def spool_and_send(folder, root, log_path, last_change=None):
    if last_change is not None:
        die_at(last_change)
    with open_spool(folder) as spool:
        for number in range(2):
            spool.add(*example(number), number)
            with log_path.open("a") as log:
                log.write(f"{number}\n")
        drain(spool, open_store(root))
        spool.add(*example(2), 2)
    os._exit(0)


class NothingTwice:
    """A store that fails when it is sent what it has."""

    def __init__(self, root):
        self._store = open_store(root)
        self.stat = self._store.stat
        self.again = []

    def write(self, key, data, if_absent):
        if self._store.stat(key):
            self.again.append(key)
        return self._store.write(key, data, if_absent=if_absent)


def test_killed_before_every_single_change(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill, unlike a power cut, needs none
    for number in count():
        place = tmp_path / str(number)
        place.mkdir()
        root, folder, log_path = str(place / "job"), place / "spool", place / "spooled"
        process = fork.Process(target=spool_and_send, args=(folder, root, log_path, number))
        process.start()
        process.join()
        spooled = lines_in(log_path)
        store = NothingTwice(root)
        with open_spool(folder) as spool:
            assert spool.next_sequence - 1 >= spooled
            for frame in range(spooled, 3):
                assert spool.add(*example(frame), frame) in ("kept", "known")
            assert spool.fingerprints() == [0, 1, 2]
            drain(spool, store)
        assert store.again == []
        check_stored(open_store(root), [example(frame) for frame in range(3)])
        assert [name for name in files_in(folder) if "-" in name] == []
        if process.exitcode == 0:
            break
    assert number > 40

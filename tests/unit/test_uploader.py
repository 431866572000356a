import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime

import pytest

from components.core.errors import InputError
from components.core.job.hard_examples import image_key, read_sidecars, sidecar_key
from components.core.stores.open import open_store
from components.core.stores.race import check_conditional_writes
from components.serving import uploader
from components.serving.uploader import Uploader
from tests.hard_examples import check_stored, drain, example, files_in, open_spool
from tests.odd_s3 import error, odd_s3

DAY = 24 * 3600.0


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    return open_store(request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "job"))


@pytest.fixture
def folder_store(tmp_path):
    return open_store(str(tmp_path / "job"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def spool(folder):
    with open_spool(folder) as opened:
        yield opened


class Time:
    """Seconds that pass only while somebody waits; the upload ends with them, or when nothing is left to send."""

    def __init__(self, spool, end=float("inf")):
        self.now, self.waits, self._spool, self._end = 1000.0, [], spool, end

    def clock(self):
        return self.now

    def sleep(self, stop, seconds):
        self.waits.append(seconds)
        self.now += seconds
        if not len(self._spool) or self.now >= self._end:
            stop.set()


class Watched:
    """A store that notes what is asked of it, and may fail before or after it has done what it was asked."""

    def __init__(self, store, before=lambda key: None, after=lambda key: None):
        self._store, self._before, self._after, self.writes, self.stats = store, before, after, [], []

    def write(self, key, data, *, if_absent):
        assert if_absent
        self._before(key)
        self._store.write(key, data, if_absent=True)
        self.writes.append(key)
        self._after(key)

    def stat(self, key):
        self._before(key)
        self.stats.append(key)
        return self._store.stat(key)


def fill(spool, numbers, **changes):
    examples = [example(number, **changes) for number in numbers]
    for each in examples:
        assert spool.add(*each) == "kept"
    return examples


def upload(spool, store, moment=None, **options):
    moment = moment or Time(spool)
    Uploader(spool, store, clock=moment.clock, sleep=moment.sleep, **options).run(threading.Event())


def keys_of(examples):
    return [key(sidecar) for _, sidecar in examples for key in (image_key, sidecar_key)]


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- what arrives ---


def test_images_and_sidecars_arrive_oldest_first(spool, folder, store):
    examples = fill(spool, [5, 3, 9, 1])
    watched = Watched(store)
    drain(spool, watched)
    assert watched.writes == keys_of(examples)
    check_stored(store, examples)
    assert {sidecar.frame for sidecar in read_sidecars(store)} == {5, 3, 9, 1}
    assert files_in(folder) == ["ledger", "lock"]


def test_what_comes_later_is_sent_without_asking(spool, folder_store):
    stop, watched = threading.Event(), Watched(folder_store)
    examples = fill(spool, [1])
    thread = threading.Thread(target=Uploader(spool, watched).run, args=(stop,), daemon=True)
    thread.start()
    until(lambda: not len(spool))
    assert watched.stats == [sidecar_key(examples[0][1]), image_key(examples[0][1])]
    examples += fill(spool, [2, 3])
    until(lambda: not len(spool))
    stop.set()
    thread.join(timeout=1)
    assert not thread.is_alive()
    assert len(watched.stats) == 2
    check_stored(folder_store, examples)


def test_a_image_that_another_worker_brought(spool, store):
    [(image, _)] = fill(spool, [1])
    theirs = example(1, node="gate-8")[1]
    store.write(image_key(theirs), image)
    store.write(sidecar_key(theirs), theirs.model_dump_json().encode())
    drain(spool, store)
    assert len(spool) == 0
    assert list(read_sidecars(store)) == [theirs]


def test_what_was_sent_before_a_restart_is_not_sent_again(folder, store):
    with open_spool(folder) as spool:
        examples = fill(spool, range(3))
    for key in keys_of(examples)[:3]:  # all of the first, and the image of the second
        image, sidecar = examples[keys_of(examples).index(key) // 2]
        store.write(key, image if key.endswith("jpg") else sidecar.model_dump_json().encode())
    with open_spool(folder) as spool:
        watched = Watched(store)
        drain(spool, watched)
    assert watched.writes == keys_of(examples)[3:]
    check_stored(store, examples)


def test_damaged_examples_hold_up_nobody(spool, folder, folder_store):
    examples = fill(spool, range(4))
    pending = sorted((folder / "pending").iterdir())
    pending[0].write_bytes(b"?")
    pending[3].write_bytes(b"{")
    drain(spool, folder_store)
    check_stored(folder_store, examples[2:])
    assert len(files_in(folder / "damaged")) == 4
    assert len(spool) == 0


def test_everything_is_counted(spool, folder_store):
    fill(spool, range(3))
    size = sum(len(image) + len(sidecar.model_dump_json()) for image, sidecar in map(example, range(3)))
    counts, failures = Counter(), [OSError("broken"), None, OSError("broken")]

    def fail(_):
        if failures and (error := failures.pop()):
            raise error

    def count(name, amount):
        counts[name] += amount

    upload(spool, Watched(folder_store, before=fail), on_event=count)
    assert counts == {"uploaded": 3, "bytes_uploaded": size, "retries": 2}


# --- trouble ---


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_error_is_tried_again_and_nothing_sent_twice(spool, folder_store, when):
    examples = fill(spool, range(30))
    rng = random.Random(5)

    def fail(_):
        if rng.random() < 0.5:
            raise rng.choice([InputError("s3://job: out of reach"), ValueError("strange"), TimeoutError(), KeyError(1)])

    watched = Watched(folder_store, **{when: fail})
    upload(spool, watched)
    assert watched.writes == keys_of(examples)
    check_stored(folder_store, examples)


def test_a_day_without_network(spool, folder_store, caplog):
    fill(spool, range(20))
    moment, counts = Time(spool), Counter()
    back = moment.now + DAY

    def cut(_):
        if moment.now < back:
            raise InputError("s3://job/a.jpg: the store cannot be reached (timed out): check the network")

    watched = Watched(folder_store, before=cut)
    upload(spool, watched, moment, on_event=lambda name, amount: counts.update({name: amount}))
    check_stored(folder_store, map(example, range(20)))
    assert len(watched.writes) == 40
    assert max(moment.waits) <= 300
    assert DAY / 300 <= counts["retries"] <= DAY / 150 + 10
    assert moment.now - back <= 310
    waits = [wait for wait in moment.waits if wait][:9]
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits[:8]))
    assert 24 <= len(caplog.records) <= 25
    assert "20 are waiting" in caplog.text


def test_a_bad_credential_is_told_once_an_hour(spool, s3, monkeypatch, caplog):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    fill(spool, range(2))
    moment = Time(spool, end=1000 + 2.5 * 3600)
    upload(spool, open_store(s3), moment)
    assert len(spool) == 2
    lines = [record.getMessage() for record in caplog.records if record.name == uploader.log.name]
    assert len(lines) == 3
    assert all("access denied" in line and "check AWS_ACCESS_KEY_ID" in line for line in lines)
    assert "not-the-secret" not in caplog.text
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-no-message-may-show")
    drain(spool, open_store(s3))
    check_stored(open_store(s3), map(example, range(2)))


def test_another_kind_of_trouble_is_told_at_once(spool, folder_store, caplog):
    fill(spool, [1])
    errors = [ValueError("https://host/a?secret"), InputError("s3://b: no such bucket"), InputError("s3://b: busy")] * 3

    def fail(_):
        if errors:
            raise errors.pop()

    upload(spool, Watched(folder_store, before=fail))
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "busy",
        "no such bucket",
        "ValueError",
    ]


# --- bandwidth and clocks ---


def test_bandwidth_is_kept(spool, folder_store):
    examples = fill(spool, range(40))
    moment, sent, rate = Time(spool), [], 5000.0

    def note(key):
        sent.append((moment.now, folder_store.stat(key).size))

    upload(spool, Watched(folder_store, after=note), moment, bytes_per_s=rate)
    total = sum(size for _, size in sent)
    begin, end = 1000.0, sent[-1][0]
    assert (total - rate) / rate - 1e-6 <= end - begin <= total / rate
    for index in range(len(sent)):
        assert sum(size for _, size in sent[: index + 1]) <= rate * (sent[index][0] - begin + 1.001)
    check_stored(folder_store, examples)


def test_time_without_uploads_is_not_saved_up(spool, folder_store):
    moment = Time(spool)
    slow = Uploader(spool, folder_store, bytes_per_s=1000, clock=moment.clock, sleep=moment.sleep)
    moment.now += DAY
    fill(spool, range(10))
    before = moment.now
    slow.run(threading.Event())
    assert moment.now - before >= 10 * 3 - 1


@pytest.mark.parametrize("bandwidth", [0, -1, float("nan")])
def test_a_bandwidth_that_cannot_be(spool, folder_store, bandwidth):
    with pytest.raises(InputError, match="bandwidth"):
        Uploader(spool, folder_store, bytes_per_s=bandwidth)


def test_clocks_that_step_back_do_no_harm(spool, folder_store):
    """The one for waiting, though it should not; and the one of the day, which names the folders."""
    examples = [example(number, captured=datetime(2026, 11, 20, 23 - number, tzinfo=UTC)) for number in range(20)]
    for each in examples:
        spool.add(*each)
    moment, rng = Time(spool), random.Random(6)

    def step_back(_):
        moment.now -= rng.choice([0, 10, 100_000])
        if rng.random() < 0.3:
            raise TimeoutError

    watched = Watched(folder_store, before=step_back)
    upload(spool, watched, moment, bytes_per_s=3000)
    assert watched.writes == keys_of(examples)
    assert sum(moment.waits) < 20 * 2 * 300
    check_stored(folder_store, examples)


# --- the end ---


def ended_within(seconds, spool, store, started):
    """Run an upload, set its event once it has begun, and see how soon it ends."""
    stop = threading.Event()
    thread = threading.Thread(target=Uploader(spool, store).run, args=(stop,), daemon=True)
    thread.start()
    assert started.wait(10)
    time.sleep(0.05)
    since = time.monotonic()
    stop.set()
    thread.join(timeout=10)
    return time.monotonic() - since < seconds


def test_it_ends_within_a_second_in_a_pause(spool, folder_store, monkeypatch):
    monkeypatch.setattr(uploader, "FIRST_PAUSE_SECONDS", 300.0)
    fill(spool, [1])
    tried = threading.Event()

    def fail(_):
        tried.set()
        raise TimeoutError

    assert ended_within(1, spool, Watched(folder_store, before=fail), tried)


def test_it_ends_within_a_second_while_the_store_is_silent(folder, folder_store):
    asked, answered = threading.Event(), threading.Event()

    def hang(_):
        asked.set()
        answered.wait(30)

    with open_spool(folder) as spool:
        examples = fill(spool, [1])
        watched = Watched(folder_store, after=hang)
        assert ended_within(1, spool, watched, asked)
    answered.set()  # the answer comes when another process has the spool
    with open_spool(folder) as spool:
        until(lambda: len(watched.writes) == 2)
        assert len(spool) == 1
        later = Watched(folder_store)
        drain(spool, later)
        assert later.writes == []
        check_stored(folder_store, examples)


def test_it_ends_within_a_second_while_it_saves_bandwidth(spool, folder_store):
    fill(spool, [1])
    waiting = threading.Event()

    def sleep(stop, seconds):
        waiting.set()
        stop.wait(seconds)

    stop = threading.Event()
    slow = Uploader(spool, folder_store, bytes_per_s=1, sleep=sleep)
    thread = threading.Thread(target=slow.run, args=(stop,), daemon=True)
    thread.start()
    assert waiting.wait(10)
    stop.set()
    thread.join(timeout=1)
    assert not thread.is_alive()
    assert len(spool) == 1
    assert list(folder_store.list()) == []


@pytest.fixture
def server(s3, monkeypatch):
    with odd_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        yield server


def test_nothing_is_sent_to_a_store_that_would_lose_rounds(spool, server, s3, caplog):
    server.conditions, server.name = "racy", "SeaweedFS 4.00"
    fill(spool, range(2))
    retries = Counter()
    stop = threading.Event()

    def count(name, amount):
        retries[name] += amount
        stop.set()

    store = open_store(s3)
    Uploader(spool, store, on_event=count, check=lambda: check_conditional_writes(store)).run(stop)
    assert retries == {"retries": 1}
    assert len(spool) == 2
    assert not any("hard-examples/" in key for key in server.objects)
    assert "(SeaweedFS 4.00) let" in caplog.text
    assert "use a store whose conditional writes are atomic" in caplog.text


def test_a_worker_that_may_not_look_at_the_store_sends_all_the_same(spool, server, s3):
    server.rule = lambda handler, key: (403, error("AccessDenied"), {}) if "/setup/" in key else None
    fill(spool, range(2))
    store = open_store(s3)
    drain(spool, store, check=lambda: check_conditional_writes(store))
    assert len(spool) == 0
    assert sum(key.endswith(".jpg") for key in server.objects) == 2

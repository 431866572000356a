"""Rounds in a world where stores fail, disks fill, clocks jump, models crash and feeds are edited."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio

from components.core.errors import ConflictError
from components.core.job.failures import FAILURES, read_failures
from components.core.job.job import Job
from components.core.stores.open import Store, open_store
from tests.conftest import ACCESS_KEY, SECRET_KEY
from tests.faulty_proxy import FAULTS, faulty_proxy
from tests.pipelines.test_rounds import PER_ROUND, REPOSITORY, arrive
from tests.radosgw import DEBIAN_PACKAGES, missing_programs, radosgw


@dataclass
class Site:
    """A feed, a job and polls of the one for the other.

    Attributes:
        folder: gets the feed, the artifacts of the runs and, where no ``root`` is given, the job.
        root: address of the job.
        feed_url: address of the feed's index; empty: the one in the folder.
        environment: of the polls, beside the one of the tests.
        runs: counts the polls.
    """

    folder: Path
    root: str = ""
    feed_url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    def __post_init__(self) -> None:
        self.root = self.root or str(self.folder / "job")
        self.feed_url = self.feed_url or str(self.index)

    @property
    def index(self) -> Path:
        return self.folder / "feed" / "train_data.txt"

    def arrive(self, first: int = 0, count: int = PER_ROUND) -> None:
        arrive(self.folder / "feed", first, count)

    def begin(self, **given: str) -> subprocess.Popen:
        run = f"run-{self.runs}"
        self.runs += 1
        given |= {"feed_url": self.feed_url, "job_root": self.root, "run_id": run,
                  "folder": str(self.folder / "runs" / run)}  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "tests.one_poll", json.dumps(given)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
        )  # fmt: skip

    def complete(self, **given: str) -> str:
        return ended_well(self.begin(**given))

    def fail(self, **given: str) -> str:
        return ended_in_one_line(self.begin(**given))

    def essence(self) -> dict:
        """All of a job that must not depend on what happened to it on the way."""
        job = Job.open(self.root)
        state, _ = job.read()
        manifest = job.manifest(state, self.folder)
        samples = manifest.table.select("id", "split", "round", "source", "annotations") if manifest else None
        return {
            "round": state.round,
            "champion": state.champion,
            "pointer": json.loads(job.store.read("champion.json"))["version"] if state.champion else None,
            "history": [change.version for change in state.history],
            "versions": job.registry.versions(),
            "samples": samples.sort("id").to_dicts() if manifest else [],
        }


def ended_well(process: subprocess.Popen, said: str = "") -> str:
    said += process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    return said


def ended_in_one_line(process: subprocess.Popen, said: str = "") -> str:
    """The one line in which a poll says why it failed."""
    said += process.communicate(timeout=120)[0]
    errors = [line for line in said.splitlines() if re.match(r"[a-z_]+ error: ", line)]
    assert process.returncode == 1, said
    assert len(errors) == 1, said
    assert said.splitlines()[-1] == errors[0]
    return errors[0]


def heard(process: subprocess.Popen, words: str) -> str:
    """Wait until a poll has said something; returns all it has said so far."""
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    pytest.fail(f"never said {words!r}:\n{said}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[dict]:
    """What a job comes to, round by round, when nothing happens to it."""
    site = Site(tmp_path_factory.mktemp("undisturbed"))
    found = []
    for number in range(2):
        site.arrive(number * PER_ROUND)
        site.complete()
        found.append(site.essence())
    assert found[1]["round"] == 2
    assert len(found[1]["samples"]) == 2 * PER_ROUND
    return found


# --- stores ---


@pytest.fixture
def in_bucket(s3, s3_server, tmp_path):
    """A job and its feed in a bucket, which the polls reach through a proxy."""
    with faulty_proxy(s3_server, seed=5) as proxy:
        site = Site(tmp_path, f"{s3}/job", f"{s3}/feed/train_data.txt")
        site.environment = {
            "AWS_ENDPOINT_URL": proxy.address, "AWS_REGION": "us-east-1", "EDGE_CACHE_DIR": str(tmp_path / "cache"),
        }  # fmt: skip
        yield site, proxy


def bring(site: Site, first: int = 0, count: int = PER_ROUND) -> None:
    """Let images arrive in a bucket."""
    site.arrive(first, count)
    store = open_store(site.feed_url.rpartition("/")[0])
    for path in sorted((site.folder / "feed").rglob("*.*")):
        store.upload(path, str(path.relative_to(site.folder / "feed")))


def test_a_store_that_fails_one_call_in_five(undisturbed, in_bucket):
    site, proxy = in_bucket
    site.feed_url, proxy.share = str(site.index), 0.2
    for number in range(2):
        site.arrive(number * PER_ROUND)
        site.complete()
        assert site.essence() == undisturbed[number]
    assert set(proxy.spoilt) == set(FAULTS)
    assert proxy.spoilt.total() > proxy.passed / 10


def test_an_outage_in_the_middle_of_a_round(undisturbed, in_bucket):
    site, proxy = in_bucket
    site.environment["EDGE_STORE_PATIENCE"] = "20"
    bring(site)
    process, said = site.begin(), ""
    for moment in ("collect | done", "train | epoch 2"):
        said += heard(process, moment)
        proxy.is_down = True
        time.sleep(2)
        proxy.is_down = False
    ended_well(process, said)
    assert proxy.spoilt["down"] >= 4
    assert site.essence() == undisturbed[0]


def test_an_outage_that_outlasts_patience(undisturbed, in_bucket):
    site, proxy = in_bucket
    site.environment["EDGE_STORE_PATIENCE"] = "3"
    bring(site)
    process = site.begin()
    said = heard(process, "train | epoch 2")
    proxy.is_down = True
    line = ended_in_one_line(process, said)
    assert line.startswith("train error: s3://")
    assert "the store cannot be reached" in line
    proxy.is_down = False
    assert site.essence()["round"] == 0
    assert "resuming after epoch" in site.complete()
    assert site.essence() == undisturbed[0]
    assert not list(open_store(site.root).list("checkpoints/"))


# --- disks ---


@contextmanager
def small_disk(folder: Path, kilobytes: int):
    """A disk of its own, as long as the body runs; yields what changes its mount options."""

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")

    folder.mkdir()
    mount(f"size={kilobytes}k")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def unfinished(folder: Path) -> list[Path]:
    """Files under names of their own that nobody will finish, and blobs that are not what their names say."""
    names = [path for path in folder.rglob("*") if "partial" in path.name or path.name.startswith(".edge-")]
    blobs = (folder / "job" / "blobs").rglob("*.jpg")
    return [
        *(path for path in names if path.name != ".edge-lock"),
        *(path for path in blobs if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem),
    ]


def test_a_disk_that_is_full_wherever_a_round_is(undisturbed, tmp_path):
    Site(tmp_path).arrive()
    disk, kilobytes, full_in = tmp_path / "disk", 60, []
    with small_disk(disk, kilobytes) as change:
        site = Site(disk, feed_url=str(tmp_path / "feed" / "train_data.txt"))
        while (process := site.begin()).wait(timeout=120):
            line = ended_in_one_line(process)
            assert "o space left" in line
            (disk / "job" / FAILURES).unlink(missing_ok=True)  # it would rest after three
            assert unfinished(disk) == []
            full_in.append(line.split()[0])
            shutil.rmtree(disk / "runs")
            kilobytes += 90
            change(f"size={kilobytes}k")
        assert site.essence() == undisturbed[0]
    assert set(full_in) >= {"trigger", "plan", "train", "deploy"}


# --- clocks ---

CLOCK = """
import datetime, os, time

shift = datetime.timedelta(seconds=float(os.environ["CLOCK_SHIFT"]))
real = time.time


class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + shift

    @classmethod
    def utcnow(cls):
        return super().utcnow() + shift


datetime.datetime = Shifted
time.time = lambda: real() + shift.total_seconds()
"""
DAY = 24 * 3600


def jumped(folder: Path, seconds: float) -> dict[str, str]:
    """The environment of a process whose clock is fast or slow."""
    (folder / "clock").mkdir(exist_ok=True)
    (folder / "clock" / "sitecustomize.py").write_text(CLOCK)
    return {"PYTHONPATH": str(folder / "clock"), "CLOCK_SHIFT": str(seconds)}


def test_a_clock_that_jumps_back_two_days(undisturbed, tmp_path):
    site = Site(tmp_path)
    for number, shift in enumerate((DAY, -DAY)):
        site.environment = jumped(tmp_path, shift)
        site.arrive(number * PER_ROUND)
        site.complete()
        assert site.essence() == undisturbed[number]
    site.environment = {}
    assert "have 0, need >= 12" in site.complete()
    assert site.essence() == undisturbed[1]
    job = Job.open(site.root)
    first, second = job.read()[0].history
    assert timedelta(days=1.9) < first.at - second.at < timedelta(days=2)
    assert (second.before, json.loads(job.store.read("champion.json"))["move"]) == (first.version, 2)
    assert site.index.is_file()
    assert job.roll_back().champion == first.version


# --- what fails again and again ---


def test_a_round_that_cannot_succeed_does_not_train_at_every_poll(tmp_path):
    site = Site(tmp_path)
    site.arrive()
    for count in ("once", "2 times", "3 times"):
        line = site.fail(gate="precision[bleu] >= 0")
        assert line.startswith("deploy error: ") and "bleu" in line
        noted = read_failures(open_store(site.root)).describe()
        assert f"round 1 has failed {count}, the last time in deploy " in noted
    line = site.fail(gate="precision[bleu] >= 0")
    assert line.startswith("trigger error: round 1 has failed 3 times, the last time in deploy at 20")
    assert "bleu" in line and "force_train retries now" in line
    site.complete(force="train")
    assert site.essence()["round"] == 1
    assert "is already the champion" in site.fail(force="evaluate")
    assert read_failures(open_store(site.root)).round == 1, "no poll would repeat this one"
    site.arrive(PER_ROUND)
    site.complete()
    assert site.essence()["round"] == 2


# --- models ---


def test_candidates_that_do_not_run(undisturbed, tmp_path):
    site = Site(tmp_path)
    site.arrive()
    site.complete()
    site.arrive(PER_ROUND)
    broken = {"plugins": "tests.broken_estimators"}
    damaged = site.fail(estimator="damaged", **broken)
    assert damaged.startswith("judge error: model ")
    assert "ONNX Runtime cannot load it" in damaged
    other = site.fail(estimator="other-outputs", **broken)
    assert other.startswith("judge error: bundle ")
    assert "are needed" in other
    crashing = site.begin(estimator="crashing", **broken)
    said = crashing.communicate(timeout=120)[0]
    assert crashing.returncode == 139, said
    assert site.essence() == undisturbed[0]
    site.complete()
    assert site.essence() == undisturbed[1]


# --- feeds ---


def lines(site: Site) -> list[str]:
    return site.index.read_text().splitlines()


def by_source(essence: dict) -> dict[str, dict]:
    return {sample["source"]: dict(sample) for sample in essence["samples"]}


def test_a_feed_that_people_edit(undisturbed, tmp_path):
    site = Site(tmp_path)
    site.arrive()
    written = lines(site)
    late = tmp_path / "feed" / "images" / "0003.jpg"
    late.rename(tmp_path / "late.jpg")
    broken = ["images/never.jpg 1,2,30,40,0", f"images/0000.jpg {'x' * 100_000}", "images/0001.jpg 1,2,3"]
    site.index.write_text("\n\n".join(["", *broken, *reversed(written[2:]), " \t "]) + "\n")
    assert "have 11, need >= 12" in site.complete()
    many = " ".join(f"{x},{y},{x + side},{y + side},0" for x in range(90) for y in range(50) for side in (4, 6))
    site.index.write_text("\n".join([f"images/0000.jpg {many}", *written[1:]]) + "\n")
    (tmp_path / "late.jpg").rename(late)
    site.complete()
    found, expected = by_source(site.essence()), by_source(undisturbed[0])
    assert len(found["images/0000.jpg"].pop("annotations")) == 9_000
    right = expected["images/0000.jpg"].pop("annotations")
    assert found == expected

    site.arrive(PER_ROUND)
    site.index.write_text("\n".join([*reversed(lines(site)[PER_ROUND:]), *written, "images/gone.jpg 1,2,30,40,1"]))
    site.complete()
    found, expected = by_source(site.essence()), by_source(undisturbed[1])
    assert found["images/0000.jpg"]["annotations"] == right
    assert found == expected
    before = site.essence()
    site.index.write_text("\n".join(reversed(lines(site))))
    assert "have 0, need >= 12" in site.complete()
    site.index.write_text("")
    site.complete()
    assert site.essence() == before


# --- what a job has kept ---


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files of a job but those that only save work."""
    files = [
        path for path in folder.rglob("*.*") if path.is_file() and path.name not in ("memory.json", "pending.parquet")
    ]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_job_that_is_damaged_is_left_as_it_is(undisturbed, tmp_path):
    site = Site(tmp_path)
    site.arrive()
    site.complete()
    site.arrive(PER_ROUND)
    state = Job.open(site.root).read()[0]
    for key, damage in (
        ("state.json", lambda data: data[: len(data) // 2]),
        ("state.json", lambda data: data.replace(b'"format": 1', b'"format": 2')),
        (state.manifest, lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]),
        (state.manifest, None),
        (state.cursor, lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:]),
    ):
        path = Path(site.root) / key
        good = path.read_bytes()
        path.unlink()
        if damage:
            path.write_bytes(damage(good))
        before = contents(Path(site.root))
        line = site.fail()
        assert str(path) in line
        assert before.items() <= contents(Path(site.root)).items()
        assert path.exists() == bool(damage)
        path.write_bytes(good)
    site.complete()
    assert site.essence() == undisturbed[1]


@pytest.mark.parametrize("root", ["/proc/edge-tests/job", "{folder}/file", "{folder}/file/job"])
def test_a_job_root_that_cannot_be_written(tmp_path, root):
    (tmp_path / "file").write_text("in the way")
    site = Site(tmp_path, root.format(folder=tmp_path))
    site.arrive()
    line = site.fail()
    assert line.startswith("trigger error: ")
    assert site.root in line
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_job_root_that_becomes_read_only(undisturbed, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, 4000) as change:
        site = Site(tmp_path, str(disk / "job"))
        site.arrive()
        site.complete()
        site.arrive(PER_ROUND)
        change("ro")
        line = site.fail()
        assert line.startswith("trigger error: ")
        assert site.root in line
        assert site.essence() == undisturbed[0]
        change("rw")
        site.complete()
        assert site.essence() == undisturbed[1]


def test_two_jobs_with_one_cache(undisturbed, tmp_path):
    """They have the same feed, so that all that is named by content has the same name."""
    sites = [Site(tmp_path / name, feed_url=str(tmp_path / "feed" / "train_data.txt")) for name in ("one", "two")]
    for number in range(2):
        arrive(tmp_path / "feed", number * PER_ROUND, PER_ROUND)
        for site in sites:
            site.environment = {"EDGE_CACHE_DIR": str(tmp_path / "cache")}
        for process in [site.begin() for site in sites]:
            ended_well(process)
        for site in sites:
            assert site.essence() == undisturbed[number]


# --- a real service ---


@pytest.fixture
def ceph(tmp_path, monkeypatch):
    """An empty prefix in a bucket of Ceph's gateway."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"Ceph's gateway is not installed, {', '.join(missing)} missing: apt-get install {DEBIAN_PACKAGES}")
    (tmp_path / "ceph").mkdir()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with radosgw(tmp_path / "ceph", ACCESS_KEY, SECRET_KEY) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
        Minio(urlsplit(address).netloc, ACCESS_KEY, SECRET_KEY, secure=False).make_bucket("rounds")
        yield "s3://rounds/tests"


@pytest.mark.slow
def test_rounds_on_ceph(undisturbed, ceph, tmp_path, monkeypatch):
    store = open_store(ceph)
    first = store.write("counter", b"0", if_absent=True)
    with pytest.raises(ConflictError):
        store.write("counter", b"1", if_absent=True)
    second = store.write("counter", b"1", if_match=first)
    with pytest.raises(ConflictError):
        store.write("counter", b"2", if_match=first)
    with pytest.raises(ConflictError):
        store.write("nothing", b"1", if_match=first)
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(partial(has_replaced, store, second), range(32)))
    assert sum(won) == 1

    site = Site(tmp_path, f"{ceph}/job", f"{ceph}/feed/train_data.txt")
    for number in range(2):
        bring(site, number * PER_ROUND)
        site.complete()
        assert site.essence() == undisturbed[number]
    site.environment = {"AWS_SECRET_ACCESS_KEY": SECRET_KEY[::-1]}
    line = site.fail()
    assert "access denied (SignatureDoesNotMatch): check AWS_ACCESS_KEY_ID" in line
    assert SECRET_KEY[::-1] not in line
    site.environment = jumped(tmp_path, DAY)
    assert "this machine's clock differs from the server's" in site.fail()


def has_replaced(store: Store, etag: str, number: int) -> bool:
    try:
        store.write("counter", b"by %d" % number, if_match=etag)
    except ConflictError:
        return False
    return True

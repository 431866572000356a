"""How long a poll takes, and how much memory, when a feed of many objects has a hundred new ones.

    python benchmarks/poll.py                       a folder of 10,000 and of 100,000 images
    python benchmarks/poll.py --s3 ministack        a prefix in a bucket, on a server that this starts
    python benchmarks/poll.py --s3 radosgw          the same, on Ceph's gateway (packages radosgw, ceph-mon, ceph-osd)

Each image has a label file, so there are twice as many files. A round of all of them is committed, and a poll
tidies up behind it: it removes the copies that the round's poll made of the bucket's objects. Then a hundred images
with labels are added, and a fresh process polls: first with the hundred new ones, then again while they wait for
their round, and once more when they have been committed and there is nothing new. Times are of the poll, without
starting Python: by the clock, which has the server's work in it, and of the processor, which is the poll's alone;
memory is the peak of the process's own resident set and what the poll added to it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
NEW = 100
BUCKET = "poll"
KEY, SECRET = "AKIATESTTESTTESTTEST", "secret"  # of the server that this starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000], help="images in the feed")
    parser.add_argument("--s3", choices=SERVERS, help="a prefix in a bucket of this server instead of a folder")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--only", nargs=3, metavar=("FEED", "JOB", "COMMIT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        feed, job, keep = given.only
        print(json.dumps(measure(feed, job, commit=keep == "commit")))
        return
    results = {}
    for count in given.counts:
        with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
            work = Path(temporary)
            os.environ["EDGE_CACHE_DIR"] = str(work / "cache")
            with SERVERS[given.s3](work) if given.s3 else nothing():
                results[count] = run(work, count, f"s3://{BUCKET}/feed" if given.s3 else str(work / "feed"))
    report(results)


def run(work: Path, count: int, feed: str) -> dict[str, dict[str, float]]:
    samples = images()
    add(feed, samples, range(count))
    job = str(work / "job")
    print(f"{count} images: the first round takes {poll(feed, job, 'commit')['seconds']:.1f} s")
    found = {"tidying": poll(feed, job, "leave")}
    add(feed, samples, range(count, count + NEW))
    found |= {
        "new": poll(feed, job, "leave"), "waiting": poll(feed, job, "commit"), "nothing": poll(feed, job, "leave"),
    }  # fmt: skip
    assert [found[name]["samples"] for name in found] == [0, NEW, NEW, 0], found
    for name, one in found.items():
        times = f"{one['seconds']:6.2f} s, of the processor {one['work']:.2f} s"
        print(f"  {name:8} {times}   peak {one['peak']:.0f} MB, of it {one['added']:.0f} by the poll", flush=True)
    return found


def report(results: dict[int, dict[str, dict[str, float]]]) -> None:
    few, many = min(results), max(results)
    if few == many:
        return
    for name in results[few]:
        before, after = results[few][name], results[many][name]
        print(
            f"{name}: {many / few:g} times the images take {after['seconds'] / before['seconds']:.1f} times the time "
            f"and {after['peak'] / before['peak']:.2f} times the memory"
        )


def images() -> list[bytes]:
    """A few real JPEG files of noise and squares."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(8):
        content = io.BytesIO()
        Image.fromarray(rng.integers(90, 150, (64, 64, 3), dtype=np.uint8)).save(content, "JPEG", quality=50)
        found.append(content.getvalue())
    return found


def add(feed: str, samples: list[bytes], numbers: range) -> None:
    """Add images, each in other bytes, and their labels, under names that sort by time."""

    def files() -> Iterator[tuple[str, bytes]]:
        for number in numbers:
            comment = f"image {number}".encode()
            jpeg = samples[number % len(samples)]
            marked = jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]
            yield f"images/{number:07d}.jpg", marked
            yield f"labels/{number:07d}.txt", b"0 0.5 0.5 0.2 0.2\n"

    if not feed.startswith("s3://"):
        for folder in ("images", "labels"):
            Path(feed, folder).mkdir(parents=True, exist_ok=True)
        for name, data in files():
            Path(feed, name).write_bytes(data)
        return
    from components.core.stores.open import open_store

    store = open_store(feed)
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda file: store.write(*file), files()):
            pass


def poll(feed: str, job: str, keep: str) -> dict[str, float]:
    """One poll in a process of its own."""
    command = [sys.executable, __file__, "--only", feed, job, keep]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(feed: str, job_root: str, *, commit: bool) -> dict[str, float]:
    from components.core.cache import cache_folder
    from components.core.job.job import Job
    from components.core.manifest import Manifest
    from components.ingest.feed import take_new

    before = psutil.Process().memory_info().rss
    started, worked = time.perf_counter(), time.process_time()
    arrivals = take_new(feed, job_root, data_format="yolo", classes="0:helmet")
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    peak = peak_memory()
    if commit:
        job = Job.open(job_root)
        state, etag = job.read()
        known = job.manifest(state, cache_folder(job_root))
        table = arrivals.manifest.table if known is None else known.table.vstack(arrivals.manifest.table)
        key = f"manifests/{state.round + 1}.parquet"
        path = cache_folder(job_root) / "new.parquet"
        Manifest(table, arrivals.manifest.classes).write(path)
        job.store.upload(path, key)
        changes = {"round": state.round + 1, "cursor": arrivals.cursor, "manifest": key}
        job.commit(state.model_copy(update=changes), etag)
    return {
        "seconds": seconds,
        "work": work,
        "peak": peak / 1e6,
        "added": (peak - before) / 1e6,
        "samples": len(arrivals.manifest),
    }


def peak_memory() -> int:
    """Bytes. What ``getrusage`` tells begins with the memory of the process that started this one."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def ministack(work: Path) -> Iterator[None]:
    """An S3 server with an empty bucket, and the environment that leads to it."""
    program = shutil.which("ministack", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise SystemExit("the S3 server is not installed: pip install ministack")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lead_to(f"http://127.0.0.1:{port}")
    own = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "S3_PERSIST": "1", "S3_DATA_DIR": str(work / "s3")}
    process = subprocess.Popen([program], env=os.environ | own, cwd=work, stdout=subprocess.DEVNULL, stderr=-3)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        make_bucket(f"127.0.0.1:{port}")
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def ceph(work: Path) -> Iterator[None]:
    """The same on Ceph's gateway, with a cluster of one disk in memory."""
    from tests.radosgw import missing_programs, radosgw

    if missing_programs():
        raise SystemExit(f"not installed: {', '.join(missing_programs())}")
    (work / "ceph").mkdir()
    with radosgw(work / "ceph", KEY, SECRET) as address:
        lead_to(address)
        make_bucket(address.removeprefix("http://"))
        yield


def lead_to(address: str) -> None:
    """Let the stores of this process and its children find a server."""
    os.environ |= {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }


def make_bucket(host: str) -> None:
    from minio import Minio

    Minio(host, KEY, SECRET, secure=False).make_bucket(BUCKET)


SERVERS = {"ministack": ministack, "radosgw": ceph}


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()

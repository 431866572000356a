import base64
import hashlib
import io
import os
import pickle
import random
import resource
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio

from components.core.errors import ConflictError, InputError, NotFoundError
from components.core.stores import connections
from components.core.stores.open import check_readable, fetch, open_store, shown, split

BUCKET = "edge-tests"
ODD_KEY = "blöbs/ein Bild, 50%20 #1?.jpg&+~/日本.txt"


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    """The same tests hold for a folder and for a bucket."""
    return open_store(request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "job root"))


@pytest.fixture
def bucket(s3):
    return open_store(s3)


@pytest.fixture
def folder(tmp_path):
    return open_store(str(tmp_path / "job"))


@pytest.fixture(autouse=True)
def short_patience(monkeypatch):
    monkeypatch.setattr(connections, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "4")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def keys(found):
    return [info.key for info in found]


def left_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def race(count, work):
    """Let threads begin at the same moment; returns what each returned or raised."""
    start = threading.Barrier(count)

    def run(number):
        start.wait()
        try:
            return work(number)
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# --- the contract of every store ---


def test_what_is_written_is_read(store):
    first = store.write("state.json", b"one")
    assert store.read("state.json") == b"one"
    assert store.read_versioned("state.json") == (b"one", first)
    second = store.write("state.json", b"two")
    assert second != first
    assert store.read_versioned("state.json") == (b"two", second)
    store.write("empty", b"")
    assert store.read("empty") == b""


def test_stat_tells_size_etag_and_time(store):
    etag = store.write("a/b", b"12345")
    found = store.stat("a/b")
    assert (found.key, found.size, found.etag) == ("a/b", 5, etag)
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=1)


def test_what_is_absent(store):
    assert store.read_versioned("no/such") is None
    assert store.stat("no/such") is None
    store.delete("no/such")
    with pytest.raises(NotFoundError, match=r"no/such: no such object"):
        store.read("no/such")


def test_a_folder_of_objects_is_no_object(store):
    store.write("a/b/c", b"1")
    assert store.read_versioned("a/b") is None
    assert store.stat("a/b") is None


def test_deleted_objects_are_gone(store):
    store.write("a", b"1")
    store.delete("a")
    assert store.read_versioned("a") is None
    assert list(store.list()) == []


def test_create_only_if_absent(store):
    etag = store.write("lock", b"mine", if_absent=True)
    with pytest.raises(ConflictError, match="lock"):
        store.write("lock", b"yours", if_absent=True)
    assert store.read_versioned("lock") == (b"mine", etag)


def test_replace_only_if_unchanged(store):
    first = store.write("state", b"1")
    second = store.write("state", b"2", if_match=first)
    with pytest.raises(ConflictError, match="state"):
        store.write("state", b"3", if_match=first)
    assert store.read_versioned("state") == (b"2", second)
    with pytest.raises(ConflictError):
        store.write("absent", b"1", if_match=first)
    assert store.read_versioned("absent") is None


def test_one_of_64_racing_creates_wins(store):
    outcomes = race(64, lambda number: (number, store.write("champion", b"%d" % number, if_absent=True)))
    winners = [outcome for outcome in outcomes if not isinstance(outcome, ConflictError)]
    assert len(winners) == 1
    number, etag = winners[0]
    assert store.read_versioned("champion") == (b"%d" % number, etag)


def test_counting_together_loses_nothing(store):
    store.write("count", b"0")

    def count(_):
        done = 0
        while done < 5:
            data, etag = store.read_versioned("count")
            try:
                store.write("count", b"%d" % (int(data) + 1), if_match=etag)
                done += 1
            except ConflictError:
                continue

    race(6, count)
    assert store.read("count") == b"30"


def test_listing_is_sorted_by_whole_keys(store):
    names = ["a/b", "a.b", "a-b", "a b", "a/b.c/d", "a/b-c", "ab", "Z", "ä/1", "a/ä", "z", "a0", "a/b0", "~", "a/~/x"]
    for name in random.Random(1).sample(names, len(names)):
        store.write(name, name.encode())
    found = list(store.list())
    assert keys(found) == sorted(names)
    assert [info.size for info in found] == [len(name.encode()) for name in sorted(names)]
    for prefix in ("a", "a/", "a/b", "a/b.c/", "ä", "none", "a/none/x"):
        assert keys(store.list(prefix)) == [name for name in sorted(names) if name.startswith(prefix)]
    for after in (*names, "a/", "a", "a/b.c", "a/b.c/zz", "0", "zzz", "a/b.c/d/e"):
        assert keys(store.list(start_after=after)) == [name for name in sorted(names) if name > after]
        expected = [name for name in sorted(names) if name > after and name.startswith("a/b")]
        assert keys(store.list("a/b", start_after=after)) == expected


def test_listings_longer_than_a_page(store):
    names = [f"hard-examples/{number:04d}.json" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(name, b"{}"), names))
    assert keys(store.list()) == names
    assert keys(store.list("hard-", start_after=names[1050])) == names[1051:]


def test_listings_skip_the_marks_of_empty_folders(bucket):
    prefix = bucket.uri.removeprefix(f"s3://{BUCKET}/")
    server = urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc
    client = Minio(server, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], secure=False)
    client.put_object(BUCKET, f"{prefix}/folder/", io.BytesIO(), 0)
    bucket.write("folder/a", b"1")
    assert keys(bucket.list()) == ["folder/a"]


def test_an_upload_comes_back(store, tmp_path):
    content = random.Random(2).randbytes(20_000_000)
    source, target = tmp_path / "source", tmp_path / "new folder" / "target"
    source.write_bytes(content)
    store.upload(source, "bundles/1/model.onnx")
    assert store.stat("bundles/1/model.onnx").size == len(content)
    store.download("bundles/1/model.onnx", target, sha256=sha256(content))
    assert target.read_bytes() == content
    assert left_in(target.parent) == ["target"]
    assert keys(store.list()) == ["bundles/1/model.onnx"]


def test_a_download_replaces_what_was_there(store, tmp_path):
    store.write("a", b"new")
    (tmp_path / "target").write_bytes(b"old and longer")
    store.download("a", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_wrong_checksum_leaves_nothing(store, tmp_path):
    store.write("a", b"changed")
    target = tmp_path / "here" / "target"
    with pytest.raises(InputError, match=f"a: the content has SHA-256 {sha256(b'changed')}, expected {'0' * 64}"):
        store.download("a", target, sha256="0" * 64)
    assert left_in(target.parent) == []


def test_downloads_of_what_is_absent_leave_nothing(store, tmp_path):
    with pytest.raises(NotFoundError, match="no-such"):
        store.download("no-such", tmp_path / "here" / "target")
    assert left_in(tmp_path / "here") == []


def test_an_upload_needs_a_file(store, tmp_path):
    with pytest.raises(NotFoundError, match="absent"):
        store.upload(tmp_path / "absent", "a")
    assert store.stat("a") is None


def test_odd_characters_in_keys(store, tmp_path):
    etag = store.write(ODD_KEY, b"1", if_absent=True)
    assert keys(store.list()) == keys(store.list("blöbs/ein Bild")) == [ODD_KEY]
    assert store.stat(ODD_KEY).etag == etag
    store.write(ODD_KEY, b"2", if_match=etag)
    check_readable(store.uri_of(ODD_KEY))
    fetch(store.uri_of(ODD_KEY), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"2"
    root, key = split(store.uri_of(ODD_KEY))
    assert open_store(root).read(key) == b"2"
    store.delete(ODD_KEY)
    assert list(store.list()) == []


@pytest.mark.parametrize("key", ["", "/a", "../a", "a/../../b", "a//b", "a/", "./a", "a\0b", ".edge-lock", "a/.edge-1"])
def test_keys_stay_inside(store, key):
    for use in (store.read, store.stat, store.delete, lambda key: store.write(key, b""), store.read_versioned):
        with pytest.raises(InputError, match="cannot be a key"):
            use(key)
    with pytest.raises(InputError, match="cannot be a key"):
        store.upload(Path(__file__), key)


def test_a_store_goes_to_another_process(store):
    store.write("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


def test_the_address_opens_the_same_store(store):
    store.write("below/a", b"1")
    assert open_store(store.uri + "/").read("below/a") == b"1"
    assert open_store(store.uri_of("below")).read("a") == b"1"


def test_readable_or_not(store):
    store.write("folder/file", b"1")
    check_readable(store.uri_of("folder/file"))
    check_readable(store.uri_of("folder"))
    check_readable(store.uri + "/folder/")
    with pytest.raises(NotFoundError, match="absent"):
        check_readable(store.uri_of("absent"))


# --- files ---


def test_the_address_of_a_folder(tmp_path, monkeypatch):
    assert open_store("file:///data/job/").uri == "file:///data/job"
    assert open_store("file:///my%20data").local_path("a") == Path("/my data/a")
    assert open_store("/my data").uri_of("a b") == "file:///my%20data/a%20b"
    monkeypatch.chdir(tmp_path)
    assert open_store("job").local_path("a") == tmp_path / "job" / "a"


def test_a_remote_store_has_no_local_path(bucket):
    assert bucket.local_path("a") is None


def test_listings_skip_folders_that_come_before(folder, monkeypatch):
    for day in range(20):
        folder.write(f"hard-examples/2026/01/{day:02d}/a", b"")
    read = []
    scandir = os.scandir
    after = "hard-examples/2026/01/17/a"
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda path: (read.append(Path(path).name), scandir(path))[1])
        found = keys(folder.list("hard-examples/2026/01/", start_after=after))
    assert found == [f"hard-examples/2026/01/{day}/a" for day in (18, 19)]
    assert read == ["01", "17", "18", "19"]


def test_listings_end_with_links_that_lead_back(folder):
    folder.write("a/b", b"1")
    folder.local_path("a/again").symlink_to(folder.local_path("a"))
    folder.local_path("nowhere").symlink_to("/no/such/file")
    assert keys(folder.list()) == ["a/b"]


def test_listings_follow_links_to_other_folders(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "image").write_bytes(b"1")
    folder.write("a", b"1")
    folder.local_path("linked").symlink_to(tmp_path / "elsewhere")
    assert keys(folder.list()) == ["a", "linked/image"]


def test_the_etag_in_listings_follows_the_content(folder):
    folder.write("a", b"1")
    before = next(folder.list()).etag
    assert next(folder.list()).etag == before
    folder.write("a", b"22")
    assert next(folder.list()).etag != before


def test_readers_see_whole_contents(folder):
    contents = [bytes([letter]) * 300_000 for letter in b"ab"]
    folder.write("a", contents[0])
    done = threading.Event()

    def read():
        seen = set()
        while not done.is_set():
            seen.add(folder.read("a"))
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for turn in range(40):
            folder.write("a", contents[turn % 2])
        done.set()
        assert set().union(*(reader.result() for reader in readers)) <= set(contents)


COUNT = """
import sys
from components.core.errors import ConflictError
from components.core.stores.open import open_store
store, done = open_store(sys.argv[1]), 0
while done < 25:
    data, etag = store.read_versioned("count")
    try:
        store.write("count", b"%d" % (int(data) + 1), if_match=etag)
        done += 1
    except ConflictError:
        pass
"""


def test_processes_count_together(folder):
    folder.write("count", b"0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, folder.uri]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert folder.read("count") == b"50"


@contextmanager
def files_no_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_space_left_leaves_the_old_content(folder, tmp_path):
    folder.write("state", b"old")
    (tmp_path / "large").write_bytes(bytes(300_000))
    with files_no_larger_than(100_000):
        with pytest.raises(InputError, match=r"state: no space left .* free some space"):
            folder.write("state", bytes(300_000))
        with pytest.raises(InputError, match=r"blob: no space left"):
            folder.upload(tmp_path / "large", "blob")
    assert folder.read("state") == b"old"
    assert left_in(tmp_path / "job") == [".edge-lock", "state"]


def test_a_root_that_cannot_be_written(tmp_path):
    root = Path("/sys/edge-tests")  # nobody may make a folder here, not even root
    if not root.parent.is_dir():
        pytest.skip("no /sys on this system")
    with pytest.raises(InputError, match=r"/sys/edge-tests.*permission denied"):
        open_store(str(root)).write("a", b"1")


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = open_store(str(tmp_path / "file"))
    assert store.read_versioned("a") is None
    with pytest.raises(InputError, match="file"):
        store.write("a", b"1")


def test_readable_local_paths(tmp_path):
    with pytest.raises(NotFoundError, match=r"no-such: no such file or folder"):
        check_readable(str(tmp_path / "no-such"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"empty: the folder is empty"):
        check_readable((tmp_path / "empty").as_uri())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/a", "a ftp:// address"),
        ("ftp://me:secret@host/a", "^ftp://host/a: .* a ftp:// address"),
        ("https://host/job", "a https:// address"),
        ("file://host/a", "three slashes"),
        ("file://", "three slashes"),
        ("", "empty address"),
        ("s3://", "bucket"),
        ("s3://B/a", "bucket"),
    ],
)
def test_addresses_that_are_no_store(s3, uri, message):
    with pytest.raises(InputError, match=message) as caught:
        open_store(uri)
    assert "secret" not in str(caught.value)


def test_addresses_without_an_object(s3, tmp_path):
    for uri in ("s3://bucket", "s3://bucket/", "file:///"):
        with pytest.raises(InputError, match="is not an object"):
            fetch(uri, tmp_path / "target")


# --- S3 refuses ---


def every_use(store):
    yield lambda: store.read("a")
    yield lambda: store.read_versioned("a")
    yield lambda: store.write("a", b"1")
    yield lambda: store.write("a", b"1", if_absent=True)
    yield lambda: store.stat("a")
    yield lambda: list(store.list())
    yield lambda: store.delete("a")
    yield lambda: store.upload(Path(__file__), "a")
    yield lambda: check_readable(store.uri_of("a"))


def refusals(store):
    """The message of each use; only an InputError counts, and never one that says that the object is absent."""
    for use in every_use(store):
        with pytest.raises(InputError) as caught:
            use()
        assert not isinstance(caught.value, NotFoundError)
        assert "\n" not in str(caught.value)
        yield str(caught.value)


@pytest.mark.parametrize("region", ["", "us-east-1"])  # without one, the first request asks for it
def test_a_missing_bucket(s3, monkeypatch, region):
    monkeypatch.setenv("AWS_REGION", region)
    for message in refusals(open_store("s3://no-such-bucket/job")):
        assert message.startswith("s3://no-such-bucket")
        assert "no such bucket" in message


def test_a_wrong_key(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONGWRONGWRONGW")
    for message in refusals(open_store(s3)):
        assert message.startswith(s3)
        assert "access denied" in message
        assert "AWS_SECRET_ACCESS_KEY" in message
        assert "a-secret" not in message


def test_no_key(s3, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{closed_port()}/role")
    with pytest.raises(InputError, match=r"no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3)


def test_keys_from_the_credentials_file(s3, monkeypatch, tmp_path):
    file = tmp_path / "credentials"
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert open_store(s3).write("a", b"1")


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "http://host/path", "http://"])
def test_an_endpoint_that_is_none(s3, monkeypatch, endpoint):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(InputError, match=r"AWS_ENDPOINT_URL.* give http"):
        open_store(s3)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_not_there(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.3")
    for message in refusals(open_store(s3)):
        assert "cannot be reached ([Errno 111] Connection refused)" in message
        assert "X-Amz" not in message


def test_patience_that_is_no_number(s3, monkeypatch):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "long")
    with pytest.raises(InputError, match=r"EDGE_STORE_PATIENCE='long'"):
        open_store(s3)


# --- connections that break ---


class Server(ThreadingHTTPServer):
    """An HTTP server that takes its answers from a function, and spoils as many as there are faults to come.

    A fault is a status to answer instead; ``cut``: half the body; ``lose``: no answer, though the request was served;
    ``silence``: no answer, and the connection stays open. None lets one request pass unspoilt.
    """

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.faults, self.seen, self.over = answer, [], [], threading.Event()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "silence":
            self.server.over.wait(20)
        if isinstance(fault, int):
            return self.reply(fault, {}, b"<html>not now</html>")
        status, headers, content = self.server.answer(self.command, self.path, self.headers, body)
        if fault in ("lose", "silence"):
            self.close_connection = True
        else:
            self.reply(status, headers, content, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815

    def reply(self, status, headers, content, *, cut=False):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, *_):
        pass


@contextmanager
def serving(answer):
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def between(s3, s3_server, monkeypatch):
    """A server that passes everything on to the S3 server, except for the faults it is told."""

    def forward(method, path, headers, body):
        connection = HTTPConnection(urlsplit(s3_server).netloc)
        connection.request(method, path, body, {**headers, "Connection": "close"})
        answer = connection.getresponse()
        kept = {name: value for name, value in answer.getheaders() if name.lower() in PASSED_ON}
        return answer.status, kept, answer.read()

    with serving(forward) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("AWS_REGION", "us-east-1")  # so that no request asks for it
        yield server


PASSED_ON = {"content-type", "content-length", "etag", "last-modified", "content-range"}
TRANSIENT = [503, "lose", 429, 500]


@pytest.mark.parametrize("number", range(9))
def test_every_use_is_tried_again(between, s3, bucket, number):
    if number != 3:  # the one that creates
        bucket.write("a", b"1")
    use = list(every_use(open_store(s3)))[number]
    between.faults[:] = TRANSIENT
    use()
    assert between.faults == []


@pytest.mark.parametrize("fault", [503, 429, 500, "lose", "silence", "cut"])
def test_reading_survives(between, s3, tmp_path, fault):
    content = random.Random(3).randbytes(2_000_000)
    store = open_store(s3)
    store.write("a", content)
    between.faults[:] = [fault] if fault == "silence" else [fault] * 3
    store.download("a", tmp_path / "target", sha256=sha256(content))
    assert (tmp_path / "target").read_bytes() == content
    assert between.faults == []


def test_a_cut_download_goes_on_where_it_stopped(between, s3):
    content = random.Random(4).randbytes(1_000_001)
    store = open_store(s3)
    etag = store.write("a", content)
    between.faults[:] = ["cut"]
    assert store.read_versioned("a") == (content, etag)
    assert between.seen[-1][2]["Range"] == "bytes=500000-"
    assert between.seen[-1][2]["If-Match"] == f'"{etag}"'


def test_a_download_starts_over_when_the_object_has_changed(between, s3, bucket):
    store = open_store(s3)
    store.write("a", b"old" * 100_000)
    forward = between.answer

    def answer_then_change(method, path, headers, body):
        answer = forward(method, path, headers, body)
        between.answer = forward
        forward("PUT", path, {"Authorization": headers["Authorization"]}, b"new" * 50_000)
        return answer

    between.answer = answer_then_change
    between.faults[:] = ["cut"]
    assert store.read("a") == b"new" * 50_000


def test_an_answer_that_there_is_nothing_may_be_cut_too(between, s3):
    between.faults[:] = ["cut"]
    assert open_store(s3).read_versioned("a") is None
    assert between.faults == []


def test_a_server_that_compares_bare_etags(between, s3):
    """As Ceph's gateway does: a quoted etag never matches."""
    forward = between.answer

    def compare(method, path, headers, body):
        etag = headers.get("If-Match", "") if method == "PUT" else ""
        if etag.startswith('"'):
            return 412, {"Content-Type": "application/xml"}, b"<Error><Code>PreconditionFailed</Code></Error>"
        return forward(method, path, {**headers, "If-Match": f'"{etag}"'} if etag else headers, body)

    between.answer = compare
    store = open_store(s3)
    first = store.write("a", b"1")
    second = store.write("a", b"2", if_match=first)
    assert store.read_versioned("a") == (b"2", second)
    with pytest.raises(ConflictError):
        store.write("a", b"3", if_match=first)
    between.faults[:] = [None, None, "lose"]  # refused, looked at again, written
    third = store.write("a", b"3", if_match=second)
    assert between.faults == []
    assert store.read_versioned("a") == (b"3", third)


def test_a_create_whose_answer_is_lost_has_won(between, s3):
    store = open_store(s3)
    between.faults[:] = ["lose"]
    etag = store.write("a", b"mine", if_absent=True)
    assert store.read_versioned("a") == (b"mine", etag)
    between.faults[:] = ["lose"]
    second = store.write("a", b"mine too", if_match=etag)
    assert store.read_versioned("a") == (b"mine too", second)


def test_a_create_that_was_late_has_lost(between, s3, bucket):
    store = open_store(s3)
    store.write("a", b"theirs", if_absent=True)
    between.faults[:] = [503, "lose"]
    with pytest.raises(ConflictError):
        store.write("a", b"mine", if_absent=True)
    between.faults[:] = []
    with pytest.raises(ConflictError):  # the same content is no proof where no answer was lost
        store.write("a", b"theirs", if_absent=True)


@pytest.mark.parametrize("request_number", range(4))  # begin, two parts, complete
def test_an_upload_in_parts_survives(between, s3, tmp_path, request_number):
    content = bytes(17 << 20)
    (tmp_path / "large").write_bytes(content)
    store = open_store(s3)
    between.faults[:] = [None] * request_number + ["lose"]
    store.upload(tmp_path / "large", "large")
    assert between.faults == []
    assert store.stat("large").size == len(content)


def test_an_upload_that_was_complete_before_its_answer_was_lost(between, s3, tmp_path):
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    store = open_store(s3)
    forward, completed = between.answer, []

    def forget_upload(method, path, headers, body):
        answer = forward(method, path, headers, body)
        if method == "POST" and "uploadId=" in path:
            completed.append(path)
            if len(completed) == 1:
                return 503, {}, b""
            if len(completed) == 2:
                return 404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchUpload</Code></Error>"
        return answer

    between.answer = forget_upload
    store.upload(tmp_path / "large", "large")
    assert len(completed) == 3
    assert store.stat("large").size == 17 << 20


def test_patience_has_an_end(between, s3, monkeypatch):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.3")
    between.faults[:] = [503] * 10_000
    for message in refusals(open_store(s3)):
        assert message.startswith(s3)
        assert "cannot be reached (HTTP 503 Service Unavailable)" in message
        assert "X-Amz" not in message


def test_silence_has_an_end(between, s3, monkeypatch):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.4")
    between.faults[:] = ["silence"] * 100
    store = open_store(s3)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"cannot be reached \(.*[Tt]imed out"):
        store.read("a")
    assert time.monotonic() - started < 3


def test_a_body_that_is_always_cut(between, s3, monkeypatch, tmp_path):
    store = open_store(s3)
    store.write("a", b"x")
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.3")
    between.faults[:] = ["cut"] * 10_000
    with pytest.raises(InputError, match=r"cannot be reached .*IncompleteRead"):
        store.download("a", tmp_path / "here" / "target")
    assert left_in(tmp_path / "here") == []


def test_a_server_that_is_not_s3(s3, monkeypatch):
    with serving(lambda *_: (404, {"Content-Type": "text/html"}, b"<html>console</html>")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        with pytest.raises(InputError, match=r"the server at AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is not S3"):
            open_store(s3).read("a")


def test_a_server_without_conditions(s3, monkeypatch):
    error = b"<Error><Code>NotImplemented</Code></Error>"
    with serving(lambda *_: (501, {"Content-Type": "application/xml"}, error)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        with pytest.raises(InputError, match=r"HTTP 501, NotImplemented"):
            open_store(s3).write("a", b"1", if_absent=True)


# --- the web ---

LOGIN = "Basic " + base64.b64encode(b"me:p@ss word").decode()


@pytest.fixture
def site():
    """A web server with one file, under several addresses."""

    def answer(method, path, headers, body):
        server.pages += 1
        if path == "/moved":
            return 302, {"Location": "/data"}, b""
        if path == "/private" and headers.get("Authorization") != LOGIN:
            return 401, {}, b"who are you?"
        if path not in ("/data", "/data?token=secret", "/private", "/a%20b", "/plain"):
            return 404, {}, b"not here"
        content, etag = server.content, f'"{sha256(server.content)}"'
        wanted = headers.get("Range", "") if path != "/plain" else ""
        if not wanted or headers.get("If-Range", etag) != etag:
            return 200, {"ETag": etag} if path != "/plain" else {}, content
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        return 206 if part else 416, {"ETag": etag, "Content-Range": f"bytes {first}-"}, part

    with serving(answer) as server:
        server.content, server.pages = random.Random(5).randbytes(3_000_001), 0
        yield server


@pytest.mark.parametrize("path", ["/data", "/moved", "/plain", "/a b", "/data?token=secret", "/data#part"])
def test_a_file_comes_from_the_web(site, tmp_path, path):
    check_readable(site.address + path)
    fetch(site.address + path, tmp_path / "folder" / "target", sha256=sha256(site.content))
    assert (tmp_path / "folder" / "target").read_bytes() == site.content
    assert left_in(tmp_path / "folder") == ["target"]


def test_user_and_password(site, tmp_path):
    with_login = site.address.replace("://", "://me:p%40ss%20word@") + "/private"
    check_readable(with_login)
    fetch(with_login, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == site.content
    with pytest.raises(InputError, match=r"private: access denied \(HTTP 401") as caught:
        fetch(site.address.replace("://", "://me:wrongpw@") + "/private", tmp_path / "target")
    assert "wrongpw" not in str(caught.value)


@pytest.mark.parametrize("fault", [503, 429, "lose", "cut"])
@pytest.mark.parametrize("path", ["/data", "/plain", "/moved"])
def test_the_web_may_break(site, tmp_path, fault, path):
    site.faults[:] = [fault, fault]
    fetch(site.address + path, tmp_path / "target", sha256=sha256(site.content))
    assert site.faults == []


def test_a_cut_file_goes_on_where_it_stopped(site, tmp_path):
    site.faults[:] = ["cut", 503]
    fetch(site.address + "/data", tmp_path / "target", sha256=sha256(site.content))
    assert site.seen[-1][2]["Range"] == "bytes=1500000-"


def test_patience_begins_anew_with_every_progress(site, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.3")  # ends before twelve pauses do that grow and grow
    site.faults[:] = ["cut"] * 12
    fetch(site.address + "/data", tmp_path / "target", sha256=sha256(site.content))
    assert site.faults == []


def test_a_file_that_changes_meanwhile_is_fetched_again(site, tmp_path):
    first = site.answer

    def change(*request):
        answer = first(*request)
        site.answer, site.content = first, b"new" * 1_000_000
        return answer

    site.answer = change
    site.faults[:] = ["cut"]
    fetch(site.address + "/data", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"new" * 1_000_000


def test_what_the_web_does_not_have(site, tmp_path, monkeypatch):
    for use in (check_readable, lambda uri: fetch(uri, tmp_path / "here" / "target")):
        with pytest.raises(NotFoundError, match=r"nothing: no such file \(HTTP 404 Not Found\)"):
            use(site.address + "/nothing")
        monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.2")
        site.faults[:] = [500] * 1000
        with pytest.raises(InputError, match=r"data\?\.\.\.: cannot be reached \(HTTP 500") as caught:
            use(site.address + "/data?token=secret")
        assert "secret" not in str(caught.value)
        site.faults.clear()
        with pytest.raises(InputError, match="not a valid address"):
            use("http://[::1/data")
    assert left_in(tmp_path) == []


def test_a_short_body_is_an_error(site, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "0.2")
    site.answer = lambda *_: (200, {"Content-Length": "1000"}, b"too short")
    site.faults[:] = ["cut"] * 1000
    with pytest.raises(InputError, match=r"cannot be reached .*IncompleteRead"):
        fetch(site.address + "/data", tmp_path / "here" / "target")
    assert left_in(tmp_path / "here") == []


def test_a_file_that_is_not_the_expected_one(site, tmp_path):
    with pytest.raises(InputError, match=f"expected {'0' * 64}"):
        fetch(site.address + "/data", tmp_path / "here" / "target", sha256="0" * 64)
    assert left_in(tmp_path / "here") == []


def test_circles_end(tmp_path):
    circle = serving(lambda *_: (302, {"Location": "/again"}, b""))
    with circle as server, pytest.raises(InputError, match=r"did not return the file \(HTTP 302"):
        fetch(server.address + "/start", tmp_path / "target")


def test_the_web_through_a_proxy(site, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", site.address)
    monkeypatch.setenv("NO_PROXY", "")
    whole = site.answer
    site.answer = lambda method, path, headers, body: whole(method, urlsplit(path).path, headers, body)
    fetch("http://me:pw@files.example/data#part", tmp_path / "target", sha256=sha256(site.content))
    assert site.seen[-1][1] == "http://files.example/data"


def test_no_space_for_a_file_of_the_web(site, tmp_path):
    with files_no_larger_than(100_000), pytest.raises(InputError, match=r"target: no space left"):
        fetch(site.address + "/data", tmp_path / "here" / "target")
    assert left_in(tmp_path / "here") == []


@pytest.mark.parametrize(
    ("uri", "safe"),
    [
        ("https://me:pw@host:8080/a@b/c.zip?X-Amz-Signature=pw#pw", "https://host:8080/a@b/c.zip?..."),
        ("https://host/a", "https://host/a"),
        ("https://me:p/w@host/a", "https://..."),
        ("s3://bucket/a?b", "s3://bucket/a?b"),
        ("/data/a:b@c", "/data/a:b@c"),
        ("file:///data/a%20b@c", "/data/a b@c"),
        ("s3://key:secret@bucket/a@b", "s3://bucket/a@b"),
        ("file://key:secret@host/a", "file://host/a"),
        ("src location=rtsp://me:pw@host/s user-pw=pw ! x", "src location=rtsp://***@host/s user-pw=*** ! x"),
    ],
)
def test_addresses_are_shown_without_secrets(uri, safe):
    assert shown(uri) == safe


def test_stores_that_speak_s3_under_another_scheme_are_told_how():
    with pytest.raises(
        InputError, match=r"write s3://bucket/job and set AWS_ENDPOINT_URL to https://storage.googleapis"
    ):
        open_store("gs://bucket/job")


def test_a_file_is_shown_as_a_path_that_opens(tmp_path):
    path = tmp_path / "my jobs ü" / "report.html"
    assert shown(path.as_uri()) == str(path)
    assert shown("file://elsewhere/report.html") == "file://elsewhere/report.html"


def test_an_address_in_s3_holds_no_key(s3):
    with pytest.raises(
        InputError, match=r"s3://bucket/job: an S3 address must not contain credentials: set AWS_ACCESS_KEY_ID"
    ):
        open_store("s3://key:secret@bucket/job")

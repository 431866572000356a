import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from components.core.errors import ConflictError, InputError
from components.core.job.job import Job
from components.core.stores.connections import proxy_for
from components.core.stores.open import check_readable, fetch, open_store
from components.core.stores.race import check_conditional_writes
from components.ingest.feed import take_new
from tests.images import jpeg, squares
from tests.odd_s3 import error, odd_s3

REQUESTS = {
    "read": lambda store: store.read("a"),
    "write": lambda store: store.write("a", b"1"),
    "create": lambda store: store.write("a", b"1", if_absent=True),
    "replace": lambda store: store.write("a", b"1", if_match="0" * 32),
    "stat": lambda store: store.stat("a"),
    "list": lambda store: list(store.list()),
    "delete": lambda store: store.delete("a"),
}


@pytest.fixture
def server(monkeypatch):
    with odd_s3() as server:
        for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-no-message-may-show")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("EDGE_STORE_PATIENCE", "1")
        yield server


def message_of(work):
    with pytest.raises(InputError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is not S3 ---

PAGES = {
    "a login page": (200, b"<html>please log in</html>", {"Content-Type": "text/html"}),
    "a page with an etag": (200, b"<html>Welcome to nginx!</html>", {"Content-Type": "text/html", "ETag": '"5f-1"'}),
    "a page of XHTML": (200, b'<?xml version="1.0"?><html/>', {"Content-Type": "application/xhtml+xml"}),
    "an API": (200, b'{"status": "ok"}', {"Content-Type": "application/json"}),
    "a text": (200, b"ok", {"Content-Type": "text/plain"}),
    "a page that is not there": (404, b"<html>404 page not found</html>", {"Content-Type": "text/html"}),
    "a filter": (403, b"<html>blocked</html>", {"Content-Type": "text/html; charset=utf-8"}),
}


@pytest.mark.parametrize("use", REQUESTS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_place_of_s3_is_no_success(server, page, use):
    server.rule = lambda *_: PAGES[page]
    message = message_of(lambda: REQUESTS[use](open_store("s3://bucket/job")))
    assert message.startswith("s3://bucket/job")
    assert "the server at AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is not S3" in message
    assert f"HTTP {PAGES[page][0]}" in message


def test_a_login_page_to_which_requests_are_led(server):
    def lead_away(handler, key):
        if handler.path == "/login":
            return 200, b"<html>please log in</html>", {"Content-Type": "text/html"}
        return 302, b"", {"Location": f"{server.address}/login"}

    server.rule = lead_away
    for use in REQUESTS.values():
        assert "is not S3 (" in message_of(lambda use=use: use(open_store("s3://bucket/job")))


def test_xml_that_is_not_of_s3(server):
    server.rule = lambda *_: (200, b'<?xml version="1.0"?><feed/>', {})
    assert "is not S3" in message_of(lambda: list(open_store("s3://bucket/job").list()))


def test_a_proxy_that_refuses_large_bodies_is_called_one(server):
    server.rule = lambda *_: (413, b"<html>too large</html>", {"Content-Type": "text/html", "Server": "nginx"})
    assert "a proxy in front of the store rejects bodies of this size" in message_of(
        lambda: open_store("s3://bucket/job").write("a", b"1")
    )


# --- conditions ---


def test_a_store_whose_conditions_hold_is_found_good_once(server):
    store = open_store("s3://bucket/job")
    check_conditional_writes(store)
    assert [key for key in server.objects if not key.startswith("job/setup/conditional-writes-")] == []
    server.requests.clear()
    check_conditional_writes(open_store("s3://bucket/job"))
    assert [method for method, key in server.requests if key] == ["GET"]


def test_another_server_at_the_same_address_is_looked_at_again(server):
    check_conditional_writes(open_store("s3://bucket/job"))
    server.name, server.conditions = "SeaweedFS 4.00", "racy"
    assert "SeaweedFS 4.00" in message_of(lambda: check_conditional_writes(open_store("s3://bucket/job")))


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ("ignored", r"ignores If-None-Match"),
        ("only-if-absent", r"ignores If-Match"),
        ("racy", r"let \d+ of 16 writers win a race with If-None-Match"),
    ],
)
def test_a_store_whose_conditions_do_not_hold_is_refused(server, conditions, reason):
    server.conditions, server.name = conditions, "SeaweedFS 4.00"
    with pytest.raises(
        InputError, match=rf"s3://bucket/job: .*\(SeaweedFS 4.00\) {reason}: .* SeaweedFS 4.18 or newer"
    ):
        check_conditional_writes(open_store("s3://bucket/job"))
    assert server.objects == {}


def test_a_store_that_has_no_conditions_is_refused(server):
    def no_conditions(handler, key):
        if handler.headers.get("If-None-Match") or handler.headers.get("If-Match"):
            return (
                501,
                error("NotImplemented", "A header you provided implies functionality that is not implemented."),
                {},
            )
        return None

    server.rule = no_conditions
    assert "NotImplemented); the server says: A header" in message_of(
        lambda: check_conditional_writes(open_store("s3://bucket/job"))
    )


@pytest.mark.parametrize("commits", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_racing_commits_are_counted_or_refused(server, commits):
    """What a store that does not hold its conditions would lose is not begun; one that does loses nothing."""
    server.by_folders = True

    def add_one(store):
        while True:
            found = store.read_versioned("count")
            data = (
                str(int(found[0].split()[0]) + 1 if found else 1).encode() + b" " + str(threading.get_ident()).encode()
            )
            try:
                if found is None:
                    return store.write("count", data, if_absent=True)
                return store.write("count", data, if_match=found[1])
            except ConflictError:
                continue

    store = open_store("s3://bucket/job")
    check_conditional_writes(store)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: add_one(store), range(commits)))
    assert int(store.read("count").split()[0]) == commits


# --- listings in the order of folders ---

KEYS = ["a b/1", "a/1", "a/2", "a-b/1", "a.d/1", "c", "a/b/1", "a/b c/1"]


@pytest.mark.parametrize("by_folders", [False, True])
@pytest.mark.parametrize("page", [2, 1000])
def test_what_is_listed_behind_a_key_does_not_depend_on_the_order_of_the_server(server, by_folders, page):
    server.by_folders, server.page = by_folders, page
    server.objects = {f"job/{key}": b"x" for key in KEYS}
    for start_after in ["", "a", "b", *KEYS]:
        found = [info.key for info in open_store("s3://bucket/job").list(start_after=start_after)]
        assert sorted(found) == sorted(key for key in KEYS if key > start_after)


def test_of_a_server_that_lists_by_key_only_what_is_new_is_asked_for(server):
    server.objects = {f"job/images/{number:04}.jpg": b"x" for number in range(50)}
    store, server.page = open_store("s3://bucket/job"), 10
    list(store.list())
    whole = len(server.requests)
    for _ in range(2):
        server.requests.clear()
        assert [info.key for info in store.list(start_after="images/0047.jpg")] == [
            "images/0048.jpg",
            "images/0049.jpg",
        ]
    assert len(server.requests) == 1 < whole


def test_a_folder_that_a_server_shows_as_an_object_is_none(server):
    server.objects = {"job/feed": b"", "job/feed/1.jpg": b"x", "job/empty": b""}
    store = open_store("s3://bucket/job")
    assert store.stat("feed") is None
    assert store.stat("empty").size == 0


# --- refusals ---


@pytest.mark.parametrize("use", ["read", "write", "create", "stat", "list", "delete"])
@pytest.mark.parametrize("headers", [{}, {"x-amz-bucket-region": "eu-central-1"}])
def test_the_region_of_another_bucket(server, use, headers):
    body = error("AuthorizationHeaderMalformed", "the region 'eu-west-1' is wrong; expecting 'eu-central-1'")
    server.rule = lambda *_: (400, body, headers)
    message = message_of(lambda: REQUESTS[use](open_store("s3://bucket/job")))
    assert (
        "AWS_REGION is eu-west-1, but the bucket is in another region (AuthorizationHeaderMalformed): "
        "set AWS_REGION=eu-central-1"
    ) in message
    assert "expecting 'eu-central-1'" in message


def test_a_bucket_that_is_elsewhere(server):
    body = error(
        "PermanentRedirect", "Use the specified endpoint.", "<Endpoint>b.s3.eu-south-1.amazonaws.com</Endpoint>"
    )
    server.rule = lambda *_: (301, body, {})
    message = message_of(lambda: open_store("s3://bucket/job").read("a"))
    assert "AWS_REGION is eu-west-1" in message
    assert (
        "(PermanentRedirect): correct it, or AWS_ENDPOINT_URL; the server says: Use the specified endpoint." in message
    )


@pytest.mark.parametrize(
    ("use", "permission"),
    [
        ("read", "s3:GetObject and s3:ListBucket"),
        ("stat", "s3:GetObject and s3:ListBucket"),
        ("list", "s3:ListBucket"),
        ("write", "s3:PutObject"),
        ("create", "s3:PutObject"),
        ("delete", "s3:DeleteObject"),
    ],
)
def test_a_policy_that_lacks_something(server, use, permission):
    server.rule = lambda *_: (403, error("AccessDenied", "Access Denied by the policy"), {})
    message = message_of(lambda: REQUESTS[use](open_store("s3://bucket/job")))
    assert "access denied (AccessDenied): check AWS_ACCESS_KEY_ID" in message
    assert message.endswith("; the server says: Access Denied by the policy")
    assert f"allow {permission}" in message


@pytest.mark.parametrize("token", ["", "<NextContinuationToken>same</NextContinuationToken>"])
def test_a_listing_that_goes_round_is_ended(server, token):
    page = (
        '<?xml version="1.0"?><ListBucketResult><Name>b</Name><Prefix/><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys>'
        f"<IsTruncated>true</IsTruncated>{token}"
        + "".join(
            f"<Contents><Key>job/{key}</Key><Size>1</Size><ETag>e</ETag><LastModified>2026-01-01T00:00:00.000Z"
            "</LastModified></Contents>"
            for key in "abc"
        )
        + "</ListBucketResult>"
    )
    server.rule = lambda handler, key: None if key or "location" in handler.path else (200, page.encode(), {})
    message = message_of(lambda: list(open_store("s3://bucket/job").list()))
    assert "the store lists 'job/" in message and "again and again" in message


@pytest.mark.parametrize(("status", "code"), [(507, "XMinioStorageFull"), (403, "QuotaExceeded"), (400, "BucketQuota")])
def test_a_store_that_is_full_is_called_so(server, status, code):
    server.rule = lambda *_: (status, error(code), {})
    message = message_of(lambda: open_store("s3://bucket/job").write("a", b"1"))
    assert "s3://bucket/job/a: the store is full (" in message and "free space, or raise its quota" in message


@pytest.mark.parametrize("use", ["write", "create", "list"])
def test_an_error_that_comes_as_a_success_is_none(server, use):
    server.rule = lambda handler, _: None if "location" in handler.path else (200, error("InternalError"), {})
    message = message_of(lambda: REQUESTS[use](open_store("s3://bucket/job")))
    assert "the store cannot be reached (HTTP 200 InternalError)" in message


def test_the_servers_own_sentence_is_told(server):
    server.rule = lambda *_: (400, error("EntityTooLarge", "Your proposed upload exceeds the maximum."), {})
    message = message_of(lambda: open_store("s3://bucket/job").write("a", b"1"))
    assert message == (
        "s3://bucket/job/a: the S3 server refused the request (HTTP 400, EntityTooLarge); the server says: "
        "Your proposed upload exceeds the maximum."
    )


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchKey"), (412, "PreconditionFailed"), (409, "Conflict")])
def test_what_servers_answer_to_if_match_on_what_is_absent(server, status, code):
    server.rule = lambda handler, key: (status, error(code), {}) if handler.headers.get("If-Match") else None
    with pytest.raises(ConflictError):
        open_store("s3://bucket/job").write("state.json", b"1", if_match="0" * 32)
    assert server.objects == {}


# --- what the environment says ---


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"])
def test_line_ends_and_blanks_around_a_value_do_not_count(server, monkeypatch, name):
    monkeypatch.setenv(name, " some-value-of-a-secret\n")
    signed = []
    server.rule = lambda handler, key: signed.append(dict(handler.headers.items()))
    open_store("s3://bucket/job").write("a", b"1")
    assert server.objects == {"job/a": b"1"}
    assert not any("\n" in value for headers in signed for value in headers.values())


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"]
)
@pytest.mark.parametrize("value", ["the-first\nthe-second", "with a blank", "schlüssel", "nul\x7f"])
def test_values_that_cannot_be_are_refused_without_being_shown(server, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    message = message_of(lambda: open_store("s3://bucket/job"))
    assert f"{name} contains a space, a line break or a non-ASCII character" in message
    assert value not in message


@pytest.mark.parametrize("content", [None, b"", b"no certificates"])
def test_certificates_that_are_none(server, monkeypatch, tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    assert f"AWS_CA_BUNDLE is '{file}': " in message_of(lambda: open_store("s3://bucket/job"))


# --- sizes ---


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("scheme", ["s3", "http", "file"])
def test_what_is_larger_than_it_may_be_is_not_read_to_its_end(server, tmp_path, scheme, announced):
    sent = []

    def endless(handler, key):
        if not key.endswith("large"):
            return None
        handler.send_response(200)
        handler.send_header("ETag", '"1"')
        handler.send_header(*(("Content-Length", str(1 << 40)) if announced else ("Connection", "close")))
        handler.end_headers()
        while True:  # until the reader goes away
            sent.append(handler.wfile.write(bytes(1 << 20)))

    server.rule = endless
    (tmp_path / "large").write_bytes(bytes(5 << 20))
    uri = {"s3": "s3://bucket/large", "http": f"{server.address}/b/large", "file": str(tmp_path / "large")}[scheme]
    target = tmp_path / "here"
    assert "large: exceeds the limit of 3,000,000 bytes" in message_of(lambda: fetch(uri, target, max_bytes=3_000_000))
    assert not target.exists()
    assert sum(sent) < 50 << 20


def test_what_is_as_large_as_it_may_be_is_read(server, tmp_path):
    (tmp_path / "file").write_bytes(bytes(1000))
    server.objects["file"] = bytes(1000)
    for uri in (str(tmp_path / "file"), "s3://bucket/file", f"{server.address}/b/file"):
        fetch(uri, tmp_path / "here", max_bytes=1000)
        assert (tmp_path / "here").stat().st_size == 1000


@pytest.mark.parametrize("root", ["s3://bucket/job", "folder"])
def test_descriptions_that_are_too_large_are_not_read(server, tmp_path, root):
    store = open_store(root if root.startswith("s3") else str(tmp_path / root))
    store.write("state.json", bytes(1001))
    assert store.read("state.json", max_bytes=1001) == bytes(1001)
    message = message_of(lambda: store.read("state.json", max_bytes=1000))
    assert "state.json: exceeds the limit of 1,000 bytes" in message


# --- feeds ---


def a_labelled_image(server, name, number):
    server.objects["feed/classes.txt"] = b"red\nblue\n"
    server.objects[f"feed/{name}.jpg"] = jpeg(squares(np.random.default_rng(number))[0])
    server.objects[f"feed/{name}.txt"] = b"0 0.5 0.5 0.2 0.2\n"


def poll(root, full=False):
    """The sources of the images that are new in the feed; what was seen is committed, as by a round."""
    found = take_new("s3://bucket/feed", root, data_format="yolo", classes="red,blue", max_bad_fraction=1.0, full=full)
    job = Job.open(root)
    state, etag = job.read()
    job.commit(state.model_copy(update={"cursor": found.cursor}), etag)
    return sorted(found.manifest.table["source"]), sorted(one.source for one in found.quarantine)


@pytest.mark.parametrize("by_folders", [False, True])
def test_a_feed_is_read_once_in_whatever_order_it_is_listed(server, tmp_path, monkeypatch, by_folders):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    server.by_folders, server.page = by_folders, 7
    read = []
    rounds = [["images 2/01", "images-b/01"], ["images-b/02", "images/01", "images.d/01"], ["images/02"]]
    for names in rounds:
        for name in names:
            a_labelled_image(server, name, len(server.objects))
        read.append(poll(str(tmp_path / "job"))[0])
    assert read == [sorted(f"{name}.jpg" for name in names) for names in rounds]
    a_labelled_image(server, "images 2/02", len(server.objects))  # behind nothing: it is found when all is listed
    assert poll(str(tmp_path / "job"))[0] == []
    assert poll(str(tmp_path / "job"), full=True)[0] == ["images 2/02.jpg"]


@pytest.mark.parametrize("odd", ["a//b", "/lead", "cam1\\0001", "a/../b", "a/./b", "C:/x"])
def test_a_key_that_cannot_be_a_file_is_quarantined_and_stops_nothing(server, tmp_path, monkeypatch, odd):
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    for number, name in enumerate(["one", "two", odd]):
        a_labelled_image(server, name, number)
    assert poll(str(tmp_path / "job")) == (["one.jpg", "two.jpg"], [f"{odd}.jpg", f"{odd}.txt"])
    a_labelled_image(server, "zebra", 3)
    assert poll(str(tmp_path / "job"))[0] == ["zebra.jpg"]


# --- connections ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key"), "-out", str(folder / "ca.pem")]
    subprocess.run(made, check=True, capture_output=True)
    return folder / "ca.pem", folder / "key"


@pytest.fixture
def tls_port(server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.server_address[1]


@pytest.mark.parametrize(
    ("endpoint", "trusted", "said"),
    [
        (
            "https://localhost:{port}",
            False,
            "self-signed certificate): set AWS_CA_BUNDLE to the PEM file of its certificate authority",
        ),
        ("https://127.0.0.1:{port}", True, "use the host name of the certificate"),
    ],
)
def test_certificates(server, tls_port, certificate, monkeypatch, endpoint, trusted, said):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.format(port=tls_port))
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    assert said in message_of(lambda: open_store("s3://bucket/job").read("a"))


def test_a_certificate_that_is_trusted(server, tls_port, certificate, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{tls_port}")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    open_store("s3://bucket/job").write("a", b"1")
    assert server.objects == {"job/a": b"1"}


def test_tls_where_there_is_none(server, monkeypatch):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", "60")  # another try would end the same way
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address.replace("http:", "https:"))
    message = message_of(lambda: open_store("s3://bucket/job").read("a"))
    assert message.endswith("the server does not speak TLS: write http:// in place of https://")


def test_what_a_server_says_in_plain_words(server):
    server.rule = lambda *_: (400, b"Client sent an HTTP request to an HTTPS server.\n", {"Content-Type": "text/plain"})
    message = message_of(lambda: open_store("s3://bucket/job").write("a", b"1"))
    assert "HTTP 400, text/plain, OddS3 1.0, Client sent an HTTP request to an HTTPS server." in message


def test_a_proxy_that_does_not_answer_is_named(server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://user:password@127.0.0.1:1")
    said = "check the proxy in HTTP_PROXY (http://127.0.0.1:1) and"
    assert said in message_of(lambda: open_store("s3://bucket/job").read("a"))
    assert said in message_of(lambda: check_readable("http://example.invalid/x.zip"))


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
def test_a_patience_that_cannot_be_is_refused(server, monkeypatch, seconds):
    monkeypatch.setenv("EDGE_STORE_PATIENCE", seconds)
    assert f"EDGE_STORE_PATIENCE='{seconds}'" in message_of(lambda: open_store("s3://bucket/job").read("a"))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        *(
            (address, "two slashes must follow")
            for address in ("s3:/bucket/job", "S3:bucket", "file:/a", "http:/host/x")
        ),
        *((address, "a path of Windows") for address in ("C:\\data", "C:/data", "\\\\server\\share")),
    ],
)
def test_an_address_that_lacks_something_is_no_local_folder(address, reason):
    assert reason in message_of(lambda: open_store(address))


@pytest.mark.parametrize(
    ("exempt", "url", "proxy"),
    [
        ("", "http://10.1.2.3:9000", "http://proxy:3128"),
        ("10.0.0.0/8", "http://10.1.2.3:9000", ""),
        ("localhost, 10.0.0.0/8 ,.svc", "http://10.1.2.3:9000", ""),
        ("10.0.0.0/8", "http://11.1.2.3:9000", "http://proxy:3128"),
        ("fd00::/8", "http://[fd00::1]:9000", ""),
        (".svc", "http://minio.team.svc:9000", ""),
        (".svc,nonsense/x", "http://minio.example.com", "http://proxy:3128"),
        ("", "https://minio.example.com", ""),
    ],
)
def test_what_is_reached_without_the_proxy(monkeypatch, exempt, url, proxy):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", " proxy:3128\n")
    monkeypatch.setenv("NO_PROXY", exempt)
    assert proxy_for(url) == proxy

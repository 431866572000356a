import base64
import io
import json
import os
import subprocess
import sys
from urllib.parse import quote

import pytest

from components.core.job.failures import read_failures
from components.core.redaction import redacted, redacted_output
from components.core.stores.open import open_store

SECRET = "wJalrX/UtnFEMI+K7MDENG bPxRfi"


@pytest.fixture
def secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}\n")
    monkeypatch.setenv("HTTPS_PROXY", "http://joe:p%40ssw0rd@proxy:3128")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        repr(SECRET.encode()),
        quote(SECRET, safe=""),
        json.dumps({"key": SECRET}),
        base64.b64encode(SECRET.encode()).decode(),
        f"Invalid header value b'{SECRET}\\n'",
    ],
)
def test_a_secret_of_the_environment_is_hidden_in_every_form(secrets, form):
    for part in (SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()[:-2]):
        assert part not in redacted(f"what was said: {form}.")
    assert redacted(f"what was said: {form}.").startswith("what was said: ")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("rtsp://admin:hunter2@10.0.0.1/stream?channel=1", "rtsp://***@10.0.0.1/stream?..."),
        ("http://u:a/b@c@host:8080/x, again", "http://***@host:8080/x, again"),
        ("https://ghp_abcdef@github.com/x", "https://***@github.com/x"),
        ("mqtt://edge:secret@[::1]:1883", "mqtt://***@[::1]:1883"),
        ("'https://h/b/k?X-Amz-Signature=ab&X-Amz-Date=1'", "'https://h/b/k?...'"),
        ("/k?X-Amz-Credential=AK%2F1&X-Amz-Signature=ab gone", "/k?X-Amz-Credential=***&X-Amz-Signature=*** gone"),
        ("s3://AKIA:key@bucket/a@b", "s3://***@bucket/a@b"),
        ("src location=rtsp://h/s user-pw=hunter2 ! x", "src location=rtsp://h/s user-pw=*** ! x"),
        ("Authorization: Basic dTpw", "Authorization: ***"),
        ("{'Authorization': 'AWS4-HMAC-SHA256 Credential=AK', 'Host': 'h'}", "{'Authorization': '***', 'Host': 'h'}"),
        ("Cookie: authservice_session=MTY5; path=/", "Cookie: ***"),
        ('{"x-amz-security-token": "FwoGZXIvYXdz"}', '{"x-amz-security-token": "***"}'),
        ("curl -H 'Bearer abcdefghijklmnopqrstuv'", "curl -H 'Bearer ***'"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl is old", "token *** is old"),
        ("env AWS_SECRET_ACCESS_KEY=other run", "env AWS_SECRET_ACCESS_KEY=*** run"),
        ("{'KF_PIPELINES_TOKEN': 'other', 'A': 'b'}", "{'KF_PIPELINES_TOKEN': '***', 'A': 'b'}"),
        ("password: hunter2, user: joe", "password: ***, user: joe"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nend", "***\nend"),
        ("the proxy said p@ssw0rd and p%40ssw0rd", "the proxy said *** and ***"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(secrets, said, shown):
    assert redacted(said) == shown


@pytest.mark.parametrize(
    "text",
    [
        "epoch 3/20, loss 0.31, mAP50 0.84",
        "s3://bucket/a@b.jpg and file:///data/a@2x.png and /data/a@b",
        "http://127.0.0.1:9000/bucket/key: no such file (HTTP 404 Not Found)",
        "https://host/#/runs/details/1b2c",
        "store_secret=edge-learning-store, AWS_SESSION_TOKEN is wrong",
        "AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/token: cannot be read",
        "AWS_SECRET_ACCESS_KEY is missing",
        "check user, password or token in the address",
        "see https://example.com/help? it says how",
        "the token is in /var/run/token",
        "at 12:30 somebody@example.com wrote a:b",
    ],
)
def test_what_is_no_secret_stays(secrets, text):
    assert redacted(text) == text


def test_short_values_are_words_and_not_looked_for(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "image")
    assert redacted("an image") == "an image"


@pytest.mark.parametrize(
    "unit", ["a.", "a://", "a://b@", "a://b?", "a://b:c", "eyJ", "a=", "token=", "Cookie: ", "://"]
)
def test_a_long_line_takes_time_in_proportion(unit):
    """A hundred thousand characters that look like the beginning of something end at once, and not after minutes."""
    assert redacted(unit * (100_000 // len(unit)))


CODE = f"""
import logging, os, sys, threading
os.environ["AWS_SESSION_TOKEN"] = {SECRET!r}
from components.core.redaction import redacted_output
before = sys.stdout
with redacted_output():
    print("printed", os.environ["AWS_SESSION_TOKEN"])
    sys.stderr.writelines(["written ", os.environ["AWS_SESSION_TOKEN"], "\\n"])
    sys.stdout.flush()
    assert sys.stdout.fileno() == 1 and not sys.stdout.isatty()
    thread = threading.Thread(target=lambda: {{}}[os.environ["AWS_SESSION_TOKEN"]])
    thread.start()
    thread.join()
assert sys.stdout is before
raise ValueError("Invalid header value " + repr(os.environ["AWS_SESSION_TOKEN"].encode()))
"""


def test_a_file_name_of_another_encoding_can_be_printed(tmp_path):
    program = (
        "from components.core.errors import InputError\n"
        "from components.core.steps import step\n"
        f"with step('collect', {str(tmp_path)!r}, 1):\n"
        "    raise InputError(b'stra\\xdfe.jpg'.decode('utf-8', 'surrogateescape'))\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("collect error: stra\\udcdfe.jpg\n", "", 1)
    failures = read_failures(open_store(str(tmp_path)))
    assert failures is not None and failures.error == "stra\\udcdfe.jpg"


def test_what_a_terminal_of_another_encoding_has_no_letters_for_is_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    with redacted_output():
        print("Bauhelm grün, \u5934\u76d4")
    terminal.flush()
    assert terminal.buffer.getvalue().decode("latin-1") == "Bauhelm grün, \\u5934\\u76d4\n"


def test_nothing_that_a_process_prints_holds_a_secret():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr
    assert done.stdout == "printed ***\n"
    assert "written ***" in done.stderr
    assert "ValueError: Invalid header value b'***'" in done.stderr
    assert "KeyError: '***'" in done.stderr

import json
import os

import pytest

from components.core.errors import InputError
from components.core.stores.open import open_store
from tests.odd_s3 import error, odd_s3

TOKEN = "a-token-that-no-message-may-show"
EXPIRY = "2099-01-01T00:00:00Z"
KEYS = f"""<?xml version="1.0"?>
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>role-key</AccessKeyId>
<SecretAccessKey>role-secret</SecretAccessKey><SessionToken>role-session</SessionToken>
<Expiration>{EXPIRY}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>""".encode()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """An S3 server, and an environment without keys; who asks it is in ``askers``: key id and session token."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with odd_s3() as server:
        server.objects["job/a"] = b"content"
        server.askers = []
        server.services = {}

        def serve(handler, key):
            path, _, query = handler.path.partition("?")
            if path in server.services:
                handler.query = query
                return server.services[path](handler)
            given = handler.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
            server.askers.append((given, handler.headers["x-amz-security-token"]))
            return None

        server.rule = serve
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("EDGE_STORE_PATIENCE", "1")
        yield server


@pytest.fixture
def role(server, monkeypatch, tmp_path):
    """A service account's token, and the address of an STS."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/learning")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.address)
    return tmp_path / "token"


def refusal():
    with pytest.raises(InputError) as caught:
        open_store("s3://bucket/job").read("a")
    message = str(caught.value)
    assert message.startswith("s3://bucket/job")
    assert TOKEN not in message
    assert "\n" not in message
    return message


def test_a_service_accounts_role(server, role):
    asked = []

    def sts(handler):
        asked.append((handler.command, handler.query, handler.body.decode()))
        return 200, KEYS, {}

    server.services["/"] = sts
    store = open_store("s3://bucket/job")
    assert [store.read("a"), store.read("a")] == [b"content"] * 2
    assert set(server.askers) == {("role-key", "role-session")}
    (method, query, body), *others = asked
    assert (method, query, others) == ("POST", "", [])
    assert f"WebIdentityToken={TOKEN}&" in body + "&"
    assert "Action=AssumeRoleWithWebIdentity" in body
    assert "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Flearning" in body


def test_a_role_that_is_refused(server, role):
    body = error("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
    server.services["/"] = lambda handler: (403, body, {})
    assert f"STS at {server.address} refused the request (HTTP 403: AccessDenied Not authorized" in refusal()


def test_a_page_in_place_of_sts(server, role):
    server.services["/"] = lambda handler: (200, b"<html>log in</html>", {"Content-Type": "text/html"})
    assert "gave an invalid answer" in refusal()


def test_an_sts_that_is_out_of_reach(server, role, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
    assert "STS at http://127.0.0.1:1 cannot be reached (" in refusal()


def test_a_store_with_an_sts_of_its_own(server, role, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_STS")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    server.services["/"] = lambda handler: (200, KEYS, {})
    assert open_store("s3://bucket/job").read("a") == b"content"


@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read (No such file"), ("\n", "the file is empty")])
def test_a_token_that_is_not_there(server, role, content, reason):
    role.unlink() if content is None else role.write_text(content)
    assert f"AWS_WEB_IDENTITY_TOKEN_FILE={role}: {reason}" in refusal()


def test_a_token_without_a_role(server, role, monkeypatch):
    monkeypatch.delenv("AWS_ROLE_ARN")
    assert "AWS_ROLE_ARN is not" in refusal()


def test_the_role_of_a_container(server, monkeypatch, tmp_path):
    given = []

    def credentials(handler):
        given.append(handler.headers["Authorization"])
        said = {"AccessKeyId": "pod-key", "SecretAccessKey": "s", "Token": "pod-session", "Expiration": EXPIRY}
        return 200, json.dumps(said).encode(), {}

    server.services["/v1/credentials"] = credentials
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.address}/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    assert open_store("s3://bucket/job").read("a") == b"content"
    assert set(server.askers) == {("pod-key", "pod-session")}
    assert set(given) == {TOKEN}
    server.services["/v1/credentials"] = lambda handler: (404, b"no pod identity", {})
    assert "the container's credentials service at " in refusal()
    (tmp_path / "token").unlink()
    assert "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" in refusal()


def test_a_profile(server, monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = one\naws_secret_access_key = a%secret\n"
        "[work]\naws_access_key_id = two\naws_secret_access_key = secret\naws_session_token = session\n"
        "[assumed]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = work\n"
    )
    open_store("s3://bucket/job").read("a")
    monkeypatch.setenv("AWS_PROFILE", "work")
    open_store("s3://bucket/job").read("a")
    assert server.askers == [("one", None), ("two", "session")]
    monkeypatch.setenv("AWS_PROFILE", "home")
    assert "AWS_PROFILE=home: no such profile in " in (message := refusal())
    assert message.endswith("choose from default, work, assumed")
    monkeypatch.setenv("AWS_PROFILE", "assumed")
    assert "has no aws_access_key_id: only profiles with keys can be used" in refusal()


def test_a_file_of_profiles_that_is_none(server, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert "no such file" in refusal()
    (tmp_path / "credentials").write_text(f"[work\naws_session_token = {TOKEN}\n")
    assert "is not a readable AWS credentials file" in refusal()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_a_key(server, monkeypatch, name):
    monkeypatch.setenv(name, "one-half-of-it")
    other = "AWS_SECRET_ACCESS_KEY" if name == "AWS_ACCESS_KEY_ID" else "AWS_ACCESS_KEY_ID"
    assert f"(now {other} is missing)" in refusal()

"""Secrets are planted wherever a user may put them; then everything that steps printed and wrote is searched."""

import io
import zipfile
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest
from kfp import dsl

from components.core.parameters import WORKFLOWS
from components.core.steps import step
from components.core.stores.addresses import shown_model
from components.core.stores.open import open_store
from components.ingest.component import collect, ingest
from components.setup.setup import check_run
from pipelines.local import RunLog
from tests.images import jpeg, squares
from tests.odd_s3 import error, odd_s3

PASSWORD, SIGNATURE = "hunter2/of-the-web", "f00d-signature-of-an-address"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED00",
    "AWS_SECRET_ACCESS_KEY": "planted+secret/key",
    "AWS_SESSION_TOKEN": "planted-session-token==",
}
SECRETS = [PASSWORD, SIGNATURE, *KEYS.values()]


@pytest.fixture
def server(monkeypatch, tmp_path):
    """An S3 server, which gives an archive to whoever knows the password."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("classes.txt", "red\nblue\n")
        for number in range(3):
            file.writestr(f"{number}.jpg", jpeg(squares(np.random.default_rng(number))[0]))
            file.writestr(f"{number}.txt", "0 0.5 0.5 0.2 0.2\n")
    login = "Basic " + b64encode(f"joe:{PASSWORD}".encode()).decode()

    def serve(handler, key):
        if not handler.path.startswith("/data.zip"):
            return None
        if handler.headers["Authorization"] != login or SIGNATURE not in handler.path:
            return 403, b"", {}
        return 200, archive.getvalue(), {}

    with odd_s3() as server:
        server.rule = serve
        for name, value in KEYS.items():
            monkeypatch.setenv(name, f"{value}\n")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("EDGE_STORE_PATIENCE", "1")
        monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
        server.url = f"{server.address}/data.zip?sig={SIGNATURE}".replace("://", f"://joe:{quote(PASSWORD, safe='')}@")
        yield server


def artifact(kind, folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return kind(name=name, uri=str(folder / name), metadata={})


def outputs(folder):
    return {
        "manifest": artifact(dsl.Dataset, folder, "manifest"),
        "quarantine": artifact(dsl.Dataset, folder, "quarantine"),
        "report": artifact(dsl.HTML, folder, "report.html"),
    }


def written(root: Path, server, artifacts) -> str:
    """All that is in files, objects and the metadata of artifacts, as text."""
    contents = [path.read_bytes() for path in root.rglob("*") if path.is_file()] + list(server.objects.values())
    parquets = [io.BytesIO(data) for data in contents if data.startswith(b"PAR1")]
    tables = [repr((pl.read_parquet_metadata(file), pl.read_parquet(file).rows())) for file in parquets]
    plain = [data.decode(errors="replace") for data in contents]
    names = [*map(str, root.rglob("*")), *server.objects]
    return "\n".join([*plain, *tables, *names, *(f"{one.uri} {one.metadata}" for one in artifacts.values())])


def check_free_of_secrets(text: str) -> None:
    for secret in SECRETS:
        for form in (secret, quote(secret, safe=""), b64encode(secret.encode()).decode()[:-2]):
            assert form not in text
    assert b64encode(f"joe:{PASSWORD}".encode()).decode() not in text


@pytest.mark.parametrize("component", [ingest, collect])
def test_what_comes_in_from_an_address_with_a_password(server, tmp_path, capfd, component):
    made = outputs(tmp_path / "outputs")
    component.python_func(server.url, "s3://bucket/job", **made)
    assert any(key.startswith("job/blobs/") for key in server.objects)
    said = "".join(capfd.readouterr())
    assert "3 found, 3 images" in said
    check_free_of_secrets(said + written(tmp_path, server, made))


@pytest.mark.parametrize(
    "answer",
    [
        (403, b"", {}),
        (404, b"", {}),
        (200, b"no archive", {}),
        (200, b"<html>log in</html>", {"Content-Type": "text/html"}),
        (302, b"", {"Location": f"https://joe:{quote(PASSWORD, safe='')}@127.0.0.1:1/x?sig={SIGNATURE}"}),
    ],
)
def test_a_refused_address(server, tmp_path, capfd, answer):
    server.rule = lambda handler, key: answer if handler.path.startswith("/data.zip") else None
    made = outputs(tmp_path / "outputs")
    with pytest.raises(SystemExit):
        ingest.python_func(server.url, "s3://bucket/job", **made)
    said = "".join(capfd.readouterr())
    assert "ingest error: " in said
    check_free_of_secrets(said + written(tmp_path, server, made))


@pytest.mark.parametrize("code", ["AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken"])
def test_a_store_that_repeats_what_it_was_sent(server, capfd, code):
    sent = f"{KEYS['AWS_ACCESS_KEY_ID']} with {KEYS['AWS_SESSION_TOKEN']} for /job?X-Amz-Signature=abc"
    server.rule = lambda *_: (
        403,
        error(code, sent, f"<AWSAccessKeyId>{KEYS['AWS_ACCESS_KEY_ID']}</AWSAccessKeyId>"),
        {},
    )
    with pytest.raises(SystemExit), step("setup"):
        check_run({"data_url": server.url, "job_root": "s3://bucket/job"}, WORKFLOWS["helmet-detection"])
    said = "".join(capfd.readouterr())
    assert code in said
    check_free_of_secrets(said)


def test_a_store_that_goes_away(server, capfd):
    server.rule = lambda *_: (503, b"", {})
    with pytest.raises(SystemExit), step("setup"):
        check_run({"data_url": "s3://bucket/data", "job_root": "s3://bucket/job"}, WORKFLOWS["helmet-detection"])
    said = "".join(capfd.readouterr())
    assert "cannot be reached" in said
    check_free_of_secrets(said)


def test_the_addresses_of_requests_are_in_no_error(server):
    server.rule = lambda *_: (503, b"", {})
    with pytest.raises(Exception, match="cannot be reached") as told:
        open_store("s3://bucket/job").write("a", b"1", if_absent=True)
    check_free_of_secrets(str(told.value))


def test_the_base_model_of_a_description(server):
    address = f"https://joe:{quote(PASSWORD, safe='')}@host/best.pt?sig={SIGNATURE}#sha256={'0' * 64}"
    assert shown_model(address) == f"https://host/best.pt?...#sha256={'0' * 64}"
    assert shown_model("yolo11n.yaml") == "yolo11n.yaml"


def test_the_log_of_a_run_in_which_kfp_prints_all_parameters(server):
    file, terminal = io.StringIO(), io.StringIO()
    log = RunLog(file, terminal, tasks=["train"])
    given = f'{{"parameterValues": {{"data_url": "{server.url}", "classes": "red"}}}}\ntrain error: no {server.url}\n'
    assert log.write(given) == len(given)
    check_free_of_secrets(file.getvalue() + terminal.getvalue() + str(log.error))
    assert '"classes": "red"' in file.getvalue()
    assert log.error is not None
    assert log.error[0] == "train"

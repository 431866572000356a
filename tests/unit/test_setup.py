import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from kubernetes import client

from components.core import parameters
from components.core.errors import InputError
from components.setup.setup import check_run
from components.setup.volume import ensure_claim, ensure_volume
from tests.odd_s3 import odd_s3

CLAIMS = "/api/v1/namespaces/team/persistentvolumeclaims"
PHASES = parameters.WORKFLOWS["helmet-detection"]


class Claims(BaseHTTPRequestHandler):
    """Answers as a Kubernetes API server does, which first looks at what one may do: ``server.verbs``."""

    def do_GET(self):
        folder, _, name = self.path.rpartition("/")
        if folder != CLAIMS or "get" not in self.server.verbs:
            self.answer(403, {"kind": "Status", "reason": "Forbidden"})
        elif name in self.server.claims:
            self.answer(200, {"metadata": {"name": name}})
        else:
            self.answer(404, {"kind": "Status", "reason": "NotFound"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        if self.path != CLAIMS or "create" not in self.server.verbs:
            status, reason = 403, "Forbidden"
        elif name in self.server.claims:
            status, reason = 409, "AlreadyExists"
        else:
            status, reason = 201, ""
            self.server.claims[name] = body["spec"]
        self.answer(status, body if status == 201 else {"kind": "Status", "reason": reason})

    def answer(self, status, body):
        answer = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def cluster():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Claims)
    server.claims, server.verbs = {}, {"get", "create"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    yield server, client.CoreV1Api(client.ApiClient(configuration))
    server.shutdown()
    server.server_close()


def test_a_claim_is_made_once(cluster):
    server, api = cluster
    ensure_claim(api, "team", "cache", "20Gi")
    ensure_claim(api, "team", "cache", "50Gi")
    assert list(server.claims) == ["cache"]
    assert server.claims["cache"]["resources"] == {"requests": {"storage": "20Gi"}}


@pytest.mark.parametrize("verbs", [{"get"}, {"create"}])
def test_a_claim_that_somebody_else_has_made_is_used(cluster, verbs):
    server, api = cluster
    server.claims, server.verbs = {"cache": {}}, verbs
    ensure_claim(api, "team", "cache", "20Gi")
    assert server.claims == {"cache": {}}


@pytest.mark.parametrize(("verbs", "missing"), [({"get"}, "create"), (set(), "get")])
def test_what_the_service_account_may_not_do_is_named(cluster, verbs, missing):
    server, api = cluster
    server.verbs = verbs
    with pytest.raises(InputError, match=rf"403.*service account {missing} persistentvolumeclaims in team"):
        ensure_claim(api, "team", "cache", "20Gi")


def test_a_refusal_is_told_with_what_to_do(cluster):
    _, api = cluster
    with pytest.raises(InputError, match=r"cache_pvc=cache: the cluster refused .*403.*service account"):
        ensure_claim(api, "other", "cache", "20Gi")


def test_outside_a_cluster_nothing_is_made():
    ensure_volume("cache", "20Gi")


def test_a_right_run_passes_and_leaves_nothing_in_the_store(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.jpg").write_bytes(b"x")
    check_run({"data_url": str(tmp_path / "data"), "job_root": str(tmp_path / "job")}, PHASES)
    assert not [path for path in (tmp_path / "job").rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_everything_wrong_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    values = {
        "data_url": str(tmp_path / "gone.zip"),
        "job_root": str(tmp_path / "file" / "job"),
        "base_model": "https://example.com/x.pt",
        "epochs": -1,
    }
    with pytest.raises(InputError) as caught:
        check_run(values, PHASES)
    message = str(caught.value)
    for words in ("epochs=-1", "base_model=", "append #sha256=", "gone.zip", "job_root: "):
        assert words in message
    assert "\n" not in message


def test_a_job_that_is_to_prelabel_must_have_a_champion(tmp_path):
    (tmp_path / "one.jpg").write_bytes(b"x")
    values = {"data_url": str(tmp_path), "job_root": str(tmp_path / "job")}
    with pytest.raises(InputError, match=r"prelabel_job: .*other: no job with a champion lies there"):
        check_run({**values, "prelabel_job": str(tmp_path / "other")}, [*PHASES, parameters.MineSettings])
    check_run({**values, "prelabel_job": ""}, [*PHASES, parameters.MineSettings])


def test_further_checks_are_made_together_once_the_parameters_are_of_the_right_form(tmp_path):
    made = []

    def complain(word: str) -> None:
        made.append(word)
        raise InputError(word)

    (tmp_path / "one.jpg").write_bytes(b"x")
    values = {"data_url": str(tmp_path), "job_root": str(tmp_path / "job")}
    with pytest.raises(InputError, match="first; second"):
        check_run(values, PHASES, [lambda: complain("first"), lambda: complain("second")])
    made.clear()
    with pytest.raises(InputError, match=r"gone.*; third"):
        check_run({**values, "data_url": str(tmp_path / "gone")}, PHASES, [lambda: complain("third")])
    made.clear()
    with pytest.raises(InputError, match="epochs"):
        check_run({**values, "epochs": -1}, PHASES, [lambda: complain("first")])
    assert made == []


def test_a_store_that_would_lose_rounds_is_found_out(tmp_path, s3, monkeypatch):
    (tmp_path / "one.jpg").write_bytes(b"x")
    check_run({"data_url": str(tmp_path), "job_root": s3}, PHASES)
    with odd_s3() as server:
        server.conditions = "ignored"
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        with pytest.raises(
            InputError, match=r"job_root: s3://.* does not heed If-None-Match: .*nothing has been started"
        ):
            check_run({"data_url": str(tmp_path), "job_root": s3}, PHASES)

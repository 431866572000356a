"""What docs/stores.md and images/edge/policy.json say of secrets and rights holds."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from components.core.cache import MAX_PIXELS
from components.core.documents import MAX_DEPTH, MAX_NODES, MAX_YAML_CHARACTERS
from components.core.job.fleet import status_key
from components.core.job.job import Job
from components.core.parameters import WORKFLOWS
from components.core.stores.base import MAX_FILE_BYTES
from components.core.stores.open import open_store
from components.core.stores.race import check_conditional_writes
from components.deploy.workers import MAX_STATUS_BYTES
from components.ingest.feed import take_new
from components.ingest.images import MAX_IMAGE_BYTES
from components.ingest.locations import MAX_OBJECT_BYTES
from components.serving import model_cache
from components.serving.pointers import MAX_POINTER_BYTES, JobPointer
from components.setup.setup import check_run
from pipelines.cluster import CREDENTIALS, STORE_FOLDER
from tests.hard_examples import drain, example, open_spool
from tests.images import jpeg, squares
from tests.odd_s3 import error, odd_s3

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/stores.md").read_text(encoding="utf-8")
(OF_PIPELINES,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
OF_WORKERS = json.loads((REPOSITORY / "images/edge/policy.json").read_text(encoding="utf-8"))
ROOT = "s3://jobs/helmet"


@pytest.fixture
def server(monkeypatch, tmp_path):
    with odd_s3() as server:
        for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
        yield server


def allow(server, policy):
    """Let a server refuse all that a policy does not allow, as S3 does: what is absent may be seen by whoever lists."""

    def is_allowed(action, resource):
        return any(
            action in as_list(one["Action"]) and any(fnmatchcase(resource, each) for each in as_list(one["Resource"]))
            for one in policy["Statement"]
        )

    def rule(handler, key):
        bucket = handler.path.lstrip("/").partition("?")[0].partition("/")[0]
        whole = f"arn:aws:s3:::{bucket}"
        method = {"HEAD": "Get", "GET": "Get", "PUT": "Put", "DELETE": "Delete"}[handler.command]
        action, resource = (f"s3:{method}Object", f"{whole}/{key}") if key else ("s3:ListBucket", whole)
        if is_allowed(action, resource) and (method != "Get" or is_allowed("s3:ListBucket", whole)):
            return None
        return 403, error("AccessDenied", f"{action} on {resource}"), {}

    server.rule = rule


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_the_rights_of_the_pipelines_suffice(server):
    server.objects |= {"feed/1.jpg": jpeg(squares(np.random.default_rng(0))[0]), "feed/1.txt": b"0 0.5 0.5 0.2 0.2"}
    server.objects["feed/classes.txt"] = b"red\n"
    allow(server, OF_PIPELINES)
    check_run({"data_url": "s3://images/feed", "job_root": ROOT}, WORKFLOWS["helmet-detection"])
    assert len(take_new("s3://images/feed", ROOT).manifest) == 1
    job = Job.open(ROOT)
    state, etag = job.read()
    job.commit(state, etag)
    state, etag = job.read()
    job.commit(state, etag)


def test_the_rights_of_an_edge_worker_suffice(server, tmp_path):
    store = open_store(ROOT)
    check_conditional_writes(store)  # as setup does
    allow(server, OF_WORKERS)
    assert JobPointer(store, "gate-3").read() is None
    spool = open_spool(tmp_path / "spool")
    for number in range(2):
        spool.add(*example(number))
    drain(spool, store, check=lambda: check_conditional_writes(store))
    assert sum(key.endswith(".jpg") for key in server.objects) == 2
    store.write(status_key("gate-3"), b"{}")
    assert store.read(status_key("gate-3")) == b"{}"
    for key in ("champion.json", "state.json", "bundles/v1/model.json", "setup/x"):
        with pytest.raises(Exception, match="access denied"):
            store.write(key, b"x")


def test_every_key_of_the_secret_is_explained():
    table = PAGE[PAGE.index("| key |") : PAGE.index("All keys of the secret")]
    assert set(re.findall(r"`([A-Z][A-Z_0-9]+)`", table)) == set(CREDENTIALS)
    assert STORE_FOLDER in PAGE


def test_the_limits_are_those_of_the_code():
    (limits,) = re.findall(r"## Limits\n\n(.*)", PAGE, re.DOTALL)
    said = " ".join(limits.split())
    for what, size in {
        "every other file to": MAX_FILE_BYTES, "a file of a feed in a bucket to": MAX_OBJECT_BYTES,
        "pointer gives and to": model_cache.MAX_FILE_BYTES, "pointers to": MAX_POINTER_BYTES,
        "reports of workers to": MAX_STATUS_BYTES, "descriptions to": model_cache.MAX_DESCRIPTION_BYTES,
    }.items():  # fmt: skip
        number, unit = re.search(rf"\b{what} (\d+) (GiB|MiB)", said).groups()
        assert int(number) << {"GiB": 30, "MiB": 20}[unit] == size, what
    assert f"an image to {MAX_IMAGE_BYTES // 10**6} MB and {MAX_PIXELS // 10**6} megapixels" in said
    assert f"YAML to {MAX_YAML_CHARACTERS >> 20} MiB, {MAX_DEPTH} levels and {MAX_NODES:,} values" in said

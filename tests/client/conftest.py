import os

import pytest
from kfp.client import Client

from pipelines.client import Server, connect
from tests.client.fake_api import FakeApi


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    """Keep what kfp has saved for the user of this machine out of the tests."""
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    for name in [name for name in os.environ if name.startswith("KF_PIPELINES_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def api(monkeypatch):
    """A server whose clock also moves when the client sleeps."""
    with FakeApi() as server:
        monkeypatch.setattr("pipelines.client.time.sleep", server.advance)
        monkeypatch.setattr("pipelines.schedule._now", lambda: server.now)
        yield server


@pytest.fixture
def cluster(api):
    return connect(Server(api.url))

import pytest

from components.core.estimators.ultralytics_offline import ultralytics_offline
from tests.fake_label_studio import LEGACY, fake_label_studio


@pytest.fixture(scope="session")
def ultralytics():
    """The package, as the estimator imports it."""
    package = ultralytics_offline()
    import ultralytics.data.augment
    import ultralytics.nn.tasks
    import ultralytics.utils.nms  # noqa: F401

    return package


@pytest.fixture
def studio(monkeypatch, tmp_path):
    """A fake Label Studio that serves the files of the job at ``root``."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    monkeypatch.setenv("EDGE_CACHE_DIR", str(tmp_path / "cache"))
    with fake_label_studio() as server:
        server.document_root = str(tmp_path / "job")
        yield server


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "job")


@pytest.fixture
def feed(tmp_path):
    (tmp_path / "feed").mkdir()
    return str(tmp_path / "feed")

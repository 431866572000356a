import pytest

from components.core.estimators.ultralytics_offline import ultralytics_offline


@pytest.fixture(scope="session")
def ultralytics():
    """The package, as the estimator imports it."""
    package = ultralytics_offline()
    import ultralytics.data.augment
    import ultralytics.nn.tasks
    import ultralytics.utils.nms  # noqa: F401

    return package

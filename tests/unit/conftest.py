import os

import pytest


@pytest.fixture(scope="session")
def ultralytics(tmp_path_factory):
    """The package, with its settings in a folder of the tests."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
    import ultralytics
    import ultralytics.data.augment
    import ultralytics.nn.tasks
    import ultralytics.utils.nms

    return ultralytics

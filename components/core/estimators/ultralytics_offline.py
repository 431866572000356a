"""Ultralytics, kept to itself.

As it comes, the library sends usage figures, fetches weights, fonts and models to check against, installs packages,
writes settings into the user's home and unpickles what it is given. Imported from here it does none of that.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any


@cache
def ultralytics_offline() -> Any:
    """Import ultralytics with its contacts to the outside closed.

    It reads these variables when it is first imported, and writes its settings file then, so both come first.
    """
    folder = Path(tempfile.mkdtemp(prefix="ultralytics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.update(
        YOLO_CONFIG_DIR=str(folder),
        YOLO_OFFLINE="true",
        YOLO_AUTOINSTALL="false",
        YOLO_VERBOSE="false",
        ULTRALYTICS_SAFE_LOAD="true",
    )
    # Ultralytics fetches these fonts when a data set is opened unless they are there; any font will do.
    import matplotlib
    from PIL import Image

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    (folder / "Ultralytics").mkdir()
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        (folder / "Ultralytics" / name).symlink_to(font)

    open_image = Image.open
    import ultralytics
    from ultralytics.engine import trainer

    # It puts a function in this place that installs packages for formats that Pillow does not know.
    Image.open = open_image
    ultralytics.settings.update({name: False for name, value in ultralytics.settings.items() if value is True})
    # The check would download a model to compare against; only GPUs use mixed precision.
    trainer.check_amp = lambda model: next(model.parameters()).device.type == "cuda"
    return ultralytics

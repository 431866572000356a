"""Image names and tag, and the one decorator that every component uses.

The names can be changed when pipelines are compiled, with the environment variables ``EDGE_IMAGE_PREFIX`` (registry and
folder, ``registry.example.com/edge-learning``) and ``EDGE_IMAGE_TAG``.
"""

from __future__ import annotations

import functools
import os

from kfp import dsl

from components.core.version import VERSION

_PREFIX = os.environ.get("EDGE_IMAGE_PREFIX", "edge-learning")
_TAG = os.environ.get("EDGE_IMAGE_TAG", VERSION)

TRIGGER = f"{_PREFIX}/trigger:{_TAG}"
TRAIN = f"{_PREFIX}/train:{_TAG}"
CONVERT = f"{_PREFIX}/convert:{_TAG}"
CLOUD = f"{_PREFIX}/cloud:{_TAG}"
EDGE = f"{_PREFIX}/edge:{_TAG}"

# Lightweight Python components are the only form that runs as a subprocess, in Docker and on a cluster alike. The
# image carries `components/` and kfp, so nothing is installed when a task starts.
small_component = functools.partial(dsl.component, base_image=TRIGGER, install_kfp_package=False)
train_component = functools.partial(dsl.component, base_image=TRAIN, install_kfp_package=False)
convert_component = functools.partial(dsl.component, base_image=CONVERT, install_kfp_package=False)

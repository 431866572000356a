"""Image names and tag, and the one decorator that every component uses.

The names can be changed when pipelines are compiled, with the environment variables ``EDGE_IMAGE_PREFIX`` (registry and
folder, ``registry.example.com/edge-learning``) and ``EDGE_IMAGE_TAG``.
"""

from __future__ import annotations

import functools
import os
import re

from kfp import dsl

from components.core.errors import InputError
from components.core.version import VERSION

# https://pkg.go.dev/github.com/distribution/reference: a registry, folders in lower case, and the tag.
_FOLDER = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:\d+)?/)?({_FOLDER}/)*{_FOLDER}:\w[\w.-]{{0,127}}", re.ASCII
)


def _image(name: str) -> str:
    prefix, tag = os.environ.get("EDGE_IMAGE_PREFIX") or "edge-learning", os.environ.get("EDGE_IMAGE_TAG") or VERSION
    image = f"{prefix}/{name}:{tag}"
    if not _REFERENCE.fullmatch(image):
        raise InputError(
            f"EDGE_IMAGE_PREFIX={prefix!r} and EDGE_IMAGE_TAG={tag!r} make no name of a container image: write "
            "registry and folders in lower case, without a slash at the end, and the tag in letters, digits, ., _ and -"
        )
    return image


TRIGGER, TRAIN, CONVERT, CLOUD, EDGE = map(_image, ("trigger", "train", "convert", "cloud", "edge"))

# Lightweight Python components are the only form that runs as a subprocess, in Docker and on a cluster alike. The
# image carries `components/` and kfp, so nothing is installed when a task starts.
small_component = functools.partial(dsl.component, base_image=TRIGGER, install_kfp_package=False)
train_component = functools.partial(dsl.component, base_image=TRAIN, install_kfp_package=False)
convert_component = functools.partial(dsl.component, base_image=CONVERT, install_kfp_package=False)

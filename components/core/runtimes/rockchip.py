"""The Rockchip chips that a model can be converted for, and what each can compute in."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from components.core.errors import InputError

PRECISIONS = ("int8", "fp16")
RETRIES = ("kl_divergence", "mmse", "fp16")

TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("rk3562", "rk3566", "rk3568", "rk3576", "rk3588", "rv1126b"), PRECISIONS),
    **dict.fromkeys(("rv1103", "rv1103b", "rv1106", "rv1106b"), ("int8",)),
    "rk2118": ("fp16",),
}
_FIRST_GENERATION = ("rk1808", "rk3399pro", "rv1109", "rv1126")


def rknn_file(target: str) -> str:
    """The file of a bundle that one chip runs."""
    return f"model.{target}.rknn"


def parse_targets(text: str) -> tuple[str, ...]:
    """Read chip names, ``rk3588,rk3568``; empty for none.

    Returns:
        The names in lower case, in the order given.

    Raises:
        InputError: a name that is no chip of the toolkit, or that comes twice.
    """
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for index, name in enumerate(names):
        if name in _FIRST_GENERATION:
            raise InputError(f"targets={text!r}: {name} needs the older RKNN-Toolkit 1, which this suite does not use")
        if name not in TARGETS:
            close = difflib.get_close_matches(name, TARGETS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(TARGETS))}"
            raise InputError(f"targets={text!r}: {name!r} is not a chip that RKNN-Toolkit 2 supports: {hint}")
        if name in names[:index]:
            raise InputError(f"targets={text!r}: {name} is given twice")
    return names


def check_precision(targets: Sequence[str], precision: str) -> None:
    """Check that every chip can compute in a precision.

    Raises:
        InputError: names the chips that cannot.
    """
    unable = [target for target in targets if precision not in TARGETS[target]]
    if unable:
        other = " and ".join(sorted({able for target in unable for able in TARGETS[target]}))
        raise InputError(
            f"quantization={precision}: not supported by {', '.join(unable)}, only {other}: "
            "convert for these in a separate run"
        )


def parse_retries(text: str) -> tuple[str, ...]:
    """Read what to try when int8 loses too much, ``kl_divergence,mmse,fp16``; empty for nothing.

    Raises:
        InputError: another word, or one that comes twice.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [name for name in names if name not in RETRIES] or [name for name in names if names.count(name) > 1]
    if wrong:
        raise InputError(
            f"quantization_retries={text!r}: {wrong[0]!r} is unknown or given twice; choose from {', '.join(RETRIES)}"
        )
    return names

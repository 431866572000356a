"""Does a board compute what the toolkit's simulator computed? Judged on the outputs and on the boxes they become.

How alike two outputs are (their cosine) is not asked: a dead detector has the best one. Two things decide.

**The largest difference, in 8-bit steps.** A step is what the chip itself can tell apart, so it means the same for box
distances and for scores, and for every model.

**The boxes above the deployed confidence**, which are what the board is there for: each that the simulator finds must
be found on the board, and the other way round, with the same class, nearly the same place and nearly the same score.
Suppression is left out on the other side, so that two boxes which are nearly as good do not count as a loss when they
change places; nor does a box at the edge of the confidence, since its score may be a little lower there. Of a
segmentation it is the class of each pixel instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from components.core.bundle import Bundle
from components.core.runtimes.base import decoder_of
from components.core.runtimes.golden import Finding, Golden, Outputs

# How far two faithful computations are apart can be measured on the simulator, which rounds in two ways, that of rk3588
# and that of rk3576. Over 60 images the outputs of a YOLO11n of 160 x 160, half trained, were 15 steps apart at most,
# the scores of its boxes 0.05; int8 against fp16, which is all that quantising costs, was 54 steps apart at most. So 64
# steps, a quarter of the range, leave room for a deeper model. Outputs that are mixed up are further apart, and what
# lies between is left to the boxes.
MAX_STEPS = 64.0

Array = NDArray[np.float32]
ByName = Mapping[str, Array]

_LEVELS = 255  # from the lowest of 8 bits to the highest
_LEAST_UNIT = 1e-6
_MOST_ORDERED = 6  # outputs, whose every order is tried


def compare(bundle: Bundle, golden: Golden, outputs: Outputs) -> list[Finding]:
    """Hold a board's outputs against the simulator's.

    Args:
        bundle: the model.
        golden: what the simulator gave.
        outputs: what the board gave for the same canvases.

    Returns:
        The answers, in order; after one that is not met those are left out that would only say the same again.
    """
    found = [_shapes(golden, outputs)]
    if found[-1].met:
        found.append(_numbers(golden, outputs))
    if found[-1].met:
        given, wanted = _by_name(golden, outputs), _by_name(golden, golden.outputs)
        units = _units(bundle, golden, wanted)
        found.append(_alive(golden, given, wanted, units))
    if found[-1].met:
        found.append(_differences(golden, given, wanted, units))
        alike = decoder_of(bundle).alike(bundle, golden.outputs, outputs)
        found += [alike] if alike else []
    return found


def _shapes(golden: Golden, outputs: Outputs) -> Finding:
    wanted, given = _shapes_of(golden.outputs), _shapes_of(outputs)
    if given == wanted:
        return Finding("outputs", True, f"{len(wanted)}, of the simulator's shapes")
    if given == [(shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape for shape in wanted]:
        why = "the board gives them channels last (NHWC), where the decoder needs channels first (NCHW)"
    elif sorted(given) == sorted(wanted):
        why = "they come in another order: the .rknn on the board and model.json come from different conversions"
    else:
        why = "the .rknn on the board belongs to a different model: fetch or convert it again"
    return Finding("outputs", False, f"{why}; the board gives {_listed(given)}, the simulator gave {_listed(wanted)}")


def _numbers(golden: Golden, outputs: Outputs) -> Finding:
    wrong = [name for name, values in _by_name(golden, outputs).items() if not np.isfinite(values).all()]
    return Finding("numbers", not wrong, f"{', '.join(wrong)}: NaN or infinite" if wrong else "all finite")


def _alive(golden: Golden, given: ByName, wanted: ByName, units: Mapping[str, float]) -> Finding:
    """An output that is the same everywhere has lost everything, unless there was nothing to lose."""
    told = [name for name in golden.names if np.ptp(wanted[name]) > MAX_STEPS * units[name]]
    dead = [name for name in told if np.ptp(given[name]) == 0]
    if not dead:
        return Finding("alive", True, "no output is constant")
    if dead == told:
        why = f"every output is constant ({dead[0]}: {given[dead[0]].flat[0]:g}): the NPU does not compute"
    else:
        why = "; ".join(
            f"{name} is {given[name].flat[0]:g} everywhere, the simulator's reaches {wanted[name].max():.3g}"
            for name in dead
        )
    return Finding("alive", False, f"{why}; such a model finds nothing or everything")


def _differences(golden: Golden, given: ByName, wanted: ByName, units: Mapping[str, float]) -> Finding:
    apart = {name: np.abs(given[name] - wanted[name]) / units[name] for name in golden.names}
    worst = max(apart, key=lambda name: float(apart[name].max()))
    largest = float(apart[worst].max())
    same = float(np.mean(np.concatenate([one.ravel() for one in apart.values()]) < 0.5))
    reason = (
        f"at most {largest:.1f} steps of 8 bits, in {worst} (up to {MAX_STEPS:g} count as rounding); "
        f"{same:.1%} of the numbers are the same"
    )
    met = largest <= MAX_STEPS
    return Finding("differences", met, reason if met else reason + _guess(golden, given, wanted, units))


def _units(bundle: Bundle, golden: Golden, wanted: ByName) -> dict[str, float]:
    """One step of the chip for each output; for one that is not quantised, what it would be if it were."""
    whole = {name: 1.0 if name in bundle.outputs[1::2] else float(np.ptp(wanted[name])) for name in golden.names}
    return {
        name: step or max(whole[name] / _LEVELS, _LEAST_UNIT)
        for name, step in zip(golden.names, golden.steps, strict=True)
    }


def _guess(golden: Golden, given: ByName, wanted: ByName, units: Mapping[str, float]) -> str:
    """What else the numbers would fit: one image alone, another layout in the same shape, or another order."""

    def fits(values: Array, name: str) -> bool:
        same_shape = values.shape == wanted[name].shape
        return same_shape and bool(np.abs(values - wanted[name]).max() <= MAX_STEPS * units[name])

    if len(golden.canvases) > 1 and all((values == values[:1]).all() for values in given.values()):
        return "; the board's outputs are the same for every image: the images do not reach the NPU"
    off = [name for name in golden.names if not fits(given[name], name)]
    if all(fits(_channels_first(given[name]), name) for name in off):
        return f"; {', '.join(off)} would match if read channels last: the board gives NHWC in the shape of NCHW"
    for order in permutations(off) if len(off) <= _MOST_ORDERED else ():
        if all(fits(given[other], name) for name, other in zip(off, order, strict=True)):
            pairs = ", ".join(f"{name} takes the place of {other}" for name, other in zip(off, order, strict=True))
            return f"; they would match in another order: {pairs}"
    return ""


def _channels_first(values: Array) -> Array:
    """(N, 1, C, H, W) whose numbers lie as (N, 1, H, W, C), put right."""
    images, one, channels, height, width = values.shape
    return values.reshape(images, one, height, width, channels).transpose(0, 1, 4, 2, 3)


def _by_name(golden: Golden, outputs: Outputs) -> ByName:
    """Each output over all canvases, (N, 1, C, H, W)."""
    return {name: np.stack([one[index] for one in outputs]) for index, name in enumerate(golden.names)}


def _shapes_of(outputs: Outputs) -> list[tuple[int, ...]]:
    """Of the first canvas whose outputs differ in shape from those of the others, if there is one."""
    shapes = [[tuple(one.shape) for one in each] for each in outputs]
    return next((one for one in shapes[1:] if one != shapes[0]), shapes[0])


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)

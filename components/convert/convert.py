"""Convert: a bundle for Rockchip's chips, each file measured on the toolkit's simulator before it may be deployed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.convert import report
from components.convert.builds import Builds
from components.convert.calibration import calibration_samples, draw_samples
from components.convert.conversion import Attempt, Conversion, Outcome
from components.convert.gate import Limits, check_reference, judge
from components.convert.graph import check_model
from components.convert.measure import figures, measure
from components.convert.toolkit import PACKAGE, ToolkitError, toolkit_version
from components.core.bundle import DESCRIPTION, Bundle
from components.core.cache import cache_folder, own_folder
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.runtimes.base import Model
from components.core.runtimes.golden import golden_file
from components.core.runtimes.letterbox import read_image
from components.core.runtimes.onnx import open_onnx
from components.core.runtimes.rockchip import TARGETS, check_precision, parse_retries, parse_targets, rknn_file
from components.core.tasks.base import MIN_SCORE, Measurement, open_task

log = logging.getLogger(__name__)


def convert(
    manifest: Manifest,
    model_folder: Path,
    output: Path,
    *,
    job_root: str,
    targets: str,
    quantization: str = "int8",
    quantization_retries: str = "kl_divergence,mmse",
    calibration_size: int = 100,
    max_eval_images: int = 300,
    split: str = "test",
    limits: Limits,
    seed: int = 0,
    time_limit: float = 3600.0,
) -> Conversion:
    """Convert a model for some chips and measure each result against the float model.

    Args:
        manifest: samples with splits; ``train`` calibrates.
        model_folder: the bundle.
        output: folder of the bundle with the ``.rknn`` files that passed, and golden tensors beside each; created.
        job_root: where the job's state lies; builds are kept in its cache.
        targets: chips, ``rk3588,rk3568``; empty to convert for none.
        quantization: ``int8`` or ``fp16``.
        quantization_retries: what to try, in this order, when int8 loses too much.
        calibration_size: most training images to take ranges from.
        max_eval_images: most images of the split to measure on.
        split: whose labelled images the models are measured on.
        limits: what a conversion may cost.
        seed: of the choice of images.
        time_limit: seconds that one build may take.

    Raises:
        InputError: a chip, a precision or a model that the toolkit cannot do, or images that are missing.
    """
    names, retries = parse_targets(targets), parse_retries(quantization_retries)
    bundle = Bundle.read(model_folder)
    if not names:
        return _skipped(bundle, model_folder, output, "no targets are given")
    check_precision(names, quantization)
    check_model(bundle, model_folder)
    network = open_onnx(model_folder, 0)
    toolkit = toolkit_version()
    if not toolkit:
        why = f"{PACKAGE} is not installed here (it exists for Linux on x86-64): only the ONNX model is kept"
        return _skipped(bundle, model_folder, output, why)
    samples = _check_samples(manifest, split, max_eval_images, seed, bundle)
    ways = _ways(quantization, retries)
    builds = Builds(
        model_folder,
        calibration_samples(manifest, calibration_size, seed, needed=quantization == "int8"),
        samples,
        blobs=cache_folder(job_root) / "blobs",
        cache=own_folder(job_root) / "conversions",
        toolkit=toolkit,
        time_limit=time_limit,
    )
    reference = measure(builds.samples, _look(network, builds.samples.paths), bundle)
    enough = check_reference(reference)
    if not enough.met:
        conversion = Conversion(Outcome.FAILED, (f"{enough.question}: {enough.reason}",), bundle, (), reference)
    else:
        attempts = [attempt for target in names for attempt in _attempts(builds, target, ways, reference, limits)]
        conversion = _decide(bundle, attempts, reference)
    written = _write(conversion, toolkit, model_folder, output)
    log.info("%s", written.describe())
    return replace(written, sections=report.sections(written, split, bundle.confidence_threshold))


def _skipped(bundle: Bundle, model_folder: Path, output: Path, why: str) -> Conversion:
    log.info("conversion skipped: %s", why)
    _copy(bundle, model_folder, output)
    shutil.copyfile(model_folder / DESCRIPTION, output / DESCRIPTION)
    skipped = Conversion(Outcome.SKIPPED, (why,), bundle)
    return replace(skipped, sections=report.sections(skipped, "", 0.0))


def _ways(quantization: str, retries: Sequence[str]) -> list[tuple[str, str]]:
    """Precision and algorithm of the tries, in order."""
    if quantization == "fp16":
        return [("fp16", "")]
    return [("int8", "normal"), *(("fp16", "") if name == "fp16" else ("int8", name) for name in retries)]


def _check_samples(manifest: Manifest, split: str, count: int, seed: int, bundle: Bundle) -> Manifest:
    if split == "train":
        raise InputError("split='train' is used for calibration: evaluate the conversion on val or test")
    task = open_task(bundle.task)
    samples = task.labelled(manifest.split(split))
    if not task.has_truth(samples):
        raise InputError(
            f"split {split!r} has {len(manifest.split(split).labelled())} labelled images and no "
            f"{task.labels} in them: nothing to evaluate on; add more images or choose another split"
        )
    drawn = draw_samples(samples, count, seed)
    if not task.has_truth(drawn):
        raise InputError(
            f"there are no {task.labels} in the {len(drawn)} images that are drawn of the {len(samples)} of split "
            f"{split!r}: raise max_eval_images"
        )
    return drawn


def _attempts(
    builds: Builds,
    target: str,
    ways: Sequence[tuple[str, str]],
    reference: Measurement[Any],
    limits: Limits,
) -> Iterator[Attempt]:
    """Try one way after the other, until a file passes."""
    for precision, algorithm in ways:
        if precision not in TARGETS[target]:
            continue
        attempt = Attempt(target, precision, algorithm)
        try:
            built = builds.get(target, precision, algorithm)
        except ToolkitError as error:
            attempt = replace(attempt, error=str(error))
        else:
            found = measure(builds.samples, built.predictions, builds.bundle)
            checks = judge(found, reference, built.score_steps, limits)
            attempt = replace(attempt, built=built, measured=found, checks=checks)
        log.info("%s %s: %s", target, attempt.how, "; ".join(attempt.reasons) or "passed")
        yield attempt
        if attempt.passed:
            return


def _decide(bundle: Bundle, attempts: Sequence[Attempt], reference: Measurement[Any]) -> Conversion:
    last = {attempt.target: attempt for attempt in attempts}
    lost = [attempt for attempt in last.values() if not attempt.passed]
    if lost:
        reasons = tuple(f"{attempt.target} {attempt.how}: {', '.join(attempt.reasons)}" for attempt in lost)
        return Conversion(Outcome.FAILED, reasons, bundle, attempts, reference)
    reasons = tuple(f"{attempt.target} {attempt.how} matches the float model" for attempt in last.values())
    return Conversion(Outcome.CONVERTED, reasons, bundle, attempts, reference)


def _write(conversion: Conversion, toolkit: str, model_folder: Path, output: Path) -> Conversion:
    """Write the bundle with the files that passed; its description comes last, and without it there is no bundle."""
    _copy(conversion.bundle, model_folder, output)
    told: dict[str, Any] = {}
    for attempt in conversion.attempts:
        if attempt.passed and attempt.built and attempt.measured:
            shutil.copyfile(attempt.built.file, output / rknn_file(attempt.target))
            shutil.copyfile(attempt.built.golden, output / golden_file(attempt.target))
            told[attempt.target] = {
                "precision": attempt.precision,
                "algorithm": attempt.algorithm,
                "toolkit": toolkit,
                "compiler": attempt.built.compiler,
                **{f"simulated_{name}": value for name, value in list(figures(attempt.measured).items())[:1]},
            }
    lineage = conversion.bundle.lineage | ({"rknn": told} if told else {})
    return replace(conversion, bundle=replace(conversion.bundle, lineage=lineage).write(output))


def _copy(bundle: Bundle, model_folder: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name in bundle.files:
        shutil.copyfile(model_folder / name, output / name)


def _look(network: Model[Any], images: Sequence[Path]) -> Iterator[Any]:
    """What the float model says of each image, one at a time, since all class maps at once take much memory."""
    for path in images:
        yield network.predict([read_image(path)], confidence=MIN_SCORE)[0]

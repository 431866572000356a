"""What int8 costs a detector on Rockchip's chips: three ways from the same weights, on the toolkit's simulator.

float32       the bundle's ONNX, which the others are compared with
ours          ``convert`` as the pipeline calls it: boxes and scores of each scale apart, with its retries and its gate
ultralytics   the graph and the calibration of ultralytics' exporter: boxes as fractions of the canvas and scores in one
              output, all of its val split, images as they are, which the toolkit stretches to the canvas
concatenated  the graph that it exports as plain ONNX: boxes in pixels and scores in one output; calibrated as ours

The samples are split by hash as ``prepare`` does, so that with the seed and the shares of the training the test split
is what the model did not see: train calibrates, test is what all are measured on, with the same metrics. Ours decides
by its gate; the other two are compared with it afterwards. Points are of mAP50-95, against float32; boxes are those at
the confidence that the model is deployed with; the gate fails where one of its questions is not met.

Ultralytics will not build with a toolkit newer than 2.4, and 2.5.0 needs two of its rules switched off for a YOLO,
which the exporter cannot say. So the exporter runs up to where it calls the toolkit, with ``simplify=False``, and its
ONNX and its list of images are built here, in a process of their own, with its settings and without these rules.

Example:
    python benchmarks/conversion.py BUNDLE VOC2007.zip --classes hat:helmet,person:head --folder FOLDER
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from components.convert.build import BROKEN_RULES  # noqa: E402
from components.convert.calibration import (  # noqa: E402
    calibration_canvases,
    calibration_samples,
    draw_samples,
    write_canvases,
    write_list,
)
from components.convert.conversion import Conversion  # noqa: E402
from components.convert.convert import convert  # noqa: E402
from components.convert.gate import Check, Limits, judge  # noqa: E402
from components.convert.golden import steps_of  # noqa: E402
from components.convert.measure import figures, measure  # noqa: E402
from components.core.bundle import Bundle  # noqa: E402
from components.core.cache import cache_folder, fetch_blobs  # noqa: E402
from components.core.detections import Detections  # noqa: E402
from components.core.estimators.onnx_export import ONNX_OPSET  # noqa: E402
from components.core.estimators.ultralytics_offline import ultralytics_offline  # noqa: E402
from components.core.estimators.yolo import lay_out  # noqa: E402
from components.core.heads import BoxesHead  # noqa: E402
from components.core.manifest import Manifest  # noqa: E402
from components.core.reports.page import write_page  # noqa: E402
from components.core.runtimes.decode import decode  # noqa: E402
from components.core.runtimes.detector import on_image  # noqa: E402
from components.core.runtimes.letterbox import letterbox, read_image  # noqa: E402
from components.core.runtimes.onnx import INPUT  # noqa: E402
from components.core.runtimes.rockchip import parse_targets  # noqa: E402
from components.core.tasks.base import MIN_SCORE, LocalSamples, Measurement  # noqa: E402
from components.ingest.ingest import ingest  # noqa: E402
from components.prepare.prepare import prepare  # noqa: E402

VALIDATION = 0.1  # share of the samples that chose the epoch of the model
JOINED_OUTPUT = "output0"  # ultralytics' name of it
SAME = 0.002  # two float graphs of the same weights differ by less in mAP50-95

Array = NDArray[np.float32]
Infer = Callable[[NDArray[np.uint8]], Array]


@dataclass(frozen=True)
class Joined:
    """A graph whose one output, (1, 4 + classes, N), holds centres, sizes and scores.

    Attributes:
        name: of the way.
        onnx: the graph.
        calibration: text file that names an image a line.
        unit: canvas pixels that 1 stands for in the boxes: width and height.
    """

    name: str
    onnx: Path
    calibration: Path
    unit: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One model in the table; nothing was measured where there is an error."""

    target: str
    way: str
    measured: Measurement[Detections] | None = None
    checks: Sequence[Check] = ()
    error: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder of a model of the estimator yolo, with NMS")
    parser.add_argument("source", help="labelled images, as ingest takes them")
    parser.add_argument("--classes", default="", help="as ingest takes them")
    parser.add_argument("--folder", type=Path, required=True, help="for data, models, logs and the report of ours")
    parser.add_argument("--targets", default="rk3588,rk3568,rk3576,rv1106", help="by commas")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the samples to measure on (default 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the splits and the choice of images (default 0)")
    parser.add_argument("--max-eval-images", type=int, default=300, help="most images to measure on (default 300)")
    parser.add_argument("--calibration-size", type=int, default=100, help="most images of ours (default 100)")
    given = parser.parse_args()
    given.folder = given.folder.resolve()
    job = str(given.folder / "job")
    samples = ingest(given.source, job, classes=given.classes).manifest
    train_ratio = 1 - VALIDATION - given.held_out
    data = prepare(samples, train_ratio=train_ratio, val_ratio=VALIDATION, seed=given.seed).manifest
    ours = converted(data, job, given)
    reference = ours.reference
    if reference is None:
        sys.exit(ours.describe())
    rows = [Row("–", "float32", reference)]  # noqa: RUF001
    rows += [Row(one.target, f"ours ({one.how})", one.measured, one.checks, one.error) for one in ours.attempts]
    rows += others(data, reference, job, given)
    report(rows, parse_targets(given.targets))


def converted(data: Manifest, job: str, given: argparse.Namespace) -> Conversion:
    """Convert with the component's own defaults, and write its report."""
    done = convert(
        data,
        given.bundle,
        given.folder / "converted",
        job_root=job,
        targets=given.targets,
        calibration_size=given.calibration_size,
        max_eval_images=given.max_eval_images,
        limits=Limits(),
        seed=given.seed,
    )
    write_page(given.folder / "report.html", "Convert", done.sections)
    return done


def others(data: Manifest, reference: Measurement[Detections], job: str, given: argparse.Namespace) -> Iterator[Row]:
    """Build, look with and judge the joined graphs."""
    bundle, blobs = Bundle.read(given.bundle), cache_folder(job) / "blobs"
    samples = draw_samples(data.split("test").labelled(), given.max_eval_images, given.seed)
    local = LocalSamples(samples, fetch_blobs(samples, blobs))
    for graph in (exporter_graph(data, blobs, given), plain_graph(data, blobs, given)):
        whole = measure(local, look_with_onnx(graph, bundle, local.paths), bundle)
        if abs(whole.flat["map50_95"] - reference.flat["map50_95"]) > SAME:
            raise RuntimeError(f"{graph.name}: the float graph gives {whole.flat['map50_95']:.3f}: it is read wrongly")
        for target in parse_targets(given.targets):
            folder = given.folder / graph.name / target
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                found, steps = in_a_child(build_and_look, graph, target, bundle, local.paths, folder)
            except (BrokenProcessPool, RuntimeError, ValueError):
                yield Row(target, graph.name, error="the toolkit failed: see its log")
            else:
                measured = measure(local, found, bundle)
                yield Row(target, graph.name, measured, judge(measured, reference, steps, Limits()))


def exporter_graph(data: Manifest, blobs: Path, given: argparse.Namespace) -> Joined:
    """What ultralytics' exporter hands to the toolkit for int8: its ONNX, and all the images of its val split."""
    folder = fresh(given.folder / "ultralytics", given.bundle)
    parts = (data.split(split) for split in ("train", "val"))
    yaml = lay_out(folder / "data", *(LocalSamples(part, fetch_blobs(part, blobs)) for part in parts))
    yolo = ultralytics_offline().YOLO(str(folder / "model.pt"), task="detect")
    from ultralytics.utils.export import rknn

    height, width = Bundle.read(given.bundle).image_size
    graph = Joined("ultralytics", folder / "given.onnx", folder / "given.txt", (width, height))

    def keep(onnx_file: str, *, dataset: Path, **_: Any) -> str:
        shutil.copyfile(dataset, graph.calibration)
        return str(shutil.copyfile(onnx_file, graph.onnx))

    rknn.onnx2rknn = keep
    yolo.export(format="rknn", quantize=8, imgsz=[height, width], data=str(yaml), simplify=False, device="cpu")
    return graph


def plain_graph(data: Manifest, blobs: Path, given: argparse.Namespace) -> Joined:
    """The ONNX that ultralytics exports, with the canvases that ours is calibrated with."""
    folder = fresh(given.folder / "concatenated", given.bundle)
    bundle = Bundle.read(given.bundle)
    yolo = ultralytics_offline().YOLO(str(folder / "model.pt"), task="detect")
    size = list(bundle.image_size)
    exported = yolo.export(format="onnx", opset=ONNX_OPSET, imgsz=size, simplify=False, device="cpu")
    canvases = folder / "canvases"
    canvases.mkdir()
    chosen = calibration_samples(data, given.calibration_size, given.seed, needed=True)
    shown = calibration_canvases(chosen, fetch_blobs(chosen, blobs), bundle)
    listed = write_list(canvases, write_canvases(shown, canvases), "normal")
    return Joined("concatenated", Path(exported), listed, (1.0, 1.0))


def fresh(folder: Path, bundle: Path) -> Path:
    """An empty folder with a copy of the weights, beside which ultralytics writes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(bundle / "model.pt", folder / "model.pt")
    return folder


def in_a_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, which the toolkit may crash."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(function, *arguments).result()


def build_and_look(
    graph: Joined, target: str, bundle: Bundle, images: Sequence[Path], folder: Path
) -> tuple[list[Detections], Mapping[str, float]]:
    """Build a graph in int8 and simulate it.

    Returns:
        What it finds in each image, and from one level of its output to the next.
    """
    os.chdir(folder)
    log = os.open(folder / "toolkit.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    rknn = importlib.import_module("rknn.api").RKNN(verbose=False)
    succeed(
        rknn.config(
            mean_values=[[0, 0, 0]],
            std_values=[[255, 255, 255]],
            target_platform=target,
            disable_rules=BROKEN_RULES,
        )
    )
    succeed(rknn.load_onnx(model=str(graph.onnx)))
    succeed(rknn.build(do_quantization=True, dataset=str(graph.calibration)))
    succeed(rknn.export_rknn(str(folder / "model.rknn")))
    succeed(rknn.init_runtime())

    def infer(canvas: NDArray[np.uint8]) -> Array:
        output: Array = rknn.inference(inputs=[canvas], data_format=["nhwc"])[0]
        return output

    found = [find(infer, graph, bundle, image) for image in images]
    (step,) = steps_of([JOINED_OUTPUT], rknn.rknn_base.quantizer.quant_tab)
    return found, {JOINED_OUTPUT: step}


def succeed(answer: int) -> None:
    if answer != 0:
        raise RuntimeError(f"the toolkit answered {answer}")


def look_with_onnx(graph: Joined, bundle: Bundle, images: Sequence[Path]) -> list[Detections]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph.onnx), providers=["CPUExecutionProvider"])

    def infer(canvas: NDArray[np.uint8]) -> Array:
        output: Array = session.run(None, {INPUT: canvas.transpose(0, 3, 1, 2).astype(np.float32) / 255})[0]
        return output

    return [find(infer, graph, bundle, image) for image in images]


def find(infer: Infer, graph: Joined, bundle: Bundle, image: Path) -> Detections:
    """What a graph finds in an image, read as the product reads its own."""
    canvas, placement = letterbox(read_image(image), bundle.image_size, bundle.pad)
    output = infer(canvas[None]).reshape(4 + len(bundle.classes), -1)
    centres, sizes = (output[start : start + 2] * np.array(graph.unit, np.float32)[:, None] for start in (0, 2))
    boxes, scores = np.concatenate([centres - sizes / 2, centres + sizes / 2]).T, output[4:].T
    place, class_id = np.nonzero(scores >= MIN_SCORE)
    candidates = (boxes[place], scores[place, class_id], class_id.astype(np.float32))
    found = decode(candidates, BoxesHead(), confidence=MIN_SCORE, nms=bundle.nms_threshold)
    return on_image(found, placement)


def report(rows: Sequence[Row], targets: Sequence[str]) -> None:
    """Print the table, target by target."""
    reference = rows[0].measured
    assert reference
    print(f"\n{reference.images} images held out, {reference.flat['truths']:.0f} boxes\n")
    headers = ("target", "way", "mAP50", "mAP50-95", "points", "highest score", "boxes", "our gate")
    print(f"| {' | '.join(headers)} |\n|{'---|' * len(headers)}")
    for row in sorted(rows, key=lambda row: targets.index(row.target) if row.target in targets else -1):
        print(f"| {row.target} | {row.way} | {' | '.join(cells(row, reference))} |")


def cells(row: Row, reference: Measurement[Detections]) -> list[str]:
    if row.measured is None:
        return [row.error, *[""] * 4, "fails"]
    new = figures(row.measured)
    points = 100 * (new["map50_95"] - reference.flat["map50_95"])
    boxes = sum(row.measured.of_class("predictions", name) or 0 for name in row.measured.samples.classes)
    unmet = sum(not check.met for check in row.checks)
    verdict = f"fails {unmet} of {len(row.checks)}" if unmet else "passes" if row.checks else ""
    scores = [f"{value:.3f}" for value in (new["map50"], new["map50_95"])]
    return [*scores, f"{points:+.1f}" if row.checks else "", f"{new['max_score']:.3f}", f"{boxes:.0f}", verdict]


if __name__ == "__main__":
    main()

"""How good a detector is: COCO's average precision, and precision and recall at the confidence it is deployed with.

Average precision (AP) comes from faster-coco-eval and equals pycocotools'. Precision, recall and F1 come from matching
one to one: the predictions of an image, best score first, each take the free true box of their class that they overlap
most, if by at least the IoU threshold. A prediction that gets none is a false positive; a true box that stays free is
missed, also in an image where nothing was found at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from components.core.detections import Detections, iou
from components.core.errors import InputError, NothingToMeasureError

RECALLS: NDArray[np.float64] = np.linspace(0, 1, 101)  # where COCO reads precision off the curve
PIXELS_BEYOND = 1.0  # rounding may move a box this far out of its image

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassMetrics:
    """What was measured for one class.

    Attributes:
        name: of the class.
        ap50: average precision at IoU 0.5, 0..1.
        ap50_95: mean of the average precisions at IoU 0.5, 0.55, ... 0.95.
        precision: correct predictions / predictions; 0 where there are none.
        recall: correct predictions / true boxes.
        f1: harmonic mean of the two.
        truths: number of true boxes. Where it is 0, the five above are None.
        predictions: number of predictions at the confidence threshold.
        false_positives: predictions that are not correct.
    """

    name: str
    ap50: float | None
    ap50_95: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    truths: int
    predictions: int
    false_positives: int


@dataclass(frozen=True)
class DetectionMetrics:
    """What was measured over all images.

    Attributes:
        map50: mean of ``ap50`` over the classes that have true boxes.
        map50_95: mean of ``ap50_95`` over the same classes.
        precision_micro: correct predictions / predictions, over the boxes of all classes.
        recall_micro: correct predictions / true boxes, over all classes.
        f1_micro: harmonic mean of the two.
        precision_macro: mean of the classes' precision; a class without true boxes is left out of all macro figures.
        recall_macro: mean of the classes' recall.
        f1_macro: mean of the classes' F1.
        false_positives_per_image: false positives of all classes, those without true boxes among them, per image.
        images: number of images.
        truths: number of true boxes.
        per_class: one entry per class, in the order of the class names.
        curves: for each class with true boxes, precision (101,) at the recalls ``RECALLS``, at IoU 0.5, each value
            being the best precision at that recall or a higher one; 0 where no confidence reaches the recall.
    """

    map50: float
    map50_95: float
    precision_micro: float
    recall_micro: float
    f1_micro: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    false_positives_per_image: float
    images: int
    truths: int
    per_class: tuple[ClassMetrics, ...]
    curves: Mapping[str, Floats]

    def as_flat(self) -> dict[str, float]:
        """Every figure under one name, such as ``map50`` or ``precision[helmet]``; each is finite.

        A class without true boxes has ``truths``, ``predictions`` and ``false_positives`` only.
        """
        flat = {name: value for name, value in vars(self).items() if name not in ("per_class", "curves")}
        for one in self.per_class:
            flat |= {f"{name}[{one.name}]": value for name, value in vars(one).items() if name != "name"}
        return {name: float(value) for name, value in flat.items() if value is not None}


@dataclass(frozen=True)
class Matches:
    """What became of every prediction, and how many true boxes there are.

    Attributes:
        images: (D,) index of each prediction's image; ascending.
        classes: (D,) its class.
        scores: (D,) its score; descending within one image and class.
        ranks: (D,) how many predictions of the same image and class precede it.
        correct: (D,) whether it took a true box.
        truths: (images, classes) number of true boxes.
    """

    images: NDArray[np.intp]
    classes: NDArray[np.int32]
    scores: NDArray[np.float32]
    ranks: NDArray[np.intp]
    correct: NDArray[np.bool_]
    truths: NDArray[np.intp]

    def counts(self, confidence: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Predictions of at least a score, and the correct ones among them, each (images, classes)."""
        sure = self.scores >= confidence
        return self._table(sure), self._table(sure & self.correct)

    def _table(self, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        images, classes = self.truths.shape
        cells = self.images[chosen] * classes + self.classes[chosen]
        return np.bincount(cells, minlength=images * classes).reshape(images, classes)


def evaluate_detections(
    truths: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    *,
    confidence_threshold: float,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
) -> DetectionMetrics:
    """Measure predictions against the truth.

    Args:
        truths: true boxes of each image.
        predictions: what was found in each image, down to a low score (such as 0.001), which AP needs.
        class_names: in the order of the class indices of both.
        sizes: width and height of each image in pixels.
        confidence_threshold: precision, recall and F1 are of predictions with at least this score.
        iou_threshold: overlap that a correct prediction has at least, for precision, recall and F1.
        max_detections: predictions per image and class that AP looks at, best first. COCO's is 100; crowded images
            need more. Precision, recall and F1 count every prediction.

    Raises:
        InputError: no true boxes at all, or scores and boxes that cannot be measured.
    """
    _check(truths, predictions, class_names, sizes)
    matches = match(truths, predictions, len(class_names), iou_threshold)
    precision = _precision_curves(truths, predictions, class_names, max_detections)
    return _summary(matches, precision, class_names, confidence_threshold)


def match(
    truths: Sequence[Detections], predictions: Sequence[Detections], classes: int, iou_threshold: float = 0.5
) -> Matches:
    """Give every true box to at most one prediction, as the module says.

    Args:
        truths: true boxes of each image.
        predictions: what was found in each image.
        classes: number of classes.
        iou_threshold: least overlap.
    """
    images = np.repeat(np.arange(len(predictions)), [len(found) for found in predictions])
    found = Detections.joined(predictions)
    order = np.lexsort((-found.scores, found.classes, images))
    images, found = images[order], found[order]
    _, starts = np.unique(images * classes + found.classes, return_index=True)
    bounds = np.append(starts, len(found))
    correct = np.zeros(len(found), dtype=bool)
    for start, end in pairwise(bounds):
        truth = truths[images[start]]
        wanted = truth.boxes[truth.classes == found.classes[start]]
        correct[start:end] = take_boxes(wanted, found.boxes[start:end], iou_threshold) >= 0
    ranks = np.arange(len(found)) - np.repeat(starts, np.diff(bounds))
    counts = np.array([np.bincount(truth.classes, minlength=classes) for truth in truths], dtype=np.intp)
    return Matches(images, found.classes, found.scores, ranks, correct, counts)


def judgeable(
    found: Detections, truth: Detections, unlabelled: Set[int], iou_threshold: float = 0.5
) -> NDArray[np.bool_]:
    """Which predictions of one image its labels can judge, as in LVIS' evaluation (Gupta et al., 2019).

    Where a class was not labelled, a prediction of it may be right and have no true box: it does not count unless it
    lies on one.

    Args:
        found: what was found in the image.
        truth: its true boxes.
        unlabelled: the classes that were not labelled in it.
        iou_threshold: least overlap with a true box of the class.

    Returns:
        (N,) in the order of the predictions.
    """
    judged = ~np.isin(found.classes, list(unlabelled))
    for class_id in unlabelled & set(truth.classes.tolist()):
        own = np.flatnonzero(found.classes == class_id)
        overlaps = iou(found.boxes[own], truth.boxes[truth.classes == class_id])
        judged[own] = overlaps.max(axis=1) >= iou_threshold
    return judged


def found_truths(
    truth: Detections, predictions: Detections, confidence: float, iou_threshold: float = 0.5
) -> NDArray[np.bool_]:
    """Which true boxes of one image are found.

    Args:
        truth: (N,) true boxes.
        predictions: what was found in the image.
        confidence: least score of a prediction that counts.
        iou_threshold: least overlap.

    Returns:
        (N,) in the order of the true boxes.
    """
    found = np.zeros(len(truth), dtype=bool)
    sure = predictions[predictions.scores >= confidence]
    for class_id in np.unique(truth.classes):
        own = np.flatnonzero(truth.classes == class_id)
        of_class = sure[sure.classes == class_id]
        best_first = of_class.boxes[np.argsort(-of_class.scores, kind="stable")]
        taken = take_boxes(truth.boxes[own], best_first, iou_threshold)
        found[own[taken[taken >= 0]]] = True
    return found


def take_boxes(truths: NDArray[np.float32], found: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    """Which true box each box that was found in an image takes; -1 where it takes none.

    Args:
        truths: (N, 4) true boxes, x1, y1, x2, y2 in pixels.
        found: (D, 4) boxes that were found, best score first.
        threshold: least overlap, IoU.

    Returns:
        (D,) index into ``truths``.
    """
    taken = np.full(len(found), -1, dtype=np.intp)
    if len(truths) == 0 or len(found) == 0:
        return taken
    overlaps = np.asarray(coco_mask.iou(_as_xywh(found), _as_xywh(truths), [0] * len(truths)))
    overlaps[~(overlaps >= threshold)] = -1  # also NaN, where two boxes have no area
    for index in np.flatnonzero(overlaps.max(axis=1) >= 0):
        best = len(truths) - 1 - int(np.argmax(overlaps[index, ::-1]))  # of equals the last one, as in COCO
        if overlaps[index, best] >= 0:
            taken[index] = best
            overlaps[:, best] = -1
    return taken


def _precision_curves(
    truths: Sequence[Detections], predictions: Sequence[Detections], class_names: Sequence[str], max_detections: int
) -> Floats:
    """COCO's precision at each IoU threshold, recall and class, (10, 101, classes); -1 for a class without truth."""
    coco = COCO(
        {
            "images": [{"id": image} for image in range(len(truths))],
            "categories": [{"id": index, "name": name} for index, name in enumerate(class_names)],
            "annotations": [
                {**box, "id": number, "iscrowd": 0, "area": box["bbox"][2] * box["bbox"][3]}
                for number, box in enumerate(_as_coco(truths), start=1)
            ],
        }
    )
    evaluation = COCOeval_faster(coco, coco.loadRes(list(_as_coco(predictions))), "bbox", print_function=_quiet)
    evaluation.params.maxDets = [max_detections]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: Floats = evaluation.eval["precision"][:, :, :, 0, 0]
    return precision


def _summary(matches: Matches, curves: Floats, class_names: Sequence[str], confidence: float) -> DetectionMetrics:
    found, correct = (table.sum(axis=0) for table in matches.counts(confidence))
    truths = matches.truths.sum(axis=0)
    known = truths > 0
    ap50, ap50_95 = curves[0].mean(axis=0), curves.mean(axis=(0, 1))
    precision, recall, f1 = _ratios(found, correct, truths)
    micro = _ratios(found.sum(), correct.sum(), truths.sum())
    per_class = tuple(
        ClassMetrics(
            name=name,
            ap50=float(ap50[k]) if known[k] else None,
            ap50_95=float(ap50_95[k]) if known[k] else None,
            precision=float(precision[k]) if known[k] else None,
            recall=float(recall[k]) if known[k] else None,
            f1=float(f1[k]) if known[k] else None,
            truths=int(truths[k]),
            predictions=int(found[k]),
            false_positives=int(found[k] - correct[k]),
        )
        for k, name in enumerate(class_names)
    )
    return DetectionMetrics(
        map50=float(ap50[known].mean()),
        map50_95=float(ap50_95[known].mean()),
        precision_micro=float(micro[0]),
        recall_micro=float(micro[1]),
        f1_micro=float(micro[2]),
        precision_macro=float(precision[known].mean()),
        recall_macro=float(recall[known].mean()),
        f1_macro=float(f1[known].mean()),
        false_positives_per_image=float((found - correct).sum() / len(matches.truths)),
        images=len(matches.truths),
        truths=int(truths.sum()),
        per_class=per_class,
        curves={name: curves[0, :, k] for k, name in enumerate(class_names) if known[k]},
    )


def _ratios(found: Any, correct: Any, truths: Any) -> tuple[Any, Any, Any]:
    """Precision, recall and F1 of counts; nothing found is 0, never 1."""
    return (
        correct / np.maximum(found, 1),
        correct / np.maximum(truths, 1),
        2 * correct / np.maximum(found + truths, 1),
    )


def _check(
    truths: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
) -> None:
    if not len(truths) == len(predictions) == len(sizes):
        raise InputError(f"{len(truths)} truths, {len(predictions)} predictions and {len(sizes)} sizes: lengths differ")
    if not any(len(truth) for truth in truths):
        raise NothingToMeasureError(f"no labelled boxes in {len(truths)} images: label some of them")
    for kind, images in (("truth", truths), ("prediction", predictions)):
        for index, (image, size) in enumerate(zip(images, sizes, strict=True)):
            wrong = _fault(image, len(class_names), size)
            if wrong:
                raise InputError(f"{kind} of image {index}: {wrong}")


def _fault(image: Detections, classes: int, size: tuple[int, int]) -> str:
    """What is wrong with the boxes of an image; empty where nothing is."""
    if len(image) == 0:
        return ""
    if not (np.isfinite(image.scores).all() and np.isfinite(image.boxes).all()):
        return "a score or coordinate is not a finite number: the model may have diverged in training"
    if not 0 <= image.classes.min() <= image.classes.max() < classes:
        return f"class {image.classes.max()} has no name: there are {classes} classes"
    if (image.boxes[:, 2:] < image.boxes[:, :2]).any():
        return "a box has x2 < x1 or y2 < y1: boxes must be x1, y1, x2, y2"
    if image.boxes.min() < -PIXELS_BEYOND or (image.boxes[:, 2:] > np.array(size) + PIXELS_BEYOND).any():
        return f"a box exceeds the image of {size[0]}x{size[1]} pixels: coordinates must be pixels of the whole image"
    return ""


def _as_coco(images: Iterable[Detections]) -> Iterator[dict[str, Any]]:
    for number, image in enumerate(images):
        rows = zip(_as_xywh(image.boxes).tolist(), image.classes.tolist(), image.scores.tolist(), strict=True)
        for box, class_id, score in rows:
            yield {"image_id": number, "category_id": class_id, "bbox": box, "score": score}


def _as_xywh(boxes: NDArray[np.float32]) -> Floats:
    """Corners as COCO's left, top, width and height, in the precision that COCO computes in."""
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _quiet(*_: object) -> None:
    """Take the progress lines of faster-coco-eval and drop them."""

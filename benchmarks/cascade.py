"""What joint inference gains and costs on real images: the curve of every miner, and whether its promises hold.

    python benchmarks/cascade.py --little LITTLE.pt@320 --big BIG.pt@640 --folder FOLDER \
        --data first=VOC2007.zip@hat:helmet,person:head --data first=feed/train_data.txt@person:head,hat:helmet \
        --data new=site-b@helmet:helmet,no-helmet:head --splits 100

Both models look at every image once; what they find is kept in the folder. The curve sends ever more of the images of
a name, the hardest first, by each miner. For the promises, the images of the first name are cut into random halves: the
threshold is chosen on one half as ``joint-inference`` does it, and the other half shows whether the promise holds. The
thresholds are then also tried on the images of the other names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components.core.cache import cache_folder, fetch_blobs
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.estimators.yolo import Yolo
from components.core.manifest import Manifest
from components.core.runtimes.letterbox import read_image
from components.core.wire import Limits, decode_image, encode_image
from components.evaluate.predictor import Predictor, open_predictor
from components.ingest.ingest import ingest
from components.joint.calibrate import Goals, calibrate
from components.joint.cascade import Pair, Point, ranking_miners
from components.joint.measure import JPEG_QUALITY

CONFIDENCE = 0.25
PART = 25  # images
ENOUGH = 0.97  # of the cloud's objects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--little", required=True, help="weights and image size, FILE@PIXELS, or a bundle")
    parser.add_argument("--big", required=True, help="the same for the cloud's model")
    parser.add_argument("--data", action="append", required=True, help="NAME=SOURCE@CLASSES; those of a name are one")
    parser.add_argument("--folder", type=Path, required=True, help="for models and predictions")
    parser.add_argument("--images", type=int, default=1_000_000, help="of each source, at most")
    parser.add_argument("--quality", type=int, default=JPEG_QUALITY, help="of the JPEG that is sent")
    parser.add_argument("--recall", type=float, default=0.97, help="min_recall_of_cloud of the promises")
    parser.add_argument("--splits", type=int, default=100, help="random halves for the promises; 0: predictions only")
    given = parser.parse_args()
    models = [opened(given.folder, role, text) for role, text in (("little", given.little), ("big", given.big))]
    pairs: dict[str, Pair] = {}
    for text in given.data:
        name, _, source = text.partition("=")
        found = seen(models, source, given.folder, given.quality, given.images)
        pairs[name] = joined(pairs[name], found) if name in pairs else found
        print(f"{name}: {len(pairs[name])} images, {pairs[name].sizes.mean():,.0f} bytes each", flush=True)
    if not given.splits:
        return
    for name, pair in pairs.items():
        print(curve(name, pair), flush=True)
    print(promises(pairs, next(iter(pairs)), given.recall, given.splits))


def curve(name: str, pair: Pair) -> str:
    """What each miner gains with ever more images sent, and what it has to send for 97 % of the cloud's objects."""
    edge, cloud = (pair.point(np.full(len(pair), up)) for up in (False, True))
    lines = [
        f"{name}: mAP50 edge {edge.map50:.3f}, cloud {cloud.map50:.3f}; objects found edge {edge.found:,}, cloud "
        f"{cloud.found:,} (of these the edge {edge.recall_of_cloud:.1%})",
        f"  {'':14}{'gain at 10 %':>13}{'20 %':>7}{'30 %':>7}{'50 %':>7}   sent for {ENOUGH:.0%} of the cloud's "
        "objects: as many, the same",
    ]
    ranked = {miner: pair.hardness(miner) for miner in ranking_miners()}
    gained = pair.cloud_found - np.array([one.sum() for one in pair.found_by_little])
    for miner, hardness in {**ranked, "oracle": gained}.items():
        order = np.argsort(-hardness, kind="stable")
        shares = [share_of_gain(pair, order, fraction, edge, cloud) for fraction in (0.1, 0.2, 0.3, 0.5)]
        needed = [enough(pair, order, cost) for cost in (gained, pair.lost)]
        told = ", ".join(f"{sent:.1%} ({saved:.1%} of the bytes saved)" for sent, saved in needed)
        lines.append(f"  {miner:14}{shares[0]:13.0%}" + "".join(f"{one:7.0%}" for one in shares[1:]) + f"   {told}")
    return "\n".join(lines)


def share_of_gain(pair: Pair, order: NDArray[np.intp], fraction: float, edge: Point, cloud: Point) -> float:
    """Of the big model's gain in mAP50, the part that comes with some of the images, the first of an order."""
    sent = np.zeros(len(pair), dtype=bool)
    sent[order[: round(fraction * len(pair))]] = True
    return (pair.point(sent).map50 - edge.map50) / ((cloud.map50 - edge.map50) or np.nan)


def enough(pair: Pair, order: NDArray[np.intp], lost: NDArray[np.float64]) -> tuple[float, float]:
    """The images, and the bytes saved, with which enough of the cloud's objects are found.

    Args:
        pair: both models.
        order: of the images.
        lost: (F,) objects that are lost if an image is not sent; negative where the edge finds more than the cloud.
    """
    left = lost.sum() - np.concatenate([[0], np.cumsum(lost[order])])
    count = int(np.argmax(left <= (1 - ENOUGH) * pair.cloud_found.sum() + 1e-9))
    return count / len(pair), 1 - pair.sizes[order[:count]].sum() / pair.sizes.sum()


def promises(pairs: Mapping[str, Pair], first: str, recall: float, splits: int) -> str:
    """How often what was promised on one half holds on the other, and what becomes of it elsewhere."""
    pair, rng, goals = pairs[first], np.random.default_rng(0), Goals(min_recall_of_cloud=recall)
    lines = []
    for title, miners in [("best miner", ranking_miners()), *((one, [one]) for one in ranking_miners())]:
        found: dict[str, list[tuple[float, float, float]]] = {}
        refused = ""
        for _ in range(splits):
            order = rng.permutation(len(pair))
            one, other = (pair.take(part) for part in np.array_split(order, 2))
            try:
                routing = calibrate(one, goals, miners).routing
            except InputError as error:
                refused = str(error)
                continue
            for name, where in {**pairs, first: other}.items():
                sent = where.sent_by("cutoff", routing["parameters"])
                saved = 1 - where.sizes[sent].sum() / where.sizes.sum()
                found.setdefault(name, []).append((mean_recall(where, sent), float(sent.mean()), float(saved)))
        for name, values in found.items():
            recalls, shares, saved = np.array(values).T
            kept = int((recalls >= recall).sum())
            lines.append(
                f"  {title:14}{name:8} kept in {kept} of {len(values)}; recall of the cloud {recalls.mean():.3f} "
                f"(least {recalls.min():.3f}), {shares.mean():.1%} sent, {saved.mean():.1%} of the bytes saved"
            )
        if refused:
            lines.append(f"  {title:14}refused in {splits - len(found.get(first, []))}: {refused}")
    return "\n".join([f"promises: recall of the cloud's objects at least {recall:g}, with confidence 0.95", *lines])


def mean_recall(pair: Pair, sent: NDArray[np.bool_]) -> float:
    """Of the objects that the big model finds in an image the part that is found, over the images with any."""
    relevant = pair.cloud_found > 0
    losses = np.where(sent, 0, pair.lost)[relevant] / pair.cloud_found[relevant]
    return 1 - float(losses.mean())


def opened(folder: Path, role: str, text: str) -> Predictor:
    """A model from its weights."""
    weights, _, pixels = text.rpartition("@")
    bundle = folder / role if pixels.isdecimal() else Path(text)
    if not bundle.is_dir():
        model, size = Yolo(), (int(pixels), int(pixels))
        model.load(weights)
        model.save(bundle, image_size=size, confidence_threshold=CONFIDENCE, nms_threshold=0.7, lineage={})
    return open_predictor(bundle, nms_threshold=0.7)


def seen(models: Sequence[Predictor], source: str, folder: Path, quality: int, most: int) -> Pair:
    """What the models find in a data set, the big one in what is sent of each image."""
    where, _, classes = source.rpartition("@")
    manifest = ingest(where, str(folder / "job"), classes=classes, ignore_classes="*").manifest.labelled()
    manifest = Manifest(manifest.table.head(most), manifest.classes)
    paths = fetch_blobs(manifest, cache_folder(str(folder / "job")) / "blobs")
    kept = folder / f"{Path(where).parent.name}-{Path(where).stem}-{quality}"
    kept.mkdir(exist_ok=True)
    parts = []
    for start in range(0, len(paths), PART):  # each part is kept, so that a run that was stopped goes on from there
        part = kept / f"{start:06}-{len(paths[start : start + PART])}.npz"
        if not part.exists():
            part.write_bytes(looked(models, paths[start : start + PART], quality))
        parts.append(dict(np.load(part)))
    columns = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    table = [models[0].classes.index(name) for name in manifest.classes]

    def of(name: str) -> list[Detections]:
        ends = np.cumsum(columns[f"{name}.counts"])
        whole = Detections.of(columns[f"{name}.boxes"], columns[f"{name}.classes"], columns[f"{name}.scores"])
        return [whole[np.arange(start, end)] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    truths = [Detections.of(one.boxes, [table[index] for index in one.classes]) for one in manifest.truths()]
    keys = manifest.table["id"].to_list()
    return Pair(truths, of("little"), of("big"), models[0].classes, columns["sizes"], (CONFIDENCE, CONFIDENCE), keys)


def looked(models: Sequence[Predictor], paths: Sequence[Path], quality: int) -> bytes:
    """What the models find in some images, as arrays in a file."""
    found: tuple[list[Detections], list[Detections]] = ([], [])
    sizes = []
    for path in paths:
        image = read_image(path)
        data = encode_image(image, quality)
        sizes.append(len(data))
        for model, results, given in zip(models, found, (image, decode_image(data, Limits())), strict=True):
            results.append(model.predict(given))
    columns = {"sizes": np.array(sizes, dtype=float)}
    for name, results in zip(("little", "big"), found, strict=True):
        whole = Detections.joined(results)
        columns |= {f"{name}.boxes": whole.boxes, f"{name}.scores": whole.scores, f"{name}.classes": whole.classes}
        columns[f"{name}.counts"] = np.array([len(one) for one in results])
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=False, **columns)
    return file.getvalue()


def joined(one: Pair, other: Pair) -> Pair:
    """The images of both."""
    return Pair(
        [*one.truths, *other.truths], [*one.little, *other.little], [*one.big, *other.big], one.classes,
        np.concatenate([one.sizes, other.sizes]), one.confidences, [*one.keys, *other.keys],
    )  # fmt: skip


if __name__ == "__main__":
    main()

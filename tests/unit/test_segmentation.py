"""From logits to a class for each pixel, and what is made of it."""

import hashlib
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from components.core.bundle import Bundle
from components.core.errors import InputError
from components.core.heads import SemanticHead, SplitHead
from components.core.manifest import Manifest
from components.core.masks import encode_mask
from components.core.reports.page import read_sections, write_page
from components.core.runtimes.base import decoder_of, open_detector, open_model
from components.core.runtimes.segmenter import classes_of
from components.evaluate.evaluate import evaluate
from components.evaluate.predictor import open_predictor
from tests.images import job_with_images, squares
from tests.tiny_segmenter import CLASSES, job_with_masks, painted, train_network, write_bundle

BUNDLE = Bundle(
    classes=CLASSES, image_size=(64, 96), estimator="tiny", task="segmentation", head=SemanticHead(stride=8),
    confidence_threshold=0.25, nms_threshold=0.7, outputs=("logits",),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("trained") / "model", train_network())


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    return root, job_with_masks(root, {"train": 4, "test": 20})


def test_scores_are_enlarged_as_in_training_and_never_the_classes():
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(size=(1, 5, 8, 12)).astype(np.float32)
    larger = torch.nn.functional.interpolate(torch.from_numpy(logits), size=(64, 96), mode="bilinear")
    expected = larger.argmax(1)[0].numpy()
    found = classes_of(logits, (64, 96))
    assert (found != expected).mean() < 1e-3  # ties of rounding
    # Between class 0 and class 2 lies no class 1.
    steps = np.full((1, 3, 2, 2), -5, np.float32)
    steps[0, 0, :, 0] = steps[0, 2, :, 1] = 5
    assert set(np.unique(classes_of(steps, (16, 16)))) == {0, 2}


@pytest.mark.parametrize(("width", "height"), [(96, 64), (200, 100), (50, 100), (33, 47), (1, 5)])
def test_a_map_has_the_size_of_its_image_and_lies_where_the_image_does(width, height):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    seen = []

    def infer(canvas):
        seen.append(canvas)
        bright = canvas[0, ::8, ::8, 0].astype(np.float32)  # the padding is 114: neither
        return [np.stack([100 - abs(bright - 114), 100 - bright, bright - 130])[None].astype(np.float32)]

    (found,) = decoder_of(BUNDLE).network(BUNDLE, infer).predict([image])
    assert (found.shape, found.dtype) == ((height, width), np.uint8)
    assert (seen[0].shape, seen[0].dtype) == ((1, 64, 96, 3), np.uint8)
    if width >= 96:  # right and left half are told apart, but for a cell or two where they meet
        cell = 16 * width / 96
        assert (found[8:-8, : int(width / 2 - cell)] == 1).all()
        assert (found[8:-8, int(width / 2 + cell) :] == 2).all()


def test_a_trained_model_finds_the_squares(model):
    rng = np.random.default_rng(5)
    segmenter = open_model("onnx", model)
    images = [squares(rng) for _ in range(5)]
    maps = segmenter.predict([image for image, _ in images])
    right = np.mean([(one == painted(boxes)).mean() for one, (_, boxes) in zip(maps, images, strict=True)])
    assert right > 0.9


def test_a_model_for_the_other_task_is_told(model, tmp_path, job):
    with pytest.raises(InputError, match="it is for segmentation, but a detection model is needed"):
        open_detector("onnx", model)
    boxes = job_with_images(tmp_path / "boxes", {"test": 3})
    with pytest.raises(InputError, match="split 'test' has no masks, which segmentation is evaluated on"):
        measure(Manifest(boxes.table, CLASSES), model, cache_folder=tmp_path)


def test_an_export_that_has_taken_the_largest_already_is_told(tmp_path):
    torch = pytest.importorskip("torch")

    class Argmax(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.interpolate(images, scale_factor=1 / 8).argmax(1).to(torch.uint8)

    folder = tmp_path / "model"
    with pytest.raises(
        InputError, match=r"logits \(1, 8, 12\), but .*logits \(1, 3, 8, 12\) are needed.*before upsampling"
    ):
        open_model("onnx", write_bundle(folder, Argmax(), image_size=(64, 96)))


def test_a_bundle_says_what_its_outputs_are():
    with pytest.raises(ValueError, match="2 outputs: one is needed"):
        replace(BUNDLE, outputs=("a", "b"))
    with pytest.raises(ValueError, match="not a multiple of the stride 8"):
        replace(BUNDLE, image_size=(60, 96))
    with pytest.raises(ValueError, match="a model for detection cannot have a head of kind semantic"):
        replace(BUNDLE, task="detection")
    with pytest.raises(ValueError, match="a model for segmentation cannot have a head of kind split"):
        replace(BUNDLE, head=SplitHead((8,), 1, False), outputs=("box0", "cls0"))


def test_an_evaluation_measures_by_masks_and_shows_them(model, job, tmp_path):
    root, manifest = job
    done = measure(manifest, model, cache_folder=root / "cache" / "blobs")
    assert done.metrics.images == 20
    assert done.metrics.miou > 0.8
    low, high = done.interval
    assert low <= done.as_flat()["miou"] <= high
    write_page(tmp_path / "page.html", "Evaluate", done.sections)
    titles = [section.title for section in read_sections(tmp_path / "page.html")]
    assert titles == ["Evaluation", "Classes", "Worst images", "Best images"]
    page = (tmp_path / "page.html").read_text()
    assert all(name in page for name in CLASSES)


def test_classes_in_another_order_are_the_same_classes(model, job, tmp_path):
    root, manifest = job
    usual = measure(manifest, model, cache_folder=root / "cache" / "blobs").metrics
    turned = tmp_path / "turned"
    turned.mkdir()
    for path in model.iterdir():
        (turned / path.name).write_bytes(path.read_bytes())
    bundle = Bundle.read(turned)
    replace(bundle, classes=("ground", "blue", "red")).write(turned)  # now it takes red for blue
    other = measure(manifest, turned, cache_folder=root / "cache" / "blobs").metrics
    assert other.per_class[0].iou == usual.per_class[0].iou
    assert other.per_class[1].iou < 0.1 < 0.5 < usual.per_class[1].iou
    with pytest.raises(InputError, match="predicts cat, which has no labels"):
        measure(manifest, _renamed(turned, ("ground", "red", "cat")), cache_folder=tmp_path)


def test_a_mask_of_another_size_than_its_image_is_told(model, tmp_path):
    manifest = job_with_masks(tmp_path / "job", {"test": 2})
    data = encode_mask(np.zeros((10, 10), np.uint8))
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / f"{digest}.png").write_bytes(data)
    wrong = replace(manifest, table=manifest.table.with_columns(mask=pl.lit((tmp_path / f"{digest}.png").as_uri())))
    with pytest.raises(InputError, match=r"the mask has \(10, 10\) pixels, the prediction \(96, 96\): ingest"):
        measure(wrong, model, cache_folder=tmp_path / "cache")


def measure(manifest, model, *, cache_folder):
    predictor = open_predictor(model, nms_threshold=0.7)
    return evaluate(manifest, predictor, confidence_threshold=0.25, cache_folder=cache_folder)


def _renamed(folder, classes):
    replace(Bundle.read(folder), classes=classes).write(folder)
    return folder

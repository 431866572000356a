"""Masks, from data sets to blobs: the same classes under the manifest's numbers, and a reason for what is no mask."""

import hashlib
import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from components.core.cache import fetch_masks
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.masks import VOID, encode_mask, read_mask
from components.ingest.dataset import DataSet, Record, formats
from components.ingest.images import CHUNK
from components.ingest.ingest import ingest
from components.ingest.quarantine import BAD, DUPLICATE
from components.ingest.report import sections
from tests.images import jpeg, mask_png

WIDTH, HEIGHT = 60, 40
NAMES = b"sky\nroad\ncar\n"


def image(number=0, **options):
    """A small image; each number gives other bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (200, 180, 40)).save(buffer, "JPEG", comment=f"image {number}", **options)
    return buffer.getvalue()


def halves(above=0, below=1, size=(WIDTH, HEIGHT)):
    """Values (height, width): one above, another below."""
    values = np.full((size[1], size[0]), above)
    values[size[1] // 2 :] = below
    return values


def files(**masks):
    """A data set with classes of its own: an image for each mask, and one with a good mask."""
    found = {f"images/{name}.jpg": image(name) for name in (*masks, "good")}
    found |= {f"masks/{name}.png": data for name, data in masks.items() if data is not None}
    return found | {"masks/good.png": mask_png(halves()), "classes.txt": NAMES}


def bring(folder, data, **options):
    for name, content in data.items():
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_bytes(content)
    return ingest(str(folder / "data"), str(folder / "job"), **options)


def masks_of(ingested, folder):
    """The masks by the name of their image."""
    masked = ingested.manifest.where(pl.col("mask").is_not_null())
    names = [source.rpartition("/")[2].partition(".")[0] for source in masked.table["source"]]
    return dict(zip(names, map(read_mask, fetch_masks(masked, folder / "cache")), strict=True))


def listed(ingested, kind=BAD):
    return {q.source.rpartition("/")[2]: q.reason for q in ingested.quarantine if q.kind == kind}


def camvid():
    """CamVid's layout and values, where 11 is what nobody has labelled."""
    data = {}
    for split, numbers in {"train": range(3), "val": range(3, 5), "test": range(5, 6)}.items():
        for number in numbers:
            data[f"CamVid/{split}/{number}.png"] = mask_png(np.full((HEIGHT, WIDTH), number))  # any image
            data[f"CamVid/{split}annot/{number}.png"] = mask_png(halves(number % 11, 11))
    return data


CAMVID_CLASSES = "sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist"


# --- what comes in ---


def test_camvid_comes_in_with_its_splits_and_its_unlabelled_pixels_void(tmp_path):
    ingested = bring(tmp_path, camvid(), classes=CAMVID_CLASSES, ignore_classes="*")
    assert ingested.format == "masks"
    assert ingested.manifest.classes == tuple(CAMVID_CLASSES.split(","))
    assert ingested.manifest.table["split"].to_list() == ["test", *["train"] * 3, *["val"] * 2]
    assert ingested.manifest.table["annotations"].to_list() == [None] * 6
    for name, mask in masks_of(ingested, tmp_path).items():
        assert np.array_equal(mask, halves(int(name), VOID))
    assert len(ingested.manifest.labelled()) == 6
    assert ingested.counts == {
        "found": 6, "images": 6, "duplicates": 0, "quarantined": 0, "negatives": 0, "without_label_file": 0,
        "unlabelled": 0, "boxes": 0, "ignored_boxes": 0, "repeated_boxes": 0, "masks": 6, "unlisted": 0,
        "warnings": 5,
    }  # fmt: skip
    assert sum(ingested.pixels.values()) == 6 * WIDTH * HEIGHT
    assert ingested.pixels["void (255)"] == 6 * WIDTH * HEIGHT / 2
    assert ingested.pixels["building"] == WIDTH * HEIGHT / 2
    (section,) = sections(ingested)
    assert "fraction of the masks" in section.body
    assert "0.500" in section.body


def test_what_is_not_selected_is_quarantined_unless_it_is_ignored(tmp_path):
    with pytest.raises(InputError, match=r"no usable image, 6 of 6 files are bad: unknown class \(6\)"):
        bring(tmp_path, camvid(), classes=CAMVID_CLASSES)
    ingested = bring(tmp_path, camvid(), classes=CAMVID_CLASSES, ignore_classes="number 11")
    assert ingested.counts["masks"] == 6, "a number without a name can be ignored as one"


def test_a_mask_is_a_blob_named_by_its_content(tmp_path):
    ingested = bring(tmp_path, files())
    digest = hashlib.sha256(encode_mask(halves().astype(np.uint8))).hexdigest()
    assert ingested.manifest.table["mask"].to_list() == [
        f"file://{tmp_path}/job/blobs/{digest[:2]}/{digest}.png",
    ]
    assert (tmp_path / "job" / "blobs" / digest[:2] / f"{digest}.png").is_file()
    assert ingested.manifest.classes == ("sky", "road", "car")


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_numbers_are_taken_however_they_are_stored(tmp_path, mode):
    values = halves(2, VOID)
    values[0, :3] = 0, 1, VOID
    ingested = bring(tmp_path, files(other=mask_png(values, mode)))
    assert np.array_equal(masks_of(ingested, tmp_path)["other"], values)
    assert ingested.quarantine == []


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_small_palette_keeps_its_places(tmp_path, bits):
    image = Image.fromarray(halves(0, 1).astype(np.uint8))
    image.putpalette([number // 3 for number in range(3 * 2**bits)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=bits)
    assert buffer.getvalue()[24] == bits
    ingested = bring(tmp_path, files(other=buffer.getvalue()))
    assert np.array_equal(masks_of(ingested, tmp_path)["other"], halves(0, 1))


def test_classes_are_renamed_joined_and_ordered(tmp_path):
    ingested = bring(tmp_path, files(x=mask_png(halves(2, 1)), y=mask_png(halves(0, 1))),
                     classes="car:ground,road:ground", ignore_classes="sky")  # fmt: skip
    assert ingested.manifest.classes == ("ground",)
    masks = masks_of(ingested, tmp_path)
    assert np.array_equal(masks["x"], halves(0, 0))
    assert np.array_equal(masks["y"], halves(VOID, 0))


def test_an_ignored_class_is_not_in_the_list(tmp_path):
    ingested = bring(tmp_path, files(x=mask_png(halves(2, 0))), ignore_classes="sky")
    assert ingested.manifest.classes == ("road", "car")
    assert np.array_equal(masks_of(ingested, tmp_path)["x"], halves(1, VOID))


@pytest.mark.parametrize("names", ["[sky, road, car]", "{0: sky, 1: road, 2: car}"])
def test_names_and_label_mapping_of_a_data_yaml(tmp_path, names):
    mapping = "label_mapping: {-1: ignore_label, 0: ignore_label, 7: 0, 8: 1, 9: 2, 2: ignore_label}"
    data = {
        "data.yaml": f"path: x\ntrain: images/train\nval: images/val\nnames: {names}\n{mapping}".encode(),
        "images/train/a.jpg": image(1),
        "masks/train/a.png": mask_png(halves(7, 9)),
        "images/val/b.jpg": image(2),
        "masks/val/b.png": mask_png(halves(2, 1)),
    }
    ingested = bring(tmp_path, data)
    assert (ingested.format, ingested.manifest.classes) == ("masks", ("sky", "road", "car"))
    assert ingested.manifest.table["split"].to_list() == ["train", "val"]
    masks = masks_of(ingested, tmp_path)
    assert np.array_equal(masks["a"], halves(0, 2))
    assert np.array_equal(masks["b"], halves(VOID, 1))


def test_an_index_of_sedna(tmp_path):
    data = {f"{kind}/{name}.png": mask_png(np.full((HEIGHT, WIDTH), number)) for number, name in enumerate("ab", 50)
            for kind in ("rgb", "depth")}  # fmt: skip
    data |= {"gt/a.png": mask_png(halves(0, 2)), "gt/b.png": mask_png(halves(1, 2)), "classes.txt": NAMES}
    data |= {"train.txt": b"rgb/a.png depth/a.png gt/a.png\n\nrgb/b.png gt/b.png\nrgb/gone.png gt/gone.png\n"}
    for address in ("data", "data/train.txt"):
        bring(tmp_path, data, max_bad_fraction=1)
        ingested = ingest(str(tmp_path / address), str(tmp_path / "job"), max_bad_fraction=1)
        assert ingested.format == "masks"
        masks = masks_of(ingested, tmp_path)
        assert np.array_equal(masks["a"], halves(0, 2))
        assert np.array_equal(masks["b"], halves(1, 2))
        assert listed(ingested) == {"gone.png": "label without image: train.txt lists it; no image is called gone.png"}


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_image_wants_a_mask_as_it_is_displayed(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = image(1, exif=exif)
    size = (WIDTH, HEIGHT) if orientation == 3 else (HEIGHT, WIDTH)
    other = mask_png(halves(1, 2, (size[1], size[0])))
    data = {"images/a.jpg": turned, "masks/a.png": mask_png(halves(1, 2, size)), "classes.txt": NAMES}
    data |= {"images/b.jpg": image(2, exif=exif), "masks/b.png": other}
    ingested = bring(tmp_path, data, max_bad_fraction=1)
    row = next(ingested.manifest.rows())
    assert (row["width"], row["height"]) == size
    assert np.array_equal(masks_of(ingested, tmp_path)["a"], halves(1, 2, size))
    claimed = f"{size[1]}x{size[0]} in the mask, {size[0]}x{size[1]}"
    assert listed(ingested) == {"b.jpg": f"size contradicts the image: {claimed}"}


def test_the_same_input_gives_the_same_bytes(tmp_path):
    data = {"classes.txt": NAMES}
    for number in range(CHUNK + 6):  # several processes
        data |= {f"images/{number}.jpg": image(number), f"masks/{number}.png": mask_png(halves(number % 3, 1))}
    for attempt in ("1", "2"):
        bring(tmp_path, data).manifest.write(tmp_path / attempt)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    manifest = Manifest.read(tmp_path / "1")
    assert manifest.table["mask"].is_not_null().sum() == CHUNK + 6
    assert manifest.table["mask"].n_unique() == 3, "images may share a mask"


def test_blobs_in_a_bucket(tmp_path, s3):
    for name, content in files(x=mask_png(halves(2, 0)), bad=mask_png(halves(7, 0))).items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    ingested = ingest(str(tmp_path / "data"), s3, max_bad_fraction=1)
    assert np.array_equal(masks_of(ingested, tmp_path)["x"], halves(2, 0))
    assert listed(ingested) == {"bad.jpg": "unknown class: number 7"}


# --- what does not ---


def colours(**options):
    image = Image.fromarray(halves(0, 1).astype(np.uint8)).convert(options.pop("mode"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (colours(mode="RGB"), "colour mask: x.png is RGB, not one class number per pixel"),
        (colours(mode="RGBA"), "colour mask: x.png is RGBA, not one class number per pixel"),
        (colours(mode="LA"), "colour mask: x.png is LA, not one class number per pixel"),
        (colours(mode="1"), "mask unreadable: x.png has 1 bits per pixel: use 8 for class numbers"),
        (mask_png(halves(size=(WIDTH // 2, HEIGHT // 2))), "size contradicts the image: 30x20 in the mask, 60x40"),
        (mask_png(halves(size=(HEIGHT, WIDTH))), "size contradicts the image: 40x60 in the mask, 60x40"),
        (mask_png(halves(0, 3)), "unknown class: number 3"),
        (mask_png(halves(254, 3), "P"), "unknown class: number 3, number 254"),
        (mask_png(halves(0, 256), "I;16"), "unknown class: number 256"),
        (mask_png(halves(0, 65535), "I;16"), "unknown class: number 65535"),
        (mask_png(np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)))[:300], "mask unreadable: x.png: "),
        (b"", "mask unreadable: x.png: cannot identify"),
        (jpeg(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), "mask unreadable: x.png: cannot identify"),
    ],
)
def test_what_is_no_mask_is_quarantined_and_the_rest_comes_in(tmp_path, mask, reason):
    ingested = bring(tmp_path, files(x=mask), max_bad_fraction=0.5)
    ((name, said),) = listed(ingested).items()
    assert name == "x.jpg"
    assert said.startswith(reason)
    assert "\n" not in said
    assert list(masks_of(ingested, tmp_path)) == ["good"]


def test_a_image_without_a_mask_is_unlabelled(tmp_path):
    ingested = bring(tmp_path, files(x=None))
    assert {row["source"]: row["mask"] is None for row in ingested.manifest.rows()} == {
        "images/good.jpg": False, "images/x.jpg": True,
    }  # fmt: skip
    assert (ingested.counts["unlabelled"], ingested.counts["masks"], ingested.counts["negatives"]) == (1, 1, 0)
    assert len(ingested.manifest.labelled()) == 1


def test_a_mask_that_says_nothing_of_any_pixel_is_none(tmp_path):
    ingested = bring(tmp_path, files(x=mask_png(halves(VOID, VOID)), y=mask_png(halves(0, 0))),
                     classes="road,car", ignore_classes="*")  # fmt: skip
    assert list(masks_of(ingested, tmp_path)) == ["good"]
    assert ingested.counts["unlabelled"] == 2


def test_a_listed_mask_that_is_missing_or_is_the_image_is_never_the_images_own_pixels(tmp_path):
    grey = [mask_png(np.full((HEIGHT, WIDTH), number)) for number in range(3)]  # could pass as masks
    data = {"rgb/a.png": grey[0], "rgb/b.png": grey[1], "rgb/c.png": grey[2], "gt/c.png": mask_png(halves())}
    data |= {"all.txt": b"rgb/a.png gt/a.png\nrgb/b.png rgb/b.png\nrgb/c.png gt/c.png\n", "classes.txt": NAMES}
    ingested = bring(tmp_path, data, max_bad_fraction=0.7)
    assert {row["source"]: row["mask"] is None for row in ingested.manifest.rows()} == {"rgb/c.png": False}
    assert listed(ingested) == {
        "a.png": "mask unreadable: all.txt lists 'gt/a.png', which does not exist",
        "b.png": "annotation unreadable: all.txt gives the image itself as its mask",
    }


def test_a_copy_with_a_mask_goes_before_one_without(tmp_path):
    data = {"classes.txt": NAMES, "images/a.jpg": image(1)}
    for name in "bc":
        data |= {f"images/{name}.jpg": image(1), f"masks/{name}.png": mask_png(halves(0, 1))}
    ingested = bring(tmp_path, data)
    assert np.array_equal(masks_of(ingested, tmp_path)["b"], halves(0, 1))
    same = "same image as images/b.jpg"
    assert listed(ingested, DUPLICATE) == {"a.jpg": same, "c.jpg": same}


def test_copies_with_different_masks_are_ambiguous(tmp_path):
    data = {"classes.txt": NAMES, "images/c.jpg": image(2), "masks/c.png": mask_png(halves(0, 1))}
    for name, mask in {"a": halves(0, 1), "b": halves(1, 2)}.items():
        data |= {f"images/{name}.jpg": image(1), f"masks/{name}.png": mask_png(mask)}
    ingested = bring(tmp_path, data, max_bad_fraction=0.7)
    reason = "ambiguous: the same image with different labels: images/a.jpg, images/b.jpg"
    assert listed(ingested) == {"a.jpg": reason, "b.jpg": reason}


def test_values_without_names_are_an_error_that_says_where_to_give_them(tmp_path):
    data = files()
    del data["classes.txt"]
    with pytest.raises(InputError, match="list them in classes, in order from 0"):
        bring(tmp_path, data)
    assert bring(tmp_path, data, classes="sky,road").counts["masks"] == 1


def test_more_classes_than_a_mask_has_numbers_for(tmp_path):
    with pytest.raises(InputError, match="256 classes: a mask has numbers for 255"):
        bring(tmp_path, files() | {"classes.txt": "\n".join(map(str, range(1, 257))).encode()}, classes=",".join(
            f"c{n}" for n in range(256)), ignore_classes="*")  # fmt: skip


def test_a_label_mapping_that_cannot_be_followed(tmp_path):
    for mapping in ("{0: 9}", "[1, 2]", "{a: 1}"):
        data = files() | {"data.yaml": f"names: [sky, road]\nlabel_mapping: {mapping}".encode()}
        with pytest.raises(InputError, match="'label_mapping' must give numbers of named classes, or ignore_label"):
            bring(tmp_path, data)


def test_a_plug_in_must_say_what_values_mean(tmp_path):
    @formats.register("silent")
    class Silent:
        @staticmethod
        def detect(folder):
            return "names.here" in folder

        @staticmethod
        def read(folder):
            return DataSet((), [Record("a.jpg", folder.path("a.jpg"), mask=folder.path("a.mask"))])

    try:
        with pytest.raises(InputError, match="does not define the mask values"):
            bring(tmp_path, {"a.jpg": image(), "a.mask": mask_png(halves()), "names.here": b""})
    finally:
        del formats._entries["silent"]

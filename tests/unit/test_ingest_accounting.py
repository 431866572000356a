"""Every label that lies in a data set is used, or stands on the quarantine list with a reason; in every format."""

import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from components.core.errors import InputError
from components.ingest.ingest import ingest
from components.ingest.quarantine import BAD, LEFT_OUT

WIDTH, HEIGHT, COUNT = 80, 60, 20


def encoded(number):
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (40, 90, 10)).save(buffer, "JPEG", comment=f"image {number}")
    return buffer.getvalue()


def mask(left, right):
    values = np.full((HEIGHT, WIDTH), left, np.uint8)
    values[:, WIDTH // 2 :] = right
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def voc(left=10):
    corners = f"<xmin>{left}</xmin><ymin>10</ymin><xmax>40</xmax><ymax>40</ymax>"
    return f"<annotation><object><name>hat</name><bndbox>{corners}</bndbox></object></annotation>"


def coco(names, left=10):
    return json.dumps(
        {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "bbox": [left, 10, 30, 30]} for n in range(len(names))
            ],
            "categories": [{"id": 1, "name": "hat"}],
        }
    )


def tasks(names, left=10):
    value = {"x": left, "y": 10, "width": 30, "height": 30, "rectanglelabels": ["hat"]}
    result = [{"type": "rectanglelabels", "original_width": WIDTH, "original_height": HEIGHT, "value": value}]
    return json.dumps([{"id": n, "data": {"image": name}, "annotations": [{"id": n, "result": result}]}
                       for n, name in enumerate(names)])  # fmt: skip


def csv(names, left=10):
    return "filename,xmin,ymin,xmax,ymax,class\n" + "".join(f"{name},{left},10,40,40,hat\n" for name in names)


def jsonl(names, left=10):
    lines = ({"image": name, "boxes": [[left, 10, 40, 40]], "labels": ["hat"]} for name in names)
    return "".join(json.dumps(line) + "\n" for line in lines)


def sedna(names, left=10):
    return "".join(f"{name} {left},10,40,40,0\n" for name in names)


YOLO = "0 0.3 0.4 0.3 0.5\n"
STEMS = [f"a{n}" for n in range(COUNT)]
NAMES = [f"images/{stem}.jpg" for stem in STEMS]
IMAGES = {name: encoded(n) for n, name in enumerate(NAMES)}
DATA_SETS = {
    "voc": IMAGES | {f"annotations/{stem}.xml": voc() for stem in STEMS},
    "yolo": IMAGES | {f"labels/{stem}.txt": YOLO for stem in STEMS} | {"data.yaml": "train: images\nnames: [hat]\n"},
    "coco": IMAGES | {"instances.json": coco(NAMES)},
    "label-studio": IMAGES | {"export.json": tasks(NAMES)},
    "csv": IMAGES | {"boxes.csv": csv(NAMES)},
    "jsonl": IMAGES | {"boxes.jsonl": jsonl(NAMES)},
    "sedna": IMAGES | {"train.txt": sedna(NAMES), "classes.txt": "hat\n"},
    "masks": IMAGES | {f"masks/{stem}.png": mask(0, 1) for stem in STEMS} | {"classes.txt": "sky\nroad\n"},
}
PLACES = (
    "",
    "images/",
    "labels/",
    "annotations/",
    "images/labels/",
    "old/",
    "train/labels/",
    "x/y/",
    "Labels2/",
    "gt/",
)


def planted(kind, stem):
    """A label file of some kind, with another box than the data sets': the end of its name, and its content."""
    name = f"images/{stem}.jpg"
    return {
        "voc": (f"{stem}.xml", voc(12)),
        "yolo": (f"{stem}.txt", YOLO.replace("0.3", "0.4")),
        "coco": ("more.json", coco([name], 12)),
        "label-studio": ("tasks.json", tasks([name], 12)),
        "csv": ("more.csv", csv([name], 12)),
        "jsonl": ("more.jsonl", jsonl([name], 12)),
        "sedna": ("more.txt", sedna([name], 12)),
        "labelme": (f"{stem}.json", json.dumps({"shapes": [{"label": "hat", "points": [[10, 10], [40, 40]]}]})),
        "cvat": ("annotations.xml", f"<annotations><image name='{name}'><box label='hat'/></image></annotations>"),
        "matlab": ("boxes.mat", b"MATLAB 5.0 MAT-file"),
    }[kind]


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("data_format", DATA_SETS)
def test_a_data_set_in_order_has_nothing_left_over(tmp_path, data_format):
    write(tmp_path / "data", DATA_SETS[data_format])
    found = ingest(str(tmp_path / "data"), str(tmp_path / "job"))
    assert (found.format, found.quarantine, found.warnings) == (data_format, [], ())
    assert found.counts["unlabelled"] == found.counts["negatives"] == 0


def test_a_list_of_images_at_the_top_is_no_label_where_an_image_has_none(tmp_path):
    listed = {"images.txt": "".join(f"data/{stem}.jpg\n" for stem in STEMS), "obj.names": "hat\n"}
    pictures = {f"data/{stem}.jpg": encoded(n) for n, stem in enumerate(STEMS)}
    write(tmp_path / "data", listed | pictures | {f"data/{stem}.txt": YOLO for stem in STEMS[1:]})
    found = ingest(str(tmp_path / "data"), str(tmp_path / "job"))
    assert (found.quarantine, found.counts["negatives"]) == ([], 1)


@pytest.mark.parametrize(
    "kind", ["voc", "yolo", "coco", "label-studio", "csv", "jsonl", "sedna", "labelme", "cvat", "matlab"]
)
@pytest.mark.parametrize("data_format", DATA_SETS)
def test_a_planted_label_is_never_unread_in_silence(tmp_path, data_format, kind):
    """Of each kind one label is planted in a place drawn by chance, for an image with or without a label of its own."""
    draw = random.Random(f"{data_format} {kind}")
    files = dict(DATA_SETS[data_format])
    stem = draw.choice([*STEMS, "unheard-of"])
    end, content = planted(kind, stem)
    name = draw.choice(PLACES) + end
    if name in files:
        name = f"odd/{end}"
    if draw.random() < 0.5:  # the image has no other label
        for own in (f"labels/{stem}.txt", f"annotations/{stem}.xml", f"masks/{stem}.png"):
            files.pop(own, None)
    write(tmp_path / "data", files | {name: content})
    try:
        found = ingest(str(tmp_path / "data"), str(tmp_path / "job"), data_format=data_format, max_bad_fraction=0.5)
    except InputError as error:
        assert "ambiguous" in str(error) or name in str(error), "it may stop the run, but by its name"
        return
    told = {entry.source.partition("#")[0] for entry in found.quarantine if entry.kind in (BAD, LEFT_OUT)}
    ambiguous = any("ambiguous" in entry.reason and stem in entry.source for entry in found.quarantine)
    used = found.counts["boxes"] + found.counts["masks"] - _boxes_without(files, tmp_path, data_format)
    assert name in told or ambiguous or used == 1, f"{name} vanished"


def _boxes_without(files, tmp_path, data_format):
    """How many boxes and masks there are without the planted label."""
    own = {name: content for name, content in DATA_SETS[data_format].items() if name in files}
    write(tmp_path / "before", own)
    counts = ingest(
        str(tmp_path / "before"), str(tmp_path / "job2"), data_format=data_format, max_bad_fraction=0.5
    ).counts
    return counts["boxes"] + counts["masks"]


def test_a_label_of_another_kind_stops_a_format_that_finds_none(tmp_path):
    write(tmp_path / "data", DATA_SETS["voc"])
    with pytest.raises(
        InputError, match=r"40 of 40 files are bad.*label not read \(20\).*Pascal VOC; yolo does not look"
    ):
        ingest(str(tmp_path / "data"), str(tmp_path / "job"), data_format="yolo")


def test_masks_beside_boxes_are_no_images_of_nothing(tmp_path):
    files = IMAGES | {f"labels/{stem}.txt": YOLO for stem in STEMS} | {"classes.txt": "hat\n"}
    files |= {f"masks/{stem}.png": mask(0, 1) for stem in STEMS}
    write(tmp_path / "data", files)
    found = ingest(str(tmp_path / "data"), str(tmp_path / "job"), data_format="yolo")
    assert (found.counts["images"], found.counts["negatives"]) == (COUNT, 0)
    assert sum(entry.kind == LEFT_OUT for entry in found.quarantine) == COUNT
    assert found.warnings[0].startswith("20 files with labels are ignored (masks/a0.png, ")

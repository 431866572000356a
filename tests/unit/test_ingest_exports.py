"""Data sets as tools and people leave them: each is read right or refused with a reason, and never approximated."""

import io
import json
import re
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from components.core.errors import InputError
from components.ingest.ingest import ingest
from components.ingest.quarantine import BAD

WIDTH, HEIGHT = 80, 60
LINE = "0 0.3125 0.416667 0.375 0.5\n"  # the box 10,10,40,40
HAT = ("hat", 10, 10, 40, 40)
YAML = "train: images\nval: images\nnames: [hat, person]\n"


def jpeg(number):
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 60)).save(buffer, "JPEG", comment=f"image {number}")
    return buffer.getvalue()


def png(values):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def images(count, name="images/a{}.jpg"):
    return {name.format(number): jpeg(number) for number in range(count)}


def labels(count, name="labels/a{}.txt", text=LINE):
    return dict.fromkeys((name.format(number) for number in range(count)), text)


def coco(count, name="a{}.jpg", **more):
    return {
        "images": [{"id": n, "file_name": name.format(n), "width": WIDTH, "height": HEIGHT} for n in range(count)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [10, 10, 30, 30], "iscrowd": 0} for n in range(count)
        ],
        "categories": [{"id": 1, "name": "hat"}, {"id": 2, "name": "person"}],
        **more,
    }


def voc(*objects):
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def voc_object(more=""):
    corners = "<xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>40</ymax>"
    return f"<object><name>hat</name><bndbox>{corners}</bndbox>{more}</object>"


def task(number, image, **value):
    box = {"x": 12.5, "y": 100 / 6, "width": 37.5, "height": 50, "rotation": 0, "rectanglelabels": ["hat"], **value}
    result = {"type": "rectanglelabels", "original_width": WIDTH, "original_height": HEIGHT, "value": box}
    return {"id": number, "data": {"image": image}, "annotations": [{"id": number, "result": [result]}]}


@pytest.fixture
def bring(tmp_path):
    """A function that writes a data set and brings it in."""

    def run(files, **options):
        root = tmp_path / "data"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return ingest(str(root), str(tmp_path / "job"), **options)

    return run


def boxes(ingested):
    """The boxes of each image that came in, by its source; None: it is unlabelled."""
    names = ingested.manifest.classes
    return {
        row["source"]: None
        if row["annotations"] is None
        else [
            (names[a["class_id"]], *(round(a[side]) for side in ("x1", "y1", "x2", "y2"))) for a in row["annotations"]
        ]
        for row in ingested.manifest.rows()
    }


def splits(ingested):
    return {row["source"]: row["split"] for row in ingested.manifest.rows()}


def bad(ingested):
    return {entry.source: entry.reason for entry in ingested.quarantine if entry.kind == BAD}


def all_hats(ingested, count):
    return len(boxes(ingested)) == count and all(found == [HAT] for found in boxes(ingested).values())


# --- YOLO ---


@pytest.mark.parametrize(
    ("image", "label", "train"),
    [
        ("train/a{}.jpg", "train/labels/a{}.txt", "train"),
        ("train_images/a{}.jpg", "train_labels/a{}.txt", "train_images"),
        ("images/train/a{}.jpg", "labels/Train/A{}.txt", "images/train"),
        ("Images/a{}.JPG", "Labels/a{}.TXT", "images"),
        ("images/a{}.jpg", "labels/a{}.jpg.txt", "images"),
        ("data/a{}.jpg", "data/bboxes/a{}.txt", "data"),
    ],
)
def test_yolo_labels_are_found_where_tools_and_people_put_them(bring, image, label, train):
    found = bring(images(12, image) | labels(12, label) | {"data.yaml": f"train: {train}\nnames: [hat]\n"})
    assert all_hats(found, 12) and not found.quarantine


def test_yolo_labels_that_fit_no_image_by_their_place_stop_it(bring):
    files = {f"images/{part}/{part}{n}.jpg": jpeg(f"{part}{n}") for part in ("train", "val") for n in range(6)}
    files |= {f"labels/{part}{n}.txt": LINE for part in ("train", "val") for n in range(6)}
    with pytest.raises(
        InputError, match=r"12 of 24 files are bad.*label not read \(12\); for example labels/train0.txt"
    ):
        bring(files | {"data.yaml": "train: images/train\nval: images/val\nnames: [hat]\n"})


def test_a_split_without_any_label_counts_as_bad(bring):
    files = images(6, "train/images/a{}.jpg") | labels(6, "train/labels/a{}.txt")
    files |= {f"valid/images/b{n}.jpg": jpeg(f"b{n}") for n in range(6)}
    files |= {"data.yaml": "train: train/images\nval: valid/images\nnames: [hat]\n"}
    with pytest.raises(InputError, match=r"6 of 12 files are bad.*no label for any of the 6 images of split val"):
        bring(files)
    found = bring(files, max_bad_fraction=0.5)
    assert "no label for any of the 6 images of split val" in found.warnings[0]
    said = bring(files | labels(6, "valid/labels/b{}.txt", ""))
    assert said.counts["negatives"] == 6, "an empty label file for each says that they show nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images\nnames:\n\t- hat\n", "data.yaml cannot be read: .*indent with spaces, not tabs"),
        ("train: images\nnames: [Größe]\n".encode("latin-1"), "data.yaml cannot be read: .*not UTF-8 text"),
        ("train: images\nnames: [hat\n", "data.yaml cannot be read"),
        (
            "train: images\nnames: [hat]\nnames: [cap]\n",
            "data.yaml cannot be read: .*duplicate key 'names'",
        ),
        ("train: images\nnc: 3\nnames: [hat, person]\n", "nc says 3 classes, but names has 2"),
        ("", "data.yaml is empty: it must list the classes"),
        ("train: images\nval: images\nnc: 1\n", "'names' must be a list of class names"),
        ("train: images\nnames: [hat, ' ']\n", "'names' must be text by number; it has '1'"),
        ("train: images\nnames: [" + "a, " * 100_000 + "b]\n", "data.yaml cannot be read: .*larger than 256 KiB"),
        ("train: images\nnames: " + "[" * 100_000, "data.yaml cannot be read: .*nested more than 50 deep"),
    ],
)
def test_a_description_that_cannot_be_read_is_not_passed_over(bring, text, message):
    with pytest.raises(InputError, match=message):
        bring(images(3) | labels(3) | {"data.yaml": text})


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("{'0': hat, '1': person}", ("hat", "person")),
        ("[no, yes]", ("no", "yes")),
        ("[off, 'on']", ("off", "on")),
        ("[null, ~]", ("null", "~")),
        ("[1e3, 010, 12:30, 2024-01-01]", ("1e3", "010", "12:30", "2024-01-01")),
    ],
)
def test_class_names_are_what_stands_in_the_description(bring, names, classes):
    assert bring(images(3) | labels(3) | {"data.yaml": f"train: images\nnames: {names}\n"}).manifest.classes == classes


def test_a_description_in_utf_16_is_read(bring):
    found = bring(images(3) | labels(3) | {"data.yaml": "train: images\nnames: [Größe]\n".encode("utf-16")})
    assert found.manifest.classes == ("Größe",)


POSE = "0 0.3125 0.416667 0.375 0.5 0.2 0.3 0.4 0.3 0.2 0.6 0.4 0.6\n"


def test_of_key_points_the_box_before_them_is_taken(bring):
    described = {"data.yaml": "train: images\nkpt_shape: [4, 2]\nnames: [hat]\n"}
    assert all_hats(bring(images(3) | labels(3, text=POSE) | described), 3)
    seen = "0 0.3125 0.416667 0.375 0.5 0.2 0.3 2 0.4 0.3 2 0.2 0.6 1 0 0 0\n"
    described = {"data.yaml": "train: images\nkpt_shape: [4, 3]\nnames: [hat]\n"}
    assert all_hats(bring(images(3) | labels(3, text=seen) | described), 3)


def test_key_points_that_nothing_announces_are_not_taken_for_an_outline(bring):
    with pytest.raises(InputError, match="13 columns can be an outline or a box with key points"):
        bring(images(3) | labels(3, text=POSE) | {"data.yaml": YAML})


def test_outlines_become_the_box_around_them(bring):
    text = "0 0.125 0.2 0.3 0.166667 0.5 0.4 0.5 0.6 0.2 0.666667\n"
    assert all_hats(bring(images(3) | labels(3, text=text) | {"data.yaml": YAML}), 3)


def test_turned_boxes_are_refused_and_upright_corners_are_a_box(bring):
    upright = "0 0.125 0.166667 0.5 0.166667 0.5 0.666667 0.125 0.666667\n"
    turned = "0 0.3 0.1 0.5 0.4 0.3 0.7 0.1 0.4\n"
    files = images(4) | labels(3, text=upright) | {"labels/a3.txt": turned, "data.yaml": YAML}
    found = bring(files, max_bad_fraction=0.3)
    assert all_hats(found, 3)
    assert bad(found)["images/a3.jpg"].startswith("turned box: line 1")


@pytest.mark.parametrize("twice", [LINE + LINE, LINE + "0 0.31250 0.4166667 0.375 0.50\n"])
def test_the_same_box_counts_once(bring, twice):
    found = bring(images(3) | labels(2) | {"labels/a2.txt": twice, "data.yaml": YAML})
    assert all_hats(found, 3)
    assert (found.counts["boxes"], found.counts["repeated_boxes"]) == (3, 1)


@pytest.mark.parametrize(
    "path",
    ["images\\a{}.jpg", "C:\\work\\set\\images\\a{}.jpg", "/home/someone/set/images/a{}.jpg", "./images/A{}.jpg"],
)
def test_a_list_of_another_machine_is_followed(bring, path):
    listing = "".join(path.format(n) + "\r\n" for n in range(12))
    found = bring(images(12) | labels(12) | {"train.txt": listing, "data.yaml": "train: train.txt\nnames: [hat]\n"})
    assert all_hats(found, 12) and set(splits(found).values()) == {"train"}


@pytest.mark.parametrize(
    "entries",
    [
        "train: set-1/train/images\nval: set-1/valid/images\ntest: ../test/images\n",
        "path: /content/datasets/set-1\ntrain: train/images\nval: valid/images\ntest: test/images\n",
        "train: D:\\data\\set-1\\Train\\images\nval: D:\\data\\set-1\\Valid\\images\ntest: test\\images\n",
    ],
)
def test_entries_that_name_the_folder_of_the_data_set_are_followed(bring, entries):
    files = {"data.yaml": f"{entries}names: [hat]\n"}
    for place, part in enumerate(("train", "valid", "test")):
        files |= {f"{part}/images/{part}{n}.jpg": jpeg(f"{place}.{n}") for n in range(3)}
        files |= {f"{part}/labels/{part}{n}.txt": LINE for n in range(3)}
    found = bring(files)
    assert all_hats(found, 9)
    assert [splits(found)[f"{part}/images/{part}0.jpg"] for part in ("train", "valid", "test")] == [
        "train", "val", "test",
    ]  # fmt: skip


def test_an_entry_that_is_not_there_is_an_error_while_labelled_images_are_in_none(bring):
    files = images(3, "train/images/a{}.jpg") | labels(3, "train/labels/a{}.txt")
    files |= {f"eval/images/b{n}.jpg": jpeg(f"b{n}") for n in range(3)} | labels(3, "eval/labels/b{}.txt")
    with pytest.raises(InputError, match="lists validation/images, which is not in the data, while 3 labelled images"):
        bring(files | {"data.yaml": "train: train/images\nval: validation/images\nnames: [hat]\n"})


def test_labels_of_images_that_are_not_listed_are_left_out_by_name(bring):
    files = images(4) | labels(4) | {"train.txt": "images/a0.jpg\nimages/a1.jpg\n"}
    found = bring(files | {"data.yaml": "train: train.txt\nnames: [hat]\n"})
    assert all_hats(found, 2) and found.counts["quarantined"] == 0
    assert {entry.source for entry in found.quarantine} == {
        "images/a2.jpg", "labels/a2.txt", "images/a3.jpg", "labels/a3.txt",
    }  # fmt: skip
    assert any("2 files with labels are ignored" in warning for warning in found.warnings)


def test_a_data_set_that_begins_with_images_of_nothing_is_known(bring):
    files = images(30) | labels(30) | labels(25, text="") | {"classes.txt": "hat\nperson\n"}
    found = bring(files)
    assert found.format == "yolo" and (found.counts["negatives"], found.counts["boxes"]) == (25, 5)


def test_each_folder_is_read_with_its_own_classes(bring):
    files = images(3, "one/a{}.jpg") | labels(3, "one/a{}.txt") | {"one/classes.txt": "hat\nperson\n"}
    files |= {f"two/b{n}.jpg": jpeg(f"b{n}") for n in range(3)} | labels(3, "two/b{}.txt", LINE.replace("0 ", "1 ", 1))
    assert all_hats(bring(files | {"two/classes.txt": "person\nhat\n"}), 6)


def test_classes_that_differ_and_lie_above_no_label_are_ambiguous(bring):
    files = images(3) | labels(3) | {"x/classes.txt": "hat\nperson\n", "y/classes.txt": "person\nhat\n"}
    with pytest.raises(InputError, match=r"ambiguous \(3\); for example .*x/classes.txt, y/classes.txt differ"):
        bring(files)


def test_lists_at_the_top_give_the_splits_of_darknet(bring):
    files = images(4, "obj_train_data/a{}.jpg") | labels(4, "obj_train_data/a{}.txt") | {"obj.names": "hat\n"}
    files |= {"train.txt": "".join(f"data/obj_train_data/a{n}.jpg\n" for n in range(3))}
    files |= {"valid.txt": "data/obj_train_data/a3.jpg\n", "obj.data": "classes = 1\ntrain = data/train.txt\n"}
    found = bring(files)
    assert all_hats(found, 4) and list(splits(found).values()) == ["train", "train", "train", "val"]


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_labels_of_uploads_to_label_studio_find_the_files_that_were_uploaded(bring, name):
    end, text = {
        "yolo": ("labels/1b2c3d4{}-Foto_{}.txt", LINE),
        "voc": ("Annotations/1b2c3d4{}-Foto_{}.xml", voc(voc_object())),
    }[name]
    files = images(3, "Foto ({}).jpg") | {end.format(n, n): text for n in range(3)} | {"classes.txt": "hat\n"}
    assert all_hats(bring(files), 3)


# --- names ---


def test_composed_and_decomposed_names_pair(bring):
    name = "Größe {}"
    files = images(4, unicodedata.normalize("NFD", f"images/{name}.jpg"))
    files |= labels(4, unicodedata.normalize("NFC", f"labels/{name}.txt")) | {"data.yaml": YAML}
    assert all_hats(bring(files), 4)


def test_composed_and_decomposed_class_names_are_one_class(bring):
    files = images(2, "a{}.jpg")
    for number, form in enumerate(("NFC", "NFD")):
        files[f"a{number}.xml"] = voc(voc_object()).replace("hat", unicodedata.normalize(form, "Mütze"))
    assert bring(files).manifest.classes == ("Mütze",)


def zipped(path, files, encode):
    """A zip whose names are encoded in some way, without the mark that says that they are UTF-8."""
    stand_ins = {f"{place}".ljust(len(encode(name)), "_"): encode(name) for place, name in enumerate(files)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for stand_in, content in zip(stand_ins, files.values(), strict=True):
            archive.writestr(stand_in, content)
    data = buffer.getvalue()
    for stand_in, name in stand_ins.items():
        data = data.replace(stand_in.encode(), name)
    path.write_bytes(data)
    return path


def test_zip_names_in_utf_8_without_the_mark_are_read(tmp_path):
    files = images(3, "Größe{}.jpg") | {"x.json": json.dumps(coco(3, "Größe{}.jpg"), ensure_ascii=False)}
    found = ingest(str(zipped(tmp_path / "x.zip", files, str.encode)), str(tmp_path / "job"))
    assert all_hats(found, 3)


def test_zip_names_in_an_unknown_encoding_are_told(tmp_path, caplog):
    files = images(3, "安全帽{}.jpg") | {"x.json": json.dumps(coco(3, "安全帽{}.jpg"), ensure_ascii=False)}
    packed = zipped(tmp_path / "x.zip", files, lambda name: name.encode("gbk"))
    with pytest.raises(InputError, match=r"label without image \(3\)"):
        ingest(str(packed), str(tmp_path / "job"))
    assert "3 names have an unknown encoding" in caplog.text


# --- COCO ---


def test_two_entries_of_one_image_count_together(bring):
    content = coco(2, "a0.jpg")
    content["annotations"][1] |= {"bbox": [50, 10, 20, 20]}
    found = bring(images(1, "a{}.jpg") | {"x.json": json.dumps(content)})
    assert boxes(found) == {"a0.jpg": [HAT, ("hat", 50, 10, 70, 30)]}


def test_two_references_to_one_image_are_ambiguous(bring):
    content = coco(2, "cam{}/a0.jpg")
    with pytest.raises(InputError, match=r"ambiguous.*x.json means it by cam0/a0.jpg, cam1/a0.jpg"):
        bring(images(1, "a{}.jpg") | {"x.json": json.dumps(content)})


def test_boxes_in_0_to_1_are_refused(bring):
    content = coco(3)
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.1, 0.5, 0.5]
    with pytest.raises(InputError, match=r"box in 0..1 instead of pixels \(3\)"):
        bring(images(3, "a{}.jpg") | {"x.json": json.dumps(content)})


@pytest.mark.parametrize("name", ["voc", "csv", "sedna"])
def test_boxes_in_0_to_1_are_refused_in_every_format_of_pixels(bring, name):
    text = voc(voc_object()).replace(">10<", ">0.1<").replace(">40<", ">0.5<")
    files = {
        "voc": {f"a{n}.xml": text for n in range(3)},
        "csv": {"x.csv": "image,x1,y1,x2,y2,class\n" + "".join(f"a{n}.jpg,.1,.1,.5,.5,hat\n" for n in range(3))},
        "sedna": {"train.txt": "".join(f"a{n}.jpg 0.1,0.1,0.5,0.5,0\n" for n in range(3))},
    }[name]
    with pytest.raises(InputError, match=r"box in 0..1 instead of pixels \(3\)"):
        bring(images(3, "a{}.jpg") | files)


def test_a_file_without_annotations_says_nothing_of_its_images(bring):
    other = coco(3, "b{}.jpg")
    del other["annotations"]
    files = images(6, "a{}.jpg") | {f"b{n}.jpg": jpeg(f"b{n}") for n in range(3)}
    found = bring(files | {"train.json": json.dumps(coco(6)), "test.json": json.dumps(other)})
    assert [boxes(found)[f"b{n}.jpg"] for n in range(3)] == [None] * 3 and found.counts["boxes"] == 6


def test_a_split_whose_file_has_no_annotation_counts_as_bad(bring):
    files = images(6, "a{}.jpg") | {f"b{n}.jpg": jpeg(f"b{n}") for n in range(3)}
    files |= {"train.json": json.dumps(coco(6)), "test.json": json.dumps(coco(3, "b{}.jpg", annotations=[]))}
    with pytest.raises(InputError, match="3 of 9 files are bad.*no label for any of the 3 images of split test"):
        bring(files)


def test_ids_written_as_text_are_the_same_ids(bring):
    content = coco(4)
    content["annotations"][0]["image_id"], content["annotations"][1]["image_id"] = "0", 1.0
    assert all_hats(bring(images(4, "a{}.jpg") | {"x.json": json.dumps(content)}), 4)


def test_a_category_that_only_groups_others_is_no_class(bring):
    categories = [
        {"id": 0, "name": "workers", "supercategory": "none"},
        {"id": 1, "name": "hat", "supercategory": "workers"},
        {"id": 2, "name": "person", "supercategory": "workers"},
    ]
    found = bring(images(3, "a{}.jpg") | {"x.json": json.dumps(coco(3, categories=categories))})
    assert found.manifest.classes == ("hat", "person") and all_hats(found, 3)


def test_a_category_that_groups_others_and_has_boxes_is_a_class(bring):
    categories = [{"id": 1, "name": "hat"}, {"id": 2, "name": "cap", "supercategory": "hat"}]
    assert bring(images(3, "a{}.jpg") | {"x.json": json.dumps(coco(3, categories=categories))}).manifest.classes == (
        "hat", "cap",
    )  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"bbox": []}, {"bbox": None}])
def test_outlines_alone_become_the_box_around_them(bring, more):
    content = coco(3)
    for annotation in content["annotations"]:
        del annotation["bbox"]
        annotation |= {"segmentation": [[10, 10, 40, 12, 25, 40]], **more}
    assert all_hats(bring(images(3, "a{}.jpg") | {"x.json": json.dumps(content)}), 3)


@pytest.mark.parametrize("turned", [{"attributes": {"occluded": False, "rotation": 45.0}}, {"rotation": 45}])
def test_turned_coco_boxes_are_refused(bring, turned):
    content = coco(3)
    content["annotations"][0] |= turned
    found = bring(images(3, "a{}.jpg") | {"x.json": json.dumps(content)}, max_bad_fraction=0.4)
    assert bad(found) == {"a0.jpg": "turned box: annotation 0 is rotated by 45 degrees: draw it upright"}


@pytest.mark.parametrize(
    "path",
    ["D:\\set\\images\\a{}.jpg", "/home/someone/set/a{}.jpg", "../../label-studio/data/upload/1/1b2c3d4e-a{}.jpg"],
)
def test_paths_of_another_machine_are_found_by_the_file_name(bring, path):
    assert all_hats(bring(images(12) | {"annotations/x.json": json.dumps(coco(12, path))}), 12)


def test_a_name_in_another_folder_is_not_taken_for_the_image_that_is_missing(bring):
    content = coco(2, "cam{}/a.jpg")
    with pytest.raises(
        InputError, match=r"label without image \(1\); for example cam0/a.jpg: x.json lists it; images of"
    ):
        bring({"cam1/a.jpg": jpeg(1), "x.json": json.dumps(content)})


def test_a_message_about_missing_images_shows_three_of_them(bring):
    with pytest.raises(InputError) as caught:
        bring(images(1, "a{}.jpg") | {"x.json": json.dumps(coco(9, "gone{}.jpg"))})
    shown = "; ".join(f"gone{n}.jpg: x.json lists it; no image is called gone{n}.jpg" for n in range(3))
    assert f"label without image (9); for example {shown}; full list" in str(caught.value)


def test_boxes_that_detectron2_marks_as_corners_are_refused(bring):
    content = coco(3)
    content["annotations"][0]["bbox_mode"] = 0
    content["annotations"][1]["bbox_mode"] = 1
    found = bring(images(3, "a{}.jpg") | {"x.json": json.dumps(content)}, max_bad_fraction=0.4)
    assert list(bad(found)) == ["a0.jpg"] and "bbox_mode 0" in bad(found)["a0.jpg"]


def test_turned_boxes_of_tables_are_refused(bring):
    lines = "".join(f"a{n}.jpg,10,10,40,40,hat,{30 if n == 0 else 0}\n" for n in range(3))
    found = bring(images(3, "a{}.jpg") | {"x.csv": f"image,x1,y1,x2,y2,class,angle\n{lines}"}, max_bad_fraction=0.4)
    assert bad(found) == {"a0.jpg": "turned box: x.csv line 2: turned by 30: draw it upright"}


def test_turned_objects_of_json_lines_are_refused(bring):
    lines = [
        {"image": f"a{n}.jpg", "objects": [{"x1": 10, "y1": 10, "x2": 40, "y2": 40, "class": "hat", "rotation": turn}]}
        for n, turn in enumerate((30, 0, None))
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    found = bring(images(3, "a{}.jpg") | {"x.jsonl": text}, max_bad_fraction=0.4)
    assert bad(found) == {"a0.jpg": "turned box: x.jsonl line 1: turned by 30: draw it upright"}


def test_coco_boxes_that_are_corners_by_their_area_are_refused(bring):
    content = coco(3)
    for annotation in content["annotations"]:
        annotation |= {"bbox": [10, 10, 40, 40], "area": 900}
    with pytest.raises(InputError, match="x.json: by its 'area' every bbox is x1, y1, x2, y2"):
        bring(images(3, "a{}.jpg") | {"x.json": json.dumps(content)})
    content["annotations"][0] |= {"bbox": [10, 10, 30, 30]}  # as it should be, so that the others are outlines
    assert bring(images(3, "a{}.jpg") | {"x.json": json.dumps(content)}).counts["boxes"] == 3


def test_coco_categories_with_the_same_id_are_refused(bring):
    content = coco(3, categories=[{"id": 1, "name": "hat"}, {"id": 1, "name": "person"}])
    with pytest.raises(InputError, match="x.json: the categories hat and person both have the id 1"):
        bring(images(3, "a{}.jpg") | {"x.json": json.dumps(content)})


def test_coco_flags_may_be_text_and_what_is_to_be_ignored_is_no_object(bring):
    content = coco(7)
    flags = [{"iscrowd": "0"}, {"iscrowd": "1"}, {"iscrowd": False}, {"ignore": 1}, {"ignore": "0"}, {"ignore": "no"}]
    for annotation, flag in zip(content["annotations"], flags, strict=False):
        annotation.update(flag)
    found = bring(images(7, "a{}.jpg") | {"x.json": json.dumps(content)}, max_bad_fraction=0.2)
    assert [len(one) for one in boxes(found).values()] == [1, 0, 1, 0, 1, 1]
    assert bad(found) == {"a5.jpg": "annotation unreadable: annotation 5: ignore 'no'"}


# --- Label Studio ---


def test_the_yolo_export_of_label_studio_is_yolo(bring):
    notes = {"categories": [{"id": 0, "name": "hat"}], "info": {"year": 2025, "contributor": "Label Studio"}}
    found = bring(images(3) | labels(3) | {"classes.txt": "hat\n", "notes.json": json.dumps(notes)})
    assert found.format == "yolo" and all_hats(found, 3)
    assert found.warnings == (
        "notes.json is of Label Studio's YOLO export, in which skipped images look like negatives and turned boxes are "
        "upright: export as JSON instead",
    )


def test_the_coco_export_of_label_studio_may_name_images_by_addresses(bring):
    content = coco(3, "https://bucket/job/blobs/a{}.jpg?X-Amz-Signature=secret")
    content["info"] = {"year": 2026, "contributor": "Label Studio"}
    found = bring(images(3, "a{}.jpg") | {"result.json": json.dumps(content)})
    assert found.format == "coco" and all_hats(found, 3)
    assert "the boxes of all who labelled an image are together" in found.warnings[-1]
    content["images"][2]["file_name"] = "https://bucket/job/blobs/b.jpg?X-Amz-Signature=secret"
    found = bring(images(3, "a{}.jpg") | {"result.json": json.dumps(content)}, max_bad_fraction=0.5)
    assert bad(found) == {"/job/blobs/b.jpg": "label without image: result.json lists it; no image is called b.jpg"}


def test_the_voc_export_of_label_studio_is_voc(bring):
    owner = "<owner>\n<flickrid>NULL</flickrid>\n<name>Label Studio</name>\n</owner>"
    found = bring(images(3, "images/a{}.jpg") | labels(3, "Annotations/a{}.xml", voc(owner, voc_object())))
    assert found.format == "voc" and all_hats(found, 3)
    assert found.warnings == (
        "Annotations/a0.xml is of Label Studio's VOC export, in which negatives look like unlabelled images, corners "
        "are cut to whole pixels and turned boxes are upright: export as JSON instead",
    )


def test_voc_of_others_is_not_taken_for_label_studios(bring):
    owner = "<owner><name>Somebody</name></owner>"
    found = bring(images(3, "images/a{}.jpg") | labels(3, "Annotations/a{}.xml", voc(owner, voc_object())))
    assert found.format == "voc" and found.warnings == ()


@pytest.mark.parametrize("address", ["/data/local-files/?d=set%5Ca{}.jpg", "/data/local-files/?d=C:%5Cset%5Ca{}.jpg"])
def test_local_files_of_windows_are_found(bring, address):
    export = json.dumps([task(n, address.format(n)) for n in range(3)])
    assert all_hats(bring(images(3, "set/a{}.jpg") | {"export.json": export}), 3)


def test_uploads_are_found_by_the_name_that_label_studio_makes_of_theirs(bring):
    export = json.dumps([task(n, f"/data/upload/1/1b2c3d4{n}-Foto_{n}.jpg") for n in range(3)])
    assert all_hats(bring(images(3, "Foto ({}).jpg") | {"export.json": export}), 3)


def test_presigned_addresses_are_not_shown(bring):
    export = json.dumps([task(n, f"https://bucket/set/a{n}.jpg?X-Amz-Signature=0123") for n in range(4)])
    found = bring(images(3, "a{}.jpg") | {"export.json": export}, max_bad_fraction=0.3)
    assert list(bad(found)) == ["/set/a3.jpg"]
    assert "task 3 labels '/set/a3.jpg': no image is called 'a3.jpg'" in bad(found)["/set/a3.jpg"]


def test_tasks_that_have_only_predictions_are_told(bring, caplog):
    tasks = [task(n, f"a{n}.jpg") for n in range(4)]
    tasks[3] |= {"predictions": [{"result": tasks[3]["annotations"][0]["result"]}], "annotations": []}
    assert bring(images(4, "a{}.jpg") | {"export.json": json.dumps(tasks)}).counts["unlabelled"] == 1
    assert "export.json: 1 tasks have predictions and no annotation" in caplog.text


# --- VOC and others ---


def test_turned_voc_boxes_are_refused(bring):
    turned = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    files = images(3, "a{}.jpg") | {f"a{n}.xml": voc(voc_object(turned if n == 0 else "")) for n in range(3)}
    found = bring(files, max_bad_fraction=0.4)
    assert bad(found) == {"a0.jpg": "turned box: hat is rotated by 90 degrees: draw it upright"}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("<robndbox><cx>25</cx><cy>25</cy><w>30</w><h>20</h><angle>0.5</angle></robndbox>", "turned box: hat is a rob"),
        ("<bndbox><xmin>1</xmin></bndbox>", "annotation unreadable: hat with more than one box"),
    ],
)
def test_voc_objects_with_further_boxes_are_refused(bring, more, reason):
    files = images(3, "a{}.jpg") | {f"a{n}.xml": voc(voc_object(more if n == 0 else "")) for n in range(3)}
    assert bad(bring(files, max_bad_fraction=0.4))["a0.jpg"].startswith(reason)


def test_voc_lists_may_name_images_with_spaces_and_have_numbers_behind_them(bring):
    files = images(4, "JPEGImages/my a{}.jpg") | labels(4, "Annotations/my a{}.xml", voc(voc_object()))
    files |= {"ImageSets/Main/train.txt": "my a0\nmy a1  1\nmy a2 -1\n", "ImageSets/Main/val.txt": "my a3\n"}
    assert list(splits(bring(files)).values()) == ["train", "train", "train", "val"]


def test_outlines_of_labelme_become_the_box_around_them_and_deleted_objects_do_not_count(bring):
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((10, 10), (40, 12), (25, 40)))
    outline = f"<object><name>hat</name><deleted>0</deleted><polygon>{points}</polygon></object>"
    files = images(3, "a{}.jpg") | labels(3, "a{}.xml", voc(outline, outline.replace("<deleted>0", "<deleted>1")))
    assert all_hats(bring(files), 3)


@pytest.mark.parametrize("line", ["a{}", "a{}.jpg", "JPEGImages/a{}.jpg", "JPEGImages\\a{}.jpg"])
def test_voc_lists_may_name_files(bring, line):
    files = images(4, "VOC/JPEGImages/a{}.jpg") | labels(4, "VOC/Annotations/a{}.xml", voc(voc_object()))
    lists = {"train": (0, 1, 2), "val": (3,)}
    files |= {
        f"VOC/ImageSets/Main/{split}.txt": "".join(line.format(n) + "\n" for n in numbers)
        for split, numbers in lists.items()
    }
    if "/" in line or "\\" in line:
        files = {name.removeprefix("VOC/JPEGImages/"): content for name, content in files.items()}
        files = {name if "/" in name else f"VOC/JPEGImages/{name}": content for name, content in files.items()}
    assert list(splits(bring(files)).values()) == ["train", "train", "train", "val"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {
                "annotations.xml": "<annotations><version>1.1</version><image id='0' name='a0.jpg' "
                "width='80' height='60'><box label='hat' xtl='1' ytl='1' xbr='40' ybr='40'></box></image></annotations>"
            },
            "annotations.xml is CVAT's XML, which is not supported: export from",
        ),
        (
            {
                f"a{n}.json": json.dumps({"version": "5.0", "shapes": [{"label": "hat", "points": []}]})
                for n in range(3)
            },
            "a0.json is LabelMe's JSON, which is not supported: convert it to COCO",
        ),
        (
            {"annotations/train.json": json.dumps({"info": {}, "categories": {}, "items": [{"annotations": []}]})},
            "train.json is Datumaro's JSON, which is not supported",
        ),
        (
            {"via.json": json.dumps({"a0.jpg1": {"filename": "a0.jpg", "regions": []}})},
            "via.json is VIA's JSON, which is not supported",
        ),
        (
            {f"ann/a{n}.jpg.json": json.dumps({"tags": [], "size": {"height": 60}, "objects": []}) for n in range(3)},
            "a0.jpg.json is Supervisely's JSON, which is not supported: export as COCO",
        ),
        (
            {"task-7-annotation-8-by-1-tag-hat-0.png": "a mask"},
            "task-7-annotation-8-by-1-tag-hat-0.png is a mask of Label Studio's brush export.*: export as JSON",
        ),
        (
            {"masks/task-7-annotation-8-by-1-tag-hat-0.png": "a mask"},
            "tag-hat-0.png is a mask of Label Studio's brush export.*: export as JSON",
        ),
        (
            {f"gtFine/a{n}_gtFine_polygons.json": json.dumps({"imgHeight": 60, "objects": []}) for n in range(3)},
            "a0_gtFine_polygons.json is Cityscapes' polygons.*: make masks of them with csCreateTrainIdLabelImgs",
        ),
        (
            {"project.csv": '"annotation_id","id","image","label","lead_time"\\n1,1,"a0.jpg","[]",2\\n'},
            "project.csv is Label Studio's CSV, which is not supported: export as JSON",
        ),
    ],
)
def test_formats_that_are_not_read_are_called_by_their_name(bring, files, message):
    with pytest.raises(InputError, match=message):
        bring(images(3, "a{}.jpg") | files)


def test_an_archive_in_an_archive_is_told(bring):
    with pytest.raises(InputError, match=r"data/train\.zip is \.zip file, which is not supported: unpack it"):
        bring({"data/train.zip": b"packed"})


@pytest.mark.parametrize("name", ["annotations.json.gz", "labels.zip", "output.manifest"])
def test_labels_in_a_file_that_is_not_opened_are_told(bring, name):
    found = bring(images(3, "a{}.jpg") | {name: b"packed"})
    assert found.counts["unlabelled"] == 3 and f"files with labels are ignored ({name})" in found.warnings[0]


@pytest.mark.parametrize(
    "text", ['{"ID": "a3", "gtboxes": [{"tag": "person", "fbox": [10, 10, 30, 30]}]}', "a3 1 1 9 9"]
)
def test_labels_in_a_file_with_a_rare_suffix_are_told(bring, text):
    found = bring(images(4) | labels(3) | {"data.yaml": YAML, "a3.odgt": text}, max_bad_fraction=0.3)
    assert list(bad(found)) == ["a3.odgt"]


@pytest.mark.parametrize("name", ["annotations.json.gz", "labels.zip", "output.manifest"])
def test_a_file_that_is_not_opened_may_hold_the_labels_that_are_missing(bring, name):
    found = bring(images(3) | labels(2) | {"data.yaml": YAML, name: b"packed"}, max_bad_fraction=0.3)
    assert list(bad(found)) == [name] and bad(found)[name].startswith("label not read: .")


def test_pointers_of_git_lfs_are_told(bring):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    found = bring(images(3) | labels(3) | {"data.yaml": YAML, "images/a2.jpg": pointer}, max_bad_fraction=0.5)
    assert bad(found) == {"images/a2.jpg": "not an image: a Git LFS pointer: bring the file itself with git lfs pull"}
    with pytest.raises(InputError, match="x.json is a Git LFS pointer.*git lfs pull"):
        bring({"x.json": pointer}, data_path="x.json")


@pytest.mark.parametrize("names", ["_darknet.labels", "_classes.txt", "obj.names"])
def test_names_of_classes_beside_the_labels(bring, names):
    assert all_hats(bring(images(3, "train/a{}.jpg") | labels(3, "train/a{}.txt") | {f"train/{names}": "hat\n"}), 3)


@pytest.mark.parametrize("names", ["0 hat\n1 person\n", "0: hat\n1: person\n"])
def test_numbers_before_the_names_of_classes_are_no_part_of_them(bring, names):
    assert bring(images(3) | labels(3) | {"classes.txt": names}).manifest.classes == ("hat", "person")


def test_names_of_classes_in_one_line_are_refused(bring):
    with pytest.raises(InputError, match="classes.txt has all names in one line"):
        bring(images(3) | labels(3) | {"classes.txt": "hat,person\n"})


def test_an_index_in_a_folder_of_its_own_may_point_up(bring):
    listing = "".join(f"../images/a{n}.jpg 10,10,40,40,0\n" for n in range(3))
    found = bring(
        images(3) | {"annotations/train.txt": listing, "classes.txt": "hat\n"}, data_path="annotations/train.txt"
    )
    assert all_hats(found, 3)


# --- masks ---


def halves(left, right):
    values = np.full((HEIGHT, WIDTH), left, np.uint8)
    values[:, WIDTH // 2 :] = right
    return png(values)


def test_masks_of_0_and_255_are_not_taken_for_background_and_nothing(bring):
    files = images(3) | {f"masks/a{n}.png": halves(0, 255) for n in range(3)}
    with pytest.raises(InputError, match="the masks contain only class background and 255"):
        bring(files | {"classes.txt": "background\nobject\n"})
    found = bring(files | {"data.yaml": "names: [background, object]\nlabel_mapping: {255: 1}\n"})
    assert found.pixels == {"background": 7200, "object": 7200, "void (255)": 0}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/a{}.jpg", "train_masks/a{}.png"),
        ("train_images/a{}.jpg", "train_masks/a{}.png"),
        ("all/a{}.jpg", "all/a{}_mask.png"),
        ("a{}.jpg", "a{}_mask.png"),
        ("images/a{}.jpg", "masks/a{}_mask.png"),
    ],
)
def test_masks_are_found_where_tools_and_people_put_them(bring, image, mask):
    files = images(4, image) | {mask.format(n): halves(0, 1) for n in range(4)} | {"classes.txt": "sky\nroad\n"}
    found = bring(files)
    assert (found.format, found.counts["images"], found.counts["masks"], found.quarantine) == ("masks", 4, 4, [])


def test_faces_with_a_mask_are_images(bring):
    files = {f"with_mask/face{n}_with_mask.png": halves(n, 9) for n in range(3)}
    assert bring(files | images(3, "without_mask/a{}.jpg")).counts["images"] == 6


@pytest.mark.parametrize("name", ["yolo", "coco"])
def test_a_data_set_without_any_label_is_not_one_of_images_that_show_nothing(bring, name):
    files = {"yolo": {"data.yaml": YAML}, "coco": {"x.json": json.dumps(coco(6, annotations=[]))}}[name]
    where = "images/a{}.jpg" if name == "yolo" else "a{}.jpg"
    with pytest.raises(InputError, match="6 of 6 files are bad.*no label for any of the 6 images of"):
        bring(images(6, where) | files)


def test_tasks_and_lines_that_say_that_nothing_is_to_be_seen_are_believed(bring):
    empty = [{"id": n, "data": {"image": f"a{n}.jpg"}, "annotations": [{"id": n, "result": []}]} for n in range(6)]
    found = bring(images(6, "a{}.jpg") | {"x.json": json.dumps(empty)})
    assert found.counts["negatives"] == 6
    assert found.warnings == ("none of the 6 labelled images has a box",)
    lines = "image,x1,y1,x2,y2,class\n" + "".join(f"a{n}.jpg,,,,,\n" for n in range(6))
    assert bring({"x.json": "{}", "x.csv": lines}, data_format="csv").counts["negatives"] == 6


def test_a_mask_that_lies_elsewhere_is_no_image(bring):
    files = images(4) | {f"masks/a{n}.png": halves(0, 1) for n in range(3)} | {"old/a3.png": halves(1, 0)}
    found = bring(files | {"classes.txt": "sky\nroad\n"}, max_bad_fraction=0.3)
    assert bad(found) == {"old/a3.png": "label not read: judging by its name, it may be the mask of images/a3.jpg"}


def test_a_class_without_pixels_is_told(bring):
    files = images(3) | {f"masks/a{n}.png": halves(0, 1) for n in range(3)}
    assert bring(files | {"classes.txt": "sky\nroad\ncar\n"}).warnings == ("class car has no pixel in any mask",)


def photo(number, grey=False):
    """An image with many colours, or shades, as a camera takes it."""
    return png(np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH) if grey else (HEIGHT, WIDTH, 3)))


def colours(left, right):
    return png(np.array([left, right])[np.asarray(Image.open(io.BytesIO(halves(0, 1))))])


def cityscapes(kind="labelIds", *values):
    """Two images of each split with every file that Cityscapes has of them."""
    files = {}
    first, second, third = values or (7, 26, 7)
    for number, split in enumerate(["train", "train", "val", "val"]):
        mask = halves(first if split == "train" else third, second)
        name = f"{split}/ulm/ulm_{number:06}_000019"
        files[f"leftImg8bit_trainvaltest/leftImg8bit/{name}_leftImg8bit.png"] = photo(number)
        for suffix, content in {
            f"{kind}.png": mask, "color.png": colours((128, 64, 128), (0, 0, 142)),
            "instanceIds.png": mask, "polygons.json": json.dumps({"imgHeight": HEIGHT, "objects": []}),
        }.items():  # fmt: skip
            files[f"gtFine_trainvaltest/gtFine/{name}_gtFine_{suffix}"] = content
    return files


@pytest.mark.parametrize(
    ("kind", "values", "pixels"),
    [
        ("labelIds", (7, 26, 33), {"road": 4800, "car": 9600, "bicycle": 4800}),
        ("labelIds", (6, 26, 8), {"void (255)": 4800, "car": 9600, "sidewalk": 4800}),  # 6: no benchmark counts it
        ("labelTrainIds", (0, 13, 255), {"road": 4800, "car": 9600, "void (255)": 4800}),
    ],
)
def test_cityscapes_comes_in_with_its_classes_and_splits(bring, kind, values, pixels):
    found = bring(cityscapes(kind, *values))
    assert (found.format, found.counts["masks"], len(found.manifest.classes), bad(found)) == ("cityscapes", 4, 19, {})
    assert {name: count for name, count in found.pixels.items() if count} == pixels
    assert sorted(splits(found).values()) == ["train", "train", "val", "val"]


def test_cityscapes_of_other_classes_has_their_names_beside_it(bring):
    """As CVAT exports it."""
    files = cityscapes("labelIds", 0, 1, 0) | {"label_colors.txt": "# R G B name\n0 0 0 background\n9 9 9 hard hat\n"}
    assert bring(files).pixels == {"background": 9600, "hard hat": 9600, "void (255)": 0}
    with pytest.raises(InputError, match=r"label_colors\.txt: must have a class in each line, written as R G B name"):
        bring({"label_colors.txt": "background\n"})


def test_of_cityscapes_the_fine_mask_counts_and_what_has_no_partner_is_told(bring):
    files = cityscapes()
    files |= {
        name.replace("gtFine", "gtCoarse"): halves(8, 8) for name in files if name.endswith("gtFine_labelIds.png")
    }
    files |= {"gtFine/train/bonn/x_gtFine_labelIds.png": halves(7, 7)}
    files |= {"leftImg8bit/train/bonn/y_leftImg8bit.png": photo(9)}
    found = bring(files, max_bad_fraction=0.3)
    assert found.pixels["sidewalk"] == 0 and found.counts["unlabelled"] == 1
    (reason,) = bad(found).values()
    assert reason == "label without image: no image matches the path and name of this mask"


def test_the_table_of_roboflow_names_the_values_of_its_masks(bring):
    files = {f"{split}/a{n}.jpg": jpeg(n + 5 * (split == "valid")) for split in ("train", "valid") for n in range(3)}
    files |= {name.replace(".jpg", "_mask.png"): halves(0, 2) for name in files}
    table = "Pixel Value, Class\n0, background\n1, hat\n2, person\n"
    found = bring(files | {f"{split}/_classes.csv": table for split in ("train", "valid")})
    assert found.pixels == {"background": 14400, "hat": 0, "person": 14400, "void (255)": 0}
    with pytest.raises(InputError, match=r"_classes\.csv: '2, cat' is no pixel value with its class, or contradicts"):
        bring({"valid/_classes.csv": table.replace("person", "cat")})


@pytest.mark.parametrize(
    ("image", "mask", "content"),
    [
        ("imgs/a{}.png", "gt/a{}.png", halves(0, 1)),
        ("JPEGImages/a{}.png", "SegmentationClass/a{}.png", colours((0, 0, 0), (128, 0, 0))),
        ("a{}_sat.png", "a{}_mask.bmp", colours((0, 255, 255), (255, 255, 0))),
        ("x/images/a{}.png", "x/labels/colormaps/a{}.png", colours((0, 0, 0), (128, 0, 0))),
        ("images/a{}.png", "masks/a{}.jpg", jpeg(0)),
        ("train/a{}.png", "train_masks/a{}_mask.gif", halves(0, 1)),
    ],
)
def test_masks_that_no_format_reads_are_told(bring, image, mask, content):
    files = {image.format(n): photo(n) for n in range(4)} | {mask.format(n): content for n in range(4)}
    told = f"{mask.format(0)} looks like the mask of {image.format(0)},.* no format reads masks there: put them as PNG"
    with pytest.raises(InputError, match=f"{told}.* or set data_format=folder"):
        bring(files)
    found = bring({}, data_format="folder", max_bad_fraction=0.5)
    assert re.match(f"{told}.*; they came in as images", found.warnings[-1])


def test_masks_that_a_format_takes_for_images_are_told(bring):
    files = {f"a{n}.png": photo(n) for n in range(4)} | labels(4, "a{}.txt")
    found = bring(files | {f"gt/a{n}.png": halves(0, n) for n in range(4)} | {"classes.txt": "hat\n"})
    assert "gt/a0.png looks like the mask of a0.png" in found.warnings[-1]


@pytest.mark.parametrize("other", [lambda n: photo(n, grey=True), lambda n: photo(n + 9), lambda n: b"broken"])
def test_pictures_of_other_cameras_are_no_masks(bring, other):
    """Such as one of infrared or depth beside each."""
    files = {f"rgb/{n}.png": photo(n) for n in range(4)} | {f"other/{n}.png": other(n) for n in range(4)}
    found = bring(files, max_bad_fraction=0.5)
    assert found.format == "folder" and found.warnings == ()


# --- the images ---


def test_images_that_training_would_drop_are_told(bring):
    small = io.BytesIO()
    Image.new("RGB", (9, 30)).save(small, "PNG")
    found = bring(images(3, "a{}.jpg") | {"b.png": small.getvalue()}, max_bad_fraction=0.3)
    assert bad(found) == {"b.png": "too small: 9x30, a side under 10 pixels"}


# --- classes ---


def test_an_unknown_class_is_told_with_the_classes_there_are_and_what_to_do(bring):
    files = images(3) | labels(3) | {"data.yaml": YAML}
    with pytest.raises(InputError) as caught:
        bring(files, classes="hardhat,person")
    message = str(caught.value)
    assert (
        "unknown class hat (3 images); classes has hardhat, person: name it in classes, as hat or hat:hardhat"
        in message
    )
    assert "or ignore all unknown ones with ignore_classes=*" in message


@pytest.mark.parametrize("name", ["hat\nperson", "\u202ehat", "h" * 201])
def test_a_class_name_is_one_line(bring, name):
    with pytest.raises(InputError, match="the class name '.*' is not a line of at most 200 printable characters"):
        bring(images(3) | labels(3) | {"data.yaml": f"names: [{json.dumps(name)}]\n"})


@pytest.mark.parametrize("name", ["hat\nperson", "\u202ehat", "h" * 201])
def test_an_object_without_a_class_name_of_one_line_keeps_its_image_out(bring, name):
    files = images(3, "a{}.jpg") | labels(3, "a{}.xml", voc(voc_object()))
    found = bring(files | {"a0.xml": voc(voc_object()).replace(">hat<", f">{name}<")}, max_bad_fraction=0.4)
    assert bad(found)["a0.jpg"].startswith("annotation unreadable: the class name")


# --- one look at the whole ---


def test_boxes_that_cannot_be_meant_are_told(bring):
    specks = labels(3, text="0 0.5 0.5 0.01 0.01\n")
    whole = {f"labels/a{n}.txt": "0 0.5 0.5 1 1\n" for n in range(3, 6)}
    warnings = bring(images(6) | specks | whole | {"data.yaml": YAML.replace(", person", "")}).warnings
    assert warnings == (
        "3 of 6 boxes have a side under 2 pixels: are they in another unit?",
        "3 of 6 boxes are as large as their image: is this intended?",
    )


def test_a_split_with_many_more_images_of_nothing_is_told(bring):
    files = {"data.yaml": "train: images/train\nval: images/val\nnames: [hat]\n"}
    for part, empty in (("train", 1), ("val", 8)):
        files |= {f"images/{part}/{part}{n}.jpg": jpeg(f"{part}{n}") for n in range(10)}
        files |= {f"labels/{part}/{part}{n}.txt": "" if n < empty else LINE for n in range(10)}
    assert bring(files).warnings == (
        "80% of split val are without objects, but 10% of the others: are labels missing?",
    )


def test_many_classes_without_a_box_are_told_in_one_line(bring):
    names = ", ".join(["hat", *(f"class{n}" for n in range(11))])
    found = bring(images(3) | labels(3) | {"data.yaml": f"names: [{names}]\n"})
    assert found.warnings == ("11 of 12 classes: each has no box: class0, class1, class2, class3, class4 and 6 more",)


def test_a_class_without_a_box_is_told(bring):
    assert bring(images(3) | labels(3) | {"data.yaml": YAML}).warnings == ("class person has no box",)

"""What each reader makes of a data set of its format. No reader opens an image, so images here are empty."""

import json
import math

import pytest

from components.core.errors import InputError, NotFoundError
from components.ingest.accounting import Accounting
from components.ingest.dataset import Folder, Label, LabelError, formats
from components.ingest.formats import voc
from components.ingest.ingest import choose


@pytest.fixture
def data(tmp_path):
    """A function that fills a folder and scans it: paths with their text; images with none."""

    def fill(files, data_path=""):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(text, bytes):
                path.write_bytes(text)
            else:
                path.write_text(text)
        return Folder.scan(tmp_path, data_path)

    return fill


def read(folder, name):
    found = formats.get(name).read(folder)
    return found.classes, {record.source: record for record in Accounting(folder, found, name).records()}


def reasons(records):
    return {source: record.reason for source, record in records.items() if record.reason}


OBJECT = (
    "<object><name>hat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30.5</xmax><ymax>40</ymax></bndbox></object>"
)


def xml(*objects, size=""):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


# --- the folder ---


def test_hidden_files_are_not_data(data):
    folder = data({"a.jpg": "", ".hidden.jpg": "", "__MACOSX/a.jpg": "", ".git/b.jpg": "", "b/c.PNG": ""})
    assert folder.images == ("a.jpg", "b/c.PNG")


def test_a_link_that_leads_upwards_does_not_go_round(data, tmp_path):
    data({"a/b.jpg": ""})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert Folder.scan(tmp_path).files == ("a/b.jpg",)


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../x"])
def test_a_data_path_that_leads_out_is_refused(data, path):
    with pytest.raises(InputError, match="is outside the data"):
        data({"a/b.jpg": ""}, path)


def test_a_data_path_that_is_not_there_names_what_is(data):
    with pytest.raises(NotFoundError, match="data_path 'x' is not in the data: its top level has a, c.txt"):
        data({"a/b.jpg": "", "c.txt": ""}, "x")


# --- telling the format ---

VOC = {"VOC/JPEGImages/a.jpg": "", "VOC/Annotations/a.xml": xml(OBJECT)}
YOLO = {"images/a.jpg": "", "labels/a.txt": "0 0.5 0.5 0.1 0.1"}
DESCRIBED = {"data.yaml": "names: [hat]\ntrain: images", "images/a.jpg": ""}
COCO = {"a.jpg": "", "x.json": '{"info": {}, "images": [], "annotations": [], "categories": []}'}
SEDNA = {"images/a.jpg": "", "train.txt": "images/a.jpg 1,2,3,4,0"}
CSV = {"images/a.jpg": "", "labels.csv": "filename,xmin,ymin,xmax,ymax,class\nimages/a.jpg,1,2,3,4,hat\n"}
JSONL = {"images/a.jpg": "", "labels.jsonl": '{"image": "images/a.jpg", "boxes": [[1, 2, 3, 4]], "labels": ["hat"]}\n'}
LABEL_STUDIO = {
    "images/a.jpg": "",
    "project-1.json": '[{"id":1,"annotations":[{"id":1,"result":[],"was_cancelled":false}],"predictions":[],"data":'
    '{"image":"/data/upload/1/331421fd-a.jpg"},"meta":{}}]',
}
SEGNET = {"train/a.png": "", "trainannot/a.png": "", "val/b.png": "", "valannot/b.png": ""}
MASKS = {"images/train/a.jpg": "", "masks/train/a.png": ""}
MASK_INDEX = {"rgb/a.png": "", "d/a.png": "", "gt/a.png": "", "all.txt": "rgb/a.png d/a.png gt/a.png\n"}


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (VOC, "voc"),
        (YOLO, "yolo"),
        (DESCRIBED, "yolo"),
        (COCO, "coco"),
        (SEDNA, "sedna"),
        (CSV, "csv"),
        (JSONL, "jsonl"),
        (LABEL_STUDIO, "label-studio"),
        (VOC | {"quarantine.csv": "kind,source,reason\nbad,a.jpg,cut short\n"}, "voc"),
        ({"a.jpg": "", "README.txt": "x"}, "folder"),
        (SEGNET, "masks"),
        ({f"CamVid/{name}": "" for name in SEGNET}, "masks"),
        (SEGNET | {"train.txt": "/SegNet/train/a.png /SegNet/trainannot/a.png"}, "masks"),
        (MASKS, "masks"),
        ({"images/a.jpg": "", "labels/a.png": ""}, "masks"),
        ({"images/validation/a.jpg": "", "annotations/validation/a.png": "", "README.txt": "x"}, "masks"),
        ({"train/images/a.jpg": "", "train/masks/a.png": ""}, "masks"),
        (MASKS | {"classes.txt": "sky\nroad"}, "masks"),
        (MASKS | {"data.yaml": "names: [sky]\ntrain: images/train"}, "masks"),
        (MASK_INDEX, "masks"),
        (MASK_INDEX | {"classes.txt": "sky"}, "masks"),
        (VOC | {"VOC/SegmentationClass/a.png": ""}, "voc"),
        ({"masks/a.png": "", "masks/b.png": ""}, "folder"),
        ({"annot/a.png": "", "a.png": "", "cannot/a.png": ""}, "folder"),
        ({"labels/images/a.png": "", "labels/images/b.png": ""}, "folder"),
        (YOLO | {"train.txt": "images/a.jpg\n"}, "yolo"),
    ],
)
def test_the_format_is_told_by_the_files(data, files, name):
    assert choose(data(files), "auto") == name


@pytest.mark.parametrize(
    ("files", "index", "name"),
    [
        (SEDNA | VOC, "train.txt", "sedna"),
        (COCO | VOC, "x.json", "coco"),
        (DESCRIBED | VOC, "data.yaml", "yolo"),
        (CSV | JSONL | VOC, "labels.csv", "csv"),
        (CSV | JSONL | VOC, "labels.jsonl", "jsonl"),
        (LABEL_STUDIO | COCO, "project-1.json", "label-studio"),
        (LABEL_STUDIO | COCO, "x.json", "coco"),
        (MASK_INDEX | VOC | YOLO, "all.txt", "masks"),
        (MASKS | SEDNA, "train.txt", "sedna"),
        (MASKS | {"data.yaml": "names: [sky]"}, "data.yaml", "masks"),
    ],
)
def test_an_index_that_is_named_decides(data, files, index, name):
    assert choose(data(files, index), "auto") == name


def test_several_formats_are_not_guessed_at(data):
    with pytest.raises(InputError, match="could be voc or yolo: choose one with data_format"):
        choose(data(VOC | YOLO), "auto")
    assert choose(data({}), "voc") == "voc"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (COCO | LABEL_STUDIO, "coco or label-studio"),
        (CSV | JSONL, "csv or jsonl"),
        (CSV | SEDNA, "csv or sedna"),
        (YOLO | MASKS, "masks or yolo"),
        (YOLO | {"labels/a.png": ""}, "masks or yolo"),
        (VOC | SEGNET, "masks or voc"),
        (SEDNA | MASK_INDEX, "masks or sedna"),
        (COCO | MASKS, "coco or masks"),
    ],
)
def test_several_indexes_are_not_guessed_at(data, files, names):
    with pytest.raises(InputError, match=f"could be {names}: choose one with data_format"):
        choose(data(files), "auto")


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json", "x.tsv", "x.odgt", "x.lst"])
def test_labels_that_nobody_knows_do_not_make_their_images_unlabelled(data, name):
    with pytest.raises(InputError, match="unknown data format"):
        choose(data({"a.jpg": "", name: "who, knows"}), "auto")


def test_no_format_says_what_is_there_and_what_is_known(data):
    known = "cityscapes, coco, csv, .*folder, jsonl, label-studio, masks, sedna, voc, yolo"
    with pytest.raises(InputError, match=rf"unknown data format \(2 .jpg, 1 .csv\): choose from {known}"):
        choose(data({"a.jpg": "", "b.jpg": "", "labels.csv": "a,b"}), "auto")
    with pytest.raises(InputError, match="nothing"):
        choose(Folder(data({}).root, ()), "auto")


# --- VOC ---


def test_voc_takes_coordinates_as_they_stand(data):
    classes, records = read(data(VOC), "voc")
    assert classes is None
    record = records["VOC/JPEGImages/a.jpg"]
    assert record.labels == (Label("hat", (1, 2, 30.5, 40)),)
    assert (record.label_file, record.size, record.split) == ("VOC/Annotations/a.xml", None, "")


@pytest.mark.parametrize(
    ("size", "claimed"),
    [
        ("<size><width>50</width><height>40</height><depth>3</depth></size>", (50, 40)),
        ("<size><width>0</width><height>0</height></size>", None),
        ("<size><width/><height/></size>", None),
        ("<size/>", None),
    ],
)
def test_voc_size_may_be_left_open(size, claimed):
    assert voc.parse(xml(OBJECT, size=size).encode()) == ((Label("hat", (1, 2, 30.5, 40)),), claimed)


def test_voc_parts_of_an_object_are_not_objects():
    part = "<part><name>hand</name><bndbox><xmin>9</xmin></bndbox></part>"
    whole = OBJECT.replace("</object>", f"{part}</object>")
    assert voc.parse(xml(whole, OBJECT).encode())[0] == (Label("hat", (1, 2, 30.5, 40)),) * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<annotation><object>",
        "<html/>",
        xml(OBJECT.replace("hat", "")),
        xml(OBJECT.replace("<xmin>1</xmin>", "")),
        xml(OBJECT.replace("30.5", "thirty")),
        xml(size="<size><width>wide</width></size>"),
        xml(OBJECT.replace("hat", "h" * 200_000)),
        '<?xml version="1.0" encoding="klingon"?>' + xml(OBJECT),
        '<?xml version="1.0" encoding="gb2312"?>' + xml(OBJECT),
    ],
)
def test_voc_unreadable_xml_is_a_reason(text):
    with pytest.raises(LabelError, match="^annotation unreadable: "):
        voc.parse(text.encode())


LAUGHS = '<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
FILE = '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1"])
@pytest.mark.parametrize("document_type", [LAUGHS, FILE, "<!DOCTYPE annotation>"])
def test_voc_xml_with_entities_is_refused_in_every_encoding(encoding, document_type):
    text = document_type + xml(OBJECT.replace("hat", "&a;"))
    if encoding == "iso-8859-1":
        text = f'<?xml version="1.0" encoding="{encoding}"?>' + text
    with pytest.raises(LabelError, match="^XML with a document type or entities: refused"):
        voc.parse(text.encode(encoding))


def test_voc_not_a_number_is_left_to_the_check_of_the_box():
    ((label,), _) = voc.parse(xml(OBJECT.replace("30.5", "nan")).encode())
    assert math.isnan(label.box[2])


def test_voc_images_and_labels_that_do_not_match(data):
    _, records = read(
        data(
            VOC
            | {
                "VOC/JPEGImages/unlabelled.jpg": "",
                "VOC/Annotations/alone.xml": xml(OBJECT),
                "VOC/JPEGImages/twice.jpg": "",
                "VOC/JPEGImages/twice.png": "",
                "VOC/Annotations/twice.xml": xml(OBJECT),
                "VOC/Annotations/bad.xml": "<annotation>",
                "VOC/JPEGImages/bad.jpg": "",
                "VOC/JPEGImages/no-object.jpg": "",
                "VOC/Annotations/no-object.xml": xml(),
                "VOC/SegmentationClass/a.png": "",
            }
        ),
        "voc",
    )
    assert records["VOC/JPEGImages/unlabelled.jpg"].labels is None
    assert records["VOC/JPEGImages/no-object.jpg"].labels == ()
    found = reasons(records)
    assert found["VOC/Annotations/alone.xml"].startswith("label without image: Pascal VOC; no image in the data has")
    assert found["VOC/JPEGImages/twice.jpg"].startswith("ambiguous: VOC/Annotations/twice.xml fits several images")
    assert found["VOC/JPEGImages/twice.png"] == found["VOC/JPEGImages/twice.jpg"]
    assert found["VOC/JPEGImages/bad.jpg"].startswith("annotation unreadable: ")
    assert len(found) == 4 and len(records) == 7


def test_voc_beside_the_images(data):
    _, records = read(data({"train/a.jpg": "", "train/a.xml": xml(OBJECT), "test/a.jpg": ""}), "voc")
    assert len(records["train/a.jpg"].labels) == 1
    assert records["test/a.jpg"].labels is None


def test_voc_splits_count_where_they_leave_no_doubt(data):
    lists = {f"VOC/ImageSets/Main/{split}.txt": f"{split}\nboth\n" for split in ("train", "val")}
    lists["VOC/ImageSets/Main/hat_test.txt"] = "none -1\n"
    images = {f"VOC/JPEGImages/{name}.jpg": "" for name in ("train", "val", "both", "none")}
    _, records = read(data(lists | images), "voc")
    assert [records[f"VOC/JPEGImages/{name}.jpg"].split for name in ("train", "val", "both", "none")] == [
        "train",
        "val",
        "",
        "",
    ]


# --- YOLO ---


@pytest.mark.parametrize("names", ["[hat, head]", "{0: hat, 1: head}"])
@pytest.mark.parametrize("prefix", ["", "../", "./"])
def test_yolo_with_its_description(data, names, prefix):
    classes, records = read(
        data(
            {
                "site/data.yaml": f"path: /somebody/elses/disk\ntrain: {prefix}train/images\n"
                f"val: [{prefix}valid/images]\ntest: {prefix}test/images\nnc: 2\nnames: {names}",
                "site/train/images/a.jpg": "",
                "site/train/labels/a.txt": "1 0.5 0.25 0.5 0.5\n\n0 0.5 0.5 1 1\n",
                "site/valid/images/b.jpg": "",
                "site/valid/images/empty.jpg": "",
                "site/valid/labels/empty.txt": "",
                "site/elsewhere/c.jpg": "",
            }
        ),
        "yolo",
    )
    assert classes == ("hat", "head")
    a = records["site/train/images/a.jpg"]
    assert a.labels == (Label("head", (0.25, 0, 0.75, 0.5), True), Label("hat", (0, 0, 1, 1), True))
    assert (a.split, a.label_file) == ("train", "site/train/labels/a.txt")
    b, empty = records["site/valid/images/b.jpg"], records["site/valid/images/empty.jpg"]
    assert (b.labels, b.label_file, b.split) == ((), "", "val")
    assert (empty.labels, empty.label_file) == ((), "site/valid/labels/empty.txt")
    assert len(records) == 3


def test_yolo_with_lists(data, tmp_path):
    _, records = read(
        data(
            {
                "data.yaml": "names: [hat]\ntrain: lists/train.txt\nval: [lists/val.txt, more]\n",
                "lists/train.txt": f"../images/a.jpg\n{tmp_path}/images/b.jpg\nimages/both.jpg\n../images/missing.jpg\n"
                "../../outside.jpg\n/etc/passwd\n",
                "lists/val.txt": "images/both.jpg\n",
                **{f"images/{name}.jpg": "" for name in ("a", "b", "both", "not-listed")},
                "labels/a.txt": "0 0.5 0.5 0.1 0.1",
                "more/c.jpg": "",
            }
        ),
        "yolo",
    )
    assert {source: record.split for source, record in records.items() if not record.reason} == {
        "images/a.jpg": "train",
        "images/b.jpg": "train",
        "images/both.jpg": "",
        "more/c.jpg": "val",
    }
    outside = {"../images/missing.jpg": "missing.jpg", "../../outside.jpg": "outside.jpg", "/etc/passwd": "passwd"}
    assert reasons(records) == {
        path: f"label without image: lists/train.txt lists it; no image is called {name}"
        for path, name in outside.items()
    }


def test_yolo_without_description(data):
    classes, records = read(data(YOLO | {"classes.txt": "hat\nhead\n", "README.txt": "x"}), "yolo")
    assert classes == ("hat", "head") and records["images/a.jpg"].labels[0].name == "hat" and len(records) == 1


def test_yolo_without_names_uses_the_numbers(data):
    classes, records = read(data(YOLO), "yolo")
    assert classes is None and records["images/a.jpg"].labels[0].name == "0"


def test_yolo_outlines_become_boxes(data):
    _, records = read(data({"a.jpg": "", "a.txt": "0 0.1 0.2 0.5 0.1 0.3 0.9"}), "yolo")
    assert records["a.jpg"].labels == (Label("0", (0.1, 0.1, 0.5, 0.9), True),)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.1", "annotation unreadable: line 2 has 4 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9", "annotation unreadable: line 2 has 6 columns"),
        ("hat 0.5 0.5 0.1 0.1", "annotation unreadable: line 2: "),
        ("0.5 0.5 0.5 0.1 0.1", "annotation unreadable: line 2: the class 0.5 is not a whole number"),
        ("1e300 0.5 0.5 0.1 0.1", "annotation unreadable: line 2: the class 1e300 is not a whole number"),
        ("0 0.5 0.5 nan 0.1", "NaN or infinite: line 2"),
        ("inf 0.5 0.5 0.1 0.1", "NaN or infinite: line 2"),
        (b"\xff\xfe\x00", "annotation unreadable: labels/a.txt: not UTF-8 text"),
    ],
)
def test_yolo_bad_lines_are_a_reason(data, line, reason):
    text = line if isinstance(line, bytes) else f"0 0.5 0.5 0.1 0.1\n{line}\n"
    _, records = read(data(DESCRIBED | {"labels/a.txt": text}), "yolo")
    assert reasons(records)["images/a.jpg"].startswith(reason)


@pytest.mark.parametrize("number", ["7", "-1"])
def test_yolo_numbers_without_a_name(data, number):
    _, records = read(data(DESCRIBED | {"labels/a.txt": f"{number} 0.5 0.5 0.1 0.1"}), "yolo")
    assert records["images/a.jpg"].labels[0].name == f"number {number}"


def test_yolo_labels_and_images_that_do_not_match(data):
    _, records = read(
        data(DESCRIBED | {"labels/alone.txt": "", "images/b.jpg": "", "images/b.png": "", "labels/b.txt": ""}), "yolo"
    )
    found = reasons(records)
    assert found["labels/alone.txt"].startswith("label without image: a label file by its place; no image in the data")
    assert found["images/b.jpg"].startswith("ambiguous: ") and found["images/b.png"].startswith("ambiguous: ")
    assert records["images/a.jpg"].labels == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "names: [hat]\ntrain: nowhere",
            "no images at the given paths .nowhere.; the data has data.yaml, images",
        ),
        ("names: [hat]\ntrain: /etc", "no images at the given paths"),
        ("names: [hat]\ntrain: ../..", "no images at the given paths"),
        ("names: hat\ntrain: images", "'names' must be a list of class names"),
        ("names: []\ntrain: images", "'names' must be a list of class names"),
        ("names: {hat: 0}\ntrain: images", "'names' must be text by number"),
        ("names: {0: hat, '00': head}\ntrain: images", "'names' has two names for class 0"),
        (f"names: [hat]\nkpt_shape: [{'9' * 5000}, 3]\ntrain: images", "'kpt_shape' must be two numbers"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\ntrain: images", "'names' must be text by number"),
    ],
)
def test_yolo_descriptions_that_cannot_be_used(data, text, message):
    with pytest.raises(InputError, match=message):
        read(data({"data.yaml": text, "images/a.jpg": ""}), "yolo")


def test_yolo_several_descriptions_are_not_guessed_at(data):
    with pytest.raises(InputError, match="several YOLO data sets.*data_path to one of a/data.yaml, b/data.yaml"):
        read(data({f"{site}/{name}": text for site in "ab" for name, text in DESCRIBED.items()}), "yolo")


# --- COCO ---


def coco(images, annotations=(), categories=((1, "hat"), (2, "head"))):
    return json.dumps(
        {
            "images": [{"id": number, "file_name": name, **more} for number, name, more in images],
            "annotations": list(annotations),
            "categories": [{"id": number, "name": name} for number, name in categories],
        }
    )


def annotation(image, bbox=(1, 2, 10, 20), category=1, **more):
    return {"id": 9, "image_id": image, "category_id": category, "bbox": bbox, **more}


def test_coco(data):
    classes, records = read(
        data(
            {
                "annotations/instances_train2017.json": coco(
                    [(1, "a.jpg", {"width": 50, "height": 40}), (2, "negative.jpg", {})],
                    [annotation(1), annotation(1, category=2), annotation(1, iscrowd=1)],
                ),
                "annotations/instances_val2017.json": coco([(1, "a.jpg", {})]),
                "annotations/captions_val2017.json": coco([(1, "a.jpg", {})]),
                "train2017/a.jpg": "",
                "train2017/negative.jpg": "",
                "val2017/a.jpg": "",
            }
        ),
        "coco",
    )
    assert classes == ("hat", "head")
    a = records["train2017/a.jpg"]
    assert a.labels == (Label("hat", (1, 2, 11, 22)), Label("head", (1, 2, 11, 22)))
    assert (a.size, a.split, a.left_out) == ((50, 40), "train", 1)
    assert records["train2017/negative.jpg"].labels == ()
    assert (records["val2017/a.jpg"].labels, records["val2017/a.jpg"].split) == ((), "val")
    assert len(records) == 3


def test_coco_beside_the_images(data):
    _, records = read(
        data(
            {
                "train/_annotations.coco.json": coco([(0, "a.jpg", {})], [annotation(0)]),
                "train/a.jpg": "",
                "valid/_annotations.coco.json": coco([(0, "a.jpg", {})]),
                "valid/a.jpg": "",
            }
        ),
        "coco",
    )
    assert {name: (len(r.labels), r.split) for name, r in records.items()} == {
        "train/a.jpg": (1, "train"),
        "valid/a.jpg": (0, "val"),
    }


def test_coco_faults_of_single_images_are_reasons(data):
    entries = [
        (1, "a.jpg", {}),
        (2, "missing.jpg", {}),
        (3, "../../etc/passwd", {}),
        (4, "same.jpg", {}),
        (5, "bad-box.jpg", {}),
        (6, "bad-size.jpg", {"width": "wide"}),
        (7, "b.jpg", {}),
        (7, "c.jpg", {}),
    ]
    text = coco(entries, [annotation(5, bbox=[1, 2, "x", 3]), annotation(99), annotation(1, category=8)])
    text = text.replace('"images": [', '"images": [{"id": 70}, ')
    paths = ["x/a.jpg", "x/same.jpg", "y/same.jpg", "x/bad-box.jpg", "x/bad-size.jpg", "x/b.jpg", "x/c.jpg"]
    _, records = read(data({"all.json": text} | dict.fromkeys(paths, "")), "coco")
    assert {source: reason.partition(":")[0] for source, reason in reasons(records).items()} == {
        "missing.jpg": "label without image",
        "../../etc/passwd": "label without image",
        "same.jpg": "ambiguous",
        "x/bad-box.jpg": "annotation unreadable",
        "x/bad-size.jpg": "annotation unreadable",
        "all.json#7": "ambiguous",
        "all.json#99": "label without image",
        "all.json#images/0": "annotation unreadable",
    }
    assert records["x/a.jpg"].labels[0].name == "number 8"


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [',
        '{"images": []',
        '{"images": [], "categories": [{"id": "x", "name": "y"}]}',
        '{"images": [], "categories": [{"id": 1e999, "name": "y"}]}',
        '{"images": [1], "categories": 1}',
    ],
)
def test_coco_that_cannot_be_read_at_all(data, text):
    with pytest.raises(InputError, match="COCO file x.json"):
        read(data({"x.json": text}), "coco")


def test_coco_numbers_that_are_too_long_keep_single_images_out(data):
    box = {"image_id": 1, "category_id": "9" * 5000, "bbox": [1, 2, 3, 4]}
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [box], "categories": []}
    _, records = read(data({"x.json": json.dumps(content), "a.jpg": ""}), "coco")
    assert reasons(records)["a.jpg"].startswith("annotation unreadable: annotation ? has no category_id")


# --- Sedna ---


def test_sedna(data):
    classes, records = read(
        data(
            {
                "train.txt": "images/a.jpg 1,2,3,4,1 5,6,7.5,8,0\n"
                "images/with space.jpg 1,2,3,4,0\n\nimages/negative.jpg\n",
                "classes.txt": "person\nhat\n",
                "images/a.jpg": "",
                "images/with space.jpg": "",
                "images/negative.jpg": "",
                "images/other.jpg": "",
            }
        ),
        "sedna",
    )
    assert classes == ("person", "hat")
    assert records["images/a.jpg"].labels == (Label("hat", (1, 2, 3, 4)), Label("person", (5, 6, 7.5, 8)))
    assert records["images/a.jpg"].label_file == "train.txt"
    assert len(records["images/with space.jpg"].labels) == 1
    assert records["images/negative.jpg"].labels == ()
    assert len(records) == 3


def test_sedna_without_any_box_is_a_list_of_unlabelled_images(data):
    _, records = read(data({"new.txt": "a.jpg\nb.jpg\n", "a.jpg": "", "b.jpg": ""}, "new.txt"), "sedna")
    assert [record.labels for record in records.values()] == [None, None]


def test_sedna_without_names_uses_the_numbers(data):
    classes, records = read(data(SEDNA), "sedna")
    assert classes is None and records["images/a.jpg"].labels[0].name == "0"


@pytest.mark.parametrize(
    ("line", "source", "reason"),
    [
        ("a.jpg 1,2,3,4", "a.jpg", "annotation unreadable: '1,2,3,4' is not x1,y1,x2,y2,class"),
        ("a.jpg 1,2,x,4,0", "a.jpg", "annotation unreadable: "),
        ("a.jpg 1,2,3,4,0.5", "a.jpg", "annotation unreadable: "),
        ("gone.jpg 1,2,3,4,0", "gone.jpg", "label without image: train.txt lists it"),
        ("../out.jpg 1,2,3,4,0", "../out.jpg", "label without image: train.txt lists it"),
        ("/etc/passwd 1,2,3,4,0", "/etc/passwd", "label without image: train.txt lists it"),
    ],
)
def test_sedna_bad_lines_are_reasons(data, line, source, reason):
    _, records = read(data({"train.txt": f"b.jpg 1,2,3,4,0\n{line}\n", "a.jpg": "", "b.jpg": ""}), "sedna")
    assert reasons(records).keys() == {source} and records[source].reason.startswith(reason)


@pytest.mark.parametrize("number", [5, -1])
def test_sedna_numbers_without_a_name(data, number):
    files = {"train.txt": f"a.jpg 1,2,3,4,{number}", "a.jpg": "", "classes.txt": "hat"}
    _, records = read(data(files), "sedna")
    assert records["a.jpg"].labels[0].name == f"number {number}"


# --- plain images ---


def test_plain_images_are_unlabelled(data):
    classes, records = read(data({"a.jpg": "", "b/c.png": "", "notes.md": ""}), "folder")
    assert classes == () and [record.labels for record in records.values()] == [None, None]


# --- masks ---


def masks_by_image(records):
    return {source: (record.label_file, record.split) for source, record in records.items() if not record.reason}


def test_masks_in_folders(data):
    classes, records = read(data(SEGNET | {"test/c.png": "", "testannot/d.png": ""}), "masks")
    assert classes is None
    assert masks_by_image(records) == {
        "train/a.png": ("trainannot/a.png", "train"), "val/b.png": ("valannot/b.png", "val"),
        "test/c.png": ("", "test"),
    }  # fmt: skip
    assert records["train/a.png"].mask.endswith("/trainannot/a.png")
    assert (records["test/c.png"].mask, records["test/c.png"].labels) == ("", None)
    assert reasons(records) == {
        "testannot/d.png": "label without image: no image matches the path and name of this mask"
    }


def test_masks_beside_images(data):
    images = {"images/a.jpg": "", "images/valid/a.jpg": "", "images/training/a.PNG": "", "images/train/val/c.jpg": ""}
    masks = {"masks/a.png": "", "masks/valid/a.png": "", "masks/training/a.png": "", "masks/train/val/c.png": ""}
    _, records = read(data(images | masks | {"masks/notes.jpg": ""}), "masks")
    assert masks_by_image(records) == {
        "images/a.jpg": ("masks/a.png", ""), "images/valid/a.jpg": ("masks/valid/a.png", "val"),
        "images/training/a.PNG": ("masks/training/a.png", "train"),
        "images/train/val/c.jpg": ("masks/train/val/c.png", ""), "masks/notes.jpg": ("", ""),
    }  # fmt: skip


def test_masks_that_fit_no_single_image(data):
    _, records = read(data({"images/a.jpg": "", "images/a.png": "", "masks/a.png": "", "images/b.jpg": "",
                            "masks/b.png": "", "labels/b.png": ""}), "masks")  # fmt: skip
    assert reasons(records) == {
        "images/a.jpg": "ambiguous: masks/a.png fits several images: images/a.jpg, images/a.png",
        "images/a.png": "ambiguous: masks/a.png fits several images: images/a.jpg, images/a.png",
        "images/b.jpg": "ambiguous: 2 label files fit: labels/b.png, masks/b.png",
    }


def test_an_index_of_masks(data):
    lines = "rgb/a.png d/a.png gt/a.png\n./rgb/b.png gt\\b.png\nrgb/c.png\nrgb/d.png gt/d.png\n../x.png gt/a.png\n"
    files = dict.fromkeys(("rgb/a.png", "gt/a.png", "rgb/b.png", "gt/b.png", "rgb/c.png", "rgb/d.png"), "")
    _, records = read(data(files | {"all.txt": lines}), "masks")
    assert masks_by_image(records) == {
        "rgb/a.png": ("gt/a.png", ""), "rgb/b.png": ("gt/b.png", ""), "rgb/c.png": ("", ""),
    }  # fmt: skip
    assert reasons(records) == {
        "../x.png": "label without image: all.txt lists it; no image is called x.png",
        "rgb/d.png": "mask unreadable: all.txt lists 'gt/d.png', which does not exist",
    }


def test_folders_go_before_an_index_that_is_not_named(data):
    index = {"all.txt": "train/a.png valannot/b.png\n"}
    _, records = read(data(SEGNET | index), "masks")
    assert records["train/a.png"].label_file == "trainannot/a.png"
    _, records = read(data(SEGNET | index, "all.txt"), "masks")
    assert {source: record.label_file for source, record in records.items()} == {"train/a.png": "valannot/b.png"}


@pytest.mark.parametrize(
    ("files", "classes", "values"),
    [
        ({}, None, {}),
        ({"classes.txt": "sky\n\nroad\n"}, ("sky", "road"), {0: "sky", 2: "road"}),
        ({"data.yaml": "names: [sky, road]"}, ("sky", "road"), {0: "sky", 1: "road"}),
        (
            {"data.yaml": "names: {3: sky, 7: road, 9: sky, 255: void}"},
            ("sky", "road"),
            {3: "sky", 7: "road", 9: "sky"},
        ),
        (
            {"data.yaml": "names: [sky, road]\nlabel_mapping: {0: ignore_label, 4: 0, 5: '1', 6: null}"},
            ("sky", "road"),
            {0: "", 1: "road", 4: "sky", 5: "road", 6: ""},
        ),
    ],
)
def test_names_of_values(data, files, classes, values):
    found = formats.get("masks").read(data(MASKS | files))
    assert (found.classes, found.values) == (classes, values)


def test_several_descriptions_of_masks_are_not_guessed_at(data):
    files = MASKS | {"a.yaml": "names: [sky]", "b.yaml": "names: [road]"}
    with pytest.raises(InputError, match=r"several data sets in the data: set data_path to one of a.yaml, b.yaml"):
        read(data(files), "masks")
    assert read(data(files, "b.yaml"), "masks")[0] == ("road",)

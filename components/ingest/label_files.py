"""What kind of label a file holds, by its name and its first bytes: for the files that no reader has used."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from components.ingest.dataset import LFS_POINTER, MAX_INDEX_BYTES, Folder, LabelError, suffix_of

HEAD_BYTES = 16384
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar")
# Containers that no reader opens, though people keep labels in them.
CONTAINERS = (
    *(".mat", ".npy", ".npz", ".pkl", ".h5", ".hdf5", ".tfrecord", ".record", ".parquet", ".arrow", ".xlsx", ".xls"),
    *(".manifest", ".db", ".sqlite"),
    *ARCHIVES,
)
JSON = (".json", ".jsonl", ".ndjson", ".geojson")
# Texts with labels that only some data sets call like this: CrowdHuman, MXNet, TUD, and tools of one's own.
RARE = (".odgt", ".lst", ".idl", ".ann", ".anno")
TEXTS = (".txt", ".csv", ".tsv", ".xml", *JSON, *RARE)
# Texts that lie among labels without being one: names of classes, lists of images, notes.
_NO_LABELS = re.compile(r"(classes|labels?|names|train|val|valid|test|trainval|readme|licen[cs]e|notes|changelog)\b.*")

_MARKS = re.compile(
    rb'"(bbox|bboxes|boxes|gtboxes|bounding_?box|shapes|annotations|objects|segmentation|rectanglelabels|regions|polygons?'
    rb'|points|coordinates)"\s*:'
)
_TABLE = re.compile(r"\b(x_?min|x1|bbox|bndbox|x_?max|x2|imageid)\b", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s,;]+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_BRUSH = re.compile(r"task-\d+-annotation-\d+-by-.*-tag-.+\.(?:png|npy)")
_CORNERS = re.compile(r"\S*\d,\s*-?\d[\d.]*,\s*-?\d[\d.]*,\s*-?\d")


def kind_of(folder: Folder, name: str) -> str:
    """What a label file is called by the tools that write it; empty if nothing in it looks like a label.

    Args:
        folder: the data set.
        name: path of the file inside it.
    """
    suffix = suffix_of(name)
    if suffix in CONTAINERS:
        return f"{suffix} file"
    if suffix not in TEXTS:
        return ""
    head = folder.head(name, HEAD_BYTES)
    if head.startswith(LFS_POINTER):
        return "a Git LFS pointer"
    if suffix == ".xml":
        return _xml(head.replace(b"\0", b""))
    if suffix in JSON:
        return _json(head)
    kind = _json(head) if suffix in RARE else ""
    return kind or _text(decoded(head), is_table=suffix in (".csv", ".tsv"), is_note=is_note(name))


def is_note(name: str) -> bool:
    """Whether a text is named like one that lies among labels without being one."""
    return bool(_NO_LABELS.fullmatch(PurePosixPath(name).stem.lower()))


def decoded(head: bytes) -> str:
    """The text that some bytes are, by their byte-order mark; what is no text becomes replacement characters."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return head.decode(encoding, errors="replace")


def _xml(head: bytes) -> str:
    if b"<annotations" in head:
        return "CVAT's XML" if b"<image" in head or b"<meta" in head or b"<track" in head else "XML"
    if b"<annotation" in head:
        return "Pascal VOC"
    return "XML with boxes" if re.search(rb"<(object|bndbox|box|polygon)\b", head) else ""


def _json(head: bytes) -> str:
    found = {mark.decode() for mark in _MARKS.findall(head)}
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if not found or start not in (b"{", b"["):
        return ""
    kinds = {
        "LabelMe's JSON": "shapes" in found,
        "Supervisely's JSON": b'"classTitle"' in head
        or ("objects" in found and b'"tags"' in head and b'"size"' in head),
        "Cityscapes' polygons": b'"imgHeight"' in head,
        "Datumaro's JSON": b'"items"' in head and b'"categories"' in head,
        "VIA's JSON": "regions" in found,
        "CreateML's JSON": "coordinates" in found and start == b"[",
        "COCO": b'"images"' in head or b'"image_id"' in head,
        "Label Studio's JSON": "rectanglelabels" in found or ("annotations" in found and start == b"["),
    }
    return next((kind for kind, fits in kinds.items() if fits), "JSON with boxes")


def _text(text: str, *, is_table: bool, is_note: bool) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "").strip()
    if is_table:
        if "annotation_id" in line and "lead_time" in line:
            return "Label Studio's CSV"
        return "a table of boxes" if _TABLE.search(line) else ""
    fields = [field for field in _SEPARATORS.split(line) if field]
    if _CORNERS.search(line) and not _NUMBER.fullmatch(fields[0]):
        return "an index of boxes"
    numbers = sum(bool(_NUMBER.fullmatch(field)) for field in fields)
    return "lines of boxes" if not is_note and numbers >= 4 and numbers >= 0.6 * len(fields) else ""


def foreign(folder: Folder) -> str:
    """What to do about labels of a kind that no reader here reads; empty if there are none.

    Args:
        folder: the data set.
    """
    for name in () if folder.index else folder.files:
        if _BRUSH.fullmatch(name.rpartition("/")[2]):
            return (
                f"{name} is a mask of Label Studio's brush export, which does not say which image it belongs to: "
                "export as JSON, which has the brush strokes, too, and put that next to the images"
            )
    named = (".xml", ".json", ".csv", ".tsv", *(() if folder.images else ARCHIVES))
    for name in [folder.index] if folder.index else folder.named(*named):
        kind = kind_of(folder, name)
        if kind in ADVICE:
            return f"{name} is {kind}, which is not supported: {ADVICE[kind]}"
    return ""


_LOSSY = {
    "coco": "the boxes of all who labelled an image are together",
    "yolo": "skipped images look like negatives",
    "voc": "negatives look like unlabelled images, corners are cut to whole pixels",
}
_NOTES = {"coco": "result.json", "yolo": "notes.json"}  # what Label Studio calls the file that says where it is from
_SIGNED = re.compile(r'"contributor"\s*:\s*"Label Studio"|<owner>(?s:.{0,200})<name>Label Studio</name>')


def lossy(folder: Folder, data_format: str) -> list[str]:
    """What to know about an export of Label Studio that says less than its JSON does; nothing of other data.

    Args:
        folder: the data set.
        data_format: the name of its format.
    """
    note = _NOTES.get(data_format)
    notes = [name for name in folder.named(".json") if name.rpartition("/")[2] == note]
    for name in folder.named(".xml")[:1] if data_format == "voc" else notes:
        try:
            text = folder.text(name, MAX_INDEX_BYTES)
        except LabelError:
            continue
        if _SIGNED.search(text):
            return [
                f"{name} is of Label Studio's {data_format.upper()} export, in which {_LOSSY[data_format]} and turned "
                "boxes are upright: export as JSON instead"
            ]
    return []


# Kinds that hold the labels of many images.
INDEXES = frozenset(
    {
        "CVAT's XML",
        "COCO",
        "Label Studio's JSON",
        "VIA's JSON",
        "Datumaro's JSON",
        "Label Studio's CSV",
        "a Git LFS pointer",
        "a table of boxes",
        "an index of boxes",
    }
    | {f"{suffix} file" for suffix in CONTAINERS}
)

# What to do about labels of kinds that no reader here reads.
ADVICE = {
    "CVAT's XML": "export from CVAT as 'COCO 1.0', 'Pascal VOC 1.1' or 'YOLO 1.1' (Ultralytics)",
    "LabelMe's JSON": "convert it to COCO or YOLO, for example with labelme2coco",
    "Datumaro's JSON": "export as COCO, Pascal VOC or YOLO",
    "Supervisely's JSON": "export as COCO, Pascal VOC or YOLO",
    "Cityscapes' polygons": "make masks of them with csCreateTrainIdLabelImgs of cityscapesscripts",
    "VIA's JSON": "export from VIA as COCO",
    "CreateML's JSON": "export as COCO, YOLO or Pascal VOC",
    "Label Studio's CSV": "export as JSON",
    "a Git LFS pointer": "bring the file itself with git lfs pull",
    **{f"{suffix} file": "unpack it next to the images" for suffix in ARCHIVES},
}

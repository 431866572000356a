"""Tables of boxes: ``csv`` with one box per line, ``jsonl`` with one image per line.

The first line of a CSV file names its columns, in any order: the image, four corners and the class; an image's
``width`` and ``height`` may stand beside them. A line with neither corners nor class says that nothing is to be seen.
All lines of an image count together, a line that is there twice counts once::

    filename,xmin,ymin,xmax,ymax,class
    images/a.jpg,10,20,110.5,220,helmet
    images/b.jpg,,,,,

A line of a JSON Lines file is all that is known of one image, with boxes and as many names, or with objects. Without
either it is an unlabelled image; with an empty list one that shows nothing::

    {"image": "images/a.jpg", "boxes": [[10, 20, 110.5, 220]], "labels": ["helmet"]}
    {"image": "images/b.jpg", "objects": [{"x1": 10, "y1": 20, "x2": 110.5, "y2": 220, "class": "helmet"}]}

Boxes are corners in pixels. Paths are relative to the table, or to ``images`` beside it, or end so that one image
alone can be meant. Several tables in one folder (one per split) are one data set; a file name or folder that says
train, val or test gives the split. A line that cannot be read keeps its image out, with the line's number as part of
the reason, since an image with a part of its boxes teaches the model to overlook the others.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from components.core.errors import InputError
from components.ingest.dataset import MAX_INDEX_BYTES, DataSet, Folder, Label, LabelError, Record, few, formats
from components.ingest.references import Images, split_of

logger = logging.getLogger(__name__)

LOOKED_AT = 20  # lines of a JSON Lines file, to tell the format
OTHER_SEPARATORS = {";": "a semicolon", "\t": "a tab", "|": "a bar"}
SHOWN = 80  # characters of a value in a message

# What tools call the columns, in lower case; the first spelling is the one that messages use.
SPELLINGS = {
    "image": ("image", "filename", "file_name", "file", "path", "image_path"),
    "x1": ("x1", "xmin", "x_min"),
    "y1": ("y1", "ymin", "y_min"),
    "x2": ("x2", "xmax", "x_max"),
    "y2": ("y2", "ymax", "y_max"),
    "class": ("class", "label", "name", "class_name", "category"),
    "width": ("width",),
    "height": ("height",),
    "rotation": ("rotation", "angle", "theta"),
}
CORNERS = ("x1", "y1", "x2", "y2")
NEEDED = ("image", *CORNERS, "class")
_MEANING = {spelling: column for column, spellings in SPELLINGS.items() for spelling in spellings}


class Line(NamedTuple):
    """What one line of a table says.

    Attributes:
        number: of the line, from 1.
        image: what the table calls the image; empty where the line does not tell.
        labels: the boxes; empty: nothing to see; None: it is unlabelled.
        size: width and height in pixels that it claims for the image; None: it claims nothing.
        reason: why the line cannot be used, ``kind: details``; empty if it can.
    """

    number: int
    image: str
    labels: tuple[Label, ...] | None = None
    size: tuple[int, int] | None = None
    reason: str = ""


@formats.register("csv")
class Csv:
    """The reader of CSV."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """A CSV file names the columns of a table of boxes."""
        return any(_names_boxes(folder, name) for name in _tables(folder, ".csv"))

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read the named table, or every one that names such columns."""
        tables = _tables(folder, ".csv")
        named = [name for name in tables if _names_boxes(folder, name)]
        return _data_set(folder, named or tables, _csv_lines, "CSV", several=True)


@formats.register("jsonl")
class JsonLines:
    """The reader of JSON Lines."""

    @staticmethod
    def detect(folder: Folder) -> bool:
        """The first lines of such a file are images, some with boxes."""
        return any(_holds_boxes(folder, name) for name in _tables(folder, ".jsonl", ".ndjson"))

    @staticmethod
    def read(folder: Folder) -> DataSet:
        """Read the named file, or every one in the folder."""
        return _data_set(folder, _tables(folder, ".jsonl", ".ndjson"), _json_lines, "JSON Lines", several=False)


def _tables(folder: Folder, *suffixes: str) -> list[str]:
    found = folder.named(*suffixes)
    return [name for name in found if not folder.index or name == folder.index]


def _data_set(
    folder: Folder, tables: list[str], read: Callable[[str, str], list[Line]], kind: str, *, several: bool
) -> DataSet:
    """The records of some tables.

    Args:
        folder: the data set.
        tables: their paths.
        read: makes lines of a table's name and text.
        kind: what to call such a table.
        several: whether several lines of one image count together.
    """
    if not tables:
        raise InputError(f"no {kind} table of boxes in the data: found {few(folder.files)}")
    lines: dict[str, list[Line]] = {}
    for name in tables:
        try:
            lines[name] = read(name, folder.text(name, MAX_INDEX_BYTES))
        except LabelError as error:
            raise InputError(f"{kind}: {error}: save it as UTF-8, below {MAX_INDEX_BYTES >> 30} GiB") from error
        except csv.Error as error:
            raise InputError(f"{kind}: {name}: the first line cannot be read: {error}") from error
    return DataSet(None, _records(folder, lines, several=several))


# --- CSV ---


def _csv_lines(table: str, text: str) -> list[Line]:
    """Each line is read by itself, so that a quote that is not closed does not swallow those behind it."""
    rows = enumerate(io.StringIO(text, newline=None), 1)
    header = next((row for _, row in rows if row.strip()), "")
    columns = _columns(table, header)
    filled = ((number, row) for number, row in rows if row.strip("\r\n \t,"))
    return [_csv_line(table, number, row, columns) for number, row in filled]


def _columns(table: str, header: str) -> dict[str, int]:
    """The place of each column, and under ``""`` how many there are.

    Raises:
        InputError: one is missing or there twice, or they are not separated by commas.
    """
    separator = _separator(header)
    if separator in OTHER_SEPARATORS:
        raise InputError(f"{table}: columns are separated by {OTHER_SEPARATORS[separator]}: use commas")
    names = [name.strip() for name in _cells(header)]
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        column = _MEANING.get(name.lower())
        if column in places:
            raise InputError(
                f"{table}: the columns {names[places[column]]!r} and {name!r} both give the {column}: remove one"
            )
        if column:
            places[column] = place
    missing = [column for column in NEEDED if column not in places]
    if missing:
        wanted = ", ".join("|".join(SPELLINGS[column]) for column in missing)
        raise InputError(
            f"{table}: the first line must name the columns; missing: {wanted}; it has: {header[:200].strip()!r}"
        )
    unknown = [name for name in names if name.lower() not in _MEANING]
    if unknown:
        logger.warning("%s: ignoring the columns %s", table, few(unknown))
    return places | {"": len(names)}


def _csv_line(table: str, number: int, row: str, columns: dict[str, int]) -> Line:
    where = f"{table} line {number}"
    image = ""
    try:
        cells = [cell.strip() for cell in _cells(row)]
        image = cells[columns["image"]] if columns["image"] < len(cells) else ""
        if len(cells) != columns[""]:
            raise LabelError(f"annotation unreadable: {where} has {len(cells)} columns, the first line {columns['']}")
        given = {column: cells[place] for column, place in columns.items() if column}
        _check_upright(where, given)
        if not image:
            raise LabelError(f"annotation unreadable: {where} names no image")
        return Line(number, image, _csv_labels(where, given), _size(where, given))
    except csv.Error as error:
        return Line(number, image, reason=f"annotation unreadable: {where}: {error}")
    except LabelError as error:
        return Line(number, image, reason=str(error))


def _csv_labels(where: str, given: dict[str, str]) -> tuple[Label, ...]:
    if not any(given[column] for column in (*CORNERS, "class")):
        return ()
    return (_label(where, given["class"], [given[corner] for corner in CORNERS]),)


def _cells(row: str, separator: str = ",") -> list[str]:
    return next(csv.reader([row], delimiter=separator), [])


def _separator(header: str) -> str:
    """What separates the columns of a table of boxes; empty if the line names no such columns."""
    for separator in (",", *OTHER_SEPARATORS):
        columns = {_MEANING.get(cell.strip().lower()) for cell in _cells(header, separator)}
        if columns.issuperset(NEEDED):
            return separator
    return ""


def _names_boxes(folder: Folder, table: str) -> bool:
    lines = folder.head(table).decode("utf-8-sig", errors="replace").splitlines()
    header = next((line for line in lines if line.strip()), "")
    try:
        return bool(_separator(header))
    except csv.Error:
        return False


# --- JSON Lines ---


def _json_lines(table: str, text: str) -> list[Line]:
    rows = enumerate(io.StringIO(text, newline=None), 1)
    return [_json_line(table, number, row) for number, row in rows if row.strip()]


def _json_line(table: str, number: int, row: str) -> Line:
    where = f"{table} line {number}"
    image = ""
    try:
        given = _by_meaning(where, json.loads(row))
        image = name.strip() if isinstance(name := given.get("image"), str) else ""
        if not image:
            raise LabelError(f"annotation unreadable: {where} names no image")
        return Line(number, image, _json_labels(where, given), _size(where, given))
    except (ValueError, RecursionError) as error:
        return Line(number, image, reason=f"annotation unreadable: {where} is not valid JSON ({error})")
    except LabelError as error:
        return Line(number, image, reason=str(error))


def _by_meaning(where: str, item: Any) -> dict[str, Any]:
    """The keys of an object as they are called here."""
    if not isinstance(item, dict):
        raise LabelError(f"annotation unreadable: {where}: {_shown(item)} is not an object")
    given: dict[str, Any] = {}
    for key, value in item.items():
        meaning = _MEANING.get(key.lower(), key.lower())
        if meaning in given:
            raise LabelError(f"ambiguous: {where} gives the {meaning} twice, once as {_shown(key)}")
        given[meaning] = value
    return given


def _json_labels(where: str, given: dict[str, Any]) -> tuple[Label, ...] | None:
    boxes, objects = given.get("boxes"), given.get("objects")
    if boxes is not None and objects is not None:
        raise LabelError(f"ambiguous: {where} has boxes and objects")
    if objects is not None:
        return tuple(_object(where, item) for item in _list(where, "objects", objects))
    if boxes is None:
        _check_boxless(where, given)
        return None
    names = _list(where, "labels", next((given[key] for key in ("classes", "labels") if key in given), []))
    boxes = _list(where, "boxes", boxes)
    if len(boxes) != len(names):
        raise LabelError(f"annotation unreadable: {where} has {len(boxes)} boxes and {len(names)} labels")
    return tuple(_label(where, name, box) for name, box in zip(names, boxes, strict=True))


def _check_boxless(where: str, given: dict[str, Any]) -> None:
    """Make sure that a line without boxes does not have them under another name."""
    stray = [key for key, value in given.items() if key in CORNERS or (value and isinstance(value, list))]
    if stray:
        raise LabelError(f"annotation unreadable: {where} has {few(stray)}, but neither boxes nor objects")


def _object(where: str, item: Any) -> Label:
    given = _by_meaning(where, item)
    if "bbox" in given:
        raise LabelError(f"ambiguous: {where}: bbox may be corners or x, y, width, height: give x1, y1, x2, y2")
    _check_upright(where, given)
    return _label(where, given.get("class"), [given.get(corner) for corner in CORNERS])


def _list(where: str, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise LabelError(f"annotation unreadable: {where}: {key} is not a list: {_shown(value)}")
    return value


def _holds_boxes(folder: Folder, table: str) -> bool:
    text = folder.head(table).decode("utf-8-sig", errors="replace")
    whole = text.splitlines() if len(text) < 2**15 else text.splitlines()[:-1]
    try:
        rows = [json.loads(line) for line in whole[:LOOKED_AT] if line.strip()]
    except (ValueError, RecursionError):
        return False
    keys = [{_MEANING.get(key.lower(), key.lower()) for key in row} for row in rows if isinstance(row, dict)]
    return len(keys) == len(rows) and all("image" in k for k in keys) and any(k & {"boxes", "objects"} for k in keys)


# --- both ---


def _label(where: str, name: Any, box: Any) -> Label:
    shown = f"{_shown(name)} {_shown(box)}"
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise LabelError(f"annotation unreadable: {where}: a box without a class: {shown}")
    try:
        x1, y1, x2, y2 = (float(side) for side in _list(where, "a box", box) if not isinstance(side, bool))
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError(f"annotation unreadable: {where}: not four numbers x1, y1, x2, y2: {shown}") from error
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise LabelError(f"NaN or infinite: {where}: {shown}")
    if x2 <= x1 or y2 <= y1:
        raise LabelError(f"inverted or zero-area box: {where}: {shown}")
    return Label(str(name).strip(), (x1, y1, x2, y2))


def _check_upright(where: str, given: dict[str, Any]) -> None:
    """Refuse a turned box; what is no number is a remark."""
    try:
        turned = float(given.get("rotation") or 0)
    except (TypeError, ValueError, OverflowError):
        return
    if turned:
        raise LabelError(f"turned box: {where}: turned by {turned:g}: draw it upright")


def _size(where: str, given: dict[str, Any]) -> tuple[int, int] | None:
    try:
        width, height = (int(float(given.get(side) or 0)) for side in ("width", "height"))
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError(f"annotation unreadable: {where}: width or height is not a number") from error
    return (width, height) if width and height else None


def _shown(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _records(folder: Folder, tables: dict[str, list[Line]], *, several: bool) -> Iterator[Record]:
    images = Images(folder)
    labelled_by: dict[str, str] = {}
    for table, lines in tables.items():
        yield from (Record(f"{table}#{line.number}", reason=line.reason) for line in lines if not line.image)
        for image, own in _by_image(images, table, lines).items():
            if image not in folder:
                yield Record(image, reason=own[0].reason)
            elif labelled_by.setdefault(image, table) != table:
                yield Record(image, reason=f"ambiguous: both {labelled_by[image]} and {table} label it")
            else:
                yield _record(folder, image, table, own, several=several)


def _by_image(images: Images, table: str, lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The lines of each image; one that is not there stands under what the table calls it, with a reason."""
    found: dict[str, str] = {}
    reasons: dict[str, str] = {}
    grouped: dict[str, list[Line]] = {}
    for line in lines:
        if not line.image:
            continue
        if line.image not in found:
            try:
                found[line.image] = images.find(table, line.image)
            except LabelError as error:
                found[line.image], reasons[line.image] = line.image, f"{error}, line {line.number}"
        reason = reasons.get(line.image, line.reason)
        grouped.setdefault(found[line.image], []).append(line._replace(reason=reason))
    return grouped


def _record(folder: Folder, image: str, table: str, lines: list[Line], *, several: bool) -> Record:
    reason = next((line.reason for line in lines if line.reason), "") or _contradiction(table, lines, several=several)
    if reason:
        return Record(image, reason=reason)
    size = next((line.size for line in lines if line.size), None)
    if lines[0].labels is None:
        return Record(image, folder.path(image), None, "", split_of(table), size)
    labels = [label for line in (lines if several else lines[:1]) for label in line.labels or ()]
    return Record(image, folder.path(image), tuple(labels), table, split_of(table), size)


def _contradiction(table: str, lines: list[Line], *, several: bool) -> str:
    """Why the lines of one image cannot all be true; empty if they can."""
    numbers = f"{table} lines {few(str(line.number) for line in lines)}"
    if len({line.size for line in lines if line.size}) > 1:
        return f"ambiguous: {numbers} give the image different sizes"
    if not several and len({line.labels for line in lines}) > 1:
        return f"ambiguous: {numbers} label it differently"
    if len({bool(line.labels) for line in lines}) > 1:
        return f"ambiguous: {numbers} have boxes but are also marked as empty"
    return ""

"""HTML reports: each step writes a page of its own, the last step joins them into one for the run.

A page is one self-contained file: figures are inline SVG, images inline JPEG, and nothing is fetched, because the
Kubeflow UI shows it in a sandboxed frame. Text is escaped by markupsafe unless it already is ``Markup``.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup
from numpy.typing import NDArray

from components.core.colours import PALETTE, colour_of, rgb
from components.core.detections import Detections
from components.core.errors import InputError
from components.core.stores.transfer import landing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ImageArray = NDArray[np.uint8]  # (height, width, 3) RGB

TRUTH_COLOUR = "#ffffff"
SHOWN_PIXELS = 480  # longest side of an image on a page


@dataclass(frozen=True)
class Section:
    """One titled part of a report."""

    title: str
    body: Markup


_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { --ink: #22303a; --soft: #6b7a85; --line: #dfe5e9; --paper: #ffffff; --ground: #f4f6f8; --accent: #0b6e99; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 8px 0 20px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px 22px; margin: 0 0 18px; }
h2 { font-size: 18px; margin: 0 0 12px; }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin: 0 0 12px; }
.facts div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; min-width: 110px; }
.facts dt { color: var(--soft); font-size: 12.5px; } .facts dd { margin: 0; font-size: 18px; font-weight: 600; overflow-wrap: anywhere; }
.facts dd.long { font-size: 14px; font-weight: 500; }
.scroll { overflow-x: auto; margin: 0 0 12px; } figure > .scroll { margin-bottom: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 9px; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
th.text, td.text { text-align: left; }
td:not(.text) { white-space: nowrap; } td small { color: var(--soft); font-size: 12px; }
figcaption { color: var(--soft); font-size: 13px; }
figure { margin: 0 0 12px; } figure svg { max-width: 100%; height: auto; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 0 20px; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 12px; }
.images img { width: 100%; border-radius: 6px; display: block; }
.note { border-left: 4px solid var(--accent); background: var(--ground); padding: 8px 14px; margin: 0 0 12px; }
.note.warn { border-color: #c62828; background: #fdecea; color: #8e1b1b; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 12px; font-size: 13px; }
.swatch i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
details { margin: 0 0 12px; } summary { cursor: pointer; color: var(--accent); }
</style>
</head>
<body><main>
<h1>{{ title }}</h1>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
<!--body-->{{ section.body }}<!--/body-->
</section>
{% endfor %}
</main></body>
</html>
""")

_SECTION = re.compile(r"<section>\n<h2>(.*?)</h2>\n<!--body-->(.*?)<!--/body-->\n</section>", re.DOTALL)


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Write one self-contained page; a reader never sees half of it."""
    with landing(Path(path)) as file:
        file.write(_PAGE.render(title=title, sections=sections).encode())


def read_sections(path: str | Path) -> list[Section]:
    """The sections of a page that ``write_page`` wrote.

    Raises:
        InputError: the file is no such page.
    """
    return sections_in(Path(path).read_text(encoding="utf-8"), str(path))


def sections_in(text: str, where: str) -> list[Section]:
    """The sections in the text of a page that ``write_page`` wrote.

    Args:
        text: the page.
        where: it was read from, for the message.

    Raises:
        InputError: it is no such page.
    """
    sections = [Section(Markup(title).unescape(), Markup(body)) for title, body in _SECTION.findall(text)]
    if not sections:
        raise InputError(f"report {where}: no sections found: it was not written by this project")
    return sections


def facts(pairs: Mapping[str, object]) -> Markup:
    """A row of tiles, one value each."""
    tiles = Markup().join(
        Markup("<div><dt>{}</dt><dd{}>{}</dd></div>").format(
            name, Markup(' class="long"') if len(str(value)) > 22 else "", _trimmed(value)
        )
        for name, value in pairs.items()
    )
    return Markup('<dl class="facts">{}</dl>').format(tiles)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> Markup:
    """A table; columns of figures are set right, those with words left."""
    shown = [list(row) for row in rows]
    words = [any(_is_text(row[place]) for row in shown) for place in range(len(headers))]
    head = Markup().join(_cell("th", name, text) for name, text in zip(headers, words, strict=True))
    body = Markup().join(
        Markup("<tr>{}</tr>").format(Markup().join(_cell("td", *pair) for pair in zip(row, words, strict=True)))
        for row in shown
    )
    whole = Markup('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>')
    shown_whole = whole.format(head, body)
    if not caption:
        return shown_whole
    # Beside the table and not in it: there it would be as wide as the table, and cut off with it.
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(shown_whole, caption)


def figure(fig: Figure, caption: str = "") -> Markup:
    """A matplotlib figure as inline SVG."""
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt keeps the ids in the SVG, and so the page, the same from run to run.
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        fig.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(Markup(svg[svg.index("<svg") :]), caption)


def side_by_side(figures: Sequence[Markup]) -> Markup:
    """Figures in a row; below each other where the window is narrow."""
    return Markup('<div class="figures">{}</div>').format(Markup().join(figures))


def new_figure(width: float = 6.4, height: float = 3.4) -> Figure:
    """An empty matplotlib figure, inches, that no display and no global state is needed for."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # what stands between two "$" of a name is no formula
    return Figure(figsize=(width, height), layout="constrained")


def images(items: Sequence[tuple[ImageArray, str]]) -> Markup:
    """A grid of images with captions, as inline JPEG."""
    grid = Markup().join(
        Markup('<figure><img alt="{}" src="data:image/jpeg;base64,{}"><figcaption>{}</figcaption></figure>').format(
            caption, _jpeg(image), caption
        )
        for image, caption in items
    )
    return Markup('<div class="images">{}</div>').format(grid)


def note(text: str, kind: str = "info") -> Markup:
    """A remark; ``kind`` is ``info`` or ``warn``."""
    return Markup('<p class="note {}">{}</p>').format(kind, text)


def folded(summary: str, body: Markup) -> Markup:
    """Something long, folded away under one line."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, body)


def draw(
    image: ImageArray, detections: Detections, names: Sequence[str], truth: Detections | None = None
) -> ImageArray:
    """A copy of an image with boxes drawn on it, enlarged if it is too small for their labels.

    Args:
        image: (height, width, 3) RGB.
        detections: boxes in pixels of that image, drawn in one colour per class, labelled; a score below 1 is shown.
        names: class names.
        truth: boxes drawn in white underneath, without labels.
    """
    import cv2

    scale = max(1, round(SHOWN_PIXELS / max(image.shape[:2])))
    canvas = np.ascontiguousarray(cv2.resize(image, None, fx=scale, fy=scale), dtype=np.uint8)
    thickness = max(1, round(max(canvas.shape[:2]) / 320))
    for box in () if truth is None else truth.boxes:
        _rectangle(canvas, box * scale, rgb(TRUTH_COLOUR), thickness)
    for box, score, class_id in zip(detections.boxes, detections.scores, detections.classes, strict=True):
        colour = rgb(PALETTE[class_id % len(PALETTE)])
        x1, y1 = _rectangle(canvas, box * scale, colour, thickness)
        label = names[class_id] if score >= 1 else f"{names[class_id]} {score:.2f}"
        place = (x1, max(9, y1 - 3))
        for ink, width in (((255, 255, 255), 3 * thickness), (colour, thickness)):  # a white rim keeps it legible
            cv2.putText(canvas, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thickness, ink, width, cv2.LINE_AA)
    return canvas


def legend(names: Sequence[str]) -> Markup:
    """What the colours of masks mean."""
    swatch = Markup('<span class="swatch"><i style="background:{}"></i>{}</span>')
    listed = Markup(" ").join(swatch.format(colour_of(index), name) for index, name in enumerate(names))
    return Markup('<p class="legend">{}</p>').format(listed)


def _rectangle(
    canvas: ImageArray, box: NDArray[np.float32], colour: tuple[int, int, int], thickness: int
) -> tuple[int, int]:
    """Draw one box and return its upper left corner."""
    import cv2

    x1, y1, x2, y2 = (round(float(side)) for side in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
    return x1, y1


def number(value: Any) -> object:
    """A value as people read it: floats to three decimals, long whole numbers with separators."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.3f}" if abs(float(value)) < 1000 else f"{value:,.0f}"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return value


def _trimmed(value: Any) -> object:
    """A number without zeros at its end; in a column they align, alone they say nothing."""
    text = number(value)
    return str(text).rstrip("0").rstrip(".") if isinstance(value, float) and "." in str(text) else text


def _is_text(value: Any) -> bool:
    """Whether a cell holds words; "+0.012" and "0.931 (-0.002)" are figures, and a dash stands for a missing one."""
    return isinstance(value, str) and not re.fullmatch(r"[-+–]?|[-+]?\d.*", value)  # noqa: RUF001


def _cell(tag: str, value: Any, text: bool) -> Markup:
    return Markup("<{}{}>{}</{}>").format(tag, Markup(' class="text"') if text else "", number(value), tag)


def _jpeg(image: ImageArray, longest: int = SHOWN_PIXELS) -> str:
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as JPEG")
    return base64.b64encode(data.tobytes()).decode()

from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.reports import page as reports

NONE = "\N{EN DASH}"


def test_a_page_is_self_contained_escapes_text_and_reads_back(tmp_path):
    figure = reports.new_figure()
    figure.subplots().plot([1, 2, 3])
    image = np.full((40, 60, 3), 200, np.uint8)
    sections = [
        reports.Section("A & B", reports.facts({"name": "<script>alert(1)</script>", "mAP50": 0.81234, "n": 12345})),
        reports.Section("Table", reports.table(["class", "AP"], [["helmet", 0.5], ["<b>", 1]], caption="c")),
        reports.Section("Figure", reports.figure(figure, "caption") + reports.images([(image, "one")])),
    ]
    reports.write_page(tmp_path / "page.html", "Run <1>", sections)
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "&lt;b&gt;" in text
    assert "0.812" in text and "12,345" in text
    assert "data:image/jpeg;base64," in text and "<svg" in text
    assert 'src="http' not in text and "<link" not in text
    assert reports.read_sections(tmp_path / "page.html") == sections
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_columns_of_words_are_set_left_and_those_of_figures_right():
    rows = [["helmet", "rk3588 int8", 0.5, "+0.012", NONE], ["head", NONE, 1, "0.9 (-0.1)", 2]]
    page = reports.table(["class", "model", "AP", "change", "n"], rows)
    assert '<th class="text">model</th><th>AP</th><th>change</th><th>n</th>' in page
    assert f'<td class="text">{NONE}</td><td>1</td><td>0.9 (-0.1)</td><td>2</td>' in page
    assert reports.table(["class"], []) == reports.table(["class"], iter([]))


def test_the_same_figure_gives_the_same_bytes():
    def page() -> Markup:
        figure = reports.new_figure()
        figure.subplots().plot([3, 1, 2])
        return reports.figure(figure)

    assert page() == page()


@pytest.mark.parametrize("name", ["$5_$", "a$b", r"\frac{1"])
def test_a_name_in_a_figure_is_no_formula(name):
    figure = reports.new_figure()
    axes = figure.subplots()
    axes.plot([1, 2], label=name)
    axes.set_xticks([0], [name])
    axes.legend()
    assert reports.figure(figure).count(name) >= 2


def test_drawing_marks_boxes_and_truth_enlarges_what_is_small_and_leaves_the_original():
    image = np.zeros((100, 100, 3), np.uint8)
    truth = Detections.of([[70, 70, 90, 90]], [0])
    drawn = reports.draw(image, Detections.of([[20, 30, 60, 70]], [0], [0.9]), ["helmet"], truth)
    assert image.sum() == 0
    assert drawn.shape == (500, 500, 3)
    assert drawn[350, 200].any() and drawn[250, 100].any()
    assert (drawn[450, 400] > 200).all()
    assert not drawn[250, 200].any()
    assert reports.draw(np.zeros((700, 900, 3), np.uint8), Detections.none(), []).shape == (700, 900, 3)


def test_an_image_of_a_line_scan_camera_has_a_height_left_on_a_page():
    assert "data:image/jpeg;base64," in reports.images([(np.zeros((10, 12_000, 3), np.uint8), "a line")])


def test_another_file_is_an_error(tmp_path: Path):
    (tmp_path / "other.html").write_text("<html></html>")
    with pytest.raises(InputError, match="no sections"):
        reports.read_sections(tmp_path / "other.html")

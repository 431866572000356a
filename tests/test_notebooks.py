"""The notebooks run from any folder, show their reports, and a browser shows a report as it was meant."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pipelines.notebook import show

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FRAME = re.compile(r'<iframe srcdoc="([^"]*)"')

# Put at the end of a page: what the browser made of it, as JSON in the title.
PROBE = """<script>
addEventListener("load", () => {
  const images = [...document.images];
  document.title = JSON.stringify({
    images: images.length,
    broken: images.filter((image) => !image.complete || !image.naturalWidth).length,
    width: innerWidth,
    needed: document.documentElement.scrollWidth,
    outside: [...document.querySelectorAll("main *")].filter(
      (one) => one.getBoundingClientRect().right > innerWidth).map((one) => one.tagName),
  });
});
</script>"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Runs a notebook once, in a folder of its own where the suite is importable, as if installed."""
    made = {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KF_PIPELINES_")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def execute(name):
        if name not in made:
            folder, notebook = tmp_path_factory.mktemp(name), nbformat.read(NOTEBOOKS[name], 4)
            NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(folder), env=environment)
            made[name] = folder, [output for cell in notebook.cells for output in cell.get("outputs", [])]
        return made[name]

    return execute


def reports(outputs):
    """The pages that the cells show."""
    found = [FRAME.search(output["data"].get("text/html", "")) for output in outputs if "data" in output]
    return [html.unescape(frame[1]) for frame in found if frame]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_in_any_folder_and_shows_its_report(name, executed):
    folder, outputs = executed(name)
    assert [path.name for path in folder.iterdir()] == ["jobs"]
    pages = reports(outputs)
    assert pages and all("<h1>" in page and 'src="data:image/' in page for page in pages)
    said = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "not submitted: KF_PIPELINES_ENDPOINT names no server" in said
    assert "not scheduled: KF_PIPELINES_ENDPOINT names no server" in said


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_of_the_repository_finds_the_suite(name, tmp_path):
    first = next(cell.source for cell in nbformat.read(NOTEBOOKS[name], 4).cells if cell.cell_type == "code")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("")
    (tmp_path / "notebooks").mkdir()
    code = f"{first}\nimport pipelines\nprint(pipelines.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path / "notebooks", capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.strip() == str(tmp_path / "pipelines" / "__init__.py")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_is_kept_of_earlier_runs(name):
    for cell in nbformat.read(NOTEBOOKS[name], 4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_a_report_is_shown_whole_without_its_file(tmp_path):
    page = '<!doctype html><h1>Round 1 & "2"</h1><p>it\'s</p>'
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "round.html").write_text(page)
    shown = show(f"file://{tmp_path}/reports/round.html", height=300)
    (tmp_path / "reports" / "round.html").unlink()
    frame = shown._repr_html_()
    assert html.unescape(FRAME.match(frame)[1]) == page
    assert "height: 300px" in frame and " sandbox " in frame
    assert "h1" not in repr(shown)  # a megabyte of it


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: apt-get install chromium")
def test_a_browser_shows_a_report_with_all_its_images(executed, tmp_path):
    (report,) = reports(executed("helmet-detection")[1])
    page = tmp_path / "report.html"
    page.write_text(report.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    for width in (1600, 700):
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1200", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
        assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert seen["images"] >= 4 and seen["broken"] == 0
        assert seen["needed"] <= seen["width"]
        assert width < 1600 or seen["outside"] == []  # on a narrow screen a wide table scrolls by itself

"""The page of a run is made by a step that ends well, also where the model could not be converted; another fails."""

import json
from pathlib import Path

import pytest
from kfp import dsl

from components.core.reports.page import Section, note, read_sections, write_page
from components.core.reports.parts import keep_part
from components.report.component import conclude, report

STEPS = ("ingest", "prepare", "train", "convert", "evaluate", "promote")


@pytest.fixture
def run(tmp_path):
    """What the steps of a run have kept, whose conversion had an outcome."""

    def run(outcome: str, *reasons: str) -> dict[str, str]:
        job = {"job_root": str(tmp_path / "job"), "run_id": "run-1"}
        for name in STEPS:
            write_page(tmp_path / "part.html", name, [Section(name.capitalize(), note(f"what {name} did"))])
            keep_part(**job, name=f"{name}.html", path=str(tmp_path / "part.html"))
        for name, content in (
            ("figures.json", {"map50": 0.5, "f1": 0.25}),
            ("conversion.json", {"outcome": outcome, "reasons": reasons}),
        ):
            (tmp_path / name).write_text(json.dumps(content))
            keep_part(**job, name=name, path=str(tmp_path / name))
        return job

    return run


def made(job: dict[str, str], page: Path) -> str:
    artifact = dsl.HTML(name="page", uri=str(page), metadata={})
    return report.python_func(title="Helmets", data_url="data.zip", model="", page=artifact, **job)


def test_a_report_has_the_pages_of_all_steps_the_result_first(run, tmp_path):
    job = run("converted")
    kept = made(job, tmp_path / "page.html")
    titles = [section.title for section in read_sections(tmp_path / "page.html")]
    assert titles == ["Promote", "Evaluate", "Convert", "Train", "Prepare", "Ingest", "Run"]
    assert Path(kept.removeprefix("file://")).read_text() == (tmp_path / "page.html").read_text()
    figures = json.loads(Path(kept.removeprefix("file://")).with_suffix(".json").read_text())
    assert figures == {"run": "run-1", "map50": 0.5, "f1": 0.25}
    conclude.python_func(report_uri=kept, **job)


def test_a_model_that_could_not_be_converted_fails_the_run_after_its_page_is_kept(run, tmp_path, capsys):
    job = run("failed", "rk3588 int8: mAP50 falls by 0.4")
    kept = made(job, tmp_path / "page.html")
    assert "what convert did" in (tmp_path / "page.html").read_text()
    with pytest.raises(SystemExit):
        conclude.python_func(report_uri=kept, **job)
    line = f"conclude error: the model could not be converted: rk3588 int8: mAP50 falls by 0.4; see {kept}"
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_a_step_that_is_tried_again_makes_the_same_page(run, tmp_path):
    job = run("converted")
    made(job, tmp_path / "first.html")
    made(job, tmp_path / "second.html")
    first, second = (read_sections(tmp_path / name)[:-1] for name in ("first.html", "second.html"))
    assert first == second

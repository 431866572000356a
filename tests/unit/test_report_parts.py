"""What the steps of a run leave in the job's store for its report."""

from datetime import UTC, datetime, timedelta

import pytest

from components.core.errors import InputError, NotFoundError, OutOfReachError
from components.core.reports.page import Section, note, write_page
from components.core.reports.parts import KEPT, keep_part, read_pages, read_part, remove_old_parts
from components.core.stores.open import open_store


@pytest.fixture(params=["file", "s3"])
def store_address(request, tmp_path):
    return request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "job")


@pytest.fixture
def page(tmp_path):
    def written(title: str) -> str:
        path = tmp_path / f"{title}.html"
        write_page(path, title, [Section(f"{title} 1", note("one")), Section(f"{title} 2", note("two"))])
        return str(path)

    return written


def test_pages_are_read_in_the_order_that_is_asked_for_and_those_of_other_runs_are_not(store_address, page):
    for step in ("ingest", "train"):
        keep_part(store_address, "run-1", f"{step}.html", page(step))
    keep_part(store_address, "run-2", "ingest.html", page("other"))
    found = read_pages(store_address, "run-1", ["train", "ingest"])
    assert [section.title for section in found] == ["train 1", "train 2", "ingest 1", "ingest 2"]


def test_a_step_that_is_tried_again_replaces_its_page(store_address, page):
    keep_part(store_address, "run-1", "train.html", page("first"))
    keep_part(store_address, "run-1", "train.html", page("second"))
    assert [section.title for section in read_pages(store_address, "run-1", ["train"])] == ["second 1", "second 2"]


def test_a_step_without_a_page_is_named_in_the_report(store_address, page):
    keep_part(store_address, "run-1", "ingest.html", page("ingest"))
    missing, *_ = read_pages(store_address, "run-1", ["train", "ingest"])
    assert missing == Section("train", note("The step train has kept no page for this run."))
    with pytest.raises(NotFoundError, match=r"figures\.json"):
        read_part(store_address, "run-1", "figures.json")


def test_a_page_that_does_not_reach_the_store_costs_no_step_and_what_other_steps_read_does(
    tmp_path, page, monkeypatch, caplog
):
    def away(*_):
        raise OutOfReachError("the store cannot be reached")

    job = str(tmp_path / "job")
    with monkeypatch.context() as change:
        change.setattr("components.core.stores.files.FileStore.upload", away)
        keep_part(job, "run-1", "train.html", page("train"))
        assert "the report of this run lacks train.html: the store cannot be reached" in caplog.text
        with pytest.raises(OutOfReachError):
            keep_part(job, "run-1", "figures.json", page("figures"))
    (told,) = read_pages(job, "run-1", ["train"])
    assert "The step train has kept no page for this run." in told.body


def test_a_step_that_is_used_by_itself_keeps_nothing(store_address, page):
    keep_part(store_address, "", "train.html", page("train"))
    assert list(open_store(store_address).list("")) == []


@pytest.mark.parametrize("run_id", ["../../else", "a/b", ".hidden", "a\nb", ""])
def test_the_name_of_a_run_cannot_lead_elsewhere(store_address, run_id):
    with pytest.raises(InputError, match="run_id="):
        read_pages(store_address, run_id, ["train"])


def test_a_page_that_is_damaged_is_named(store_address, tmp_path):
    (tmp_path / "half.html").write_text("<section>\n<h2>Train</h2>")
    keep_part(store_address, "run-1", "train.html", str(tmp_path / "half.html"))
    with pytest.raises(InputError, match=r"steps/run-1/train\.html"):
        read_pages(store_address, "run-1", ["train"])


def test_what_is_a_week_old_is_removed_and_what_is_newer_stays(store_address, page):
    store = open_store(store_address)
    keep_part(store_address, "run-1", "train.html", page("train"))
    now = datetime.now(UTC)
    remove_old_parts(store, now + KEPT - timedelta(minutes=1))
    assert [info.key for info in store.list("")] == ["steps/run-1/train.html"]
    remove_old_parts(store, now + KEPT + timedelta(minutes=1))
    assert list(store.list("")) == []

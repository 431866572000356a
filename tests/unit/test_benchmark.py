"""Cases of a benchmark, what happens to those that fail, and the leaderboard."""

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from kfp import dsl

from components.benchmark.algorithms import Case, baselines_of, plan_cases, read_algorithms
from components.benchmark.case import Steps, run_case, work_folder
from components.benchmark.component import run_case as run_case_component
from components.benchmark.component import setup_benchmark
from components.benchmark.isolation import run_isolated
from components.benchmark.leaderboard import NO_SPREAD, as_csv, cases_csv, check_sort, rank, sections
from components.benchmark.measure import measure
from components.benchmark.results import keep, kept
from components.benchmark.row import FIGURES, RoundRow, Row
from components.benchmark.stream import make_stream
from components.core import plugins
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.parameters import BenchmarkSettings, problems
from components.core.reports.page import write_page
from components.core.runtimes.base import open_detector
from components.evaluate.evaluate import evaluate
from components.evaluate.predictor import open_predictor
from components.ingest.ingest import ingest
from components.mine.pool import Candidate
from components.mine.score_pool import score_pool
from components.mine.selection import choose
from components.prepare.replay import draw
from components.train.train import train
from tests import sites
from tests.models import BUNDLE, colour_model, write_bundle

SITES = {
    "estimator": "brightness", "base_model": "nothing", "initial_epochs": 1, "epochs": 1, "image_size": "96",
    "miner": "IBT", "min_gain": -1, "random_fraction": 0.0, "empty_fraction": 0.5, "shortlist": 1,
}  # fmt: skip
SPLITS = {"train_ratio": 0.6, "val_ratio": 0.2, "seed": 0}


def chosen_ids(seen, budget, model, boxes, **shares):
    return [pick.seen.candidate.id for pick in choose(seen, budget, **shares).picks]


STEPS = Steps(train, draw, Candidate, score_pool, chosen_ids)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A job root with the images of two sites, first by day and then by night, and their manifest."""
    plugins.load("tests.site_estimator,tests.palette_estimator")
    folder = tmp_path_factory.mktemp("benchmark")
    sites.arrive(folder / "data", "day", 24, seed=1)
    sites.arrive(folder / "data", "night", 24, seed=2)
    root = str(folder / "job")
    return root, ingest(str(folder / "data"), root, classes="red,blue").manifest


def run(work, stream, algorithm, seed=0):
    (case,) = plan_cases([algorithm], [seed], {})
    with work_folder(work[0], case) as folder:
        return run_case(case, stream, STEPS, folder=folder, job_root=work[0], device="cpu", workers=0)


@pytest.fixture(scope="module")
def by_site(work):
    return make_stream(
        work[1], None, stream="pattern", rounds=2, stream_pattern="(day|night)", stream_order="", **SPLITS
    )


@pytest.fixture(scope="module")
def rows(work, by_site):
    """An algorithm without replay and its baselines, by name of the baseline."""
    (algorithm,) = read_algorithms([{**SITES, "label_budget": 4, "replay_ratio": 0}])
    every = [algorithm, *baselines_of([algorithm], ["frozen", "random", "full"])]
    return {one.baseline: run(work, by_site, one) for one in every}


def test_a_frozen_model_learns_nothing_and_costs_no_label_after_the_first_round(rows, by_site):
    frozen = rows["frozen"]
    day = by_site.rounds[0]
    assert frozen.rounds[1].tasks == frozen.rounds[0].tasks
    assert frozen.rounds[0].tasks["day"] > 0.9 > 0.1 > frozen.rounds[1].tasks["night"]
    assert frozen.figures["labelled_images"] == len(day.train) + len(day.val)
    assert frozen.figures["labelled_boxes"] == day.train.boxes().height + day.val.boxes().height
    assert frozen.figures["accepted_rounds"] == 1 and frozen.figures["transfer_ratio"] == 0


def test_the_night_is_learned_with_as_many_labels_as_the_budget_says(rows, by_site):
    mined, random = rows[""], rows["random"]
    night = by_site.rounds[1]
    for row in (mined, random):
        assert row.rounds[1].transferred == 4
        assert row.rounds[1].inferred == len(night.train)
        assert row.figures["transfer_ratio"] == pytest.approx(4 / len(night.train))
        assert row.figures["labelled_images"] == rows["frozen"].figures["labelled_images"] + 4 + len(night.val)
        assert row.rounds[1].sample_epochs == 4


def test_a_budget_may_be_in_boxes(work, by_site):
    (algorithm,) = read_algorithms([{**SITES, "label_budget": 7, "label_budget_in": "boxes", "replay_ratio": 0}])
    night = by_site.rounds[1]
    most = max(map(len, night.train.truths()))
    for one in (algorithm, *baselines_of([algorithm], ["random"])):
        row = run(work, by_site, one)
        before, after = (each.labelled_boxes for each in row.rounds)
        # Labelling ends with the image that reaches the budget.
        assert 7 <= after - before - night.val.boxes().height < 7 + most
        assert 0 < row.rounds[1].transferred < len(night.train)


def test_what_is_forgotten_shows_in_the_figures(work):
    # The estimator is then half as bright as the day, and blind by night.
    stream = make_stream(
        work[1], None, stream="pattern", rounds=2, stream_pattern="(day|night)", stream_order="night", **SPLITS
    )
    (algorithm,) = read_algorithms([{**SITES, "label_budget": 4, "replay_ratio": 0}])
    row = run(work, stream, algorithm)
    night = [one.tasks["night"] for one in row.rounds]
    assert night[0] > 0.9 > 0.1 > night[1]
    assert row.figures["forgetting"] == pytest.approx(night[0] - night[1], abs=1e-6)
    assert row.figures["backward_transfer"] == pytest.approx(night[1] - night[0], abs=1e-6)


def test_a_case_that_was_killed_goes_on_with_the_round_it_was_in(work):
    stream = make_stream(work[1], None, stream="random", rounds=3, stream_pattern="", stream_order="", **SPLITS)
    (case,) = plan_cases(read_algorithms([{**SITES, "label_budget": 5}]), [0], {})
    whole = run(work, stream, case.algorithm)
    trained = []

    def until(name):
        def one(samples, folder, **settings):
            trained.append(folder.name)
            if folder.name == name:
                raise KeyboardInterrupt
            return train(samples, folder, **settings)

        return replace(STEPS, train=one)

    def once(steps):
        with work_folder(work[0], case) as folder:
            row = run_case(case, stream, steps, folder=folder, job_root=work[0], device="cpu", workers=0)
        assert not folder.exists()
        return row

    with pytest.raises(KeyboardInterrupt):
        once(until("round-2"))
    assert trained == ["round-1", "round-2"]
    trained.clear()
    resumed = once(until("none"))
    assert trained == ["round-2"]
    costs = {"seconds", "peak_memory_mb"}
    assert {k: v for k, v in resumed.figures.items() if k not in costs} == {
        k: v for k, v in whole.figures.items() if k not in costs
    }
    assert all(one.seconds > 0 for one in resumed.rounds)


def test_a_first_model_costs_every_algorithm_the_same_whoever_trained_it(work, by_site, rows):
    for cost in Path(work[0]).rglob("*.seconds"):
        cost.write_text("5000")
    (algorithm,) = read_algorithms([{**SITES, "label_budget": 3}])
    row = run(work, by_site, algorithm)
    assert row.rounds[0].seconds >= 5000 > row.rounds[1].seconds
    assert row.figures["seconds"] == pytest.approx(sum(one.seconds for one in row.rounds))


def test_a_full_retraining_has_all_labels_and_starts_anew(rows, by_site):
    full = rows["full"]
    trained = sum(len(one.train) for one in by_site.rounds)
    assert full.rounds[1].trained == trained and full.rounds[1].replayed == len(by_site.rounds[0].train)
    assert full.figures["labelled_images"] == trained + sum(len(one.val) for one in by_site.rounds)


def test_ianvs_ratio_counts_the_test_set_too(rows, by_site):
    frozen = rows["frozen"]
    assert frozen.figures["samples_transfer_ratio"] == 0
    # Four of the night's images, and those of the test set that the rule calls hard, by all that were seen and one.
    mined, seen = rows[""], len(by_site.rounds[1].train) + len(by_site.test)
    hard = round(mined.figures["samples_transfer_ratio"] * (seen + 1)) - 4
    assert 0 <= hard <= len(by_site.test)
    assert mined.figures["samples_transfer_ratio"] == pytest.approx((4 + hard) / (seen + 1), abs=5e-5)


def test_every_row_names_code_hardware_and_settings(rows):
    for row in rows.values():
        assert re.fullmatch(r"[0-9.]+\+[0-9a-f]{12}", row.code)
        assert row.hardware["processor"] and row.hardware["libraries"].startswith("torch ")
        assert row.settings["estimator"] == "brightness" and row.settings["baseline"] == row.baseline
        assert set(row.figures) <= set(FIGURES)


def test_a_candidate_that_is_not_better_is_not_taken(work, by_site):
    (algorithm,) = read_algorithms([{**SITES, "label_budget": 4, "replay_ratio": 0, "min_gain": 0.9}])
    row = run(work, by_site, algorithm)
    assert not row.rounds[1].accepted and row.rounds[1].gain < 0.9
    assert row.rounds[1].tasks == row.rounds[0].tasks


def test_a_miner_that_decides_alone_asks_for_what_it_calls_hard_or_nothing(work, by_site):
    easy, hard = read_algorithms(
        [{**SITES, "name": name, "miner_parameters": {"on_empty": name}} for name in ("easy", "hard")]
    )
    # By night the model of the day finds nothing: what the rule says of empty images decides.
    assert run(work, by_site, easy).rounds[1].transferred == 0
    assert run(work, by_site, hard).rounds[1].transferred == len(by_site.rounds[1].train)


@pytest.mark.parametrize(("mode", "red"), [("off", False), ("report", False), ("fill", True)])
def test_old_classes_in_new_images_are_kept_by_pseudo_labels(work, mode, red):
    stream = make_stream(
        work[1].where(work[1].table["source"].str.starts_with("day")), None, stream="class", rounds=2,
        stream_pattern="", stream_order="red", **SPLITS,
    )  # fmt: skip
    # The estimator forgets a class without a box: no replay, so that red lives on in pseudo-labels alone.
    (algorithm,) = read_algorithms(
        [{**SITES, "estimator": "palette", "label_budget": 8, "replay_ratio": 0, "fill_unlabelled": mode}]
    )
    row = run(work, stream, algorithm)
    assert row.rounds[0].tasks == {"red": pytest.approx(1.0), "blue": 0.0}
    assert row.rounds[1].tasks["blue"] == pytest.approx(1.0)
    assert (row.rounds[1].tasks["red"] > 0.97) is red
    assert (row.rounds[1].filled.get("red", 0) > 0) is (mode != "off")
    assert row.figures["retention"] == pytest.approx(1.0 if red else 0.0, abs=0.03)
    assert row.figures["forgetting"] == pytest.approx(0.0 if red else 1.0, abs=0.03)


def test_a_full_retraining_has_labels_of_new_classes_in_old_samples_too(work):
    day = work[1].where(work[1].table["source"].str.starts_with("day"))
    stream = make_stream(day, None, stream="class", rounds=2, stream_pattern="", stream_order="red", **SPLITS)
    (algorithm,) = read_algorithms([{**SITES, "estimator": "palette"}])
    (full,) = baselines_of([algorithm], ["full"])
    ids = [id_ for one in stream.rounds for side in (one.train, one.val) for id_ in side.table["id"]]
    figures = run(work, stream, full).figures
    assert figures["labelled_images"] == len(ids)
    assert figures["labelled_boxes"] == stream.everything.with_ids(ids).boxes().height


def test_a_first_model_is_not_that_of_another_split(work, by_site):
    trained = []

    def noted(samples, folder, **settings):
        trained.append((folder.name, set(samples.split("train").table["id"])))
        return train(samples, folder, **settings)

    (case,) = plan_cases(read_algorithms([{**SITES, "label_budget": 4, "confidence_threshold": 0.3}]), [0], {})
    learned = work[1].where(~work[1].table["id"].is_in(by_site.test.table["id"].to_list()))
    for train_ratio in (0.3, 0.7):
        stream = make_stream(
            learned, by_site.test, stream="order", rounds=2, stream_pattern="", stream_order="",
            train_ratio=train_ratio, val_ratio=0.9 - train_ratio, seed=0,
        )  # fmt: skip
        trained.clear()
        with work_folder(work[0], case) as folder:
            steps = replace(STEPS, train=noted)
            run_case(case, stream, steps, folder=folder, job_root=work[0], device="cpu", workers=0)
        assert trained[0][1] == set(stream.rounds[0].train.table["id"])


def test_crowded_images_are_measured_as_everywhere_else(tmp_path):
    # COCO looks at 100 boxes of an image, other steps at 300.
    image = np.full((96, 96, 3), 120, np.uint8)
    corners = [(8 * (n % 12), 8 * (n // 12)) for n in range(130)]
    for x, y in corners:
        image[y : y + 8, x : x + 8] = (200, 0, 0)
    cv2.imwrite(str(tmp_path / "image.png"), image[:, :, ::-1])
    labels = {"boxes": [[x, y, x + 8, y + 8] for x, y in corners], "labels": ["red"] * len(corners)}
    (tmp_path / "labels.jsonl").write_text(json.dumps({"image": "image.png", **labels}) + "\n")
    manifest = ingest(str(tmp_path), str(tmp_path / "job"), classes="red,blue").manifest
    write_bundle(tmp_path / "model", colour_model(96, 96), replace(BUNDLE, image_size=(96, 96)))
    thresholds = {"confidence_threshold": 0.25, "nms_threshold": 0.7}
    model = open_detector("onnx", tmp_path / "model")
    measured = measure(manifest, model, **thresholds, folder=tmp_path / "blobs")
    predictor = open_predictor(tmp_path / "model", nms_threshold=0.7)
    whole = Manifest(manifest.table.with_columns(split=pl.lit("test")), manifest.classes)
    found = evaluate(whole, predictor, confidence_threshold=0.25, cache_folder=tmp_path / "blobs").as_flat()
    assert measured.metrics["map50"] == pytest.approx(found["map50"]) and found["map50"] > 0.95


def failed_row():
    return Row(case="c", algorithm="a", seed=0)


def broken():
    raise InputError("the estimator has no weights")


def bug():
    return 1 / 0


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def quiet():
    os._exit(3)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (broken, "the estimator has no weights"),
        (bug, "ZeroDivisionError: division by zero"),
        (killed, "killed, probably out of memory"),
        (quiet, "ended with code 3 and no result"),
        (lambda: time.sleep(60), "ran for more than 0.5 s"),
    ],
)
def test_a_case_that_fails_costs_its_row_alone(work, reason):
    row = run_isolated(work, failed_row(), 0.5 if "more than" in reason else 60)
    assert row.error.startswith(reason) and row.figures == {} and row.case == "c"


def test_the_reason_of_a_failure_shows_no_credential():
    def refused():
        raise InputError("cannot read https://joe:hunter22@host/a.pt?sig=hunter22")

    def broken():
        raise OSError("https://joe:hunter22@host/a.pt?sig=hunter22")

    for work in (refused, broken):
        row = run_isolated(work, failed_row(), 60)
        assert "host/a.pt" in row.error and "hunter22" not in row.error


def test_the_row_of_a_failed_case_shows_no_credential(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_POD", "x.executor(2)")  # so that it is not run again
    base_model = f"https://joe:hunter22@host/a.pt?sig=hunter22#sha256={'0' * 64}"
    (case,) = plan_cases(read_algorithms([{**SITES, "base_model": base_model}]), [0], {})
    made = {"stream": {}, "data": "d", "timeout": 60.0, "cases": {case.digest: case.model_dump(mode="json")}}
    (tmp_path / "cases").write_text(json.dumps(made))
    files = {name: dsl.Artifact(uri=str(tmp_path / name), metadata={}) for name in ("samples", "test", "cases", "row")}
    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"), metadata={})
    run_case_component.python_func(case=case.digest, **files, job_root=str(tmp_path / "job"), metrics=metrics)
    row = Row.model_validate_json((tmp_path / "row").read_text())
    assert row.error and row.settings == case.algorithm.settings()
    assert "hunter22" not in row.model_dump_json()


def test_a_base_model_that_is_not_there_is_told_before_anything_runs(tmp_path, capsys):
    sites.arrive(tmp_path / "data", "day", 1, seed=1)
    base_model = f"file://{tmp_path}/gone.pt#sha256={'0' * 64}"
    needs = dict.fromkeys(("step_cpu", "step_memory", "train_cpu", "train_memory", "train_gpus"), "1")
    with pytest.raises(SystemExit):
        setup_benchmark.python_func(
            data_url=str(tmp_path / "data"), job_root=str(tmp_path / "job"), node_selector={}, tolerations=[],
            store_secret="secret", train_gpu_type="nvidia.com/gpu", **needs,
            settings={"plugins": "tests.site_estimator", "algorithms": [{**SITES, "base_model": base_model}]},
        )  # fmt: skip
    assert "gone.pt" in capsys.readouterr().out


def test_the_longest_case_can_be_waited_for():
    row = Row(case="c", algorithm="a", seed=0, figures={"map50": 0.5})
    longest = 24 * 86400
    assert problems({"case_timeout": longest}, [BenchmarkSettings]) == []
    assert problems({"case_timeout": longest + 1}, [BenchmarkSettings])
    assert run_isolated(lambda: row, failed_row(), longest) == row


def test_a_case_that_works_gives_its_row():
    row = Row(case="c", algorithm="a", seed=0, figures={"map50": 0.5})
    assert run_isolated(lambda: row, failed_row(), 60) == row


@pytest.mark.parametrize(
    ("pod", "runs"), [("", True), ("x.executor(0)", True), ("x.executor(1)", True), ("x.executor(2)", False)]
)
def test_the_last_try_of_a_step_whose_container_died_writes_the_row(monkeypatch, pod, runs):
    monkeypatch.setenv("EDGE_POD", pod)
    row = run_isolated(lambda: Row(case="c", algorithm="a", seed=0, figures={"map50": 0.5}), failed_row(), 60)
    assert bool(row.figures) is runs
    assert runs or row.error.startswith("its container was ended 2 times, probably out of memory")


def test_a_finished_case_is_found_and_a_failed_or_damaged_one_is_not(tmp_path):
    (algorithm,) = read_algorithms([SITES])
    root, case = str(tmp_path), Case(algorithm=algorithm, seed=0, digest="0123456789abcdef")
    assert kept(root, case) is None
    keep(root, Row(case=case.digest, algorithm="old name", seed=0, error="no"))
    assert kept(root, case) is None
    keep(root, Row(case=case.digest, algorithm="old name", seed=0, figures={"map50": 0.5}))
    assert kept(root, case).figures == {"map50": 0.5} and kept(root, case).algorithm == algorithm.name
    (tmp_path / "benchmark" / "cases" / f"{case.digest}.json").write_text('{"case": ')
    assert kept(root, case) is None


def made(algorithm, seed, error="", baseline="", **figures):
    rounds = [
        RoundRow(name=f"round {n}", labelled_boxes=10 * n, metrics={"map50": figures.get("map50", 0), "f1": 0.25},
                 gain=0.125 if n == 2 else None,
                 tasks={"a": 0.5, "b": 0.1 * n},
                 lacking={"vest": 7} if n == 2 else {}, filled={"helmet": 3} if n == 2 else {})
        for n in (1, 2)
    ]  # fmt: skip
    return Row(
        case=f"{algorithm}{seed}", algorithm=algorithm, baseline=baseline, seed=seed, error=error, figures=figures,
        rounds=[] if error else rounds, settings={"fill_unlabelled": "fill"}, data="d1", code="0.1+abc",
        content={"base_model": "aa"}, hardware={"processor": "X"}, stream={"stream": "class"},
    )  # fmt: skip


ROWS = [
    made("slow", 0, map50=0.50, forgetting=0.10),
    made("slow", 1, map50=0.70, forgetting=0.30),
    made("quick", 0, map50=0.55, forgetting=0.00),
    made("quick", 1, error="out of <memory>"),
    made("broken", 0, error="no"),
    made("frozen", 0, baseline="frozen", map50=0.20),
]


def test_algorithms_are_ranked_by_the_mean_and_failures_come_last():
    entries = rank(ROWS, ["map50"])
    assert [(one.rank, one.name) for one in entries] == [(1, "slow"), (2, "quick"), (3, "frozen"), (None, "broken")]
    assert entries[0].mean["map50"] == pytest.approx(0.6)
    assert entries[0].spread["map50"] == pytest.approx(0.1414, abs=1e-4)  # of 0.5 and 0.7, n - 1
    assert "map50" not in entries[1].spread
    assert [one.name for one in rank(ROWS, ["forgetting", "map50"])] == ["quick", "slow", "frozen", "broken"]
    with pytest.raises(InputError, match="did you mean map50"):
        check_sort(["map5"])


def test_the_tables_have_a_line_for_each_algorithm_and_each_case():
    head, first, *rest = as_csv(rank(ROWS, ["map50"])).splitlines()
    assert head.startswith("rank,algorithm,baseline,seeds,failed,map50,map50_std,")
    assert first.startswith("1,slow,,0 1,0,0.6,0.1414")
    assert first.endswith('stream=class,d1,"0.1+abc, base_model aa",processor: X,"{""fill_unlabelled"": ""fill""}"')
    assert len(rest) == 3
    lines = cases_csv(ROWS).splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert "quick,,1,out of <memory>,," in lines[4]


def test_the_page_is_one_file_with_curves_tasks_failures_and_pseudo_labels(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, "Benchmark", sections(rank(ROWS, ["map50"])))
    page = path.read_text()
    assert "0.600 <small>± 0.141</small>" in page and "1 of 2" in page
    assert page.index("2 of 6 cases failed") < page.index("<table>")
    assert "out of &lt;memory&gt;" in page
    assert "helmet 3" in page and "vest 7" in page and "+0.125" in page
    assert (
        "<td>0.200 <small>± 0.141</small></td>"
        in page.split("mAP50 on each task after the last")[0].split("<table>")[-1]
    )  # forgetting
    assert page.count("<svg") == 2
    assert page.count('class="swatch"') == 3  # one for each algorithm with a figure
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_a_task_may_be_in_the_test_samples_of_some_seeds_alone():
    rows = [made("slow", 0, map50=0.50), made("slow", 1, map50=0.70), made("quick", 0, map50=0.5)]
    for one in rows[1].rounds:
        del one.tasks["b"]
    for one in rows[2].rounds:
        del one.tasks["a"]
    page = str(sections(rank(rows, ["map50"]))[1].body)
    last = page.split("mAP50 on each task after the last", maxsplit=1)[0].rsplit("<table>", maxsplit=1)[-1]
    cells = [re.findall("<td[^>]*>([^<]*)", line) for line in last.split("<tr>")[2:]]
    assert cells == [["slow", "0.500", "0.200"], ["quick", NO_SPREAD, "0.200"]]


def test_a_page_of_failures_alone_can_be_written(tmp_path):
    write_page(tmp_path / "page.html", "Benchmark", sections(rank([ROWS[4]], ["map50"])))
    assert "no" in (tmp_path / "page.html").read_text()


def test_rows_survive_json():
    assert Row.model_validate(json.loads(ROWS[0].model_dump_json())) == ROWS[0]

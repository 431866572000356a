"""What a benchmark compares: the grid of algorithms, their baselines, and the stream of rounds."""

import polars as pl
import pytest

from components.benchmark.algorithms import (
    baselines_of,
    check_algorithms,
    located,
    plan_cases,
    read_algorithms,
)
from components.benchmark.stream import digest_of, make_stream
from components.core import plugins
from components.core.bundle import sha256_of
from components.core.errors import InputError
from components.core.manifest import Manifest
from components.core.parameters import BenchmarkSettings, problems

TINY = {"estimator": "fpn", "base_model": "fasterrcnn_mobilenet_v3_large_320_fpn", "initial_epochs": 2, "epochs": 1}


def test_lists_are_a_grid_and_names_say_what_differs():
    found = read_algorithms(
        [{**TINY, "miner": ["IBT", "entropy"], "estimator_options": {"momentum": [0.95, 0.5], "lr": 0.1}}]
    )
    assert [one.name for one in found] == [
        "fpn IBT momentum=0.95", "fpn IBT momentum=0.5", "fpn entropy momentum=0.95", "fpn entropy momentum=0.5",
    ]  # fmt: skip
    assert [one.estimator_options for one in found[:2]] == [{"momentum": 0.95, "lr": 0.1}, {"momentum": 0.5, "lr": 0.1}]


def test_base_models_beside_the_file_are_found_from_any_folder(tmp_path):
    (tmp_path / "start.pt").write_bytes(b"")
    here, there = str(tmp_path / "start.pt"), tmp_path / "empty"
    given = [{"base_model": ["start.pt", "yolo11n.yaml", 3]}, {"base_model": "start.pt"}, {"miner": "IBT"}, "odd"]
    found = located(given, (there, tmp_path))
    assert found == [{"base_model": [here, "yolo11n.yaml", 3]}, {"base_model": here}, {"miner": "IBT"}, "odd"]
    assert located(given, (there,)) == given
    assert located("odd", (tmp_path,)) == "odd"


def test_an_option_that_is_a_list_is_written_in_a_list():
    (one,) = read_algorithms([{**TINY, "estimator_options": {"anchor_sizes": [[8, 16, 32, 64, 128]]}}])
    assert one.estimator_options == {"anchor_sizes": [8, 16, 32, 64, 128]}
    assert one.name == "fpn entropy-sum"


def test_numbers_may_come_as_kfp_hands_them_over():
    (one,) = read_algorithms(
        [{**TINY, "image_size": 320.0, "label_budget": 20.0, "estimator_options": {"freeze": 2.0}}]
    )
    assert (one.image_size, one.label_budget, one.estimator_options) == ("320", 20, {"freeze": 2})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"estimater": "fpn"}, "estimater is not a field of an algorithm: did you mean estimator?"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": True}, "epochs=True: give a number or a text"),
        ({"miner": []}, "miner is an empty list: give at least one value, or leave it out"),
        ({"estimator_options": {"lr": []}}, "estimator_options.lr is an empty list"),
        ({"round_options": {f"option{n}": list(range(100)) for n in range(9)}}, "more than 200 algorithms"),
        ({"image_size": 300}, "the nearest is 288"),
        ({"label_budget": -2}, "label_budget=-2"),
        ({"base_model": "https://host/a.pt"}, "a remote model needs a checksum: append #sha256="),
        ({"fill_unlabelled": "yes"}, "fill_unlabelled='yes'"),
        ({"miner": ["IBT", "IBT"]}, "does the same as"),
        ({"name": "a", "miner": ["IBT", "IBT"]}, "a miner=IBT does the same as a miner=IBT"),
        ("fpn", "must be a mapping"),
    ],
)
def test_what_is_wrong_with_an_algorithm_is_said_in_one_line(given, words):
    with pytest.raises(InputError) as caught:
        read_algorithms([given])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_no_table_shows_what_opens_the_address_of_a_base_model():
    given = [f"https://joe:hunter22@host/{name}.pt?sig=hunter22#sha256={'0' * 64}" for name in "ab"]
    found = read_algorithms([{"base_model": given}])
    assert [one.base_model for one in found] == given
    for one in (*found, *baselines_of(found, ["full", "frozen", "random"])):
        assert "hunter22" not in f"{one.name} {one.settings()}"
        assert one.settings()["base_model"] in [f"https://host/{name}.pt?...#sha256={'0' * 64}" for name in "ab"]


def test_two_algorithms_with_one_name_are_refused():
    with pytest.raises(InputError, match="two are called a"):
        read_algorithms([{"name": "a"}, {"name": "a", "miner": "IBT"}])


def test_estimators_options_and_miners_are_checked_before_anything_runs():
    wrong = read_algorithms(
        [
            {**TINY, "name": "a", "estimator_options": {"lrr": 1}},
            {**TINY, "name": "b", "round_options": {"lr": -1}},
            {**TINY, "name": "c", "miner": "IBT", "miner_parameters": {"threshold": 0.5}},
            {"name": "d", "estimator": "nothing"},
            {"name": "e", "estimator": "segmentation", "base_model": "yolo26n-sem.yaml"},
        ]
    )
    with pytest.raises(InputError) as caught:
        check_algorithms(wrong)
    for words in ("a: estimator_options: lrr", "b: round_options: lr=-1", "c: miner 'IBT'", "d: unknown estimator",
                  "e: the estimator segmentation is for segmentation"):  # fmt: skip
        assert words in str(caught.value)


def test_a_list_that_was_meant_as_one_value_is_told_so():
    sizes = [8, 16, 32, 64, 128, 256, 512]
    grid = read_algorithms([{**TINY, "name": "a", "estimator_options": {"anchor_sizes": sizes}}])
    with pytest.raises(InputError) as caught:
        check_algorithms(grid)
    hint = "a list of values is one algorithm for each: where anchor_sizes itself is a list, write [[…]]"
    assert str(caught.value).endswith(f"; and 2 more; {hint}")


def test_baselines_are_made_once_for_algorithms_that_share_them():
    grid = read_algorithms([{**TINY, "miner": ["IBT", "entropy"], "label_budget": 5, "replay_ratio": [0, 1]}])
    found = baselines_of(grid, ["full", "frozen", "random"])
    assert [(one.baseline, one.replay_ratio) for one in found] == [
        ("frozen", 1.0), ("random", 0.0), ("full", 0.0), ("random", 1.0),
    ]  # fmt: skip
    assert [one.name for one in found if one.baseline == "random"] == [
        "random of fpn IBT replay_ratio=0", "random of fpn IBT replay_ratio=1",
    ]  # fmt: skip
    with pytest.raises(InputError, match="did you mean frozen"):
        baselines_of(grid, ["frozzen"])


@pytest.mark.parametrize(
    "unused",
    [
        {"label_budget": 5, "shortlist": [1, 3], "empty_fraction": [0, 0.5]},
        {"label_budget": -1, "shortlist": [1, 3], "label_budget_in": ["images", "boxes"]},
    ],
)
def test_a_random_baseline_does_not_depend_on_what_it_does_not_use(unused):
    (one,) = baselines_of(read_algorithms([{**TINY, **unused}]), ["random"])
    assert one.name == "random fpn"


def test_an_algorithm_may_not_be_called_as_a_baseline_is():
    # The leaderboard would take the two for one algorithm with more seeds.
    (named,) = read_algorithms([{**TINY, "name": "full fpn"}])
    assert [one.name for one in baselines_of([named], ["frozen"])] == ["frozen fpn"]
    with pytest.raises(InputError, match="full fpn is the name of a baseline: choose another"):
        baselines_of([named], ["frozen", "full"])


def test_a_case_is_another_when_anything_its_result_depends_on_is():
    (one,) = read_algorithms([TINY])
    (renamed,) = read_algorithms([{**TINY, "name": "mine"}])
    (other,) = read_algorithms([{**TINY, "epochs": 2}])

    def digest(algorithm, seed=0, data="a"):
        return plan_cases([algorithm], [seed], {"data": data})[0].digest

    assert digest(one) == digest(renamed)
    assert len({digest(one), digest(other), digest(one, seed=1), digest(one, data="b")}) == 4


def test_base_models_and_plug_ins_count_by_their_content(tmp_path, monkeypatch):
    plugins.load("tests.site_estimator")
    weights = tmp_path / "start.pt"
    weights.write_bytes(b"one")
    (one,) = read_algorithms([{"estimator": "brightness", "base_model": str(weights)}])

    def case(algorithm=one):
        return plan_cases([algorithm], [0], {})[0]

    first = case()
    assert first.content == {"base_model": sha256_of(weights)[:16], "estimator": first.content["estimator"]}
    moved = weights.rename(tmp_path / "moved.pt")
    assert case(one.model_copy(update={"base_model": str(moved)})).digest == first.digest
    weights.write_bytes(b"two")
    second = case()
    assert second.digest != first.digest
    monkeypatch.setattr(plugins, "digest_of", lambda module: "changed")
    assert case().content["estimator"] == "brightness changed" and case().digest != second.digest


def test_algorithms_that_start_from_equal_files_are_refused(tmp_path):
    # They would be one case, which is run and counted twice under one name.
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"one")
    given = read_algorithms([{"base_model": [str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]}])
    with pytest.raises(InputError, match=r"b\.pt does the same as .*a\.pt: their base models are equal files"):
        plan_cases(given, [0, 1], {})


def test_a_case_of_the_suites_own_parts_depends_on_no_file():
    assert plan_cases(read_algorithms([TINY]), [0], {})[0].content == {}


def samples(count=60, classes=("red", "blue", "green")):
    """Images of two sites; image n shows class n % 3, every sixth all three."""
    rows = []
    for n in range(count):
        shown = range(3) if n % 6 == 0 else [n % 3]
        boxes = [{"class_id": c, "x1": 8.0 * c, "y1": 0.0, "x2": 8.0 * c + 8, "y2": 8.0} for c in shown]
        site = "north" if n % 2 else "south"
        rows.append({"id": f"{n:064x}", "uri": f"file:///{n}.png", "width": 96, "height": 96, "split": "", "round": 0,
                     "group": f"g{n}", "source": f"{site}/{n:03}.png", "annotations": boxes})  # fmt: skip
    return Manifest.of(rows, classes)


SETTINGS = {"rounds": 3, "stream_pattern": "", "stream_order": "", "train_ratio": 0.6, "val_ratio": 0.2, "seed": 0}


def stream(manifest=None, test=None, **settings):
    return make_stream(manifest or samples(), test, **{"stream": "random", **SETTINGS, **settings})


def ids(manifest):
    return set(manifest.table["id"])


@pytest.mark.parametrize("kind", ["order", "random", "pattern", "class"])
def test_every_sample_arrives_once_and_none_is_trained_and_tested_on(kind):
    made = stream(stream=kind, stream_pattern="(north|south)" if kind == "pattern" else "")
    parts = [ids(side) for one in made.rounds for side in (one.train, one.val)] + [ids(made.test)]
    assert sum(map(len, parts)) == 60
    assert set().union(*parts) == ids(samples())


def test_the_parts_of_every_round_have_the_sizes_of_the_ratios():
    for one in stream(rounds=3).rounds:
        assert (len(one.train), len(one.val)) == (12, 4)
    assert len(stream(rounds=3).test) == 12


def test_images_of_a_group_are_for_one_thing():
    pairs = samples().table.with_columns(group=pl.col("group").str.replace(r"\d$", ""))  # tens of images together
    made = stream(Manifest(pairs, samples().classes), rounds=2)
    groups = dict(pairs.select("id", "group").iter_rows())
    parts = [side for one in made.rounds for side in (one.train, one.val)] + [made.test]
    found = [{groups[id_] for id_ in part.table["id"]} for part in parts]
    assert sum(map(len, found)) == len(set().union(*found)) == len(set(groups.values()))


@pytest.mark.parametrize("kind", ["pattern", "class"])
def test_a_group_of_which_several_rounds_have_images_is_for_one_thing_in_all(kind):
    everything = samples(120)
    groups = [f"g{n // 3}" for n in range(120)]  # of both sites, and of all classes
    rows = everything.table.with_columns(group=pl.Series(groups)).filter(
        pl.col("source").str.starts_with("north") | (pl.Series(range(120)) < 60)
    )
    for seed in range(20):
        made = stream(
            Manifest(rows, everything.classes), stream=kind, rounds=3, seed=seed, train_ratio=0.5, val_ratio=0.3,
            stream_pattern="(north|south)" if kind == "pattern" else "",
        )  # fmt: skip
        sides = {}
        for name, parts in (
            ("train", [one.train for one in made.rounds]),
            ("val", [one.val for one in made.rounds]),
            ("test", [made.test]),
        ):
            for part in parts:
                for group in part.table["group"]:
                    assert sides.setdefault(group, name) == name


def test_classes_of_which_the_test_set_has_no_box_are_no_task():
    # A score of 0, which no model could better, would be taken for one that was measured.
    everything = samples()
    blue_alone = everything.where(pl.col("source").str.ends_with("7.png"))
    rows = [{**row, "annotations": [{**row["annotations"][0], "class_id": 1}]} for row in blue_alone.rows()]
    made = stream(everything, Manifest.of(rows, everything.classes), stream="class")
    assert [(task.name, task.learned) for task in made.tasks] == [("blue", 1)]


def test_a_stream_in_order_follows_the_paths_and_a_random_one_does_not():
    first = {row["source"].split("/")[0] for row in stream(stream="order", rounds=2).rounds[0].train.rows()}
    assert first == {"north"}
    first = {row["source"].split("/")[0] for row in stream(rounds=2).rounds[0].train.rows()}
    assert first == {"north", "south"}
    assert ids(stream(seed=1).rounds[0].train) != ids(stream(seed=2).rounds[0].train)


def test_rounds_by_pattern_come_in_the_order_that_is_asked_for():
    made = stream(stream="pattern", stream_pattern="(north|south)", stream_order="south")
    assert [one.name for one in made.rounds] == ["south", "north"]
    assert [(task.name, task.learned) for task in made.tasks] == [("south", 0), ("north", 1)]
    for task in made.tasks:
        assert {made.test.table["source"][image].split("/")[0] for image in task.images} == {task.name}


def test_a_round_of_classes_has_labels_of_these_alone_and_the_test_set_all():
    made = stream(stream="class", rounds=2, stream_order="green")
    assert [one.name for one in made.rounds] == ["green", "red+blue"]
    green, others = made.rounds
    assert set(green.train.boxes()["class_id"]) == {2}
    assert set(others.train.boxes()["class_id"]) == {0, 1}
    assert set(made.test.boxes()["class_id"]) == {0, 1, 2}
    assert set(green.val.unlabelled_classes()) == {frozenset({0, 1})}
    assert set(others.train.unlabelled_classes()) == {frozenset({2})}
    assert set(made.test.unlabelled_classes()) == {frozenset()}
    assert made.tasks[0].images == made.tasks[1].images == tuple(range(len(made.test)))
    assert [task.classes for task in made.tasks] == [{2}, {0, 1}]


def test_images_that_show_nothing_are_spread_over_the_rounds_of_classes():
    rows = [{**row, "annotations": []} if n % 5 == 1 else row for n, row in enumerate(samples().rows())]
    made = stream(Manifest.of(rows, samples().classes), stream="class")
    assert len(made.everything) == 60
    nothing = [sum(not len(truth) for truth in one.train.truths()) for one in made.rounds]
    assert sum(nothing) >= 3 and sum(map(bool, nothing)) >= 2
    assert not all(map(len, made.test.truths()))


def test_a_test_set_of_its_own_is_tested_on_and_never_trained_on():
    everything = samples()
    own = everything.where(pl.col("source").str.ends_with("7.png"))
    renamed = Manifest(own.table.with_columns(split=pl.lit("")), own.classes)
    made = stream(everything, renamed)
    assert ids(made.test) == ids(own)
    trained = set().union(*(ids(side) for one in made.rounds for side in (one.train, one.val)))
    assert trained == ids(everything) - ids(own)
    assert [task.name for task in made.tasks] == ["test"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rounds": 90}, "only 60 groups"),
        ({"stream": "class", "rounds": 4}, "only 3 classes: red, blue, green"),
        ({"stream": "class", "stream_order": "yellow"}, "no class yellow: choose from red, blue, green"),
        ({"stream": "pattern", "stream_pattern": "(east)"}, "finds 0 different texts"),
        ({"stream": "pattern", "stream_pattern": "(north|south)", "stream_order": "east"}, "choose from north, south"),
        ({"train_ratio": 0.9, "val_ratio": 0.09}, "none of the 0 test samples has a box"),
    ],
)
def test_a_stream_that_cannot_be_says_why(settings, words):
    with pytest.raises(InputError, match=words):
        stream(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stream": "class", "stream_order": "red,blue,red"}, "stream_order: red is given twice"),
        ({"stream": "random", "stream_order": "red"}, "stream=random takes none"),
        ({"stream": "pattern", "stream_pattern": "north|south"}, "stream_pattern='north|south' has 0 groups"),
        ({"stream": "pattern", "stream_pattern": "(north"}, "stream_pattern='(north' is not a regular expression"),
    ],
)
def test_a_stream_that_contradicts_itself_is_refused_before_anything_runs(settings, words):
    (found,) = problems(settings, [BenchmarkSettings])
    assert words in found


def test_a_round_too_small_to_validate_on_says_what_to_do():
    everything = samples()
    with pytest.raises(InputError, match="round 1 has 1 images and no box for val: use fewer rounds"):
        stream(everything, everything.where(pl.col("source").str.ends_with("7.png")), rounds=54)


def test_the_digest_of_the_data_follows_labels_and_not_places():
    first = samples()
    elsewhere = first.table.with_columns(uri=pl.lit("s3://elsewhere/1.png"))
    moved = Manifest(elsewhere.sample(fraction=1, seed=1, shuffle=True), first.classes)
    fewer = first.where(pl.col("id") != first.table["id"][0])
    assert digest_of(first) == digest_of(moved)
    assert len({digest_of(first), digest_of(fewer), digest_of(Manifest(first.table, ("a", "b", "c")))}) == 3


def test_options_of_rounds_are_checked_together_with_those_that_hold_for_all_trainings():
    given = {"round_options": {"lr0": 0.001}}
    check_algorithms(read_algorithms([{**given, "estimator_options": {"optimizer": "AdamW", "lr0": 0.002}}]))
    with pytest.raises(InputError, match="round_options: lr0 has no effect"):
        check_algorithms(read_algorithms([given]))

import numpy as np
import pytest

from components.core.detections import Detections
from components.core.errors import InputError
from components.core.metrics.bootstrap import map50_lower
from components.core.metrics.detection import evaluate_detections, found_truths
from components.core.miners.base import Frame, make_miner
from components.joint.calibrate import Goals, binomial_tail, calibrate, frames_needed
from components.joint.cascade import Pair, ranking_miners

SIZE = 100


def boxes(count):
    """Boxes that do not overlap."""
    return np.array([[10 * k, 10 * k, 10 * k + 8, 10 * k + 8] for k in range(count)], dtype=float).reshape(-1, 4)


def pair(frames=200, seed=0, miss=0.5):
    """A big model that finds nearly all; a little one that misses objects in frames in which it is unsure."""
    rng = np.random.default_rng(seed)
    truths, little, big = [], [], []
    for _ in range(frames):
        count = int(rng.integers(0, 5))
        truth = Detections.of(boxes(count), rng.integers(0, 2, count))
        unsure = rng.random()
        seen = rng.random(count) > miss * unsure
        scores = np.clip(1 - unsure * rng.uniform(0.6, 1.0, count), 0.26, 1)
        little.append(Detections.of(truth.boxes[seen], truth.classes[seen], scores[seen]))
        well = rng.random(count) > 0.03
        big.append(Detections.of(truth.boxes[well], truth.classes[well], np.full(well.sum(), 0.9)))
        truths.append(truth)
    keys = [f"{seed}-{index}" for index in range(frames)]
    sizes = rng.uniform(5000, 15000, frames)
    return Pair(truths, little, big, ("red", "blue"), sizes, (0.25, 0.25), keys)


PAIR = pair()


def test_found_truths_are_those_that_a_sure_box_of_their_class_overlaps():
    truth = Detections.of(boxes(4), [0, 0, 1, 1])
    found = Detections.of(
        [*boxes(4)[:3], boxes(4)[0], boxes(4)[3] + [4, 4, 4, 4]], [0, 1, 1, 0, 1], [0.9, 0.9, 0.2, 0.8, 0.9]
    )
    assert found_truths(truth, found, 0.25).tolist() == [True, False, False, False]
    assert found_truths(truth, found, 0.1).tolist() == [True, False, True, False]
    assert found_truths(truth, Detections.none(), 0.1).tolist() == [False] * 4
    assert found_truths(Detections.none(), found, 0.1).tolist() == []


def test_sending_nothing_or_all_is_one_of_the_models_alone():
    for sent, model in ((np.zeros(200, bool), PAIR.little), (np.ones(200, bool), PAIR.big)):
        alone = evaluate_detections(
            PAIR.truths, model, PAIR.classes, [(SIZE, SIZE)] * 200, confidence_threshold=0.25, max_detections=300
        )
        point = PAIR.point(sent)
        assert point.map50 == pytest.approx(alone.map50, abs=1e-6)
        assert point.fraction == sent.mean()
    assert PAIR.point(np.ones(200, bool)).recall_of_cloud == 1
    assert PAIR.point(np.zeros(200, bool)).bytes_per_frame == 0


def test_the_figures_of_a_mixture_are_those_of_the_results_that_count():
    sent = np.arange(200) % 3 == 0
    mixed = [big if up else little for up, big, little in zip(sent, PAIR.big, PAIR.little, strict=True)]
    measured = evaluate_detections(
        PAIR.truths, mixed, PAIR.classes, [(SIZE, SIZE)] * 200, confidence_threshold=0.25, max_detections=300
    )
    point = PAIR.point(sent)
    assert point.map50 == pytest.approx(measured.map50, abs=1e-6)
    assert point.found == sum(found_truths(*one, 0.25).sum() for one in zip(PAIR.truths, mixed, strict=True))
    assert point.bytes_per_frame == pytest.approx(PAIR.sizes[sent].sum() / 200)


def test_a_curve_rises_with_the_frames_sent_and_no_miner_beats_the_oracle():
    oracle = {round(point.fraction, 9): point.found for point in PAIR.oracle()}
    assert "Threshold" in ranking_miners()
    for miner in ranking_miners():
        curve = PAIR.curve(PAIR.hardness(miner))
        fractions = [point.fraction for point in curve]
        assert fractions == sorted(set(fractions))
        assert (fractions[0], fractions[-1]) == (0, 1)
        recalls = [point.recall_of_cloud for point in curve]
        assert recalls == sorted(recalls)
        for point in curve:
            if round(point.fraction, 9) in oracle:
                assert point.found <= oracle[round(point.fraction, 9)]


def test_a_miner_that_knows_something_beats_chance():
    sent = [point for point in PAIR.curve(PAIR.hardness("Threshold")) if point.fraction <= 0.5][-1]
    chance = [point for point in PAIR.curve(PAIR.hardness("Random")) if point.fraction <= 0.5][-1]
    assert sent.recall_of_cloud > chance.recall_of_cloud + 0.02


@pytest.mark.parametrize(
    ("lost", "frames", "limit", "expected"),
    [(0, 99, 0.03, 0.97**99), (1, 3, 0.5, 0.5), (3, 3, 0.2, 1.0), (2, 10, 0.1, 0.9298092)],
)
def test_the_tail_of_the_binomial_distribution(lost, frames, limit, expected):
    assert binomial_tail(lost, frames, limit) == pytest.approx(expected, rel=1e-6)


def test_as_many_frames_as_the_textbook_says_are_needed():
    assert frames_needed(0.0, 0.03, 0.05) == 99  # the least n with 0.97 ** n <= 0.05
    assert frames_needed(0.0, 0.05, 0.05) == 59
    assert frames_needed(0.03, 0.03, 0.05) is None
    assert frames_needed(0.01, 0.03, 0.05) > 99


def test_the_threshold_that_is_chosen_meets_the_goal_on_the_frames_it_was_chosen_on():
    choice = calibrate(PAIR, Goals(min_recall_of_cloud=0.9), ["Threshold"])
    assert choice.point.recall_of_cloud > 0.9
    assert choice.point.fraction < 1
    assert choice.promises == ("recall of the cloud's objects at least 0.9, with confidence 0.95 (exact)",)


def test_more_is_sent_for_a_higher_recall():
    fractions = [
        calibrate(PAIR, Goals(min_recall_of_cloud=recall), ["Threshold"]).point.fraction for recall in (0.8, 0.9, 0.95)
    ]
    assert fractions == sorted(fractions)
    assert fractions[0] < fractions[2]


def test_the_worker_s_miner_sends_the_frames_that_were_calibrated():
    choice = calibrate(PAIR, Goals(max_offload=0.4), ["Threshold"])
    routing = choice.routing
    miner = make_miner(routing["miner"], routing["parameters"])
    hard = [miner.judge(Frame(found, key=key)).hard for found, key in zip(PAIR.shown, PAIR.keys, strict=True)]
    assert np.mean(hard) == pytest.approx(choice.point.fraction)
    assert 0 < np.mean(hard) <= 0.4


def test_the_least_traffic_and_the_best_map_are_kept_to_their_bootstrap_ends():
    choice = calibrate(PAIR, Goals(max_bytes_per_frame=4000), ["Threshold"])
    assert 2000 < choice.point.bytes_per_frame < 4000
    choice = calibrate(PAIR, Goals(min_map50=0.85), ["Threshold"])
    sent = PAIR.hardness("Threshold") >= np.float32(choice.threshold)
    assert map50_lower(PAIR.matches(sent), 0.95, max_detections=300) >= 0.85
    assert choice.point.fraction < 1


def test_of_several_miners_the_one_that_sends_least_is_chosen():
    goals = Goals(min_recall_of_cloud=0.85)
    chosen = calibrate(PAIR, goals, ["Random", "Threshold"])
    assert chosen.miner == "Threshold"


@pytest.mark.parametrize(
    ("frames", "goals", "message"),
    [
        (0, Goals(min_recall_of_cloud=0.97), "no labelled frames to calibrate on: at least 99 are needed"),
        (50, Goals(min_recall_of_cloud=0.97), "needs at least 99 labelled frames .* label more"),
        (20, Goals(max_offload=0.1), "needs at least 29 labelled frames, but there are 20"),
        (200, Goals(min_map50=0.999), "the big model alone has mAP50 .* train a better big model"),
        (200, Goals(min_recall_of_cloud=0.95, max_offload=0.05), "quality goals need .* but the traffic goals allow"),
    ],
)
def test_what_cannot_be_promised_is_refused_with_what_it_would_take(frames, goals, message):
    with pytest.raises(InputError, match=message):
        calibrate(PAIR.take(np.arange(frames)), goals, ["Threshold"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no goal given"),
        ({"max_offload": 1.5}, "max_offload 1.5: must be a number above 0 and below 1"),
        ({"min_recall_of_cloud": 97}, "below 1"),
        ({"max_bytes_per_frame": 0}, "max_bytes_per_frame 0"),
        ({"max_offload": 0.2, "confidence": 1.0}, "such as 0.95"),
    ],
)
def test_goals_that_cannot_be_are_told(given, message):
    with pytest.raises(InputError, match=message):
        Goals(**given)


def test_the_promise_is_kept_in_at_least_95_of_100_calibrations():
    world = pair(6000, seed=1)
    found = world.cloud_found
    loss = world.lost / np.maximum(found, 1)
    hardness = world.hardness("Threshold")
    rng = np.random.default_rng(2)
    kept, fractions = 0, []
    for _ in range(100):
        choice = calibrate(
            world.take(rng.choice(6000, 250, replace=False)), Goals(min_recall_of_cloud=0.92), ["Threshold"]
        )
        sent = hardness >= np.float32(choice.threshold)
        kept += (loss * ~sent)[found > 0].mean() <= 0.08
        fractions.append(sent.mean())
    assert kept >= 95
    assert np.mean(fractions) < 0.9  # and not by sending everything


def faint(frames=120, seed=5):
    """A little model that scores what it is unsure of between 0.05 and the confidence of 0.25."""
    rng = np.random.default_rng(seed)
    truths, little = [], []
    for _ in range(frames):
        count = int(rng.integers(1, 6))
        truth = Detections.of(boxes(count), np.zeros(count))
        scores = np.where(rng.random(count) < 0.2, rng.uniform(0.06, 0.24, count), 0.9)
        truths.append(truth)
        little.append(Detections.of(truth.boxes, truth.classes, scores))
    keys = [f"faint-{index}" for index in range(frames)]
    return Pair(truths, little, truths, ("red",), np.full(frames, 1000.0), (0.25, 0.25), keys)


def test_boxes_that_do_not_count_tell_which_frames_to_send():
    world = faint()
    lost = world.lost > 0
    assert ((world.hardness("missed") > 0) == lost).all()
    choice = calibrate(world, Goals(min_recall_of_cloud=0.8), ["missed", "Threshold"])
    assert choice.routing["parameters"]["of"] == "missed"
    assert choice.routing["parameters"]["parameters"] == {"shown": 0.25}
    sent = world.sent_by(choice.routing["miner"], choice.routing["parameters"])
    assert sent.mean() == choice.point.fraction < lost.mean()
    assert choice.point.recall_of_cloud >= 0.8


def test_frames_of_the_highest_score_are_sent_where_none_would_have_to_be():
    world = faint()  # frames whose boxes are all faint have the score 1
    hardest = world.hardness("Threshold") >= 1
    choice = calibrate(world, Goals(min_recall_of_cloud=0.5), ["Threshold"])
    assert (choice.threshold, choice.point.fraction) == (1.0, hardest.mean())
    assert 0 < hardest.mean() < 0.1
    with pytest.raises(InputError, match=f"do not allow sending even the {hardest.mean():.0%} of frames"):
        calibrate(world, Goals(max_bytes_per_frame=1.0), ["Threshold"])


def test_a_cutoff_is_of_a_miner_that_ranks():
    with pytest.raises(InputError, match="unknown miner 'nobody'"):
        make_miner("cutoff", {"of": "nobody"})
    with pytest.raises(InputError, match="needs more than scores"):
        make_miner("cutoff", {"of": "novelty"})
    judged = make_miner("cutoff", {"of": "Threshold", "min_score": "0.4"}).judge(
        Frame(Detections.of(boxes(2), [0, 0], [0.5, 0.6]))
    )
    assert judged.hard
    assert "2 boxes with a mean score of 0.55" in judged.reason


@pytest.mark.parametrize(
    ("edge", "cloud", "hard", "score"),
    [
        (boxes(2), boxes(2), False, 0.0),
        (boxes(0), boxes(0), False, 0.0),
        (boxes(2), boxes(0), True, 1.0),
        (boxes(0), boxes(1), True, 1.0),
        (boxes(3), boxes(4), False, 1 / 7),
        (boxes(1), boxes(2), True, 1 / 3),
        (boxes(2), None, False, 0.0),
    ],
)
def test_what_edge_and_cloud_see_differently_is_hard(edge, cloud, hard, score):
    found = Detections.of(edge, np.zeros(len(edge)))
    other = None if cloud is None else Detections.of(cloud, np.zeros(len(cloud)))
    judged = make_miner("disagreement", {}).judge(Frame(found, cloud=other))
    assert (judged.hard, judged.score) == (hard, pytest.approx(score))


def test_boxes_of_other_classes_are_a_disagreement():
    seen = Frame(Detections.of(boxes(2), [0, 0]), cloud=Detections.of(boxes(2), [0, 1]))
    assert make_miner("disagreement", {}).judge(seen).score == pytest.approx(0.5)

"""What joint inference gains and costs, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from components.core.reports import page
from components.core.reports.page import Section
from components.joint.calibrate import Choice
from components.joint.cascade import Link, Pair, Point

_HEADERS = ("", "frames sent", "bytes per frame", "mAP50", "objects found", "recall of cloud", "ms per frame")


def tested(pair: Pair, routing: Mapping[str, Any]) -> dict[str, Point]:
    """The edge alone, the cloud alone, joint inference and the oracle with as many frames, on the same images.

    Args:
        pair: both models on the images.
        routing: of the release, which says what joint inference sends.

    Raises:
        InputError: a miner that needs more than the scores of boxes.
    """
    sent = pair.sent_by(routing["miner"], routing["parameters"])
    return {
        "edge only": pair.point(np.zeros(len(pair), dtype=bool)),
        "joint": pair.point(sent),
        "oracle router": pair.oracle_point(int(sent.sum())),
        "cloud only": pair.point(np.ones(len(pair), dtype=bool)),
    }


def figures(points: Mapping[str, Point]) -> dict[str, float]:
    """What was measured, by name, for conditions and records."""
    joint, edge, cloud = points["joint"], points["edge only"], points["cloud only"]
    return {
        "map50": joint.map50,
        "edge.map50": edge.map50,
        "cloud.map50": cloud.map50,
        "gain": joint.map50 - edge.map50,
        "fraction": joint.fraction,
        "bytes_per_frame": joint.bytes_per_frame,
        "cloud.bytes_per_frame": cloud.bytes_per_frame,
        "recall_of_cloud": joint.recall_of_cloud,
        "found": float(joint.found),
    }


def sections(
    choice: Choice,
    points: Mapping[str, Point],
    curves: Mapping[str, Sequence[Point]],
    oracle: Sequence[Point],
    link: Link,
    frames: tuple[int, int],
    verdict: str,
) -> list[Section]:
    """The report.

    Args:
        choice: the threshold and what it promises.
        points: from :func:`tested`.
        curves: of every miner, on the frames of the calibration.
        oracle: the curve of the oracle router on the same.
        link: for the latency.
        frames: that were calibrated and tested on.
        verdict: whether the pair is deployed, and why.
    """
    rows = [_row(name, point, link.latency_ms(point, little=name != "cloud only")) for name, point in points.items()]
    chosen = {
        "frames go to the cloud if": f"{choice.miner} score >= {choice.threshold:.4g}",
        "guaranteed": "; ".join(choice.promises),
        "calibrated on": f"{frames[0]} frames of the split val",
        "tested on": f"{frames[1]} frames of the split test",
        "verdict": verdict,
    }
    assumed = (
        f"ms per frame: {link.little_ms:.0f} ms for the little model and {link.big_ms:.0f} ms for the big one on this "
        f"step's machine, {link.round_trip_ms:g} ms round trip, {link.uplink_mbit:g} Mbit/s uplink. The oracle "
        "router knows the labels: no miner finds more objects with as many frames."
    )
    return [
        Section("Joint inference", page.facts(chosen) + page.table(_HEADERS, rows, caption=assumed)),
        Section("Gain per frame sent", _curves(curves, oracle) + _tables(curves, link)),
    ]


def _row(name: str, point: Point, latency_ms: float) -> list[object]:
    return [
        name, f"{point.fraction:.1%}", round(point.bytes_per_frame), point.map50, point.found,
        point.recall_of_cloud, round(latency_ms, 1),
    ]  # fmt: skip


def _curves(curves: Mapping[str, Sequence[Point]], oracle: Sequence[Point]) -> Markup:
    figure = page.new_figure()
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot([100 * one.fraction for one in points], [one.map50 for one in points], label=name, linewidth=1)
    axes.plot([100 * one.fraction for one in oracle], [one.map50 for one in oracle], "k--", label="oracle", linewidth=1)
    axes.set_xlabel("frames sent, %")
    axes.set_ylabel("mAP50")
    axes.legend(fontsize="small")
    return page.figure(figure, "mAP50 over the fraction of frames sent, on the calibration frames")


def _tables(curves: Mapping[str, Sequence[Point]], link: Link) -> Markup:
    parts = Markup()
    for name, points in curves.items():
        rows = [_row(f"{one.threshold:.4g}", one, link.latency_ms(one)) for one in points]
        parts += page.folded(name, page.table(("threshold", *_HEADERS[1:]), rows))
    return parts

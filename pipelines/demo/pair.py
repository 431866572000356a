"""The last part of the demo: a little model at the edge that asks a big one in the cloud about hard frames.

Both are the model that the demo has trained, without any further training: at the edge it looks at images scaled down
to fewer pixels, which is quicker and finds less. Which frames go to the cloud is calibrated on labelled scenes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import InputError
from components.core.reports import page as reports
from components.rollout.processes import pair
from pipelines import local
from pipelines.demo.stage import Camera, Feed, metrics_of
from pipelines.joint_inference import joint_inference

MAX_OFFLOAD = 0.4  # of the frames
TITLE = "Joint inference"
_SECONDS = 120.0  # for the edge worker to see its video
# Half of the scenes calibrate, nearly half test; nothing is trained on the others.
SETTINGS: dict[str, Any] = {
    "classes": "helmet,head", "epochs": 0, "device": "cpu", "workers": 0, "train_ratio": 0.05, "val_ratio": 0.5,
    "min_recall_of_cloud": 0, "max_offload": MAX_OFFLOAD, "joint_conditions": ["gain >= -1"], "rollout_timeout": 60.0,
}  # fmt: skip


@dataclass(frozen=True)
class Joint:
    """What came of it.

    Attributes:
        tested: figures of the pair on labelled scenes, by name.
        counted: what the edge worker counted while it watched the video, by the names of its metrics.
    """

    tested: dict[str, float]
    counted: dict[str, float]


def play_pair(
    folder: Path, bundle: Path, scenes: Feed, camera: Camera, *, sizes: tuple[int, int], confidence: float
) -> Joint:
    """Release the pair, and let both programs work on a video.

    Args:
        folder: new; for everything.
        bundle: the model.
        scenes: labelled scenes.
        camera: the video.
        sizes: pixels of the little and of the big model.
        confidence: of the calibrated promise.

    Raises:
        InputError: a program does not start, or does not see the whole video in time.
    """
    root, (little, big) = folder / "job", sizes
    given = SETTINGS | {
        "data_url": str(scenes.index), "job_root": str(root), "confidence": confidence,
        "base_model": str(bundle), "image_size": str(little), "big_model": str(bundle), "big_image_size": str(big),
    }  # fmt: skip
    report = local.run(joint_inference, given, local.folder_of_runs(str(root)))
    frames, options = len(camera.truth), ["--threads", "1", "--poll", "1", "--audit-ratio", "0"]
    with pair(
        str(root), str(camera.path), folder / "programs", cloud_options=["--threads", "1"], edge_options=options
    ) as running:
        end = time.monotonic() + _SECONDS
        while (counted := metrics_of(running.edge_url)).get("joint_frames", 0) < frames:
            if time.monotonic() > end:
                raise InputError(
                    f"the edge worker did not see {frames} frames within {_SECONDS:g} s: {running.describe()}"
                )
            time.sleep(0.2)
    return Joint(local.figures(report), counted)


def section(joint: Joint, sizes: tuple[int, int]) -> reports.Section:
    """The part of the page about it."""
    tested, counted = joint.tested, joint.counted
    rows = [
        ["edge only", f"{tested['edge.map50']:.3f}", "0%", 0],
        ["joint", f"{tested['map50']:.3f}", f"{tested['fraction']:.0%}", round(tested["bytes_per_frame"])],
        ["cloud only", f"{tested['cloud.map50']:.3f}", "100%", round(tested["cloud.bytes_per_frame"])],
    ]
    calibrated = reports.note(
        "The same model at {} pixels on the edge and at {} pixels in the cloud. ".format(*sizes)
        + f"Miner and threshold are calibrated to send at most {MAX_OFFLOAD:.0%} of the frames; joint inference found "
        f"{tested['recall_of_cloud']:.0%} of the objects that the big model finds in the held-out scenes."
    )
    live = reports.note(
        f"A cloud server and an edge worker then ran as two processes: of {counted['joint_frames']:.0f} frames "
        f"{counted['joint_hard']:.0f} were hard, {counted['joint_sent']:.0f} were sent "
        f"({counted['joint_bytes_sent']:,.0f} bytes) and {counted['joint_answered']:.0f} answered."
    )
    table = reports.table(["held-out scenes", "mAP50", "frames sent", "bytes per frame"], rows)
    return reports.Section(TITLE, calibrated + table + live)


def refused(error: Exception) -> reports.Section:
    """The part of the page where no pair was released."""
    return reports.Section(TITLE, reports.note(f"The pair was not released: {error}", "warn"))

"""A round of lifelong learning whose models are converted by the real toolkit."""

import pytest

from components.convert.toolkit import toolkit_version
from components.core.bundle import Bundle
from components.core.job.job import Job
from components.core.lifelong.knowledge_base import KnowledgeBase
from components.core.reports.page import read_sections
from tests.pipelines.test_lifelong_segmentation import SETTINGS, arrive
from tests.sites import learn

pytestmark = [
    pytest.mark.skipif(not toolkit_version(), reason="rknn-toolkit2 is for Linux on x86-64 alone"),
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
]


def test_every_member_of_a_knowledge_base_is_converted(tmp_path):
    feed = tmp_path / "feed"
    arrive(feed, "synthia", "day", range(36))
    arrive(feed, "berlin", "night", range(50, 58))  # too few for a model of their own
    made = learn(
        feed / "index.txt", tmp_path, "run-1", until="deploy",
        **SETTINGS | {
            "targets": "rk3588", "calibration_size": 20, "max_eval_images": 4, "quantization_retries": "",
            "max_map_drop": 1, "max_f1_drop": 1, "min_score_ratio": 0,
            "epochs": 2, "keep_conditions": [], "min_task_samples": 10,
        },
    )  # fmt: skip
    job = Job.open(str(tmp_path / "job"))
    state, _ = job.read()
    release = job.registry.release(state.champion, state.vouched[state.champion])
    assert KnowledgeBase.of(release, state.champion).tasks["sim"].member == "sim"
    assert set(release.members) == {"shared", "sim"}
    for name, member in release.members.items():
        folder = tmp_path / "job" / "bundles" / member.version
        bundle = Bundle.read(folder)
        assert bundle.task == "segmentation" and bundle.lineage["task"] == name
        assert {"model.rk3588.rknn", "model.rk3588.golden.npz"} <= bundle.files.keys()
        bundle.file(folder, "model.rk3588.rknn")  # whose bytes are those that the release vouches for
    titles = [section.title for section in read_sections(made["pages"]["page"].path)]
    assert titles.count("Accuracy on the simulator") == 2

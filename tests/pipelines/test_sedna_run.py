"""A file of Sedna's tutorial on incremental learning, run to the end."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from components.core.job.job import Job
from tests.images import jpeg, squares

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = {
    "plugins": "tests.quick_estimator", "estimator": "quick", "initial_model": "nothing", "min_samples": 2,
    "min_map50": 0,
}  # fmt: skip


def test_the_tutorials_job_makes_a_champion(tmp_path):
    feed = tmp_path / "feed"
    (feed / "images").mkdir(parents=True)
    lines = []
    for number in range(60):  # more than 50
        image, boxes = squares(np.random.default_rng(number), size=64)
        (feed / "images" / f"{number:02}.jpg").write_bytes(jpeg(image))
        lines.append(" ".join([f"images/{number:02}.jpg", *(f"{x},{y},{u},{v},{c + 2}" for c, (x, y, u, v) in boxes)]))
    (feed / "train_data.txt").write_text("\n".join(lines) + "\n")
    text = (REPOSITORY / "tests" / "sedna" / "helmet_incremental.yaml").read_text()
    for old, new in {
        "/data/site/train_data.txt": f"{feed}/train_data.txt", '"/output"': f'"{tmp_path}/job"',
        "01:00": "00:00", "23:00": "24:00", "352,640": "64,96",
        "person,helmet,helmet-on,helmet-off": "person,helmet,red,blue",  # the quick estimator sees red and blue
    }.items():  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "job.yaml").write_text(text)
    words = [word for name, value in QUICK.items() for word in ("-p", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "sedna", "job.yaml", "--run", *words],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    state, _ = Job.open(str(tmp_path / "job")).read()
    assert state.round == 1
    assert state.champion
    assert "# not carried over: " in done.stdout

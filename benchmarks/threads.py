"""Two trainings side by side against one alone: as steps set OpenMP's threads, and as it sets itself.

    python benchmarks/threads.py --repeats 3

Each is a process of its own, which takes the same steps of a YOLO11n on random pixels, with as many threads as there
are processors. Where processors are enough for both, two take twice as long as one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from components.core.estimators.ultralytics_offline import ultralytics_offline  # noqa: E402
from components.core.processors import share_processors  # noqa: E402

WAYS = ("shared", "by itself")
OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--steps", type=int, default=6, help="of each training (default 6)")
    parser.add_argument("--image-size", type=int, default=320, help="pixels (default 320)")
    parser.add_argument("--batch", type=int, default=8, help="images of a step (default 8)")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        print(train(given.steps, given.batch, given.image_size))
        return
    print(f"{len(os.sched_getaffinity(0))} processors; seconds of {given.steps} steps, median (least to most)")
    for way in WAYS:
        seconds = {count: [run(way, count) for _ in range(given.repeats)] for count in (1, 2)}
        alone, two = (statistics.median(seconds[count]) for count in (1, 2))
        shown = (f"{statistics.median(s):.1f} ({min(s):.1f} to {max(s):.1f})" for s in seconds.values())
        print(f"{way}: alone {', two '.join(shown)}: {two / alone:.1f} times")


def run(way: str, count: int) -> float:
    """Seconds of the slowest of so many trainings side by side."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    if way == "shared":
        share_processors(environment)
    command = [sys.executable, __file__, "--train", *sys.argv[1:]]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    outputs = [one.communicate()[0] for one in running]
    return max(float(output.split()[-1]) for output in outputs)


def train(steps: int, batch: int, size: int) -> float:
    """Take steps of a training, and give its seconds."""
    import torch

    network = ultralytics_offline().YOLO("yolo11n.yaml").model.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    pixels = torch.rand(batch, 3, size, size)

    def step() -> None:
        found = network(pixels)
        optimizer.zero_grad()
        sum(found[name].float().square().mean() for name in ("boxes", "scores")).backward()
        optimizer.step()

    step()  # the first one sets up what the others use
    began = time.monotonic()
    for _ in range(steps):
        step()
    return time.monotonic() - began


if __name__ == "__main__":
    main()

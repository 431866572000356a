"""A step of `fpn` in mixed precision against one in float32: processor time, turn by turn.

    python benchmarks/mixed_precision.py --repeats 3

Worth it on a processor with AMX (`grep amx_bf16 /proc/cpuinfo`); on one without bfloat16 it is slower.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from components.core.estimators.faster_rcnn import FasterRcnn  # noqa: E402
from components.core.estimators.fpn import ARCHITECTURES, take_step  # noqa: E402

ANCHOR_SIZES = 8, 16, 32, 64, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="fasterrcnn_resnet18_fpn")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--steps", type=int, default=6, help="of each in a turn (default 6)")
    parser.add_argument("--image-size", type=int, default=320, help="pixels (default 320)")
    parser.add_argument("--batch", type=int, default=4, help="images of a step (default 4)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(given.repeats):
        for amp, found in seconds.items():
            found.append(of_an_image(amp, given))
    print(f"{given.architecture}, {given.image_size} pixels: processor seconds an image, median (least to most)")
    for amp, found in seconds.items():
        shown = f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"
        print(f"{'mixed precision' if amp else 'float32'}: {shown}")
    print(f"ratio: {statistics.median(seconds[False]) / statistics.median(seconds[True]):.2f}")


def of_an_image(amp: bool, given: argparse.Namespace) -> float:
    """Processor seconds that a new network learns from an image."""
    torch.manual_seed(0)
    scales = 1 if "mobilenet" in given.architecture else len(ANCHOR_SIZES)
    network = FasterRcnn(given.architecture, 2, ANCHOR_SIZES[-scales:]).train()
    network.learn_from(32)
    if amp:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    canvases = torch.rand(given.batch, 3, given.image_size, given.image_size) * 255
    boxes = torch.tensor([[20.0, 20.0, 40.0, 40.0], [30.0, 30.0, 60.0, 60.0]])
    truths = [{"boxes": boxes, "labels": torch.tensor([1, 2])}] * given.batch
    take_step(network, optimizer, canvases, truths, amp)  # the first one sets up what the others use
    began = time.process_time()
    for _ in range(given.steps):
        take_step(network, optimizer, canvases, truths, amp)
    return (time.process_time() - began) / float(given.steps * given.batch)


if __name__ == "__main__":
    main()

"""Processes that train one model together, as ``torchrun`` starts them on one node or several.

Each process learns from its share of every batch; the gradients are averaged, so that all make the same step. A
process that was not started with others is alone, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import cycle, islice
from typing import Any, TypeVar

Item = TypeVar("Item")

PATIENCE = timedelta(hours=3)  # the others wait while the first one evaluates


def rank() -> int:
    """Which of the processes this is, counted from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device(device: Any) -> Any:
    """The ``torch.device`` of this process, where those of a node share its GPUs; alone, the one that was chosen."""
    import torch

    if count() == 1 or device.type != "cuda":
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined(device: Any) -> Iterator[None]:
    """Talk with the others as long as the body runs.

    Args:
        device: the ``torch.device`` of this process; GPUs talk by NCCL, processors by Gloo.
    """
    if count() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(items: Sequence[Item]) -> list[Item]:
    """This process's share of the items, as many as everybody's: the first items fill up what does not divide."""
    whole = -(-len(items) // count()) * count()
    return list(islice(cycle(items), rank(), whole, count()))


def average_gradients(network: Any) -> None:
    """Make the gradients of all processes their mean."""
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    weights = [weight for weight in network.parameters() if weight.requires_grad]
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= count()
    for weight, mean in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = mean.view_as(weight).clone()


def same_weights(network: Any) -> None:
    """Give all processes the first one's weights and statistics."""
    if count() == 1:
        return
    import torch.distributed as dist

    for tensor in network.state_dict().values():
        dist.broadcast(tensor, src=0)


def told_by_first(value: Any) -> Any:
    """What the first process says, for all; of the others the value does not matter."""
    if count() == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]

"""Where a model is trained: the parameter ``device``, compared with what is here."""

from __future__ import annotations

from typing import Any

from components.core.errors import InputError


def checked_device(name: str) -> str:
    """A device, GPUs by their numbers alone.

    Args:
        name: ``auto``, ``cpu``, ``mps`` or GPU numbers, such as ``0``, ``cuda:0`` or ``0,1``.

    Raises:
        InputError: a GPU that is not here.
    """
    numbers = name.removeprefix("cuda:")
    if not numbers[0].isdigit():
        return name
    import torch

    there = torch.cuda.device_count()
    if max(map(int, numbers.split(","))) >= there:
        raise InputError(
            f"device={name}: this machine has {there} GPUs: use auto or cpu, or request more with train_gpus"
        )
    return numbers


def torch_device(name: str) -> Any:
    """The ``torch.device`` for a model that trains on one device: of several GPUs the first.

    Raises:
        InputError: a GPU that is not here.
    """
    import torch

    device = checked_device(name)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(f"cuda:{device.split(',')[0]}" if device[0].isdigit() else device)

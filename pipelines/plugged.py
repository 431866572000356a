"""What plug-ins can add to: every registry, and the parameter that names one of its entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.core import plugins
from components.core.errors import InputError
from components.core.plugins import Registry


def registries() -> list[Registry[Any]]:
    """Every registry; the modules of their entries are imported when these are listed."""
    from components.core.estimators.base import estimators
    from components.core.estimators.examination import examinations
    from components.core.heads import heads
    from components.core.lifelong.plug_points import PLUG_POINTS
    from components.core.miners.base import miners
    from components.core.privacy.base import privacy_filters
    from components.core.rules.custom_metrics import gate_metrics, trigger_metrics
    from components.core.runtimes.base import decoders, runtimes
    from components.core.tasks.base import tasks
    from components.ingest.dataset import formats
    from components.label.handoff import writers
    from components.serving.sinks.base import sinks

    return [
        tasks, heads, decoders, estimators, examinations, formats, writers, miners, runtimes, privacy_filters, sinks,
        trigger_metrics, gate_metrics, *PLUG_POINTS.values(),
    ]  # fmt: skip


def unknown_entries(given: Mapping[str, Any]) -> list[str]:
    """A line for each parameter that names an entry which no registry has.

    Args:
        given: parameters by name.
    """
    from components.core.estimators.base import estimators
    from components.core.lifelong.plug_points import PLUG_POINTS
    from components.core.miners.base import find_miner
    from components.core.runtimes.base import runtimes
    from components.ingest.dataset import formats
    from components.label.handoff import writers

    named = {
        "plugins": plugins.load,
        "estimator": estimators.get,
        "data_format": lambda name: name == "auto" or formats.get(name),
        "label_format": writers.get,
        "miner": find_miner,
        "runtime": runtimes.get,
        **{point: registry.get for point, registry in PLUG_POINTS.items()},
    }
    found = []
    for parameter, find in named.items():
        value = given.get(parameter)
        if isinstance(value, str) and value:
            try:
                find(value)
            except InputError as error:
                found.append(f"{parameter}: {error}")
    return found

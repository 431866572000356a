"""Lifelong learning: look at what is new, and run a round when it is worth it. Meant for a recurring run."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.trigger.component import trigger
from pipelines import cluster
from pipelines.face import pipeline
from pipelines.lifelong_round import lifelong_round


@pipeline("lifelong-learning")
def lifelong_learning(given: Mapping[str, Any]) -> None:
    """Look at what is new in the feed, and run a round of lifelong learning when the trigger says so."""
    checked = trigger(feed_url=given["feed_url"], job_root=given["job_root"], settings=given["settings"])
    cluster.small_step(checked, given)
    with dsl.If(checked.outputs["Output"] == "RUN", name="round"):
        lifelong_round(**given)

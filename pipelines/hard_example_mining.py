"""What people should label next, ranked between two rounds as well: hard examples keep arriving."""

from collections.abc import Mapping
from typing import Any

from components.label.component import label
from components.mine.component import mine
from pipelines import cluster
from pipelines.face import pipeline


@pipeline("hard-example-mining")
def hard_example_mining(given: Mapping[str, Any]) -> str:
    """Rank the hard examples that the edge has sent, and hand those over that should be labelled next.

    Returns:
        Where the hand-off is; empty if nothing is asked for.
    """
    job = {"job_root": given["job_root"], "settings": given["settings"]}
    mined = mine(**job)
    handed = label(**job).after(mined)
    cluster.heavy_step(mined, given)
    cluster.small_step(handed, given)
    return handed.outputs["Output"]

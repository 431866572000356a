"""One round of incremental learning: what is new, a candidate, the gate, and the commit."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.convert.component import convert
from components.deploy.component import deploy
from components.evaluate.component import judge
from components.ingest.component import collect
from components.label.component import send
from components.mine.component import mine
from components.prepare.component import plan
from components.setup.component import setup_round
from components.train.component import train
from pipelines import cluster
from pipelines.face import pipeline


@pipeline("incremental-round")
def incremental_round(given: Mapping[str, Any]) -> str:
    """Train a candidate on what is new and a replay of what is known, and deploy it if it is better.

    Returns:
        URI of the report.
    """
    job = {"job_root": given["job_root"], "settings": given["settings"]}
    run = {**job, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    checked = setup_round(**given)
    collected = collect(feed_url=given["feed_url"], **run).after(checked)
    planned = plan(arrivals=collected.outputs["manifest"], **run)
    trained = train(manifest=planned.outputs["training"], **run)
    converted = convert(manifest=planned.outputs["everything"], model=trained.outputs["model"], **run)
    judged = judge(
        candidate=converted.outputs["converted"],
        conversion=converted.outputs["conversion"],
        core=planned.outputs["core"],
        recent=planned.outputs["recent"],
        **run,
    )
    deployed = deploy(
        everything=planned.outputs["everything"],
        candidate=converted.outputs["converted"],
        judgement=judged.outputs["judgement"],
        figures=judged.outputs["figures"],
        **run,
    )
    # After the commit: what was labelled in this round is not asked for again, and the new champion ranks the rest.
    mined = mine(**job).after(deployed)
    sent = send(**job).after(mined)
    cluster.heavy_step(checked, given, cluster.QUICK_TIMEOUT)
    for task in (collected, planned, converted, judged, deployed, mined):
        cluster.heavy_step(task, given)
    cluster.small_step(sent, given)
    cluster.training_step(trained, given)
    return deployed.outputs["Output"]

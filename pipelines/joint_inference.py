"""A little model for the edge and a big one for the cloud, released together with the way between them."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components import images
from components.convert.component import convert
from components.ingest.component import ingest
from components.joint.component import calibrate, deploy_pair, setup_joint, train_big
from components.prepare.component import prepare
from components.rollout.component import rollout
from components.train.component import train
from pipelines import cluster
from pipelines.face import pipeline


@pipeline("joint-inference")
def joint_inference(given: Mapping[str, Any]) -> str:
    """Train a little and a big detector, choose which frames go to the cloud, release the pair if it is good,
    and start what runs it if that is asked for.

    Returns:
        URI of the report.
    """
    job = {"job_root": given["job_root"], "settings": given["settings"]}
    run = {**job, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    programs = {"cloud_image": images.CLOUD, "edge_image": images.EDGE}
    checked = setup_joint(**programs, **given)
    brought = ingest(data_url=given["data_url"], **run)
    prepared = prepare(samples=brought.outputs["manifest"], **run)
    manifest = prepared.outputs["manifest"]
    little = train(manifest=manifest, **run)
    big = train_big(manifest=manifest, **run)
    converted = convert(manifest=manifest, model=little.outputs["model"], **run)
    pair = {"manifest": manifest, "little": converted.outputs["converted"], "big": big.outputs["model"]}
    calibrated = calibrate(conversion=converted.outputs["conversion"], **pair, **run)
    deployed = deploy_pair(
        judgement=calibrated.outputs["judgement"],
        figures=calibrated.outputs["figures"],
        **pair,
        **run,
    )
    rolled_out = rollout(**programs, store_secret=given["store_secret"], **job).after(deployed)
    cluster.small_step(rolled_out, given)
    cluster.heavy_step(checked, given, cluster.QUICK_TIMEOUT)
    for task in (brought.after(checked), prepared, converted, calibrated, deployed):
        cluster.heavy_step(task, given)
    for task in (little, big):
        cluster.training_step(task, given)
    return deployed.outputs["Output"]

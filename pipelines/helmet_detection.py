"""The straight pass: images in, an evaluated detector out."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.convert.component import convert
from components.deploy.component import promote
from components.evaluate.component import evaluate
from components.ingest.component import ingest
from components.prepare.component import prepare
from components.report.component import conclude, report
from components.setup.component import setup
from components.train.component import train
from pipelines import cluster
from pipelines.face import pipeline


@pipeline("helmet-detection")
def helmet_detection(given: Mapping[str, Any]) -> str:
    """Bring images in, train a detector on them, evaluate it on images it has not seen, and make it the champion.

    Returns:
        URI of the report.
    """
    job = {"job_root": given["job_root"], "settings": given["settings"], "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    checked = setup(**given)
    brought = ingest(data_url=given["data_url"], **job)
    prepared = prepare(samples=brought.outputs["manifest"], **job)
    manifest = prepared.outputs["manifest"]
    trained = train(manifest=manifest, **job)
    converted = convert(manifest=manifest, model=trained.outputs["model"], **job)
    evaluated = evaluate(manifest=manifest, model=converted.outputs["converted"], **job)
    promoted = promote(
        manifest=manifest,
        candidate=converted.outputs["converted"],
        conversion=converted.outputs["conversion"],
        figures=evaluated.outputs["figures"],
        **job,
    )
    reported = report(
        title="Helmet detection",
        data_url=given["data_url"],
        model=promoted.outputs["Output"],
        **job,
    )
    cluster.heavy_step(checked, given, cluster.QUICK_TIMEOUT)
    for task in (brought.after(checked), prepared, converted, evaluated, promoted):
        cluster.heavy_step(task, given)
    cluster.training_step(trained, given)
    cluster.small_step(reported, given)
    concluded = conclude(
        report_uri=reported.outputs["Output"], job_root=given["job_root"], run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER
    )
    cluster.small_step(concluded, given, tries=1)
    return reported.outputs["Output"]

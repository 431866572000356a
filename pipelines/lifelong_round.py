"""One round of lifelong learning: the tasks, a model for each, every model on every task, and one release of all."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp import dsl

from components.convert.component import convert
from components.ingest.component import collect
from components.label.component import send
from components.lifelong.component import (
    define_tasks,
    deploy_tasks,
    evaluate_tasks,
    infer_tasks,
    setup_lifelong,
    train_task,
)
from pipelines import cluster
from pipelines.face import pipeline


class Trained(NamedTuple):
    """What the training of one model, and its conversion, give."""

    model: dsl.Model
    conversion: dsl.Artifact


@dsl.pipeline(name="lifelong-task", description="The training and the conversion of one model of lifelong learning.")
def lifelong_task(
    name: str,
    training: dsl.Input[dsl.Dataset],
    everything: dsl.Input[dsl.Dataset],
    tasks: dsl.Input[dsl.Artifact],
    job_root: str,
    settings: dict,
    store_secret: str,
    node_selector: dict,
    tolerations: list,
    step_cpu: str,
    step_memory: str,
    train_cpu: str,
    train_gpu_type: str,
    train_gpus: str,
    train_memory: str,
) -> Trained:
    """Train one model and convert it.

    It is a pipeline of its own, since KFP takes resources as inputs of a pipeline only, not of a loop.
    """
    run = {"job_root": job_root, "settings": settings, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    trained = train_task(name=name, training=training, everything=everything, tasks=tasks, **run)
    converted = convert(manifest=trained.outputs["samples"], model=trained.outputs["model"], **run)
    needs: dict[str, Any] = {"train_cpu": train_cpu, "train_memory": train_memory, "train_gpus": train_gpus}
    needs |= {"train_gpu_type": train_gpu_type, "node_selector": node_selector, "tolerations": tolerations}
    needs |= {"step_cpu": step_cpu, "step_memory": step_memory, "store_secret": store_secret}
    cluster.training_step(trained, needs)
    cluster.heavy_step(converted, needs)
    return Trained(
        model=converted.outputs["converted"],
        conversion=converted.outputs["conversion"],
    )


@pipeline("lifelong-round")
def lifelong_round(given: Mapping[str, Any]) -> str:
    """Train a model for each task with new samples, choose the model of each task, and deploy all as one release.

    Returns:
        URI of the report.
    """
    job = {"job_root": given["job_root"], "settings": given["settings"]}
    run = {**job, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    checked = setup_lifelong(**given)
    collected = collect(feed_url=given["feed_url"], **run).after(checked)
    defined = define_tasks(arrivals=collected.outputs["manifest"], **run)
    samples = {"everything": defined.outputs["everything"], "tasks": defined.outputs["tasks"]}
    needed = lifelong_task.component_spec.inputs.keys() & given.keys()
    with dsl.ParallelFor(defined.outputs["Output"]) as name:
        trained = lifelong_task(
            name=name,
            training=defined.outputs["training"],
            **samples,
            **{one: given[one] for one in sorted(needed)},
        )
    evaluated = evaluate_tasks(
        models=dsl.Collected(trained.outputs["model"]),
        conversions=dsl.Collected(trained.outputs["conversion"]),
        tests=defined.outputs["tests"],
        recent=defined.outputs["recent"],
        **samples,
        **run,
    )
    deployed = deploy_tasks(
        everything=defined.outputs["everything"],
        models=dsl.Collected(trained.outputs["model"]),
        judgement=evaluated.outputs["judgement"],
        figures=evaluated.outputs["figures"],
        **run,
    )
    # After the commit: the knowledge base that is the champion then looks at what is new.
    inferred = infer_tasks(arrivals=collected.outputs["manifest"], **job).after(deployed)
    sent = send(**job).after(inferred)
    cluster.heavy_step(checked, given, cluster.QUICK_TIMEOUT)
    for task in (collected, defined, evaluated, deployed, inferred):
        cluster.heavy_step(task, given)
    cluster.small_step(sent, given)
    return deployed.outputs["Output"]

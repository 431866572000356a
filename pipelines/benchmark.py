"""A benchmark of incremental learning: algorithms, baselines and seeds, each combination a case of its own."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp import dsl

from components.benchmark.component import leaderboard, plan_cases, run_case, setup_benchmark
from components.ingest.component import ingest
from pipelines import cluster
from pipelines.face import pipeline


class Finished(NamedTuple):
    """What a case gives."""

    row: dsl.Artifact


@dsl.pipeline(name="benchmark-case", description="One algorithm with one seed.")
def benchmark_case(
    case: str,
    cases: dsl.Input[dsl.Artifact],
    samples: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    job_root: str,
    settings: dict,
    store_secret: str,
    node_selector: dict,
    tolerations: list,
    train_cpu: str,
    train_gpu_type: str,
    train_gpus: str,
    train_memory: str,
) -> Finished:
    """Run a case: a pipeline of its own, since KFP takes resources as inputs of a pipeline only, not of a loop."""
    done = run_case(case=case, cases=cases, samples=samples, test=test, job_root=job_root, settings=settings)
    needs: dict[str, Any] = {"train_cpu": train_cpu, "train_memory": train_memory, "train_gpus": train_gpus}
    needs |= {"train_gpu_type": train_gpu_type, "node_selector": node_selector, "tolerations": tolerations}
    cluster.training_step(done, {**needs, "store_secret": store_secret})
    return Finished(row=done.outputs["row"])


@pipeline("benchmark")
def benchmark(given: Mapping[str, Any]) -> str:
    """Compare algorithms of incremental learning on one data set, each repeated with several seeds.

    Returns:
        URI of the leaderboard's page.
    """
    job = {"job_root": given["job_root"], "settings": given["settings"]}
    checked = setup_benchmark(**given)
    ingested = ingest(data_url=given["data_url"], **job).after(checked)
    planned = plan_cases(samples=ingested.outputs["manifest"], **job)
    needed = benchmark_case.component_spec.inputs.keys() & given.keys()
    with dsl.ParallelFor(planned.outputs["Output"]) as case:
        done = benchmark_case(
            case=case,
            cases=planned.outputs["cases"],
            samples=ingested.outputs["manifest"],
            test=planned.outputs["test"],
            **{one: given[one] for one in sorted(needed)},
        )
    ranked = leaderboard(rows=dsl.Collected(done.outputs["row"]), run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, **job)
    cluster.heavy_step(checked, given, cluster.QUICK_TIMEOUT)
    for task in (ingested, planned, ranked):
        cluster.heavy_step(task, given)
    return ranked.outputs["Output"]

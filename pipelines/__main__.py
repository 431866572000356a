"""The command line: ``python -m pipelines VERB``."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from components.core import parameters, plugins
from components.core.command_line import App, named
from components.core.errors import InputError
from components.core.job.job import Job
from components.core.stores.addresses import folder_at
from components.core.version import VERSION
from pipelines import remote
from pipelines.containers import FOLDERS
from pipelines.local import RunError, Runner
from pipelines.terminal import PipelineCommand, one_line_errors, parameters_from, say_renamed

OF_A_JOB = ("hard-example-mining",)  # pipelines that work on a job that is there
LONGEST_INTERVAL = 366 * 86400  # seconds
COMPILED = Path(__file__).resolve().parent.parent / "compiled"

app = App(
    help="Kubeflow Pipelines that keep vision models on edge devices learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"edge-learning {VERSION}, kfp {metadata.version('kfp')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Kubeflow Pipelines that keep vision models on edge devices learning."""


@app.command(cls=PipelineCommand)
def run(
    pipeline: Annotated[str, typer.Argument(help="Pipeline to run, such as helmet-detection.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Set a parameter; can be repeated.")
    ] = None,
    params: Annotated[Path | None, typer.Option(help="YAML file with parameters.")] = None,
    runner: Annotated[
        Runner, typer.Option(help="Run steps as processes, or in their container images.")
    ] = Runner.SUBPROCESS,
    every: Annotated[str, typer.Option(help="Run repeatedly at this interval, such as 60s or 5m.")] = "",
) -> None:
    """Run a pipeline on this machine, without a cluster."""
    with one_line_errors("interrupted; run the same command again to resume training from its last epoch"):
        from pipelines.arguments import face_of, parse

        face = face_of(_pipeline(pipeline))
        given = parse(face, parameter or [], parameters_from(params))
        say_renamed(given)
        if pipeline not in OF_A_JOB:
            given = {**given, "job_root": given.get("job_root") or str(Path("jobs") / pipeline)}
        given = _ready(pipeline, given, params.parent if params else Path())
        if pipeline in OF_A_JOB:
            from components.core.job.job import Job

            Job.open(given["job_root"]).read_existing()
        if every:
            parameters.check_repeated(given)
            _again_and_again(pipeline, given, runner, _seconds(every))
        _run(pipeline, given, runner)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("jobs/demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Random seed for scenes, splitting, training.")] = 0,
) -> None:
    """Run the demo: a helmet detector that keeps learning while the scenes around its camera change."""
    with one_line_errors("interrupted; the next demo starts from the beginning"):
        from pipelines.demo.loop import play

        began = time.monotonic()
        report = play(folder.resolve(), seed)
        print(f"\nthe demo took {time.monotonic() - began:.0f} s\n\nreport: {report}")


@app.command(name="demo-labelling")
def demo_labelling(
    server: Annotated[Path, typer.Option(help="The command label-studio.")] = Path(
        ".venv-label-studio/bin/label-studio"
    ),
    folder: Annotated[Path, typer.Option(help="Folder for all results.")] = Path("jobs/demo-labelling"),
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Random seed for scenes, splitting, training.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of Label Studio; 0: any.")] = 8090,
    by_api: Annotated[bool, typer.Option(help="Label by Label Studio's API instead of by hand.")] = False,
) -> None:
    """Run the demo of labelling: hard examples go to Label Studio, and what you label there makes the next model."""
    with one_line_errors("interrupted; the next demo starts from the beginning"):
        from pipelines.demo.labelling import play

        report = play(folder.resolve(), server.absolute(), seed=seed, port=port, by_api=by_api)
        print(f"\nreport: {report}")


@app.command(name="compile")
def compile_(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the compiled files are out of date.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder to write.")] = COMPILED,
    image_prefix: Annotated[str | None, typer.Option(help="Registry and path prefix of the container images.")] = None,
    image_tag: Annotated[str | None, typer.Option(help="Tag of the container images.")] = None,
    shm_size: Annotated[str | None, typer.Option(help="Shared memory of the training step, such as 4Gi.")] = None,
    cache_pvc: Annotated[
        str | None, typer.Option(help="Claim of a volume for the cache; else each step has a folder that ends with it.")
    ] = None,
    cache_size: Annotated[str | None, typer.Option(help="Limit of that folder, such as 50Gi.")] = None,
    queue: Annotated[str | None, typer.Option(help="Local queue of Kueue for the heavy steps.")] = None,
    manifests: Annotated[
        Path | None, typer.Option(help="Folder for Pipeline and PipelineVersion manifests, for kubectl or Argo CD.")
    ] = None,
) -> None:
    """Compile every pipeline and component to YAML, and validate it."""
    changes = {
        "EDGE_IMAGE_PREFIX": image_prefix, "EDGE_IMAGE_TAG": image_tag, "EDGE_SHM_SIZE": shm_size,
        "EDGE_CACHE_PVC": cache_pvc, "EDGE_CACHE_SIZE": cache_size,
        "EDGE_QUEUE": queue,
    }  # fmt: skip
    # The pipelines read these when they are imported, which is below.
    os.environ.update({name: value for name, value in changes.items() if value is not None})
    with one_line_errors():
        from pipelines import contract
        from pipelines.compile import compile_all, stale
        from pipelines.docs import pages, stale_pages, write_pages
        from pipelines.registry import COMPONENTS, PIPELINES
        from pipelines.validate import problems

        is_committed = output.resolve() == COMPILED
        if is_committed and not (COMPILED.parent / "pyproject.toml").is_file():
            raise InputError("give --output: the compiled files of an installed package cannot be changed")
        if is_committed and (others := [name for name in (*changes, "EDGE_STEP_TIMEOUT") if os.environ.get(name)]):
            raise InputError(
                f"with other images, sizes or a queue ({', '.join(others)}), give --output: the committed files use "
                "the defaults"
            )
        if check and manifests:
            raise InputError("--check writes nothing: leave out --manifests, or --check")
        wrong = contract.problems(PIPELINES, COMPONENTS)
        made = pages(PIPELINES, COMPONENTS) if is_committed else {}
        if check:
            wrong += stale(output, PIPELINES, COMPONENTS) + stale_pages(made)
        elif not wrong:
            write_pages(made)
        files = sorted(output.rglob("*.yaml")) if check else compile_all(output, PIPELINES, COMPONENTS)
        wrong += [f"{path}: {problem}" for path in files for problem in problems(path)]
        if wrong:
            raise InputError("\n".join([*wrong, "run: python -m pipelines compile"] if check else wrong))
        print(f"{len(files)} files in {output} are {'up to date and valid' if check else 'written and valid'}")
        if manifests:
            from pipelines.client import read_package
            from pipelines.manifests import write_manifests

            written = write_manifests((read_package(name, output) for name in PIPELINES), manifests)
            print(f"{len(written)} manifests are in {manifests}")


@app.command(name="plugins")
def plugins_(
    modules: Annotated[str, typer.Argument(help="Comma-separated Python modules with plug-ins to load.")] = "",
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="plugins=MODULES.")] = None,
) -> None:
    """List the available estimators, data formats, miners, runtimes, sinks and everything else plug-ins can add."""
    with one_line_errors():
        from pipelines.plugged import registries

        given = named("-p", parameter or [])
        if given.keys() - {"plugins"}:
            raise InputError(f"{', '.join(sorted(given))}: only plugins=MODULES is possible here")
        plugins.load(",".join(filter(None, (modules, given.get("plugins", "")))))
        for registry in registries():
            for name, entry in registry.items():
                first = (entry.__doc__ or "").strip().split("\n")[0]
                print(f"{registry.kind:14} {name:14} {first}")


@app.command()
def rollback(
    job_root: Annotated[str, typer.Argument(help="Root of the job.")],
    to: Annotated[
        str,
        typer.Option(help="Version to roll back to, or the start of its name; by default the one before the champion."),
    ] = "",
) -> None:
    """Make an earlier model the champion of a job again.

    Without --to this undoes the last change of the champion: given twice, it returns to the model it came from. `jobs
    JOB_ROOT` lists the versions to choose from.
    """
    with one_line_errors("interrupted; `jobs JOB_ROOT` shows the champion: give it with --to to tell the workers"):
        from components.deploy.pointer import publish_pointer

        job = Job.open(job_root)
        before = job.read()[0].champion
        state = job.roll_back(to)
        try:
            publish_pointer(job, state)
        except InputError as error:
            raise InputError(
                f"the champion is {state.champion}, but the workers do not know it yet: {error}; "
                f"give --to {state.champion} to try again"
            ) from error
        print(f"{job.store.uri}: the champion is {state.champion}, before it was {before}")
        others = [version for version in job.versions_to_choose(state) if version != state.champion]
        if others:
            print(f"to choose another version, give --to with one of {', '.join(others)}")


@app.command()
def jobs(
    job_root: Annotated[str, typer.Argument(help="Root of the job.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the status of a job: releases with metrics, the model of each worker, pending work and failures."""
    with one_line_errors():
        from pipelines.jobs import Overview

        overview = Overview.read(job_root, datetime.now(UTC))
        if as_json:
            print(overview.model_dump_json(indent=2))
        else:
            print("\n".join(overview.lines()))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Folder of a bundle, .pt weights, or a job_root to use its champion.")],
    source: Annotated[list[str], typer.Argument(help="Images, folders of images or videos.")],
    output: Annotated[Path, typer.Option(help="Folder for the annotated images and videos.")] = Path("predictions"),
    confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum score of a box.", show_default="the model's own")
    ] = None,
    estimator: Annotated[str, typer.Option(help="Estimator of .pt weights.")] = "yolo",
    image_size: Annotated[str, typer.Option(help="Image size in pixels for .pt weights.")] = "640",
    modules: Annotated[
        str, typer.Option("--plugins", help="Comma-separated Python modules with plug-ins to load.")
    ] = "",
) -> None:
    """Run a model on images, folders and videos: draw its predictions and count them."""
    with one_line_errors("interrupted; the files drawn until now are kept"), tempfile.TemporaryDirectory() as scratch:
        from pipelines.predict import predict as look

        plugins.load(modules)
        size = parameters.parse_image_size(image_size)
        seen = look(
            model, source, output, work=Path(scratch) / "model", confidence=confidence, estimator=estimator,
            image_size=size,
        )  # fmt: skip
        for one in seen:
            print(one.describe(), flush=True)
        print(f"\nresults saved to {output.resolve()}")


@app.command()
@remote.takes(remote.server)
def sedna(
    file: Annotated[list[Path], typer.Argument(help="YAML files with resources of KubeEdge Sedna.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Set a parameter; can be repeated.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the same jobs as commands; this is the default.")] = False,
    run_: Annotated[bool, typer.Option("--run", help="Run each job's pipeline here, once.")] = False,
    schedule: Annotated[bool, typer.Option("--schedule", help="Schedule the jobs on a cluster.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what cannot be carried over.")] = False,
    server: remote.Reach = remote.server,
) -> None:
    """Take over the jobs of KubeEdge Sedna: show them as commands, run them here or schedule them on a cluster."""
    with one_line_errors("interrupted; the same command continues"):
        from pipelines.interop.sedna import read

        if show + run_ + schedule > 1:
            raise InputError("choose one of --show, --run and --schedule")
        plans = read(file, parameter or [], strict=strict)
        if run_:
            ready = [_ready(plan.pipeline, plan.parameters) for plan in plans]
        for plan in plans:
            print("\n".join(plan.remarks() if run_ or schedule else plan.lines()), flush=True)
        if run_:
            for plan, given in zip(plans, ready, strict=True):
                _run(plan.pipeline, given, Runner.SUBPROCESS)
        if schedule:
            remote.schedule_plans(plans, server)


@app.command()
def ianvs(
    file: Annotated[Path, typer.Argument(help="YAML file with a benchmarking job of KubeEdge ianvs.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Set a parameter; can be repeated.")
    ] = None,
    run_: Annotated[bool, typer.Option("--run", help="Run the benchmark here.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what cannot be carried over.")] = False,
) -> None:
    """Take over a benchmark of KubeEdge ianvs: print it as a file for `run benchmark --params`, or run it."""
    with one_line_errors("interrupted; the same command continues with the cases that are left"):
        from pipelines.interop.ianvs import read

        plan = read(file, parameter or [], strict=strict)
        print("\n".join(plan.remarks() if run_ else plan.lines()), flush=True)
        if run_:
            _run("benchmark", _ready("benchmark", plan.parameters), Runner.SUBPROCESS)


EXAMINED = ("plugins", "base_model", "image_size", "estimator_options")


@app.command()
def conformance(
    estimator: Annotated[str, typer.Argument(help="Name of the estimator, such as yolo, fpn or your own.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help=f"Set a parameter: {', '.join(EXAMINED)}.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="New folder in which to keep the results.")] = None,
) -> None:
    """Test an estimator on synthetic images and report every violation of its contract."""
    with one_line_errors("interrupted"), tempfile.TemporaryDirectory() as scratch:
        from components.core.estimators.conformance import check_estimator
        from pipelines import local

        given = local.parse_arguments(_pipeline("helmet-detection"), parameter or [], {})
        others = [name for name in given if name not in EXAMINED]
        if others:
            raise InputError(f"{', '.join(others)}: an estimator is only tested with {', '.join(EXAMINED)}")
        trained_with = {"image_size": "96", **given}
        modules = trained_with.pop("plugins", "")
        parameters.check(trained_with, [parameters.TrainSettings])
        plugins.load(modules)
        logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
        problems = check_estimator(
            estimator,
            base_model=trained_with.get("base_model", "yolo11n.yaml"),
            image_size=parameters.parse_image_size(trained_with["image_size"]),
            options=trained_with.get("estimator_options", {}),
            folder=folder or Path(scratch) / "exam",
        )
        if problems:
            raise InputError("\n       ".join([f"{estimator} violates its contract:", *problems]))
        print(f"{estimator} fulfils its contract")


def _ready(name: str, given: Mapping[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """Parameters as the steps on this machine take them.

    Args:
        name: of the pipeline.
        given: the parameters.
        folder: of the file with the parameters; the base models of its algorithms may lie beside it.

    Raises:
        InputError: everything that is wrong with them.
    """
    from pipelines.arguments import face_of, problems
    from pipelines.plugged import unknown_entries

    ready = _absolute(given)
    if "algorithms" in ready:
        from components.benchmark.algorithms import located

        ready["algorithms"] = located(ready["algorithms"], (folder, Path()))
    if found := problems(face_of(_pipeline(name)), ready):
        raise InputError(parameters.all_wrong(found + unknown_entries(parameters.flat(ready))))
    return ready


def _run(name: str, given: Mapping[str, Any], runner: Runner) -> None:
    """Run a pipeline and print what came of it."""
    from pipelines import local, summary

    began = time.monotonic()
    job = Job.open(given["job_root"])
    before, reports = job.read()[0], local.reports_of(given["job_root"])
    outcome = summary.Outcome()
    folder = local.folder_of_runs(given["job_root"])
    models = summary.models(folder)
    local.run(_pipeline(name), given, folder, runner, outcome.hear)
    made = sorted(local.reports_of(given["job_root"]) - reports)
    for report in made:
        print("\n".join(["", *summary.figures(local.figures(report))]))
    print(f"\n{name} finished in {time.monotonic() - began:.0f} s\n")
    for line in summary.places(job, before, summary.models(folder) - models, made):
        print(line)
    if outcome.line:
        print(outcome.line, flush=True)


def _again_and_again(name: str, given: Mapping[str, Any], runner: Runner, seconds: int) -> None:
    """Run a pipeline at an interval until somebody ends it; a failed run is reported, and the next one tries again.

    What is wrong before the first run has begun, such as an address, ends it; later that is a store out of reach.
    """
    had_begun = False
    while True:
        began = time.monotonic()
        try:
            _run(name, given, runner)
        except InputError as error:
            if not had_begun:
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
        had_begun = True
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))


def _seconds(every: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", every)
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_INTERVAL:
        raise InputError(f"--every {every}: write a number with its unit, such as 30s, 5m, 2h or 1d; at most 366d")
    return seconds


def _pipeline(name: str) -> Any:
    from pipelines.registry import PIPELINES

    if name not in PIPELINES:
        raise InputError(f"unknown pipeline {name!r}: choose from {', '.join(PIPELINES)}")
    return PIPELINES[name]


def _absolute(given: Mapping[str, Any]) -> dict[str, Any]:
    """Paths as the steps see them, who may work in another folder."""
    made = dict(given)
    for name in ("job_root", *FOLDERS):
        value = str(made.get(name) or "")
        if not value or "://" in value:
            continue
        with suppress(InputError):  # what is no address stays as it is, for the checks to tell
            path = folder_at(value)
            if not name.endswith("_model") or os.path.exists(path):  # noqa: PTH110 - false also for what is no path
                made[name] = os.path.realpath(path)
    return made


app.add_typer(remote.app)

if __name__ == "__main__":
    app()

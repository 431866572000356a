"""The verbs of the command line that talk to a cluster: submit, schedule, upload, metrics, status and so on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.interop.sedna_plan import Plan
from pipelines.terminal import PipelineCommand, one_line_errors, parameters_from, say_renamed

app = typer.Typer()

_COMPILED = Path(__file__).resolve().parent.parent / "compiled"

_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Host = Annotated[str, typer.Option(help="Address of Kubeflow Pipelines; default: $KF_PIPELINES_ENDPOINT.")]
Namespace = Annotated[str, typer.Option(help="Your namespace, if Kubeflow has several users.")]
TokenFile = Annotated[
    str, typer.Option(help="File with a token; default: $KF_PIPELINES_TOKEN or $KF_PIPELINES_COOKIES.")
]
CaCert = Annotated[str, typer.Option(help="PEM file with trusted CA certificates.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Do not verify certificates.")]
Experiment = Annotated[str, typer.Option(help="Experiment for the runs; by default named after the pipeline.")]
Account = Annotated[str, typer.Option("--service-account", help="Kubernetes service account of the pods.")]
Root = Annotated[str, typer.Option("--pipeline-root", help="Address where KFP stores artifacts.")]
Parameter = Annotated[
    list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="Set a parameter; can be repeated.")
]
Params = Annotated[Path | None, typer.Option(help="YAML file with parameters.")]
PackageDir = Annotated[Path, typer.Option(help="Folder that `compile --output` wrote; names are looked up there.")]
Compiled = Annotated[str, typer.Argument(help="Name of the pipeline, or path of a compiled .yaml file.")]
ScheduleName = Annotated[str, typer.Argument(help="Name of the schedule, as `status` lists it.")]


@app.command(cls=PipelineCommand)
def submit(
    pipeline: Compiled,
    parameter: Parameter = None,
    params: Params = None,
    name: Annotated[str, typer.Option(help="Name of the run; default: pipeline name and time.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run; exit 1 unless it succeeds.")] = False,
    package_dir: PackageDir = _COMPILED,
    experiment: Experiment = "",
    service_account: Account = "",
    pipeline_root: Root = "",
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = "",
    ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> None:
    """Run a compiled pipeline on a cluster, once."""
    with one_line_errors("interrupted; a submitted run continues"):
        from pipelines import client

        pipeline = _in_folder(pipeline, package_dir)
        given = _for_cluster(pipeline, parameter, params)
        cluster = _cluster(host, namespace, token_file, ca_cert, insecure)
        run = client.submit(
            cluster,
            pipeline,
            given,
            name=name,
            wait=wait,
            experiment=experiment,
            service_account=service_account,
            pipeline_root=pipeline_root,
        )
        if wait:
            for line in client.describe(cluster, run.id):
                print(line)
            if run.state != "SUCCEEDED":
                raise typer.Exit(1)


@app.command(cls=PipelineCommand)
def schedule(
    pipeline: Compiled,
    parameter: Parameter = None,
    params: Params = None,
    every: Annotated[str, typer.Option(help="Interval, such as 30s, 5m, 2h or 1d.")] = "",
    cron: Annotated[str, typer.Option(help="Cron expression of six fields, seconds first: '0 */5 * * * *'.")] = "",
    start: Annotated[str, typer.Option(help="First run not before this time, such as 2026-01-31T08:00:00Z.")] = "",
    end: Annotated[str, typer.Option(help="Last run not after this time, in the same format.")] = "",
    name: Annotated[str, typer.Option(help="Name of the schedule; default: the pipeline name.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a run of the replaced schedule to finish first.")
    ] = False,
    package_dir: PackageDir = _COMPILED,
    experiment: Experiment = "",
    service_account: Account = "",
    pipeline_root: Root = "",
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = "",
    ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> None:
    """Run a compiled pipeline on a cluster on a schedule; an existing schedule of the same name is replaced."""
    with one_line_errors("interrupted; run the same command again to complete it"):
        from pipelines import schedule as schedules

        pipeline = _in_folder(pipeline, package_dir)
        given = _for_cluster(pipeline, parameter, params)
        timing = schedules.Timing.of(every, cron, start, end)
        cluster = _cluster(host, namespace, token_file, ca_cert, insecure)
        schedules.schedule(
            cluster,
            pipeline,
            given,
            timing,
            name=name,
            wait=wait,
            experiment=experiment,
            service_account=service_account,
            pipeline_root=pipeline_root,
        )


@app.command()
def upload(
    pipeline: Annotated[list[str] | None, typer.Argument(help="Names or compiled files; all without any.")] = None,
    package_dir: PackageDir = _COMPILED,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = "",
    ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> None:
    """Put compiled pipelines into a cluster, with description and version, for its pages to show."""
    with one_line_errors():
        from pipelines.schedule import warnings_of_others
        from pipelines.upload import upload as put

        cluster = _cluster(host, namespace, token_file, ca_cert, insecure)
        for line in put(cluster, pipeline or [], package_dir):
            print(line)
        for line in warnings_of_others(cluster):
            print(line)


@app.command()
def metrics(
    run: Annotated[str, typer.Argument(metavar="RUN|JOB_ROOT", help="Id of a run on a cluster, or a job_root.")],
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = "",
    ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> None:
    """Print the figures of a run, or of a job's last run, as JSON."""
    with one_line_errors():
        from pipelines.metrics import figures_of, figures_of_run

        if _RUN_ID.fullmatch(run):
            found = figures_of_run(_cluster(host, namespace, token_file, ca_cert, insecure), run)
        else:
            found = figures_of(run)
        print(found.model_dump_json(indent=2))


@app.command()
def pause(
    name: ScheduleName,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = "",
    ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> None:
    """Pause a schedule; a run in progress continues."""
    with one_line_errors():
        from pipelines import schedule as schedules

        schedules.pause(_cluster(host, namespace, token_file, ca_cert, insecure), name)


@app.command()
def resume(
    name: ScheduleName,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = "",
    ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> None:
    """Resume a paused schedule; missed runs are not made up."""
    with one_line_errors():
        from pipelines import schedule as schedules

        schedules.resume(_cluster(host, namespace, token_file, ca_cert, insecure), name)


@app.command()
def remove(
    name: ScheduleName,
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = "",
    ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> None:
    """Delete a schedule; while one of its runs is in progress, it is only disabled and the exit code is 1."""
    with one_line_errors():
        from pipelines import schedule as schedules

        if not schedules.remove(_cluster(host, namespace, token_file, ca_cert, insecure), name):
            raise typer.Exit(1)


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="Name of a schedule; default: all.")] = "",
    host: Host = "",
    namespace: Namespace = "",
    token_file: TokenFile = "",
    ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> None:
    """List the schedules on a cluster with their newest runs."""
    with one_line_errors():
        from pipelines import schedule as schedules

        cluster = _cluster(host, namespace, token_file, ca_cert, insecure)
        for one in schedules.status(cluster, name):
            print(f"{one.name}  {'enabled' if one.enabled else 'paused'}  {one.timing}  {one.url}")
            for parameter, value in sorted(one.parameters.items()):
                print(f"    {parameter}={value}")
            for run in one.runs:
                print(f"  {run.created:%Y-%m-%d %H:%M:%S} {run.state or 'UNKNOWN':9} {run.url}")
        for line in schedules.warnings_of_others(cluster):
            print(line)


def schedule_plans(
    plans: Sequence[Plan], host: str, namespace: str, token_file: str, ca_cert: str, insecure: bool
) -> None:
    """Schedule what looks at a feed, and submit what runs once; each under the name of its job.

    Raises:
        InputError: parameters of any of them cannot be; then none is sent.
    """
    from pipelines import client
    from pipelines import schedule as schedules

    for plan in plans:
        client.check_arguments(client.read_package(plan.pipeline), plan.parameters)
    cluster = _cluster(host, namespace, token_file, ca_cert, insecure)
    for plan in plans:
        if plan.every:
            timing = schedules.Timing.of(plan.every, "", "", "")
            schedules.schedule(cluster, plan.pipeline, plan.parameters, timing, name=plan.job.name)
        else:
            client.submit(cluster, plan.pipeline, plan.parameters)


def _cluster(host: str, namespace: str, token_file: str, ca_cert: str, insecure: bool) -> Any:
    from pipelines.client import Server, connect

    options = {"namespace": namespace, "token_file": token_file, "ca_cert": ca_cert, "verify_tls": not insecure}
    return connect(Server.from_environment(host, **options))


def _in_folder(pipeline: str, folder: Path) -> str:
    """The path of a pipeline that was compiled into another folder than that of the suite; a path stays."""
    from pipelines.client import read_package

    return pipeline if folder == _COMPILED else str(read_package(pipeline, folder).path)


def _for_cluster(pipeline: str, pairs: list[str] | None, path: Path | None) -> dict[str, Any]:
    from pipelines import client

    given = client.parse_arguments(client.read_package(pipeline), pairs or [], parameters_from(path))
    say_renamed(given)
    return given

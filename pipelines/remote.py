"""The verbs of the command line that talk to a cluster: submit, schedule, upload, metrics, status and so on."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from components.core import parameters
from components.core.command_line import App
from components.core.errors import InputError
from pipelines.interop.sedna_plan import Plan
from pipelines.terminal import PipelineCommand, one_line_errors, parameters_from, say_renamed

app = App()

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


Reach = Callable[[], Any]  # the server that the options name
Asked = Callable[[], tuple[str, dict[str, Any], dict[str, Any]]]  # file of a pipeline, parameters, and how it runs


def server(
    host: Host = "", namespace: Namespace = "", token_file: TokenFile = "", ca_cert: CaCert = "",
    insecure: Insecure = False,
) -> Any:  # fmt: skip
    """Reach the server; these are the options of every verb here."""
    from pipelines.client import Server, connect

    options = {"namespace": namespace, "token_file": token_file, "ca_cert": ca_cert, "verify_tls": not insecure}
    return connect(Server.from_environment(host, **options))


def request(
    pipeline: Compiled, parameter: Parameter = None, params: Params = None, package_dir: PackageDir = _COMPILED,
    experiment: Experiment = "", service_account: Account = "", pipeline_root: Root = "",
) -> tuple[str, dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Look at what is asked for: file of the pipeline, parameters, and how it runs."""
    from pipelines import client

    pipeline = pipeline if package_dir == _COMPILED else str(client.read_package(pipeline, package_dir).path)
    given = client.parse_arguments(client.read_package(pipeline), parameter or [], parameters_from(params))
    say_renamed(given)
    _warn_of_unknown(given)
    how = {"experiment": experiment, "service_account": service_account, "pipeline_root": pipeline_root}
    return pipeline, given, how


def _warn_of_unknown(given: Mapping[str, Any]) -> None:
    """Warn of names that no registry of this machine has; with ``plugins`` the container images may have more."""
    from pipelines.plugged import unknown_entries

    named = parameters.flat(given)
    for line in [] if named.get("plugins") else unknown_entries(named):
        print(f"warning: {line} (setup ends the run unless the container images have it)", file=sys.stderr)


def takes(group: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of a group in place of its parameter of that name; it calls that for what comes of them.

    Args:
        group: a function whose parameters are options.
    """
    name, options = group.__name__, list(inspect.signature(group, eval_str=True).parameters.values())

    def with_options(verb: Callable[..., None]) -> Callable[..., None]:
        def called(**given: Any) -> None:
            chosen = {option.name: given.pop(option.name) for option in options}
            verb(**given, **{name: partial(group, **chosen)})

        rows = inspect.signature(verb, eval_str=True).parameters.values()
        given = [option for row in rows for option in (options if row.name == name else [row])]
        own = [row.replace(kind=inspect.Parameter.KEYWORD_ONLY) for row in given]
        called.__name__, called.__doc__ = verb.__name__, verb.__doc__
        called.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        called.__annotations__ = {row.name: row.annotation for row in own}
        return called

    return with_options


@app.command(cls=PipelineCommand)
@takes(request)
@takes(server)
def submit(
    request: Asked,
    server: Reach,
    name: Annotated[str, typer.Option(help="Name of the run; default: pipeline name and time.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run; exit 1 unless it succeeds.")] = False,
) -> None:
    """Run a compiled pipeline on a cluster, once."""
    with one_line_errors("interrupted; a submitted run continues"):
        from pipelines import client

        pipeline, given, how = request()
        cluster = server()
        run = client.submit(cluster, pipeline, given, name=name, wait=wait, **how)
        if wait:
            for line in client.describe(cluster, run.id):
                print(line)
            if run.state != "SUCCEEDED":
                raise typer.Exit(1)


@app.command(cls=PipelineCommand)
@takes(request)
@takes(server)
def schedule(
    request: Asked,
    server: Reach,
    every: Annotated[str, typer.Option(help="Interval, such as 30s, 5m, 2h or 1d.")] = "",
    cron: Annotated[str, typer.Option(help="Cron expression of six fields, seconds first: '0 */5 * * * *'.")] = "",
    start: Annotated[str, typer.Option(help="First run not before this time, such as 2026-01-31T08:00:00Z.")] = "",
    end: Annotated[str, typer.Option(help="Last run not after this time, in the same format.")] = "",
    name: Annotated[str, typer.Option(help="Name of the schedule; default: the pipeline name.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a run of the replaced schedule to finish first.")
    ] = False,
    poller: Annotated[
        Path | None,
        typer.Option(help="Write a Kubernetes manifest of a pod that polls every --every, instead of a recurring run."),
    ] = None,
    poller_host: Annotated[
        str, typer.Option(help="Address of Kubeflow Pipelines as that pod reaches it.")
    ] = "http://ml-pipeline.kubeflow:8888",
) -> None:
    """Run a compiled pipeline on a cluster on a schedule; an existing schedule of the same name is replaced."""
    with one_line_errors("interrupted; run the same command again to complete it"):
        from pipelines import schedule as schedules

        pipeline, given, how = request()
        timing = schedules.Timing.of(every, cron, start, end)
        if poller:
            print(_written(poller, poller_host, pipeline, given, timing, server, name=name, **how))
            return
        cluster = server()
        schedules.schedule(cluster, pipeline, given, timing, name=name, wait=wait, **how)
        for line in schedules.warnings_of_others(cluster):
            print(line)


@app.command()
@takes(server)
def upload(
    pipeline: Annotated[list[str] | None, typer.Argument(help="Names or compiled files; all without any.")] = None,
    package_dir: PackageDir = _COMPILED,
    server: Reach = server,
) -> None:
    """Put compiled pipelines into a cluster, with description and version, for its pages to show."""
    with one_line_errors():
        from pipelines.schedule import warnings_of_others
        from pipelines.upload import upload as put

        cluster = server()
        for line in put(cluster, pipeline or [], package_dir):
            print(line)
        for line in warnings_of_others(cluster):
            print(line)


@app.command()
@takes(server)
def metrics(
    run: Annotated[str, typer.Argument(metavar="RUN|JOB_ROOT", help="Id of a run on a cluster, or a job_root.")],
    server: Reach = server,
) -> None:
    """Print the figures of a run, or of a job's last run, as JSON."""
    with one_line_errors():
        from pipelines.metrics import figures_of, figures_of_run

        found = figures_of_run(server(), run) if _RUN_ID.fullmatch(run) else figures_of(run)
        print(found.model_dump_json(indent=2))


@app.command()
@takes(server)
def pause(
    name: ScheduleName,
    server: Reach = server,
) -> None:
    """Pause a schedule; a run in progress continues."""
    with one_line_errors():
        from pipelines import schedule as schedules

        schedules.pause(server(), name)


@app.command()
@takes(server)
def resume(
    name: ScheduleName,
    server: Reach = server,
) -> None:
    """Resume a paused schedule; missed runs are not made up."""
    with one_line_errors():
        from pipelines import schedule as schedules

        schedules.resume(server(), name)


@app.command()
@takes(server)
def remove(
    name: ScheduleName,
    server: Reach = server,
) -> None:
    """Delete a schedule; while one of its runs is in progress, it is only disabled and the exit code is 1."""
    with one_line_errors():
        from pipelines import schedule as schedules

        if not schedules.remove(server(), name):
            raise typer.Exit(1)


@app.command()
@takes(server)
def status(
    name: Annotated[str, typer.Argument(help="Name of a schedule; default: all.")] = "",
    server: Reach = server,
) -> None:
    """List the schedules on a cluster with their newest runs."""
    with one_line_errors():
        from pipelines import schedule as schedules

        cluster = server()
        for one in schedules.status(cluster, name):
            print(f"{one.name}  {'enabled' if one.enabled else 'paused'}  {one.timing}  {one.url}")
            for parameter, value in sorted(one.parameters.items()):
                print(f"    {parameter}={value}")
            for run in one.runs:
                print(f"  {run.created:%Y-%m-%d %H:%M:%S} {run.state or 'UNKNOWN':9} {run.url}")
        for line in schedules.warnings_of_others(cluster):
            print(line)


def schedule_plans(plans: Sequence[Plan], server: Reach) -> None:
    """Schedule what looks at a feed, and submit what runs once; each under the name of its job.

    Raises:
        InputError: parameters of any of them cannot be; then none is sent.
    """
    from pipelines import client
    from pipelines import schedule as schedules

    for plan in plans:
        client.check_arguments(client.read_package(plan.pipeline), plan.parameters)
    cluster = server()
    for plan in plans:
        if plan.every:
            timing = schedules.Timing.of(plan.every, "", "", "")
            schedules.schedule(cluster, plan.pipeline, plan.parameters, timing, name=plan.job.name)
        else:
            client.submit(cluster, plan.pipeline, plan.parameters, name=plan.job.name)


def _written(path: Path, api: str, pipeline: str, given: dict[str, Any], timing: Any, server: Reach, **how: Any) -> str:
    """The manifest of a poller, and what to do with it."""
    from pipelines.poller import write_manifest

    if not timing.interval or timing.start or timing.end:
        raise InputError("--poller polls at an interval: give --every and neither --cron, --start nor --end")
    return write_manifest(server(), path, pipeline, given, every_seconds=timing.interval, api=api, **how)

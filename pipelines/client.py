"""A Kubeflow Pipelines server: connecting to it, and running a compiled pipeline there once.

    cluster = connect(Server("http://localhost:8080"))
    run = submit(cluster, "helmet-detection", {"data_url": "s3://images/voc.zip", "job_root": "s3://jobs/helmet"})
    state = follow(cluster, run.id)

What is wrong with a package or its parameters is reported before anything is sent; what the server or the network says
is reported in one line. Tokens and cookies come from the environment or a file, and appear in no message.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from kfp.client import Client
from kfp.client.token_credentials_base import TokenCredentialsBase
from kfp_server_api import ApiException, V2beta1Experiment, V2beta1Pipeline

from components.core import parameters
from components.core.documents import read_yaml_documents
from components.core.errors import InputError
from components.core.stores.connections import proxy_for
from components.core.version import VERSION
from pipelines.arguments import Face, face_of_compiled, parse, sort_into_place
from pipelines.arguments import problems as problems_of
from pipelines.outcome import outcome, steps
from pipelines.validate import ARGUMENT_LIMIT, problems

COMPILED = Path(__file__).resolve().parent.parent / "compiled"
FINISHED = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"})

TIMEOUT = (5, 60)  # seconds to connect, and to wait for an answer; kfp's own client waits for ever
_PAGE = 50
_PATIENCE = 10  # failed looks at a run, one after the other, before following it is given up
_LONGEST_NAME = 128  # characters, the server's limit for experiments
_LONGEST_MESSAGE = 400

# The parameters take their place among other things in one program argument of every driver.
_PARAMETER_LIMIT = ARGUMENT_LIMIT * 3 // 4

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Server:
    """Where a Kubeflow Pipelines API is, and how to be let in.

    Attributes:
        host: ``http://localhost:8080`` behind a port-forward, ``https://kubeflow.example.com/pipeline`` elsewhere.
        namespace: of the user, where Kubeflow has several; empty otherwise.
        token: of the user or a service account.
        token_file: holds the token and may change while a run is followed, as a Kubernetes service account's does.
        cookies: of a browser session, ``authservice_session=...``.
        ca_cert: PEM file with the certificates to trust; empty for the usual ones.
        verify_tls: False trusts any certificate.
        ui_host: where the web pages are, if not at ``host``.
    """

    host: str
    namespace: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    cookies: str = field(default="", repr=False)
    ca_cert: str = ""
    verify_tls: bool = True
    ui_host: str = ""

    @classmethod
    def from_environment(cls, host: str = "", **options: Any) -> Server:
        """A server whose secrets, and what else is not given, come from the environment.

        ``KF_PIPELINES_TOKEN``, ``KF_PIPELINES_COOKIES``, and kfp's own ``KF_PIPELINES_ENDPOINT``,
        ``KF_PIPELINES_UI_ENDPOINT`` and ``KF_PIPELINES_SA_TOKEN_PATH``.
        """
        variables = {
            "host": "KF_PIPELINES_ENDPOINT",
            "ui_host": "KF_PIPELINES_UI_ENDPOINT",
            "token": "KF_PIPELINES_TOKEN",
            "token_file": "KF_PIPELINES_SA_TOKEN_PATH",
            "cookies": "KF_PIPELINES_COOKIES",
        }
        given = {name: value for name, value in {"host": host, **options}.items() if value != ""}
        found = {name: os.environ.get(variable, "").strip() for name, variable in variables.items()}
        if "token_file" in given:
            del found["token"]  # which would win over the file
        return cls(**{**found, **given})


@dataclass(frozen=True)
class Cluster:
    """A server that has answered.

    Attributes:
        client: kfp's own client.
        host: address, for messages.
        namespace: of the user; None where there is only one.
        ui: address of the web pages.
    """

    client: Any
    host: str
    namespace: str | None
    ui: str

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what goes wrong with a request into an ``InputError`` of one line."""
        with _explained(self.host):
            yield

    def run_url(self, run_id: str) -> str:
        """The page of a run."""
        return f"{self.ui}/#/runs/details/{run_id}"

    def version_url(self, version: Version) -> str:
        """The page of a version of a pipeline."""
        return f"{self.ui}/#/pipelines/details/{version.pipeline}/version/{version.id}"

    def schedule_url(self, recurring_run_id: str) -> str:
        """The page of a recurring run."""
        return f"{self.ui}/#/recurringrun/details/{recurring_run_id}"

    def run(self, run_id: str) -> Any:
        """What the server knows of a run.

        Raises:
            InputError: what answers is not Kubeflow Pipelines.
        """
        try:
            run = self.client.runs.run_service_get_run(run_id)
        except (TypeError, AttributeError):
            run = None  # kfp's client takes what it can from any text
        if run is None or run.run_id != run_id:
            raise InputError(_STRANGER.format(host=self.host))
        return run

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made if it is not there."""
        if not 0 < len(name) <= _LONGEST_NAME:
            raise InputError(f"experiment {name!r}: must have 1 to {_LONGEST_NAME} characters")
        found = self._find_experiment(name) or self._make_experiment(name)
        if found.storage_state == "ARCHIVED":
            raise InputError(f"experiment {name!r} is archived: restore it, or choose another one with --experiment")
        return str(found.experiment_id)

    def version(self, package: Package) -> Version:
        """A compiled pipeline as the server has it, which is uploaded if it is not there.

        Other container images make another version, see ``Package.version``.
        """
        name = package.version
        with redirect_stdout(io.StringIO()):  # kfp prints links of its own
            pipeline = self._find_pipeline(package.name) or self._make_pipeline(package)
            found = self._find_version(pipeline, name)
            if found:
                return Version(pipeline, found, name)
            try:
                made = self.client.upload_pipeline_version(
                    str(package.path), name, pipeline_id=pipeline, description=package.description
                )
            except ApiException as error:
                if error.status != 409:
                    raise
                return Version(pipeline, self._find_version(pipeline, name), name)  # somebody else was quicker
        return Version(pipeline, str(made.pipeline_version_id), name, is_new=True)

    def pages(self, request: Callable[..., Any], items: str, **query: Any) -> Iterator[Any]:
        """All that a request lists, page by page."""
        token: str | None = ""
        while token is not None:
            page = request(page_token=token, page_size=_PAGE, **query)
            yield from getattr(page, items) or []
            token = page.next_page_token or None

    def _find_pipeline(self, name: str) -> str:
        query = {"filter": equals("display_name", name), "namespace": self.namespace or ""}
        found = self.pages(self.client.pipelines.pipeline_service_list_pipelines, "pipelines", **query)
        return next((str(one.pipeline_id) for one in found), "")

    def _make_pipeline(self, package: Package) -> str:
        """Make a pipeline that has no version yet, with the suite's version as a tag."""
        wanted = V2beta1Pipeline(
            display_name=package.name,
            description=package.description,
            namespace=self.namespace,
            tags={"edge-learning": VERSION},
        )
        try:
            made = self.client.pipelines.pipeline_service_create_pipeline(wanted)
            return str(made.pipeline_id)
        except ApiException as error:
            if error.status != 409:
                raise
        return self._find_pipeline(package.name)  # somebody else was quicker

    def _find_version(self, pipeline: str, name: str) -> str:
        request = self.client.pipelines.pipeline_service_list_pipeline_versions
        listed = self.pages(request, "pipeline_versions", pipeline_id=pipeline)
        return next((str(one.pipeline_version_id) for one in listed if one.display_name == name), "")

    def _find_experiment(self, name: str) -> Any:
        listed = self.client.experiments.experiment_service_list_experiments
        query = {"filter": equals("display_name", name), "namespace": self.namespace or ""}
        return next(self.pages(listed, "experiments", **query), None)

    def _make_experiment(self, name: str) -> Any:
        wanted = V2beta1Experiment(display_name=name, namespace=self.namespace)
        try:
            return self.client.experiments.experiment_service_create_experiment(wanted)
        except ApiException as error:
            if error.status != 409:
                raise
        return self._find_experiment(name)  # somebody else was quicker


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        path: the file.
        name: of the pipeline.
        description: of the pipeline.
        inputs: parameter names, and what the file says of each: ``parameterType``, ``isOptional``, ``defaultValue``.
        digest: SHA-256 of what the file means; comments do not count.
    """

    path: Path
    name: str
    description: str
    inputs: Mapping[str, Mapping[str, Any]]
    digest: str

    @property
    def version(self) -> str:
        """Named after that of the suite and the content, so that other container images make another version."""
        return f"{VERSION}-{self.digest[:8]}"

    @property
    def face(self) -> Face:
        """What it takes, as people give it."""
        return face_of_compiled(self.inputs)


@dataclass(frozen=True)
class Version:
    """A version of a pipeline on a server.

    Attributes:
        pipeline: id of the pipeline.
        id: of the version.
        name: as the pages show it.
        is_new: whether it was uploaded just now.
    """

    pipeline: str
    id: str
    name: str
    is_new: bool = False


@dataclass(frozen=True)
class Run:
    """A run on a cluster.

    Attributes:
        id: of the run.
        url: its page.
        state: as the server names it, such as ``RUNNING``; empty if it has not said.
        created: when it was made.
    """

    id: str
    url: str
    state: str = ""
    created: datetime | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in FINISHED


def connect(server: Server) -> Cluster:
    """Reach a server, and see that it is one.

    Raises:
        InputError: it cannot be reached, does not let the user in, or is something else.
    """
    host = _checked_host(server)
    with _explained(host):
        client = _quick_client(server, host)
        health = client.get_kfp_healthz()
        namespace = server.namespace or client.get_user_namespace() or None
    if health.get("multi_user") and not namespace:
        raise InputError(f"{host} has several users with their own namespaces: give yours with --namespace")
    return Cluster(client, host, namespace, (server.ui_host or host).rstrip("/"))


def compiled_in(folder: Path) -> dict[str, Path]:
    """The compiled pipelines in a folder by name.

    Args:
        folder: as ``pipelines.compile`` writes it.

    Raises:
        InputError: there are none.
    """
    if found := {file.stem: file for file in sorted(folder.glob("pipelines/*.yaml"))}:
        return found
    raise InputError(f"{folder}: no compiled pipelines in it: give the folder that `compile --output` wrote")


def read_package(pipeline: str, folder: Path = COMPILED) -> Package:
    """Read a compiled pipeline.

    Args:
        pipeline: name of one in ``folder``, such as ``helmet-detection``, or the path of a ``.yaml`` file.
        folder: as ``pipelines.compile`` writes it.

    Raises:
        InputError: there is none, or a server would refuse it.
    """
    known = {} if (is_path := pipeline.endswith((".yaml", ".yml"))) else compiled_in(folder)
    path = Path(pipeline) if is_path else known.get(pipeline)
    if path is None:
        raise InputError(
            f"unknown pipeline {pipeline!r}: give the path of a compiled .yaml file, or choose from {', '.join(known)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    wrong = problems(text)
    if wrong:
        raise InputError(f"{path} is not a valid compiled pipeline: {'; '.join(wrong)}")
    documents = read_yaml_documents(text, str(path))
    definitions = documents[0]["root"].get("inputDefinitions", {})
    if needed := [name for name, spec in definitions.get("artifacts", {}).items() if not spec.get("isOptional")]:
        raise InputError(
            f"{path} cannot run on its own: it needs the artifacts {', '.join(needed)} of other steps; "
            "use it in a pipeline"
        )
    inputs = definitions.get("parameters", {})
    digest = hashlib.sha256(json.dumps(documents, sort_keys=True).encode()).hexdigest()
    info = documents[0]["pipelineInfo"]
    return Package(path, str(info["name"]), str(info.get("description", "")), inputs, digest)


def parse_arguments(package: Package, pairs: list[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``name=value`` words and the contents of a file into arguments of a package.

    Args:
        package: whose parameters they are.
        pairs: from the command line; they win over ``values``.
        values: from a file.

    Raises:
        InputError: a word is not ``name=value``.
    """
    return parse(package.face, pairs, values)


def check_arguments(package: Package, given: Mapping[str, Any]) -> None:
    """See that a server and the pipeline's steps will take these arguments.

    Raises:
        InputError: everything that is wrong with them.
    """
    found = problems_of(package.face, given) + _lost_on_a_cluster(parameters.spread(given, package.inputs))
    if found:
        raise InputError(parameters.all_wrong(found))
    size = len(json.dumps(sort_into_place(package.face, given)).encode())
    if size > _PARAMETER_LIMIT:
        raise InputError(f"the parameters take {size} bytes, but at most {_PARAMETER_LIMIT} fit: put lists into files")


def submit(
    cluster: Cluster,
    pipeline: str,
    arguments: Mapping[str, Any],
    *,
    experiment: str = "",
    name: str = "",
    service_account: str = "",
    pipeline_root: str = "",
    wait: bool = False,
    tell: Tell = print,
) -> Run:
    """Run a compiled pipeline on a cluster, once; it is uploaded first. Caching is as it was compiled.

    Args:
        cluster: from ``connect``.
        pipeline: name or path, see ``read_package``.
        arguments: parameters by name.
        experiment: group of runs, made if it is not there; by default named like the pipeline.
        name: of the run; by default the pipeline's with the time.
        service_account: that its pods run as; empty for the server's default.
        pipeline_root: where KFP keeps artifacts; empty for the server's default.
        wait: follow it to its end.
        tell: takes lines of progress.

    Returns:
        The run, with its last state if it was waited for.

    Raises:
        InputError: the package, the arguments or the server forbid it.
    """
    package = read_package(pipeline)
    check_arguments(package, arguments)
    with cluster.explained(), redirect_stdout(io.StringIO()):  # kfp prints links of its own
        version = cluster.version(package)
        made = cluster.client.run_pipeline(
            cluster.experiment(experiment or package.name),
            name or f"{package.name} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}",
            pipeline_id=version.pipeline,
            version_id=version.id,
            params=sort_into_place(package.face, arguments),
            service_account=service_account or None,
            pipeline_root=pipeline_root or None,
        )
    run = Run(made.run_id, cluster.run_url(made.run_id), made.state or "", made.created_at)
    tell(f"run {run.id} of {package.name} {version.name}: {run.url}")
    return follow(cluster, run.id, tell=tell) if wait else run


def follow(cluster: Cluster, run_id: str, *, tell: Tell = print, every: float = 5.0) -> Run:
    """Wait until a run has finished, also when it was cancelled, and tell what its steps do.

    Args:
        cluster: where it runs.
        run_id: the run.
        tell: takes a line whenever a step changes its state.
        every: seconds between two looks.

    Returns:
        The run with its last state.

    Raises:
        InputError: there is no such run, or the server cannot be asked any more; the run itself goes on.
    """
    told: dict[str, str] = {}
    while True:
        seen = _look(cluster, run_id, every)
        for line in _changes(seen, told):
            tell(line)
        run = Run(run_id, cluster.run_url(run_id), seen.state or "", seen.created_at)
        if run.finished:
            tell(f"run {run.state}{_reason(seen.error)}")
            return run
        time.sleep(every)


def describe(cluster: Cluster, run_id: str) -> Iterator[str]:
    """How a run ended: the step that failed, why and where its log is; or its figures and its report.

    Args:
        cluster: where it ran.
        run_id: the run.

    Raises:
        InputError: there is no such run, or the server cannot be asked.
    """
    with cluster.explained():
        run = cluster.run(run_id)
    yield from outcome(run, cluster.run_url(run_id), cluster.namespace)


def equals(key: str, value: str) -> str:
    """A filter for what the server lists."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]})


class _QuickClient(Client):  # type: ignore[misc]  # kfp is untyped
    """kfp's client, which asks for the server's health once.

    Its own tries for 20 seconds, logs the headers of the answers, and takes a login page for good health.
    """

    def _load_config(self, *args: Any, **options: Any) -> Any:
        config = super()._load_config(*args, **options)
        login = unquote(urlsplit(config.proxy or "").netloc.rpartition("@")[0])
        if login:
            config.proxy_headers = urllib3.make_headers(proxy_basic_auth=login)
        return config

    def get_kfp_healthz(self, sleep_duration: int = 5) -> dict[str, Any]:
        answer = self._healthz_api.healthz_service_get_healthz(_preload_content=False, _request_timeout=TIMEOUT)
        try:
            return _Health(json.loads(answer.data))
        except (ValueError, TypeError):
            raise InputError(_STRANGER.format(host=self._existing_config.host)) from None


class _Health(dict[str, Any]):
    """What the server says of itself; kfp's constructor asks for ``multi_user`` as an attribute."""

    @property
    def multi_user(self) -> bool:
        return bool(self.get("multi_user"))


def _quick_client(server: Server, host: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that version 2 of the server is needed
        client = _QuickClient(
            host=host,
            existing_token=_bare("token", server.token) or None,
            credentials=_TokenFile(server.token_file) if server.token_file else None,
            cookies=_bare("cookies", server.cookies) or None,
            proxy=proxy_for(host) or None,
            ssl_ca_cert=server.ca_cert or None,
            verify_ssl=server.verify_tls,
            ui_host=server.ui_host or None,
            **({"namespace": server.namespace} if server.namespace else {}),
        )
    rest = client.runs.api_client.rest_client  # what every request goes through
    rest.request = _in_time(rest.request)
    return client


def _in_time(request: Callable[..., Any]) -> Callable[..., Any]:
    """Requests that wait for an answer for some time, where kfp's wait for ever unless they are told otherwise."""

    def ask(*words: Any, _request_timeout: Any = None, **options: Any) -> Any:
        return request(*words, _request_timeout=_request_timeout or TIMEOUT, **options)

    return ask


class _TokenFile(TokenCredentialsBase):  # type: ignore[misc]  # kfp is untyped
    """The token in a file that changes; while it is being replaced, and empty, the token before holds."""

    def __init__(self, path: str) -> None:
        self._path, self._token = path, ""

    def refresh_api_key_hook(self, config: Any) -> None:
        """Put the token into kfp's configuration before each request."""
        try:
            self._token = _bare("token", Path(self._path).read_text(encoding="utf-8")) or self._token
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"token_file={self._path!r}: cannot be read ({type(error).__name__})") from None
        if not self._token:
            raise InputError(f"token_file={self._path!r}: the file is empty: write the token to it, or try again")
        config.api_key["authorization"] = self._token


def _bare(name: str, secret: str) -> str:
    """A token or cookies without blanks and line ends around; the message never shows it."""
    bare = secret.strip()
    if any(not " " <= letter <= "~" for letter in bare):
        raise InputError(
            f"the {name} contains a line break or a character that is not allowed in a header: give the bare value"
        )
    return bare


def _checked_host(server: Server) -> str:
    if not server.host:
        raise InputError("no server given: set --host, such as --host http://localhost:8080")
    for option, path in (("ca_cert", server.ca_cert), ("token_file", server.token_file)):
        if path and not os.access(path, os.R_OK):
            raise InputError(f"{option}={path!r}: no such file, or it cannot be read")
    return checked_address(server.host, "host")


def checked_address(address: str, what: str) -> str:
    """The address of a server, as requests begin with it.

    Args:
        address: ``http://...`` or ``https://...``.
        what: it is called in messages.

    Raises:
        InputError: it is no such address, or holds a user name or password.
    """
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half a bracket, or a port that is no number
        valid = False
    if not valid:
        raise InputError(f"{what} {address!r} is not a valid address: write http://... or https://...")
    if parts.username or parts.password:
        raise InputError(f"the {what} must not contain a user name or password: give a token or cookies instead")
    return address.rstrip("/")


@contextmanager
def _explained(host: str) -> Iterator[None]:
    # Without the chain: kfp's error holds the headers of the answer, and those may hold cookies.
    try:
        yield
    except ApiException as error:
        raise InputError(_refusal(host, error)) from None
    except urllib3.exceptions.HTTPError as error:
        raise InputError(_silence(host, error)) from None
    except OSError as error:
        raise InputError(f"{host}: {error}") from None


def _refusal(host: str, error: Any) -> str:
    said = _said(error.body)
    if error.status == 401:
        return f"{host} rejected the login (401): set KF_PIPELINES_TOKEN or KF_PIPELINES_COOKIES, or give a token file"
    if error.status == 403:
        return f"{host} denied access (403): the user lacks permission, or --namespace belongs to someone else{said}"
    if error.status == 404 and not said:
        return f"{host} has no Kubeflow Pipelines API at this path (404): a path such as /pipeline may be missing"
    if not error.status:
        return f"{host}: no secure connection: {_line(error.reason)}"
    return f"{host} refused the request ({error.status} {error.reason}){said}"


def _silence(host: str, error: Any) -> str:
    reason = getattr(error, "reason", None) or error
    if "CERTIFICATE_VERIFY_FAILED" in str(reason):
        return f"{host}: its certificate is not trusted: give its CA certificate with --ca-cert"
    return f"{host} cannot be reached: {_line(_URLLIB3_OBJECT.sub('', str(reason)))}"


def _said(body: Any) -> str:
    """What the server gives as its reason, which stands in the details if there are any."""
    try:
        answer = json.loads(body)
        details = answer.get("details") or [{}]
        message = details[0].get("message") or answer.get("message") or answer.get("error") or ""
    except (ValueError, TypeError, AttributeError):
        return ""
    return f": {_line(message)}" if message else ""


def _reason(error: Any) -> str:
    return f": {_line(error.message)}" if error is not None and error.message else ""


def _line(text: object) -> str:
    """On one line, and of a long one the end, where Go's errors have their cause."""
    words = " ".join(str(text).split())
    return words if len(words) <= _LONGEST_MESSAGE else f"... {words[-_LONGEST_MESSAGE:]}"


_URLLIB3_OBJECT = re.compile(r"^(<.*?>|\w+\(host=.*?\)): ")  # that failed, before what failed
_STRANGER = (
    "{host} does not answer like a Kubeflow Pipelines API (a login page?): "
    "check the path, and set KF_PIPELINES_TOKEN or KF_PIPELINES_COOKIES"
)


def _lost_on_a_cluster(given: Mapping[str, Any]) -> list[str]:
    """A relative path means nothing in a pod: what is read is not there, what is written is lost with the pod."""
    return [
        f"{name}={value!r} is a local path: on a cluster use s3://bucket/prefix"
        for name in ("data_url", "test_url", "feed_url", "job_root", "prelabel_job")
        if isinstance(value := given.get(name), str) and value and "://" not in value and not value.startswith("/")
    ]


def _look(cluster: Cluster, run_id: str, every: float) -> Any:
    """Ask for a run, through restarts of the server and of the network."""
    for _ in range(_PATIENCE - 1):
        try:
            return cluster.run(run_id)
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, ApiException) and error.status < 500:
                break
            time.sleep(every)
    try:
        with cluster.explained():
            return cluster.run(run_id)
    except InputError as error:
        raise InputError(f"{error}; if the run was created, it continues: {cluster.run_url(run_id)}") from None


def _changes(run: Any, told: dict[str, str]) -> Iterator[str]:
    for name, task in steps(run):
        if told.get(name) != task.state:
            told[name] = task.state
            yield f"{name} {task.state}{_reason(task.error)}"

"""``python -m components.serving.cloud_server``: answers edge workers with the big model of a job, and follows it.

It stands on Starlette and uvicorn, which takes the event loop of uvloop for its own, and speaks KServe's protocol by
itself. KServe's own ModelServer would bring 28 packages into the environment and hold psutil below 6; what it adds
beside the protocol is gRPC and a list of models, which this server has no use for. In an InferenceService it runs as a
custom predictor.

Every option can be given as an environment variable: ``--job-root`` as ``CLOUD_JOB_ROOT`` and so on. The token is read
from ``CLOUD_TOKEN`` alone, since command lines can be read by others.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from starlette.applications import Starlette

from components.core import plugins
from components.core.command_line import App
from components.core.errors import InputError
from components.core.processes import ending_signals
from components.core.redaction import redacted_output
from components.core.release import MODEL
from components.core.runtimes.base import runtimes
from components.core.stores.open import open_store
from components.core.stores.settings import setting
from components.core.wire import Limits
from components.serving.active_model import ActiveModel
from components.serving.cloud_app import Rules, make_app
from components.serving.cloud_metrics import CloudMetrics
from components.serving.cloud_model import LANES, CloudModel
from components.serving.hot_update import HotUpdate, Loader
from components.serving.job_folder import job_folder, models_folder
from components.serving.model_cache import ModelCache
from components.serving.pointers import JobPointer
from components.serving.status import StatusReport

TOKEN = "CLOUD_TOKEN"
_PATIENCE_SECONDS = "3"  # of one request to the store; the updater tries again itself
_STOP_SECONDS = 30  # that requests under way have when the server is to end
_KEEP_ALIVE_SECONDS = 75

app = App(add_completion=False, pretty_exceptions_enable=False, context_settings={"auto_envvar_prefix": "CLOUD"})
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a cloud server is told; the command line describes each."""

    job_root: str
    node: str
    folder: Path
    member: str = MODEL
    name: str = "model"
    host: str = "127.0.0.1"
    port: int = 8080
    anonymous: bool = False
    queue: int = 32
    deadline_s: float = 10.0
    max_bytes: int = Limits.max_bytes
    max_pixels: int = Limits.max_pixels
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    poll_s: float = 10.0
    runtime: str = "onnx"
    threads: int = 0
    plugins: str = ""


@app.command()
@redacted_output()
def main(
    job_root: Annotated[str, typer.Option(help="Root of the job to load the model from.")],
    node: Annotated[str, typer.Option(help="Name of this server.", show_default="cloud-HOSTNAME")] = "",
    folder: Annotated[Path, typer.Option(help="Folder for downloaded models, kept across restarts.")] = Path(
        "cloud-server"
    ),
    member: Annotated[
        str, typer.Option(help="Member of the release to run, if the job releases several models together.")
    ] = MODEL,
    name: Annotated[str, typer.Option(help="Name of the model in /v1/models/NAME:predict.")] = "model",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 or :: for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8080,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Answer requests without a token.")
    ] = False,
    queue: Annotated[int, typer.Option(min=1, help="Maximum concurrent requests; more get 503 and Retry-After.")] = 32,
    deadline: Annotated[float, typer.Option(min=0.01, help="Maximum seconds per request.")] = 10.0,
    max_bytes: Annotated[int, typer.Option(min=1, help="Maximum bytes per image.")] = Limits.max_bytes,
    max_pixels: Annotated[int, typer.Option(min=1, help="Maximum pixels per image.")] = Limits.max_pixels,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM), for https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of the certificate (PEM).")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="CA (PEM) that must have issued the clients' certificates.")
    ] = None,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between checks for a new model.")] = 10.0,
    runtime: Annotated[str, typer.Option(help="Runtime for the model, such as onnx or rknn.")] = "onnx",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads for inference; 0: all.")] = 0,
    plugins: Annotated[str, typer.Option(help="Comma-separated Python modules with plug-ins to load.")] = "",
) -> None:
    """Serve the job's champion to edge workers, and update it when the champion changes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.environ.setdefault("EDGE_STORE_PATIENCE", _PATIENCE_SECONDS)
    try:
        run(
            Options(
                job_root=job_root, node=node or f"cloud-{socket.gethostname()}", folder=folder, member=member,
                name=name, host=host, port=port, anonymous=allow_anonymous, queue=queue, deadline_s=deadline,
                max_bytes=max_bytes, max_pixels=max_pixels, tls_cert=tls_cert, tls_key=tls_key,
                tls_client_ca=tls_client_ca, poll_s=poll, runtime=runtime, threads=threads, plugins=plugins,
            )
        )  # fmt: skip
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def run(options: Options) -> None:
    """Serve until SIGTERM, SIGINT or a closed terminal; requests under way are answered first.

    Raises:
        InputError: an option that cannot be.
    """
    server = CloudServer(options)
    for number in ending_signals():
        signal.signal(number, lambda *_: None)  # uvicorn has its own while it runs, and sends the signal on afterwards
    if signal.SIGHUP in ending_signals():  # for which uvicorn has none
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    server.run()


class CloudServer:
    """A server that is ready to run.

    Args:
        options: what it is told.

    Raises:
        InputError: an option that cannot be, or no token where one is needed.
    """

    def __init__(self, options: Options) -> None:
        plugins.load(options.plugins)
        runtimes.get(options.runtime)
        rules = Rules(options.name, _token(options), Limits(options.max_bytes, options.max_pixels), options.deadline_s)
        self.metrics = CloudMetrics()
        self.active = ActiveModel()
        self.model = CloudModel(self.active, self.metrics, options.queue, LANES.get(options.runtime, 1))
        store = open_store(options.job_root)
        self._status = StatusReport(store, options.node, lambda: self.active.frames)
        self._updater = HotUpdate(
            JobPointer(store, options.node, options.member),
            ModelCache(models_folder(job_folder(options.folder, store.uri), options.member), options.runtime),
            Loader(options.runtime, options.threads, options.plugins),
            self.active,
            self._status,
            poll_s=options.poll_s,
            count=self.metrics.count_change,
        )
        self._socket = _listening(options.host, options.port)
        self.port: int = self._socket.getsockname()[1]
        self._http = uvicorn.Server(_config(options, make_app(self.model, self.metrics, rules)))

    def run(self) -> None:
        """Serve until told to stop."""
        stop = threading.Event()
        self._updater.start_from_disk()
        updates = threading.Thread(target=self._updater.run, args=(stop,), name="updates", daemon=True)
        updates.start()
        log.info("listening on port %d", self.port)
        try:
            self._http.run(sockets=[self._socket])
        finally:
            self.model.close()
            stop.set()
            updates.join(_STOP_SECONDS)
            self._status.remove()

    def stop(self) -> None:
        """End :meth:`run` after the requests under way."""
        self._http.should_exit = True


def _token(options: Options) -> str:
    token = setting(TOKEN)
    if token and options.anonymous:
        raise InputError(f"{TOKEN} is set, but --allow-anonymous is given: use one of the two")
    if not token and not options.anonymous:
        raise InputError(f"no token: set {TOKEN} to the token clients must send, or give --allow-anonymous")
    return token


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family, dualstack_ipv6=host == "::")
    except (OSError, OverflowError) as error:
        raise InputError(f"host {host!r} and port {port} cannot be used ({error}): give another") from error


def _config(options: Options, app: Starlette) -> uvicorn.Config:
    if (options.tls_cert is None) != (options.tls_key is None):
        raise InputError("TLS needs both: --tls-cert and --tls-key")
    if options.tls_client_ca and not options.tls_cert:
        raise InputError("--tls-client-ca needs --tls-cert and --tls-key")
    for path in (options.tls_cert, options.tls_key, options.tls_client_ca):
        if path and not path.is_file():
            raise InputError(f"{path}: no such file; give the path of a PEM file")
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS, lifespan="off",
        ssl_certfile=options.tls_cert, ssl_keyfile=options.tls_key,
        ssl_ca_certs=str(options.tls_client_ca) if options.tls_client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if options.tls_client_ca else ssl.CERT_NONE,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:
        raise InputError(f"the TLS files cannot be used ({error}): give a certificate and its key as PEM") from error
    return config


if __name__ == "__main__":
    app()

"""``python -m components.serving.edge_worker``: looks at images, keeps the hard ones, changes models as it goes.

Every option can be given as an environment variable: ``--job-root`` as ``EDGE_JOB_ROOT`` and so on. What KubeEdge Sedna
gives its workers is read, too: ``HEM_NAME``, ``HEM_PARAMETERS``, ``MODEL_HOT_UPDATE_CONFIG``,
``MODEL_POLL_PERIOD_SECONDS`` and ``INFERENCE_RESULT_DIR``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from components.core.command_line import App, named
from components.core.errors import InputError
from components.core.processes import ended_by_signals
from components.core.redaction import redacted_output
from components.core.stores.connections import Tls
from components.core.stores.settings import setting
from components.serving.offload import Mode, OffloadRules
from components.serving.parcel import Send
from components.serving.pointers import WHOLE
from components.serving.worker import Cloud, Options, Worker

_PATIENCE_SECONDS = "3"  # of one request to the store; the worker's threads try again themselves

app = App(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # whose table leaves the help 17 columns of 80
    context_settings={"auto_envvar_prefix": "EDGE"},
)


@app.command()
@redacted_output()
def main(
    source: Annotated[
        str,
        typer.Option(
            help="Video file, folder of images, camera (0, /dev/video0) or stream (rtsp://...); one for each worker."
        ),
    ],
    job_root: Annotated[
        str, typer.Option(help="Root of the job to load models from and upload hard examples to.")
    ] = "",
    bundle: Annotated[
        str,
        typer.Option(
            help="Folder of a model to run instead of a job's champion; without --job-root, hard examples stay in the "
            "--spool folder."
        ),
    ] = "",
    node: Annotated[str, typer.Option(help="Name of this worker.", show_default="host name")] = "",
    miner: Annotated[
        str, typer.Option(envvar=["EDGE_MINER", "HEM_NAME"], help="Miner that selects hard examples.")
    ] = "IBT",
    miner_parameter: Annotated[
        list[str] | None,
        typer.Option("--miner-parameter", "-p", metavar="NAME=VALUE", help="Parameter of the miner; can be repeated."),
    ] = None,
    audit_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of easy images to keep as well, for auditing.")
    ] = 0.01,
    every: Annotated[int, typer.Option(min=1, help="Process every n-th image only.")] = 1,
    max_fps: Annotated[float, typer.Option(min=0, help="Maximum images per second; 0: no limit.")] = 0.0,
    spool: Annotated[Path, typer.Option(help="Folder for data kept across restarts.")] = Path("edge-worker"),
    spool_bytes: Annotated[
        int, typer.Option(min=1, help="Maximum disk space in bytes for examples waiting to be uploaded.")
    ] = 1 << 30,
    bandwidth: Annotated[
        float, typer.Option(min=0, help="Maximum upload rate in bytes per second; 0: no limit.")
    ] = 0.0,
    duplicate_bits: Annotated[
        int,
        typer.Option(min=-1, max=63, help="Maximum hash distance in bits of near-duplicates; -1: keep all."),
    ] = 4,
    jpeg_quality: Annotated[
        int, typer.Option(min=1, max=100, help="JPEG quality of frames saved from videos and cameras.")
    ] = 95,
    poll: Annotated[
        float,
        typer.Option(
            min=0.1, envvar=["EDGE_POLL", "MODEL_POLL_PERIOD_SECONDS"], help="Seconds between checks for a new model."
        ),
    ] = 10.0,
    model_config: Annotated[
        str,
        typer.Option(
            envvar=["EDGE_MODEL_CONFIG", "MODEL_HOT_UPDATE_CONFIG"],
            help="Sedna's model_config.json to follow instead of the job's pointer.",
        ),
    ] = "",
    runtime: Annotated[str, typer.Option(help="Runtime for the models, such as onnx or rknn.")] = "onnx",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads for inference; 0: all.")] = 0,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:TARGET",
            help="Where results go: jsonl:FILE, video:FILE.mp4, masks:FOLDER, mqtt://HOST/TOPIC, webhook:URL or a "
            "plug-in; can be repeated.",
        ),
    ] = None,
    board_check: Annotated[
        bool,
        typer.Option(help="With --runtime rknn: refuse models whose outputs differ from the simulator's."),
    ] = True,
    plugins: Annotated[str, typer.Option(help="Comma-separated Python modules with plug-ins to load.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 or :: for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for /healthz, /readyz and /metrics; 0: none.")] = 0,
    loop: Annotated[bool, typer.Option("--loop/--once", help="Restart a video or folder when it ends.")] = False,
    idle_at_end: Annotated[
        bool,
        typer.Option(
            "--idle-at-end/--exit-at-end",
            help="When a video or folder ends, keep following the champion and serving the port. For Kubernetes, "
            "which restarts a process that exits.",
        ),
    ] = False,
    member: Annotated[
        str,
        typer.Option(
            help="Member of the release to run, if the job releases several models together.",
            show_default="all of a knowledge base",
        ),
    ] = WHOLE,
    model_memory: Annotated[
        int,
        typer.Option(
            min=0,
            help="With a knowledge base: maximum memory in bytes for loaded models, of which there is at least one; 0: "
            "half of what is free at the start.",
        ),
    ] = 0,
    origin: Annotated[
        str,
        typer.Option(
            help="With a knowledge base: path in the feed that this source's images belong to, such as site-a."
        ),
    ] = "",
    keep_miner: Annotated[
        str,
        typer.Option(
            help="With --cloud-url: miner that selects hard examples, such as disagreement.",
            show_default="frames sent to the cloud",
        ),
    ] = "",
    privacy: Annotated[
        str,
        typer.Option(
            help="Filter for images before they are kept, such as blur.", show_default="images stay as they are"
        ),
    ] = "",
    privacy_parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Parameter of the filter, such as classes=face; can be repeated."),
    ] = None,
    cloud_url: Annotated[
        str,
        typer.Option(
            help="Cloud server for hard frames, http(s)://HOST:PORT; its token is read from EDGE_CLOUD_TOKEN."
        ),
    ] = "",
    cloud_model: Annotated[str, typer.Option(help="Name of the model on the cloud server.")] = "model",
    cloud_ca: Annotated[
        Path | None,
        typer.Option(help="CA (PEM) that issued the cloud server's certificate.", show_default="SSL_CERT_FILE"),
    ] = None,
    cloud_cert: Annotated[
        Path | None, typer.Option(help="Certificate (PEM) of this worker, for a server with --tls-client-ca.")
    ] = None,
    cloud_key: Annotated[Path | None, typer.Option(help="Private key of that certificate (PEM).")] = None,
    cloud_timeout: Annotated[float, typer.Option(min=0.01, help="Maximum seconds per request to the cloud.")] = 2.0,
    mode: Annotated[
        Mode,
        typer.Option(
            envvar=["EDGE_MODE", "MINING_MODE"], help="With --cloud-url: whether inference or mining runs first."
        ),
    ] = Mode.INFERENCE_THEN_MINING,
    send: Annotated[Send, typer.Option(help="Part of a hard frame to send to the cloud.")] = Send.FULL,
    send_side: Annotated[int, typer.Option(min=16, help="Longer side of a resized frame, in pixels.")] = 640,
    send_quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality of images sent to the cloud.")] = 90,
    cloud_bandwidth: Annotated[
        float, typer.Option(min=0, help="Maximum bytes per second to the cloud; 0: no limit.")
    ] = 0.0,
    unchanged_bits: Annotated[
        int,
        typer.Option(
            min=-1,
            max=63,
            help="Maximum hash distance in bits to the last frame sent for a frame to be skipped; -1: send all.",
        ),
    ] = -1,
    resubmit: Annotated[
        float,
        typer.Option(
            min=0,
            help="Megabytes of memory for hard frames that got no answer, sent again when the cloud is back; 0: none.",
        ),
    ] = 0.0,
) -> None:
    """Run the job's champion on images, upload hard examples, and update the model when the champion changes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.environ.setdefault("EDGE_STORE_PATIENCE", _PATIENCE_SECONDS)
    try:
        if not (job_root or bundle):
            raise InputError("no model to run: give --job-root, or --bundle with the folder of a model")
        if privacy_parameter and not privacy:
            raise InputError("--privacy-parameter is given, but no --privacy: without a filter images stay as they are")
        for_a_cloud = {
            "--keep-miner": keep_miner, "--send": send is not Send.FULL, "--cloud-bandwidth": cloud_bandwidth,
            "--unchanged-bits": unchanged_bits >= 0, "--resubmit": resubmit, "--cloud-ca": cloud_ca,
            "--cloud-cert": cloud_cert, "--cloud-key": cloud_key,
        }  # fmt: skip
        if unused := [name for name, given in for_a_cloud.items() if given and not cloud_url]:
            raise InputError(f"{', '.join(unused)}: without --cloud-url there is no joint inference that could use it")
        options = Options(
            job_root=job_root or str(spool / "job"), bundle=bundle,
            source=source, node=node or socket.gethostname(), folder=spool,
            miner=miner, miner_parameters=_parameters(miner_parameter or []), keep_miner=keep_miner,
            privacy=privacy, privacy_parameters=named("--privacy-parameter", privacy_parameter or []),
            audit_ratio=audit_ratio, every=every, max_fps=max_fps, spool_bytes=spool_bytes, bandwidth=bandwidth or None,
            duplicate_bits=duplicate_bits, jpeg_quality=jpeg_quality, poll_s=poll, model_config=model_config,
            runtime=runtime, threads=threads, plugins=plugins, host=host, port=port, loop=loop,
            idle_at_end=idle_at_end,
            board_check=board_check, sinks=tuple(dict.fromkeys((*(sink or ()), *_sedna_sink()))), member=member,
            model_memory=model_memory, origin=origin,
            cloud=_cloud(
                cloud_url, cloud_model, cloud_timeout, Tls(cloud_ca, cloud_cert, cloud_key),
                OffloadRules(mode, send, send_side, send_quality, cloud_bandwidth, unchanged_bits, int(resubmit * 1e6)),
            ),
        )  # fmt: skip
        run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def run(options: Options) -> None:
    """Run a worker in this process until its source ends or it is stopped.

    Raises:
        InputError: an option that cannot be, or a source that cannot be read.
    """
    stop = threading.Event()

    def end(number: int) -> None:
        """In an orderly way at the first signal, at once at the second."""
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    with ended_by_signals(end):
        worker = Worker(options)
        ended = worker.run(stop)
        _sum_up(worker.metrics.value)
        if not ended:
            # What outlasts us sits in native code, which must not meet an interpreter that is being taken apart.
            logging.shutdown()
            os._exit(0)


def _sum_up(count: Callable[[str], float]) -> None:
    logging.info(
        "%d frames, of which %d hard and %d for auditing; %d of these kept, %d near-duplicates, %d withheld by the "
        "privacy filter, %d failed; %d uploaded",
        *(count(name) for name in ("frames", "hard", "audit", "kept", "duplicates", "withheld", "unkept", "uploaded")),
    )
    if count("model_loads"):
        logging.info(
            "knowledge base: %d frames unseen, which are kept as well; %d models loaded, %d removed for others",
            *(count(name) for name in ("unseen", "model_loads", "model_evictions")),
        )
    if count("joint_frames"):
        logging.info(
            "joint inference: %d frames, of which %d hard; %d of these sent, %d answered, %d answered late; %d bytes",
            *(count(f"joint_{name}") for name in ("frames", "hard", "sent", "answered", "late_answered", "bytes_sent")),
        )


def _cloud(url: str, model: str, timeout_s: float, tls: Tls, rules: OffloadRules) -> Cloud | None:
    return Cloud(url, setting("EDGE_CLOUD_TOKEN"), model, timeout_s, tls, rules) if url else None


def _parameters(given: list[str]) -> dict[str, object]:
    """The miner's parameters, from the options or as Sedna gives them: a JSON list of keys and values."""
    return dict(named("--miner-parameter", given)) or _sedna_parameters(os.environ.get("HEM_PARAMETERS", ""))


def _sedna_sink() -> list[str]:
    """Sedna's folder for the masks of a segmentation, as a sink."""
    folder = os.environ.get("INFERENCE_RESULT_DIR", "")
    return [f"masks:{folder}"] if folder else []


def _sedna_parameters(text: str) -> dict[str, object]:
    try:
        pairs = [(entry["key"], entry["value"]) for entry in json.loads(text or "[]")]
        if len(dict(pairs)) < len(pairs):
            raise InputError(f"HEM_PARAMETERS {text!r}: a key is given more than once; which value is meant?")
        return dict(pairs)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f'HEM_PARAMETERS {text!r}: write [{{"key": "threshold_img", "value": "0.5"}}]') from None


if __name__ == "__main__":
    app()

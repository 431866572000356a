"""``python -m components.serving.board_check``: does this Rockchip board compute what the toolkit's simulator did?

Conversions are measured on the simulator, and boards are known to disagree with it. The check runs a bundle's
``model.<chip>.rknn`` on this board's NPU over the golden canvases that ``convert`` has put beside it, prints a line for
each question, the milliseconds an image takes, and a verdict, and exits with 0 or 1. The edge worker does the same
before it takes over a model.

Every option can be given as an environment variable, as those of the edge worker: ``--job-root`` as ``EDGE_JOB_ROOT``.

It was written without a board at hand and has never run on one: the tests play the board's library.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from components.core.command_line import App
from components.core.errors import InputError
from components.core.release import MODEL
from components.core.runtimes.base import Network
from components.core.runtimes.golden import golden_file
from components.core.runtimes.rknn import open_on_board, this_board
from components.core.stores.open import open_store
from components.serving.board import BoardCheck, compare_with_golden, find_golden, milliseconds
from components.serving.model_cache import ModelCache
from components.serving.pointers import JobPointer

app = App(add_completion=False, pretty_exceptions_enable=False, context_settings={"auto_envvar_prefix": "EDGE"})


@app.command()
def main(
    bundle: Annotated[Path | None, typer.Option(help="Folder of the model to check.")] = None,
    job_root: Annotated[str, typer.Option(help="Root of a job whose champion to check if --bundle is not given.")] = "",
    node: Annotated[
        str, typer.Option(help="Name of this worker, to check a canary it should run.", show_default="host name")
    ] = "",
    member: Annotated[
        str, typer.Option(help="Member of the release to check, if the job releases several models together.")
    ] = MODEL,
    runs: Annotated[int, typer.Option(min=1, help="Number of runs for measuring the inference time.")] = 50,
) -> None:
    """Compare this board's NPU outputs with the toolkit's simulator, and measure the inference time."""
    os.environ.setdefault("EDGE_STORE_PATIENCE", "3")  # seconds, as in the edge worker
    try:
        if bundle is None and not job_root:
            raise InputError("nothing to check: give --bundle FOLDER, or --job-root for the job's champion")
        with tempfile.TemporaryDirectory() as folder:
            passed = run(bundle or _champion(job_root, node or socket.gethostname(), member, Path(folder)), runs)
    except (InputError, RuntimeError) as error:  # the second where the NPU gives nothing
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if passed else 1)


def run(folder: Path, runs: int) -> bool:
    """Check a bundle and print what comes of it.

    Args:
        folder: the bundle.
        runs: how often to run the model for its time.

    Returns:
        Whether the board computes what the simulator did.

    Raises:
        InputError: this is no Rockchip board, its runtime refuses the model, or there are no golden tensors for it.
    """
    model = open_on_board(folder, 0)
    golden = find_golden(model, folder)
    if golden is None or not isinstance(model, Network):
        raise InputError(
            f"bundle {folder}: no {golden_file(this_board())} in it: it was converted by an earlier version; "
            "convert it again"
        )
    checked = compare_with_golden(model, golden)
    print(f"model: {folder} on {this_board()}, {len(golden.canvases)} images")
    print(f"{'ok  ' if not checked.outdated else 'note'}  versions: {_versions(checked)}")
    for finding in checked.findings:
        print(f"{'ok  ' if finding.met else 'FAIL'}  {finding.question}: {finding.reason}")
    print(f"time: {milliseconds(model, golden, runs):.1f} ms per image on the NPU, median of {runs} runs")
    print(f"verdict: {'passed' if checked.passed else 'FAILED'}: {checked.verdict}")
    return checked.passed


def _champion(job_root: str, node: str, member: str, folder: Path) -> Path:
    order = JobPointer(open_store(job_root), node, member).read()
    if order is None:
        raise InputError(f"job_root {job_root}: the job has no champion yet")
    return ModelCache(folder, "rknn").bring(order).folder


def _versions(checked: BoardCheck) -> str:
    told = f"toolkit {checked.toolkit or 'unknown'}, librknnrt.so of the board {checked.runtime or 'unknown'}"
    return f"{told}, which is older: update it if anything fails" if checked.outdated else told


if __name__ == "__main__":
    app()

"""A node of a TrainJob: ``python3 -m components.train.node JOB_ROOT KEY``.

It trains what the work area asks for. Of several processes that train one model together, as ``torchrun`` starts them,
the first one keeps checkpoints and hands the model over.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from components.core.errors import InputError, may_pass
from components.core.estimators.peers import rank
from components.core.steps import step
from components.core.stores.open import open_store
from components.train.train import train, train_along
from components.train.work_area import WorkArea


def run(job_root: str, key: str) -> None:
    """Train, and put the model into the work area; a failure that is sure goes there, too.

    Args:
        job_root: the job's store.
        key: of the training.
    """
    area = WorkArea(open_store(job_root), key)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            request, manifest = area.request(folder)
            given: dict[str, Any] = {"job_root": job_root, "round_number": request.round_number, **request.training}
            if rank():
                train_along(manifest, folder, **given)
            elif area.result() is None:  # a node that is started again may have been done
                area.answer(train(manifest, folder / "model", **given), folder / "model")
        except InputError as error:
            if not may_pass(error) and not rank():
                area.refuse(" ".join(str(error).split()))
            raise


def main() -> None:
    """Read the command line."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python3 -m components.train.node JOB_ROOT KEY")
    with step("train"):
        run(*sys.argv[1:])


if __name__ == "__main__":
    main()

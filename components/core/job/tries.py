"""A failure that another try cannot mend, so that the next tries of a step on a cluster end at once with the same line.

Kubeflow Pipelines tries every step that fails again, whatever it failed of. ``sure-failure.json`` in the job's root has
the last failure that is sure, with its run; a first try never looks at it, so that Retry on a run's page works anew.
"""

from __future__ import annotations

import os
import re

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import InputError
from components.core.stores.open import open_store

SURE_FAILURE = "sure-failure.json"
RUN_VARIABLE = "EDGE_RUN"  # id of the run
POD_VARIABLE = "EDGE_POD"  # Argo's name of the pod's node, which ends in the number of the try: `....executor(1)`

_LONGEST_ERROR = 2000  # characters


class SureFailure(BaseModel):
    """A failure that is sure.

    Attributes:
        run: id of the run.
        step: that failed.
        error: why, in one line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    step: str
    error: str


def failed_before(job_root: str, step: str) -> str:
    """Why an earlier try of this step failed for sure; empty if none did, and outside of a cluster.

    Args:
        job_root: the job's store; empty where it is not known.
        step: name of the step.
    """
    run = os.environ.get(RUN_VARIABLE)
    again = re.search(r"\(([1-9]\d*)\)$", os.environ.get(POD_VARIABLE, ""))
    if not (job_root and run and again):
        return ""
    try:
        failure = read_sure_failure(job_root)
    except (InputError, OSError):
        return ""
    return failure.error if failure and (failure.run, failure.step) == (run, step) else ""


def read_sure_failure(job_root: str) -> SureFailure | None:
    """The last failure of a job that was sure; None if there is none, or it is damaged.

    Raises:
        InputError: the store is out of reach.
    """
    found = open_store(job_root).read_versioned(SURE_FAILURE)
    try:
        return SureFailure.model_validate_json(found[0]) if found else None
    except ValidationError:
        return None


def note_sure_failure(job_root: str, step: str, error: str) -> None:
    """Put a failure that is sure on record; outside of a cluster, and where the store cannot be written, do nothing.

    Args:
        job_root: the job's store; empty where it is not known.
        step: name of the step.
        error: why, in one line without credentials.
    """
    run = os.environ.get(RUN_VARIABLE)
    if not (job_root and run):
        return
    failure = SureFailure(run=run, step=step, error=error[:_LONGEST_ERROR])
    try:
        open_store(job_root).write(SURE_FAILURE, failure.model_dump_json(indent=2).encode())
    except (InputError, OSError):
        return

"""Files of KubeEdge Sedna as pipelines of this suite.

    plans = read([Path("helmet.yaml")], {"job_root": "s3://jobs/helmet"})

A plan names a pipeline, its parameters, and the commands for devices and servers beside it. It also says what behaves
otherwise here, and what cannot be carried over and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.errors import InputError
from components.core.parameters import all_wrong
from pipelines.arguments import face_of, parse, problems
from pipelines.interop.sedna_jobs import JOBS, plans_of
from pipelines.interop.sedna_plan import Plan
from pipelines.interop.sedna_schema import read_files

_OPTIONS = {"job_root": "--job-root"}  # of devices and servers, which follow a parameter of the pipeline


def read(paths: Sequence[Path], pairs: Sequence[str] = (), *, strict: bool = False) -> list[Plan]:
    """What the jobs in some files are here.

    Args:
        paths: of YAML files, which may have several documents; jobs may name what stands in another file.
        pairs: ``name=value`` of parameters that win over the files.
        strict: refuse what cannot be carried over.

    Raises:
        InputError: a file is not what Sedna would take; a parameter cannot be; or, if strict, something has no place.
    """
    from pipelines.registry import PIPELINES

    plans = plans_of(read_files(list(paths)))
    if not plans:
        files = ", ".join(map(str, paths))
        raise InputError(f"{files}: no document is a job: give a file with one of kind {', '.join(JOBS)}")
    for plan in plans:
        face = face_of(PIPELINES[plan.pipeline])
        given = parse(face, pairs, {})
        plan.override(given)
        plan.parameters = parse(face, [], plan.parameters)
        _follow(plan, given)
        # What a file of Sedna has no field for may still be given with the command that is shown.
        wrong = [line for line in problems(face, plan.parameters) if not line.endswith(" is required")]
        if wrong:
            raise InputError(f"{plan.job.title}: {all_wrong(wrong)}")
    lost = [f"{plan.job.title}: {line}" for plan in plans for line in plan.lost()]
    if strict and lost:
        raise InputError("\n       ".join(["not everything can be carried over:", *lost]))
    return plans


def _follow(plan: Plan, given: Mapping[str, Any]) -> None:
    """Let the commands beside the pipeline follow what the user gave instead."""
    for parameter, option in _OPTIONS.items():
        for command in plan.workers:
            if parameter in given:
                command[command.index(option) + 1] = str(given[parameter])

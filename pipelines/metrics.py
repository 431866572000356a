"""The figures of a run, or of a job's last one, as the report beside them has them."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from components.core.errors import InputError
from components.core.stores.open import open_store
from components.report.report import read_kept

FIGURES = re.compile(r"reports/[^/]+\.json")
NO_MODEL = "images-to-label"  # the pages that mining keeps hold no figures of a model


class Figures(BaseModel):
    """What a run measured.

    Attributes:
        run: its id; empty where it is not known.
        report: address of the page.
        figures: by name.
    """

    run: str
    report: str
    figures: dict[str, float]


def figures_of(job_root: str, run: str = "") -> Figures:
    """The figures of a run.

    Args:
        job_root: the job.
        run: its id; empty for the last one that has figures.

    Raises:
        InputError: there are none, or they are damaged.
    """
    store = open_store(job_root)
    keys = sorted(info.key for info in store.list("reports/") if FIGURES.fullmatch(info.key))
    for key in reversed([key for key in keys if NO_MODEL not in key]):
        try:
            made_by, figures = read_kept(store, key)
        except ValueError as error:
            if run:
                continue
            raise InputError(f"{store.uri_of(key)}: the figures are damaged") from error
        if run in ("", made_by):
            return Figures(run=made_by, report=store.uri_of(key.removesuffix(".json") + ".html"), figures=figures)
    raise InputError(f"{store.uri}: there is no report" + (f" of the run {run}" if run else "; run a pipeline first"))


def figures_of_run(cluster: Any, run_id: str) -> Figures:
    """The figures of a run on a cluster, from the job that it worked on.

    Args:
        cluster: from ``pipelines.client.connect``.
        run_id: of the run.

    Raises:
        InputError: there is no such run, it names no job, or has no figures.
    """
    with cluster.explained():
        run = cluster.run(run_id)
    config = getattr(run, "runtime_config", None)
    job_root = ((config and config.parameters) or {}).get("job_root")
    if not job_root:
        raise InputError(f"run {run_id} has no job_root: give the job_root in its place")
    return figures_of(str(job_root), run_id)

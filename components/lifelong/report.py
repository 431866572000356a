"""The tasks, their matrix of scores, and what was kept and forgotten, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from components.core.lifelong.knowledge_base import KnowledgeBase, Route, score_matrix
from components.core.metrics.continual import continual_metrics
from components.core.reports import page
from components.core.reports.page import Section
from components.core.tasks.base import NONE
from components.lifelong.plan import Plan
from components.lifelong.serve import BEFORE, Matrix, Served

_CONTINUAL = {
    "average_accuracy": "average accuracy",
    "backward_transfer": "backward transfer (BWT)",
    "forward_transfer": "forward transfer (FWT)",
    "forgetting": "forgetting",
    "retention": "retention",
}


def planned(plan: Plan) -> Section:
    """What the round does for each task."""
    rows = [[one.name, one.action, one.samples, one.why] for one in plan.models]
    body = page.table(("task", "action", "training samples", "why"), rows)
    lost = sum(task is None for task in plan.tasks.values())
    if lost:
        body += page.note(f"{lost} labelled samples belong to no task; the shared model learns from them.", "warn")
    return Section("Tasks of the round", body)


def figures(base: KnowledgeBase, routes: Sequence[Route]) -> dict[str, float]:
    """What is known of a knowledge base over all its rounds, by name, for records."""
    table, learned = score_matrix(base.rounds, base.tasks)
    unseen = sum(bool(route.unseen) for route in routes) / max(len(routes), 1)
    return {**(continual_metrics(table, learned) if learned else {}), "unseen": unseen, "tasks": float(len(base.tasks))}


def sections(
    base: KnowledgeBase, served: Mapping[str, Served], matrix: Matrix, found: Mapping[str, float], title: str
) -> list[Section]:
    """The report of a round.

    Args:
        base: the knowledge base that the round made.
        served: whose model answers for each task.
        matrix: every model on every task.
        found: from :func:`figures`.
        title: of the main figure, such as mAP50.
    """
    rows = [
        [name, served[name].member, served[name].why, entry.samples, entry.first_round]
        for name, entry in base.tasks.items()
    ]
    tasks = page.table(("task", "model", "why", "training samples", "since round"), rows)
    shown = {_CONTINUAL.get(name, name): value for name, value in found.items()}
    return [
        Section("Knowledge base", tasks + page.facts(shown)),
        Section("Every model on every task", _matrix(matrix, title)),
    ]


def _matrix(matrix: Matrix, title: str) -> Markup:
    tasks = list(matrix.places)
    names = {label: label.removeprefix(BEFORE) + (" (champion)" if label.startswith(BEFORE) else "")
             for label in matrix.scores}  # fmt: skip
    rows = [[names[label], *(of.get(task, NONE) for task in tasks)] for label, of in matrix.scores.items()]
    drawing = page.new_figure(1.6 + 0.8 * len(tasks), 1.2 + 0.4 * len(rows))
    axes = drawing.subplots()
    values = np.array([[of.get(task, np.nan) for task in tasks] for of in matrix.scores.values()], dtype=float)
    axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(tasks)), tasks, rotation=30)
    axes.set_yticks(range(len(rows)), list(names.values()))
    caption = f"{title} of each model (rows) on the test samples of each task (columns)"
    return page.figure(drawing, caption) + page.table(("model", *tasks), rows)


def inferred(routes: Sequence[Route], policy: str, asked: int) -> Section:
    """What became of the new images without labels."""
    members: dict[str, int] = {}
    for route in routes:
        name = f"unseen ({policy})" if route.unseen else f"{route.task}, answered by {route.member}"
        members[name] = members.get(name, 0) + 1
    body = page.facts({"new images without labels": len(routes), "asked labels for": asked, **members})
    return Section("New images", body)

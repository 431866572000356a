"""The tasks, their matrix of scores, and what was kept and forgotten, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from components.core.lifelong.knowledge_base import SHARED, KnowledgeBase, Route, score_matrix
from components.core.metrics.continual import continual_metrics
from components.core.metrics.recognition import auroc
from components.core.reports import page
from components.core.reports.page import Section
from components.core.tasks.base import NONE
from components.lifelong.infer import Inferred
from components.lifelong.plan import Plan
from components.lifelong.serve import BEFORE, Matrix, Served

_CONTINUAL = {
    "average_accuracy": "average accuracy",
    "backward_transfer": "backward transfer (BWT)",
    "forward_transfer": "forward transfer (FWT)",
    "forgetting": "forgetting",
    "retention": "retention",
    "recognition_auroc": "recognition of the new tasks by the champion (AUROC)",
    "unseen": "fraction of unseen test images",
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


def recognition(
    known: KnowledgeBase | None, routes: Sequence[Route], places: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """How well the champion tells new tasks from those that it knows, by the scores of its unseen detection.

    Args:
        known: the champion; None in the first round.
        routes: where it sends the test samples.
        places: where those of each task are among them.

    Returns:
        ``recognition_auroc``; nothing where no task is new, or there is no test sample of one.
    """
    if known is None:
        return {}
    scores: dict[bool, list[float]] = {True: [], False: []}
    for task, of_task in places.items():
        if task != SHARED:
            scores[task in known.tasks] += [routes[place].score for place in of_task]
    area = auroc(scores[True], scores[False])
    return {} if area is None else {"recognition_auroc": area}


def sections(
    base: KnowledgeBase,
    served: Mapping[str, Served],
    matrix: Matrix,
    routes: Sequence[Route],
    found: Mapping[str, float],
    title: str,
) -> list[Section]:
    """The report of a round.

    Args:
        base: the knowledge base that the round made.
        served: whose model answers for each task.
        matrix: every model on every task.
        routes: where the test samples go.
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
        Section("Where the test images of each task go", allocated(routes, matrix.places)),
        Section("Every model on every task", _matrix(matrix, title)),
    ]


def allocated(routes: Sequence[Route], places: Mapping[str, Sequence[int]]) -> Markup:
    """A table of the tasks that the samples of each task are taken for.

    Args:
        routes: where the samples go.
        places: where those of each task are among them.
    """
    names = [name for name in places if name != SHARED]
    rows = []
    for name in names:
        taken = [routes[place].task for place in places[name]]
        right = f"{taken.count(name) / len(taken):.1%}" if taken else NONE
        rows.append([name, *(taken.count(one) for one in names), taken.count(None), right])
    return page.table(("images of", *(f"go to {name}" for name in names), "unseen", "to their own task"), rows)


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


def inferred(found: Inferred, asked: int) -> Section:
    """What became of the new images without labels, and of earlier unseen ones."""
    members: dict[str, int] = {}
    for route in found.routes:
        name = f"unseen ({found.policy})" if route.unseen else f"{route.task}, answered by {route.member}"
        members[name] = members.get(name, 0) + 1
    again = {"unseen in earlier rounds": found.unseen_before, "of which known now": found.known_now}
    body = page.facts({"new images without labels": len(found.routes), "asked labels for": asked, **members, **again})
    return Section("New images", body)

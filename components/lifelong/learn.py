"""The routing data of a round's knowledge base, learned from its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.core.errors import InputError
from components.core.lifelong.knowledge_base import Chosen, KnowledgeBase, RoundScores, TaskEntry
from components.core.lifelong.plug_points import make, task_allocations, unseen_detections
from components.core.lifelong.samples import Projection, Samples
from components.core.lifelong.unseen_detection import threshold_for
from components.core.manifest import Manifest
from components.core.parameters import LifelongSettings
from components.core.tasks.base import Measurement
from components.lifelong.look import look_at
from components.lifelong.plan import Plan
from components.lifelong.serve import Served, score_at

_LOOKED_AT = 2000  # samples of a split; more would not move a threshold


def learn(
    plan: Plan,
    served: Mapping[str, Served],
    everything: Manifest,
    blobs: Path,
    known: KnowledgeBase | None,
    chosen: LifelongSettings,
) -> KnowledgeBase:
    """Make the knowledge base of a round; its scores are added by :func:`with_scores`.

    Args:
        plan: of the round.
        served: whose model answers for each task.
        everything: every sample, with splits; ``train`` is learned from, ``val`` sets the threshold of the unseen.
        blobs: where images are brought to.
        known: the champion; None in the first round.
        chosen: parameters.

    Raises:
        InputError: no training sample belongs to a task.
    """
    train, held_out = (_of_tasks(everything, split, plan, blobs) for split in ("train", "val"))
    if not len(train):
        raise InputError("no training sample belongs to a task: change task_definition or task_parameters")
    tasks = [plan.tasks[id_] for id_ in train.columns["id"]]
    allocation = make(task_allocations, chosen.task_allocation, {})
    unseen = make(unseen_detections, chosen.unseen_detection, {})
    projection = Projection.fit(train.features)
    learned = unseen.fit(projection.apply(train.features))
    calibration = held_out if len(held_out) else train
    scores = unseen.score(projection.apply(calibration.features), learned)
    models = {one.name: one for one in plan.models}
    return KnowledgeBase(
        definition=Chosen(name=chosen.task_definition, parameters=chosen.task_parameters, state=plan.definition),
        allocation=Chosen(name=chosen.task_allocation, state=allocation.fit(train, tasks)),
        unseen=Chosen(name=chosen.unseen_detection, state=learned),
        projection=projection,
        threshold=round(threshold_for(scores, chosen.max_false_unseen), 5),
        policy=chosen.unseen_policy,
        tasks={
            name: TaskEntry(
                member=one.member, why=one.why, first_round=models[name].first_round, samples=models[name].samples
            )
            for name, one in served.items()
            if name in {task for task in plan.tasks.values() if task} | (known.tasks.keys() if known else set())
        },
        rounds=known.rounds if known else (),
    )


def with_scores(
    base: KnowledgeBase,
    round_number: int,
    joined: Mapping[str, Measurement[Any]],
    places: Mapping[str, Sequence[int]],
) -> KnowledgeBase:
    """The knowledge base with what its round measured.

    Args:
        base: the knowledge base.
        round_number: of the round.
        joined: what it finds in the test samples (``candidate``), and the one before it (``champion``) if there is one.
        places: where the samples of each task are among them.
    """
    scores, before = (
        {
            task: score
            for task in base.tasks
            if name in joined and (score := score_at(joined[name], places[task])) is not None
        }
        for name in ("candidate", "champion")
    )
    row = RoundScores(round=round_number, scores=scores, before=before)
    return base.model_copy(update={"rounds": (*base.rounds, row)})


def _of_tasks(everything: Manifest, split: str, plan: Plan, blobs: Path) -> Samples:
    """The samples of a split that belong to a task, or some of them, evenly drawn, where there are very many."""
    labelled = everything.split(split).labelled()
    kept = [place for place, id_ in enumerate(labelled.table["id"]) if plan.tasks[id_] is not None]
    if len(kept) > _LOOKED_AT:
        kept = [kept[int(place)] for place in np.linspace(0, len(kept) - 1, _LOOKED_AT)]
    return look_at(Manifest(labelled.table[kept], labelled.classes), blobs)

"""The routing data of a round's knowledge base, learned from its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from components.core.errors import InputError
from components.core.lifelong.knowledge_base import SHARED, Chosen, KnowledgeBase, RoundScores, TaskEntry, needed_rounds
from components.core.lifelong.plug_points import (
    State,
    UnseenDetection,
    make,
    parameters_of,
    task_allocations,
    unseen_allocations,
    unseen_detections,
)
from components.core.lifelong.samples import Floats, Projection, Samples, Task, drawn
from components.core.lifelong.unseen_detection import samples_needed, threshold_for
from components.core.manifest import Manifest
from components.core.parameters import LifelongSettings
from components.core.tasks.base import Measurement
from components.lifelong.look import look_at
from components.lifelong.plan import Plan
from components.lifelong.serve import Served, score_at

_LOOKED_AT = 4000  # samples; more would not move a threshold
_PARTS = 5


def learn(
    plan: Plan,
    everything: Manifest,
    blobs: Path,
    known: KnowledgeBase | None,
    chosen: LifelongSettings,
) -> KnowledgeBase:
    """Make the knowledge base of a round, where each task has a model of its own.

    Whose models answer is added by :func:`with_models`, and their scores by :func:`with_scores`.

    Args:
        plan: of the round.
        everything: every sample, with splits; ``train`` is learned from, and with ``val`` sets the threshold of the
            unseen.
        blobs: where images are brought to.
        known: the champion; None in the first round.
        chosen: parameters.

    Raises:
        InputError: no training sample belongs to a task.
    """
    looked = _of_tasks(everything, plan, blobs)
    in_train = set(everything.split("train").table["id"])
    train = looked.with_ids([id_ for id_ in looked.columns["id"] if id_ in in_train])
    if not len(train):
        raise InputError("no training sample belongs to a task: change task_definition or task_parameters")
    tasks = [plan.tasks[id_] for id_ in train.columns["id"]]
    allocated = chosen.task_allocation, parameters_of(chosen, "task_allocation")
    detected = chosen.unseen_detection, parameters_of(chosen, "unseen_detection")
    elsewhere = chosen.unseen_allocation, parameters_of(chosen, "unseen_allocation")
    allocation, unseen = make(task_allocations, *allocated), make(unseen_detections, *detected)
    likely = make(unseen_allocations, *elsewhere)
    projection = Projection.fit(train.features, sizes=chosen.unseen_by_size)
    points = projection.apply(train.features)
    scores = held_out_scores(
        unseen, projection.apply(looked.features), [plan.tasks[id_] for id_ in looked.columns["id"]],
        looked.columns["group"],
    )  # fmt: skip
    tasks_known = {task for task in plan.tasks.values() if task} | (known.tasks.keys() if known else set())
    return KnowledgeBase(
        definition=Chosen(name=chosen.task_definition, parameters=chosen.task_parameters, state=plan.definition),
        allocation=_chosen(allocated, allocation.fit(train, tasks)),
        unseen=_chosen(detected, unseen.fit(points, tasks)),
        unseen_allocation=_chosen(elsewhere, likely.fit(points, tasks)),
        remodeling=Chosen(name=chosen.task_remodeling, parameters=parameters_of(chosen, "task_remodeling")),
        integration=Chosen(
            name=chosen.inference_integration, parameters=parameters_of(chosen, "inference_integration")
        ),
        projection=projection,
        threshold=round(threshold_for(scores, chosen.max_false_unseen), 5),
        policy=chosen.unseen_policy,
        policy_parameters=parameters_of(chosen, "unseen_policy"),
        tasks={
            one.name: TaskEntry(member=one.name, why=one.why, first_round=one.first_round, samples=one.samples)
            for one in plan.models
            if one.name in tasks_known
        },
        shared_round=plan.shared_round,
        rounds=needed_rounds(known.rounds, known.tasks) if known else (),
    )


def with_models(base: KnowledgeBase, served: Mapping[str, Served], round_number: int) -> KnowledgeBase:
    """The knowledge base with the models that were chosen to answer for its tasks.

    Args:
        base: the knowledge base.
        served: whose model answers for each task.
        round_number: of the round.
    """
    tasks = {
        name: entry.model_copy(update={"member": served[name].member, "why": served[name].why})
        for name, entry in base.tasks.items()
    }
    shared_round = round_number if served[SHARED].label == SHARED else base.shared_round
    return base.model_copy(update={"tasks": tasks, "shared_round": shared_round})


def too_few_to_calibrate(plan: Plan, everything: Manifest, chosen: LifelongSettings) -> str:
    """What to say where ``max_false_unseen`` is not certain, for want of samples; empty where it is.

    Args:
        plan: of the round.
        everything: every sample, with splits.
        chosen: parameters.
    """
    held_out = everything.where(pl.col("split").is_in(["train", "val"])).labelled()
    found = sum(plan.tasks[id_] is not None for id_ in held_out.table["id"])
    needed = samples_needed(chosen.max_false_unseen)
    if chosen.unseen_detection == "TaskAttr" or found >= needed:
        return ""
    return (
        f"{found} training and validation samples belong to tasks; max_false_unseen={chosen.max_false_unseen:g} needs "
        f"{needed}: until then up to {1 / (found + 1):.2g} of the images like them may be called unseen"
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


def held_out_scores(unseen: UnseenDetection, features: Floats, tasks: Sequence[Task], groups: Sequence[str]) -> Floats:
    """The score of each sample by a detection that has not learned from it (cross-validation in five parts).

    Few samples would be too few for a threshold if only the split ``val`` were scored.

    Args:
        unseen: the detection.
        features: (N, D), N >= 1.
        tasks: (N,) of each.
        groups: (N,) samples of one are never on both sides.

    Returns:
        (N,); of what was learned from where all samples are of one group.
    """
    order = {group: place for place, group in enumerate(sorted(set(groups), key=_shuffled))}
    parts = np.array([order[group] for group in groups]) % min(_PARTS, len(order))
    found = np.empty(len(features))
    for part in range(parts.max() + 1):
        mine = parts == part
        others = ~mine if len(order) > 1 else mine
        state = unseen.fit(features[others], [task for task, other in zip(tasks, others, strict=True) if other])
        found[mine] = unseen.score(features[mine], state)
    return found


def _shuffled(group: str) -> bytes:
    return hashlib.sha256(group.encode()).digest()


def _chosen(plug_in: tuple[str, dict[str, Any]], state: State) -> Chosen:
    """A plug-in, by name and parameters, with what it has learned."""
    return Chosen(name=plug_in[0], parameters=plug_in[1], state=state)


def _of_tasks(everything: Manifest, plan: Plan, blobs: Path) -> Samples:
    """Samples to train and to validate on that belong to a task; some of them where there are very many."""
    labelled = everything.where(pl.col("split").is_in(["train", "val"])).labelled()
    mine = labelled.with_ids([id_ for id_, task in plan.tasks.items() if task is not None])
    kept = drawn([plan.tasks[id_] for id_ in mine.table["id"]], _LOOKED_AT)
    return look_at(Manifest(mine.table[kept], mine.classes), blobs)

"""Which tasks a round has, and what each of its models is trained from and on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from components.core.errors import InputError
from components.core.estimators.base import check_training
from components.core.lifelong.knowledge_base import SHARED, KnowledgeBase
from components.core.lifelong.plug_points import Decision, Situation, TaskUpdate, make, task_updates
from components.core.lifelong.samples import Task
from components.core.manifest import SPLITS, Manifest
from components.core.parameters import RoundTrainSettings

_ENOUGH = 20  # samples of a split to calibrate with or to measure on
NOTHING_NEW = "no new training sample"

Action = Literal["new", "finetune", "retrain", "keep", "merge", "fall back"]


class Planned(BaseModel):
    """What a round does for one model.

    Attributes:
        name: of the task, or ``shared``.
        action: ``new`` and ``retrain`` start from the initial model, ``finetune`` from the champion's; ``keep`` takes
            the champion's as it is; ``merge`` leaves the task to another one's, ``fall back`` to the shared model.
        why: in a few words.
        into: whose model answers, where the action is ``merge``.
        samples: labelled training samples of the task, of all rounds.
        first_round: that brought the task.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    action: Action
    why: str
    samples: int
    first_round: int
    into: str = ""

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.action in ("new", "finetune", "retrain")


class Plan(BaseModel):
    """What a round does.

    Attributes:
        round: its number.
        champion: version that it starts from; None in the first round.
        models: of the shared model first, then of each task by name.
        tasks: the task of each labelled sample, by the sample's id; None for none.
        definition: what the task definition has learned.
        shared_round: whose samples the champion's shared model learned last; 0 where that is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: int
    champion: str | None
    models: tuple[Planned, ...]
    tasks: dict[str, Task]
    definition: dict[str, object]
    shared_round: int = 0

    def to_train(self) -> list[str]:
        """The names of the models to train."""
        return [one.name for one in self.models if one.trains]

    def places(self, ids: Sequence[str]) -> dict[str, list[int]]:
        """Where the samples of each task are among some; those of ``shared`` are all."""
        places = {one.name: [place for place, id_ in enumerate(ids) if self.tasks[id_] == one.name]
                  for one in self.models}  # fmt: skip
        return {**places, SHARED: list(range(len(ids)))}

    def of(self, name: str) -> Planned:
        """What is done for a model."""
        return next(one for one in self.models if one.name == name)


def plan_models(
    everything: Manifest,
    tasks: Mapping[str, Task],
    new: Collection[str],
    *,
    round_number: int,
    known: KnowledgeBase | None,
    members: Collection[str],
    min_task_samples: int = 10,
    update: TaskUpdate | None = None,
    score: Callable[[Collection[str]], Mapping[str, float]] = lambda ids: {},
) -> tuple[Planned, ...]:
    """Decide what is trained.

    Args:
        everything: every sample, with splits.
        tasks: of each labelled sample, by id.
        new: ids of the samples that the round brought.
        round_number: of the round.
        known: of the champion; None in the first round.
        members: of the champion.
        min_task_samples: labelled training samples that a task needs for a model of its own.
        update: how a model learns what is new; None for fine-tuning.
        score: the main figure of each member on samples of some ids; asked if ``update`` measures.

    Raises:
        InputError: no sample belongs to a task.
    """
    training = everything.split("train").labelled()
    train = set(training.table["id"])
    missed = training.where(pl.col("round") > (known.shared_round if known else 0)).table["id"].to_list()
    names = sorted({task for task in tasks.values() if task is not None} | (known.tasks.keys() if known else set()))
    if not names:
        raise InputError(
            "no labelled sample belongs to a task: change task_definition or its parameters in task_parameters"
        )
    update = update or make(task_updates, "finetune", {})
    before = known.rounds[-1].scores if known and known.rounds else {}

    def planned(name: str, own: Collection[str], first: int) -> Planned:
        """What is done for a model that there is, or may be one of."""
        fresh = set(own) & set(new)
        missing = fresh | set(missed) if name == SHARED else fresh
        if name in members and not fresh:
            return Planned(name=name, action="keep", why=NOTHING_NEW, samples=len(own), first_round=first)
        situation = Situation(
            name=name, is_shared=name == SHARED, has_model=name in members, new=len(missing), before=before,
            unanswered=sum(tasks[id_] not in members for id_ in missing) if name == SHARED else 0, samples=len(own),
            scores=score(fresh) if update.measures and fresh and name != SHARED else {},
        )  # fmt: skip
        decision = checked(update.decide(situation), situation, members)
        return Planned(name=name, samples=len(own), first_round=first, **vars(decision))

    models = [planned(SHARED, train, 1)]
    for name in names:
        ids = {id_ for id_, task in tasks.items() if task == name}
        entry = known.tasks.get(name) if known else None
        first = entry.first_round if entry else round_number
        own, why = ids & train, ""
        if name not in members and len(own) < min_task_samples:
            why = f"{len(own)} training samples, and a model of its own needs {min_task_samples}"
        elif name not in members and not _shows_something(training.with_ids(own)):
            why = f"its {len(own)} training samples show nothing to learn"
        elif name not in members and entry and not own & set(new):
            why = entry.why.removeprefix(f"{entry.member} answers: ")
        if why:
            models.append(Planned(name=name, action="fall back", why=why, samples=len(own), first_round=first))
        else:
            models.append(planned(name, own, first))
    return tuple(models)


def checked(decision: Decision, task: Situation, members: Collection[str]) -> Decision:
    """See that what a plug-in decides can be done.

    Raises:
        InputError: it cannot.
    """
    possible = ("keep", "finetune", "retrain") if task.has_model else ("new", "merge")
    if decision.action not in possible or (decision.action == "merge" and decision.into not in members):
        what = f"merge into {decision.into!r}" if decision.action == "merge" else decision.action
        raise InputError(
            f"task_update: {what} for the task {task.name}, which has {'a' if task.has_model else 'no'} model: "
            f"possible are {', '.join(possible)}, and to merge into {', '.join(sorted(members)) or 'none'}"
        )
    return decision


def samples_to_train(everything: Manifest, round_samples: Manifest, plan: Plan, name: str) -> Manifest:
    """What a model is trained on: of fine-tuning the round's samples, else all there are; of a task its own, and
    those of tasks that are merged into it. The shared model learns what it has missed in earlier rounds, too.

    The epoch is chosen by the task's own samples of the split ``val``, or by those of all tasks where none of these
    shows anything. Few new samples may show nothing, either: then a model learns from as much as one trained anew.

    Args:
        everything: every sample, with splits.
        round_samples: what is new and what is replayed, from ``plan`` of incremental learning.
        plan: of the round.
        name: of the model.
    """
    pool = round_samples if plan.of(name).action == "finetune" else everything
    found = _samples_of(name, pool, everything, plan)
    return found if _shows_something(found.split("train")) else _samples_of(name, everything, everything, plan)


def _samples_of(name: str, pool: Manifest, everything: Manifest, plan: Plan) -> Manifest:
    """Those samples of a pool that a model is trained on; see :func:`samples_to_train`."""
    chosen = pool.where(pl.col("split").is_in(["train", "val"])).labelled()
    if name == SHARED:
        missed = (
            everything.split("train")
            .labelled()
            .where(pl.col("round") > plan.shared_round, ~pl.col("id").is_in(chosen.table["id"].to_list()))
        )
        return Manifest(pl.concat([chosen.table, missed.table]), chosen.classes)
    own = _is_own(plan, name)
    mine = chosen.where(own)
    if _shows_something(mine.split("val")):
        return mine
    return chosen.where(own | (pl.col("split") == "val"))


def samples_to_convert(everything: Manifest, plan: Plan, name: str) -> Manifest:
    """What a model is calibrated with and measured by when it is converted: of each split the samples of its task.

    It would find little in those of other tasks. Of a split that has few of its own it gets those of all tasks.

    Args:
        everything: every sample, with splits.
        plan: of the round.
        name: of the model.
    """
    if name == SHARED:
        return everything
    tables = []
    for split in SPLITS:
        labelled = everything.split(split).labelled()
        mine = labelled.where(_is_own(plan, name))
        tables.append((mine if len(mine) >= _ENOUGH and _shows_something(mine) else labelled).table)
    return Manifest(pl.concat(tables), everything.classes)


def _is_own(plan: Plan, name: str) -> pl.Expr:
    """Whether a sample is of a task, or of one that is merged into it."""
    merged = {one.name for one in plan.models if one.into == name} | {name}
    return pl.col("id").is_in([id_ for id_, task in plan.tasks.items() if task in merged])


def _shows_something(samples: Manifest) -> bool:
    """Whether any of the samples has a box or a mask."""
    return samples.has_masks or not samples.boxes().is_empty()


def base_of(plan: Plan, name: str, base_model: str, initial_model: str) -> str:
    """What a model starts from, as ``train`` takes it.

    Args:
        plan: of the round.
        name: of the model.
        base_model: what the user asked for; ``champion`` for the same model of the champion.
        initial_model: what a model starts from that is not there yet, or is trained anew.
    """
    if base_model != "champion":
        return base_model
    return f"champion:{plan.champion}:{name}" if plan.of(name).action == "finetune" else initial_model


def check_start(chosen: RoundTrainSettings) -> None:
    """See that models can be trained from what they are to start from.

    Raises:
        InputError: they cannot.
    """
    if chosen.base_model == "candidate":
        raise InputError("base_model=candidate: a task's model starts from that of the champion: leave base_model out")
    base = chosen.initial_model if chosen.base_model == "champion" else chosen.base_model
    check_training(chosen.estimator, base, chosen.estimator_options, chosen.epochs)


def check_no_force(force_evaluate: bool) -> None:
    """See that nothing is asked for that lifelong learning does not have.

    Raises:
        InputError: it is.
    """
    if force_evaluate:
        raise InputError("force_evaluate=true: each round evaluates all its models anyway; leave it out")

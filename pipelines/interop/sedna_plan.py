"""What a job of Sedna is here: a pipeline with parameters, commands beside it, and what has no place."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.core.parameters import WORKFLOWS
from pipelines.interop.sedna_schema import Resource

RUN, SCHEDULE = "python -m pipelines run", "python -m pipelines schedule"
SUBMIT = "python -m pipelines submit"


@dataclass(frozen=True)
class Loss:
    """Something that cannot be carried over.

    Attributes:
        place: of it in the job, such as ``trainSpec``.
        what: was written there.
        reason: why it has no place here, or what to do instead.
        parameter: that makes up for it when it is given.
    """

    place: str
    what: str
    reason: str
    parameter: str = ""


@dataclass
class Plan:
    """What a job is here.

    Attributes:
        job: of Sedna.
        pipeline: name.
        every: interval of the polls, such as ``60s``; empty for a pipeline that runs once.
        parameters: by name.
        workers: commands that run beside the pipeline, on devices and servers; each a program with its options.
        notes: what is carried over and behaves otherwise.
        losses: what is not carried over.
    """

    job: Resource
    pipeline: str
    every: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    workers: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)

    @property
    def names(self) -> frozenset[str]:
        """The parameters that the pipeline has."""
        return frozenset(name for phase in WORKFLOWS[self.pipeline] for name in phase.model_fields)

    def lose(self, place: str, what: str, reason: str, parameter: str = "") -> None:
        """Take down what cannot be carried over."""
        self.losses.append(Loss(place, what, reason, parameter))

    def put(self, parameter: str, value: Any, place: str, what: str) -> None:
        """Give a parameter a value; a second one that differs is a loss."""
        if parameter not in self.names:
            self.lose(place, what, f"{self.pipeline} has no parameter {parameter}")
        elif parameter in self.parameters and self.parameters[parameter] != value:
            kept = as_text(self.parameters[parameter])
            self.lose(place, what, f"all steps share one {parameter}, which is {kept}", parameter)
        else:
            self.parameters[parameter] = value

    def override(self, given: Mapping[str, Any]) -> None:
        """Let the user's own parameters win; what they make up for is no loss any more."""
        self.parameters |= given
        self.losses = [loss for loss in self.losses if loss.parameter not in given]

    def lost(self) -> list[str]:
        """One line for each thing that is not carried over; what several places have in common is one line."""
        places: dict[tuple[str, str], list[str]] = {}
        for loss in self.losses:
            places.setdefault((loss.what, loss.reason), []).append(loss.place)
        lines = (f"{', '.join(dict.fromkeys(where))}: {what}: {why}" for (what, why), where in places.items())
        return [" ".join(line.split()) for line in lines]

    def lines(self) -> Iterator[str]:
        """The job as a script of the shell, with comments."""
        yield " ".join(f"# {self.job.kind} {self.job.name} ({self.job.place})".split())
        words = [f"{name}={as_text(value)}" for name, value in self.parameters.items()]
        every = ["--every", self.every] if self.every else []
        yield from _command(RUN, [self.pipeline, *every], [("-p", word) for word in words])
        cluster = SCHEDULE if self.every else SUBMIT
        yield f"# on a cluster, with the same parameters: {cluster} {' '.join([self.pipeline, *every])} --host URL"
        for program, *options in self.workers:
            yield from _command(program, [], list(zip(options[::2], options[1::2], strict=True)))
        yield from self.remarks()

    def remarks(self) -> Iterator[str]:
        """What behaves otherwise here and what is lost, as comments of a script."""
        for note in self.notes:
            yield f"# note: {' '.join(note.split())}"
        for line in self.lost():
            yield f"# not carried over: {line}"


def as_text(value: Any) -> str:
    """A value as it is written after ``name=``."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _command(program: str, words: list[str], options: list[tuple[str, str]]) -> Iterator[str]:
    lines = [" ".join([program, *map(shlex.quote, words)])]
    lines += [f"    {name} {shlex.quote(value)}" for name, value in options]
    yield " \\\n".join(lines)

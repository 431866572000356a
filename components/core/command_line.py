"""Command lines whose options are taken once, since of two values the last would count silently; numbers are finite."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from components.core.errors import InputError


class Command(TyperCommand):
    """A command that refuses infinite numbers, and an option given more than once unless it can be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look for such options before anything else is made of the words."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for param, count in Counter(given).items():
            if count > 1 and param.param_type_name == "option" and not param.multiple:
                raise typer.BadParameter(f"given {count} times, give it once", ctx=ctx, param_hint=param.opts[0])
        left = list(super().parse_args(ctx, args))
        for param in self.params:  # also what an environment variable gives
            value = ctx.params.get(param.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"{value} is not a finite number", ctx=ctx, param_hint=param.opts[0])
        return left


Function = TypeVar("Function", bound=Callable[..., Any])


class App(typer.Typer):
    """A program with such commands."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """See ``typer.Typer.command``."""
        return super().command(name, cls=cls or Command, **options)


def named(option: str, words: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` words as values by name.

    Args:
        option: that they were given with, for messages.
        words: as they were given.

    Raises:
        InputError: a word is not ``NAME=VALUE``, or a name is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{option} {word!r}: write NAME=VALUE")
        if name in found:
            raise InputError(f"{option} {name}: given more than once; which value is meant?")
        found[name] = value
    return found

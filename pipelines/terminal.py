"""What every verb of the command line shares: errors in one line, parameters from a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from components.core.documents import read_yaml
from components.core.errors import InputError
from components.core.parameters import WORKFLOWS, renamed
from components.core.redaction import redacted, redacted_output
from pipelines.docs import help_of
from pipelines.local import RunError


@contextmanager
def one_line_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Print a user's mistake, or a step's own error, as one line and exit 1; after Ctrl-C say what happens next.

    Nothing that is printed meanwhile shows a credential.
    """
    try:
        with redacted_output():
            yield
    except (InputError, RunError) as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        raise typer.Exit(130) from None


def parameters_from(path: Path | None) -> dict[str, Any]:
    """The parameters in a YAML file; none without one.

    Raises:
        InputError: not a readable YAML file, or not a mapping.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--params {path}: cannot be read ({error})") from error
    values = read_yaml(text, f"--params {path}") or {}
    if not isinstance(values, dict):
        raise InputError(f"--params {path}: not a mapping of parameter names to values")
    return values


def say_renamed(given: Mapping[str, Any]) -> None:
    """Tell the user what the parameters that were given by an old name are called now."""
    for line in renamed(given):
        print(f"note: {line}", file=sys.stderr)


class PipelineCommand(TyperCommand):
    """A verb that takes a pipeline: its ``--help`` lists the parameters of the pipeline that is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help for a pipeline before anything else is looked at."""
        if any(name in args for name in ctx.help_option_names):
            print(ctx.get_help())
            for name in [word for word in args if word in WORKFLOWS]:
                print(help_of(name))
            ctx.exit()
        return list(super().parse_args(ctx, args))

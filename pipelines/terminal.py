"""What every verb of the command line shares: errors in one line, parameters from a file."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from components.core.command_line import Command
from components.core.documents import read_yaml
from components.core.errors import InputError
from components.core.parameters import SECTIONS, SETTINGS, WORKFLOWS, renamed
from components.core.redaction import redacted, redacted_output
from components.core.stores.transfer import os_reason
from pipelines.docs import help_of
from pipelines.local import RunError
from pipelines.signals import Ended, endable


@contextmanager
def one_line_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Print a user's mistake, a step's own error, or what this machine refuses, as one line and exit 1.

    After Ctrl-C, SIGTERM or a closed terminal say what happens next, and exit as a shell shows a signal: with 128 and
    its number.

    Nothing that is printed meanwhile shows a credential.
    """
    try:
        with redacted_output(), endable():
            yield
    except (InputError, RunError) as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno == errno.EPIPE:  # nobody reads what is printed any more, as behind `| head`
            raise
        print(f"error: {redacted(os_reason(error))}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt as error:
        with suppress(OSError):  # the terminal may be gone
            print(interrupted, file=sys.stderr)
        raise typer.Exit(128 + (error.number if isinstance(error, Ended) else signal.SIGINT)) from None


def parameters_from(path: Path | None) -> dict[str, Any]:
    """The parameters in a YAML file; none without one.

    A number that is written in an unusual way, such as ``010``, stays text, since it may be the name of a class.

    Raises:
        InputError: not a readable YAML file, or not a mapping.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--params {path}: cannot be read ({error})") from error
    values = read_yaml(text, f"--params {path}")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"--params {path}: not a mapping of parameter names to values")
    written = read_yaml(text, f"--params {path}", as_text=True)
    return {name: _as_written(value, written.get(name), name) for name, value in values.items()}


def _as_written(value: Any, text: Any, name: object) -> Any:
    """A parameter's value, with numbers as the texts that they are where that is another; of a section, of each."""
    if isinstance(value, dict) and isinstance(text, dict) and (name == SETTINGS or name in SECTIONS):
        return {key: _as_written(item, text.get(key), key) for key, item in value.items()}
    if isinstance(value, list) and isinstance(text, list):
        return [_as_written(item, one, "") for item, one in zip(value, text, strict=True)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return text if is_number and isinstance(text, str) and str(value) != text else value


def say_renamed(given: Mapping[str, Any]) -> None:
    """Tell the user what the parameters that were given by an old name are called now."""
    for line in renamed(given):
        print(f"note: {line}", file=sys.stderr)


class PipelineCommand(Command):
    """A verb that takes a pipeline: its ``--help`` lists the parameters of the pipeline that is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help for a pipeline before anything else is looked at."""
        if any(name in args for name in ctx.help_option_names):
            print(ctx.get_help())
            for name in [word for word in args if word in WORKFLOWS]:
                print(help_of(name))
            ctx.exit()
        return list(super().parse_args(ctx, args))

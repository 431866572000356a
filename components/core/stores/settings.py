"""What the environment says of stores: without the line ends and blanks that secrets made by hand bring along."""

from __future__ import annotations

import os

from components.core.errors import InputError


def setting(*names: str) -> str:
    """The value of the first of some environment variables that says anything; empty if none does.

    Raises:
        InputError: it holds what cannot be part of it; the message does not show the value.
    """
    for name in names:
        value = os.environ.get(name, "").strip()
        if any(not " " < letter <= "~" for letter in value):
            raise InputError(
                f"{name} contains a space, a line break or a non-ASCII character: give the bare value, "
                f"as in kubectl create secret generic ... --from-literal={name}=..."
            )
        if value:
            return value
    return ""

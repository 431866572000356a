"""The errors a user can do something about."""

from pydantic import ValidationError

_SHOWN = 3  # of the problems that pydantic found in one description


class InputError(Exception):
    """What was given cannot be used.

    The message is one line for the person who gave it: what was given, what is wrong with it and what to do. A step
    that ends with this error prints the message alone; every other exception keeps its traceback, because it is a
    fault of ours.
    """


class NotFoundError(InputError):
    """The object or file that was named does not exist; the message names it."""


class TooLargeError(InputError):
    """The object or file that was named is larger than it may be; the message names it and the limit."""


class LostRaceError(InputError):
    """Another run does this work, or has done it first; nothing is wrong with it, so it does not count as a failure."""


class OutOfReachError(InputError):
    """A server does not answer, or cannot now; another try may succeed."""


class UnfitStoreError(InputError):
    """The store does not keep its conditions when writers race; the message names it and what to use instead."""


class NoRuntimeError(InputError):
    """This machine lacks what every model on a runtime needs, such as an NPU; it says nothing about the model."""


class NothingToMeasureError(InputError):
    """The labels hold nothing that a model could be measured by."""


class ConflictError(Exception):
    """A conditional write lost the race: somebody else changed the object first."""


def may_pass(error: BaseException | None) -> bool:
    """Whether another try may succeed although nothing is changed: what an error came from is looked at, too."""
    while error is not None:
        if isinstance(error, OutOfReachError | LostRaceError | ConflictError):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_line(error: ValidationError) -> str:
    """What pydantic found wrong with a description, as ``place: message``; of many problems the first ones."""
    found = error.errors(include_url=False, include_input=False)
    problems = [f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found[:_SHOWN]]
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "; ".join([*problems, *more])

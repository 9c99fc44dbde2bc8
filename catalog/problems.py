"""What happens to input that cannot be read: it is refused, or left out and written down."""

from __future__ import annotations

from enum import StrEnum

from mixlake.catalog.errors import ConfigError, DataError, listed, nearest
from mixlake.catalog.records import DataFile, Problem


class OnError(StrEnum):
    """What registration does with input that cannot be read."""

    RAISE = "raise"
    """Refuse it: nothing is registered."""
    SKIP = "skip"
    """Leave it out, register the rest, and write it down in `skipped`."""


def checked_on_error(value: str) -> OnError:
    """Return the policy of that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return OnError(value)
    except ValueError:
        allowed = [policy.value for policy in OnError]
        raise ConfigError(f"on_error is {value!r}; allowed: {listed(allowed)}.{nearest(str(value), allowed)}") from None


class Problems:
    """Takes what a format or a property cannot read.

    Formats report a problem and go on with the next record, or the next file, as if they had to: under ``raise`` the
    report does not return.
    """

    def __init__(self, on_error: OnError = OnError.RAISE) -> None:
        self.on_error = on_error
        self.found: list[Problem] = []

    def report(self, problem: Problem) -> None:
        """Note a problem and return, or raise it.

        Raises:
            DataError: with ``on_error=raise``.
        """
        if self.on_error is OnError.RAISE:
            raise DataError(str(problem))
        self.found.append(problem)

    def note(self, error: DataError, file: DataFile) -> None:
        """Report what an error says about a file, or raise the error itself.

        Raises:
            DataError: with ``on_error=raise``.
        """
        if self.on_error is OnError.RAISE:
            raise error
        told = error.args[0]
        self.found.append(told if isinstance(told, Problem) else Problem(file=file, place="", reason=str(error)))

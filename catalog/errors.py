"""Everything that Mixlake raises on purpose.

    MixlakeError
    ├── ConfigError      a declared value is wrong: a name, a weight, an option, a path that matches nothing
    ├── QueryError       SQL is refused: it does not parse, names an unknown property, or would write
    ├── DataError        a registered file cannot be read, or is not the file that was registered
    ├── LakeError        a lake, table, version, dataset or run is missing, or exists already
    └── ScheduleError    chunks cannot be had: another scheduler owns the run, or nobody schedules it

Messages are one short paragraph: the name, what was got, what is allowed, and table@version where one is involved.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MixlakeError(Exception):
    """Any error that a user can mend; the command line prints it without a traceback and exits with 2."""


class ConfigError(MixlakeError, ValueError):
    """A declared value is wrong."""


class QueryError(MixlakeError, ValueError):
    """An SQL expression or query is refused."""


class DataError(MixlakeError, ValueError):
    """A registered file cannot be read, or has changed since it was registered.

    Its argument is a message, or a `Problem` that tells file, place and reason apart.
    """


class LakeError(MixlakeError):
    """Something in the lake is missing, or is there already."""


class ScheduleError(MixlakeError):
    """Chunks of a run cannot be written or cannot be had."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint naming the allowed value nearest to ``name``, or an empty string.

    >>> nearest("langauge", ["language", "kind"])
    " Did you mean 'language'?"
    """
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Return names as one readable phrase, cut after ``limit`` of them.

    >>> listed(["b", "a"])
    'b, a'
    """
    all_names = list(names)
    shown = ", ".join(all_names[:limit]) or "none"
    return shown if len(all_names) <= limit else f"{shown}, … ({len(all_names)} in all)"

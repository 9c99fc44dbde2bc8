"""Lengths of time, as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

from mixlake.catalog.errors import ConfigError

_DURATION = re.compile(r"(\d+)\s*(d|h|m|s)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def parse_duration(value: str | timedelta, name: str) -> timedelta:
    """Return a length of time.

    >>> parse_duration("36h", "older_than")
    datetime.timedelta(days=1, seconds=43200)

    Raises:
        ConfigError: it does not parse, or is negative.
    """
    if isinstance(value, timedelta) and value >= timedelta(0):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(f"{name} is {value!r}; expected a number and d, h, m or s, such as 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})

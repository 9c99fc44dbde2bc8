"""Batch functions as text, and back: ``module:name {parameters}``, so that a refresh can compute what they computed.

What is named is imported, never anything else: text from a lake is a name and JSON, and only functions of modules and
dataclasses that are batch functions are taken.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from typing import Any

from mixlake.catalog.errors import ConfigError
from mixlake.catalog.records import BatchFunction, RecordFunction

_REFERENCE = re.compile(r"(?P<module>[\w.]+):(?P<name>[\w.]+) (?P<parameters>\{.*\})", re.DOTALL)


def reference(function: Any) -> str:
    """Return the text that stands for a batch function; see `is_importable` for whether it leads back.

    >>> from mixlake.catalog import NumTokens
    >>> reference(NumTokens())
    'mixlake.catalog.text_properties:NumTokens {"tokenizer": "bytes", "text": "_text"}'
    """
    if isinstance(function, BatchFunction):
        named, parameters = function.function, {"fields": list(function.fields)}
    else:
        named, parameters = type(function), _parameters(function)
    named = named if hasattr(named, "__qualname__") else type(named)  # a functools.partial has no name
    return f"{named.__module__}:{named.__qualname__} {json.dumps(parameters, default=repr)}"


def is_importable(function: RecordFunction) -> bool:
    """Say whether another process finds the same function by its reference: no lambda, partial, or one of a script."""
    text = reference(function)
    if text.startswith("__main__:"):
        return False
    try:
        return restored(text) == function
    except ConfigError:
        return False


def restored(text: str) -> RecordFunction:
    """Return the batch function that a reference stands for.

    Raises:
        ConfigError: it cannot be imported, or is no batch function.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} names no function that can be imported")
    try:
        found: Any = importlib.import_module(match["module"])
        for name in match["name"].split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{match['module']}:{match['name']} cannot be imported ({error})") from error
    parameters = json.loads(match["parameters"])
    if inspect.isfunction(found) and parameters.keys() == {"fields"}:
        return BatchFunction(function=found, fields=tuple(parameters["fields"]))
    if _is_function_class(found) and parameters.keys() <= {field.name for field in dataclasses.fields(found)}:
        function: RecordFunction = found(**parameters)
        return function
    raise ConfigError(f"{text!r} is no batch function")


def _is_function_class(found: Any) -> bool:
    members = vars(found) if inspect.isclass(found) else {}
    return dataclasses.is_dataclass(found) and {"fields", "__call__"} <= members.keys()


def _parameters(function: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(function):
        return {}
    return {field.name: getattr(function, field.name) for field in dataclasses.fields(function) if field.init}

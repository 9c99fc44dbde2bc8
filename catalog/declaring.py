"""Properties as they are declared: SQL, batch functions, types; checked, recorded, and declared again from that."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pyarrow as pa

from mixlake.catalog.errors import ConfigError, listed, nearest
from mixlake.catalog.fields import mentioned_fields, parse_path
from mixlake.catalog.function_references import is_importable, reference, restored
from mixlake.catalog.records import FieldPath, Property, RecordFunction
from mixlake.catalog.schema import RESERVED_COLUMNS, TIMESTAMP
from mixlake.catalog.sql import refuse_impure

PropertySource: TypeAlias = str | RecordFunction | Mapping[str, Any]
"""An SQL expression, a batch function, or ``{expression: either, type: string, nullable: false}``."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_KEYS = ("expression", "type", "nullable")
_SCALARS = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": TIMESTAMP,
}
_OTHER_NAMES = {"float64": "double", "date32[day]": "date", str(TIMESTAMP): "timestamp"}
_LIST = re.compile(r"list<(?:item: )?(.+)>")
_NOT_NULL = " not null"


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """A property as it is to be computed: one column."""

    name: str
    expression: str
    """SQL, or the reference of a batch function."""
    origin: str
    """Recorded: ``sql`` or ``function``; ``local function`` if it cannot be imported; ``added …`` if afterwards."""
    inputs: tuple[FieldPath, ...]
    """What it is computed from, in order."""
    uses: frozenset[str] = frozenset()
    """Those of the inputs that are properties, declared before it; the others are fields of the record."""
    function: RecordFunction | None = None
    output: str | None = None
    """Which of several columns that the function gives."""
    type: pa.DataType | None = None
    """The type that it must have; None takes what comes."""
    is_nullable: bool = True

    @property
    def fields(self) -> tuple[FieldPath, ...]:
        """The fields of the record that it is computed from."""
        return tuple(path for path in self.inputs if not (len(path) == 1 and path[0] in self.uses))

    def as_property(self, kind: pa.DataType) -> Property:
        """Return the property to record, given the type that it turned out to have."""
        return Property(
            name=self.name,
            type=str(kind) if self.is_nullable else f"{kind}{_NOT_NULL}",
            expression=self.expression if self.output is None else f"{self.expression} -> {self.output}",
            origin=self.origin,
        )


def declare(properties: Mapping[str, PropertySource], known: Collection[str] | None = None) -> list[Declared]:
    """Check names and expressions, and find what they need.

    Args:
        properties: by name; a function with several ``outputs`` becomes several properties, NAME_OUTPUT.
        known: for properties that are added to a dataset, those that it has: names mean these before they mean fields.

    Raises:
        ConfigError: a name is not lower_snake_case or is taken, an expression is empty, or a type is unknown.
    """
    declared = [one for name, source in properties.items() for one in _declare(name, source, known)]
    for prop in declared:
        check_name(prop.name)
    names = [prop.name for prop in declared]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"property {name!r} is declared twice")
    return declared


def declare_again(
    properties: Sequence[Property], functions: Mapping[str, RecordFunction], dataset: str
) -> list[Declared]:
    """Return the properties of a dataset as they were declared, from what is recorded of them.

    Args:
        properties: what is recorded.
        functions: by property, those functions that cannot be imported.
        dataset: the dataset, for messages.

    Raises:
        ConfigError: a function cannot be imported and is not given, or another one is given.
    """
    unknown = sorted(functions.keys() - {prop.name for prop in properties if "function" in prop.origin})
    if unknown:
        raise ConfigError(f"functions of {dataset!r}: got {listed(unknown)}, which no batch function computes")
    declared: list[Declared] = []
    for prop in properties:
        text, _, output = prop.expression.partition(" -> ") if "function" in prop.origin else (prop.expression, "", "")
        source: PropertySource = text
        if prop.origin == "group":  # known only once all datasets are compared
            source = "CAST(NULL AS BIGINT)"
        elif "function" in prop.origin:
            source = _function_again(prop, text, functions.get(prop.name), dataset)
        known = [before.name for before in declared] if prop.origin.startswith("added") else None
        chosen = next((one for one in _declare(prop.name, source, known) if (one.output or "") == output), None)
        if chosen is None:
            raise ConfigError(f"property {prop.name!r} of {dataset!r}: {text} gives no {output!r} any more")
        is_nullable = not prop.type.endswith(_NOT_NULL)
        declared.append(
            replace(
                chosen,
                name=prop.name,
                is_nullable=is_nullable,
                type=None if is_nullable else parse_type(prop.type.removesuffix(_NOT_NULL), prop.name),
            )
        )
    return declared


def parse_type(text: str, name: str) -> pa.DataType:
    """Return the type of that name.

    >>> parse_type("list<string>", "tags")
    ListType(list<item: string>)

    Raises:
        ConfigError: properties have no such type.
    """
    within = _LIST.fullmatch(text)
    scalar = _SCALARS.get(_OTHER_NAMES.get(within[1] if within else text, within[1] if within else text))
    if scalar is None:
        raise ConfigError(
            f"property {name!r}: type {text!r} is unknown; there are {listed(_SCALARS)}, and list<…> of these."
            f"{nearest(text, _SCALARS)}"
        )
    return pa.list_(scalar) if within else scalar


def check_name(name: str) -> None:
    """Refuse a name that no property may have."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"property name {name!r}: expected lower_snake_case, such as num_chars")
    if name in RESERVED_COLUMNS:
        raise ConfigError(f"property name {name!r} is taken; samples already has: {listed(sorted(RESERVED_COLUMNS))}")


def _declare(name: str, source: PropertySource, known: Collection[str] | None) -> Iterator[Declared]:
    kind, is_nullable = None, True
    if isinstance(source, Mapping):
        wrong = [key for key in source if key not in _KEYS]
        if wrong or "expression" not in source:
            got = f"got {listed(map(repr, wrong))}" if wrong else "it has no expression"
            raise ConfigError(f"property {name!r}: expected the keys {listed(_KEYS)}; {got}")
        kind = None if source.get("type") is None else parse_type(str(source["type"]), name)
        is_nullable = source.get("nullable", True)
        if not isinstance(is_nullable, bool):
            raise ConfigError(f"property {name!r}: nullable is {is_nullable!r}; expected true or false")
        source = source["expression"]
    added = "" if known is None else "added "
    if isinstance(source, str) and source.strip():
        refuse_impure(source, f"property {name!r}")
        whole = Declared(name=name, expression=source, origin=f"{added}sql", inputs=tuple(mentioned_fields(source)))
    elif callable(source) and hasattr(source, "fields"):
        whole = Declared(
            name=name,
            expression=reference(source),
            origin=f"{added}{'' if is_importable(source) else 'local '}function",
            inputs=tuple(parse_path(field) for field in source.fields),
            function=source,
        )
    elif hasattr(source, "keys") and hasattr(source, "fields"):
        raise ConfigError(
            f"property {name!r}: groups of duplicates are found with add_property, among what is registered"
        )
    else:
        raise ConfigError(f"property {name!r}: expected an SQL expression or a batch function, got {source!r}")
    uses = frozenset(path[0] for path in whole.inputs if len(path) == 1 and path[0] in (known or ()))
    whole = replace(whole, uses=uses, type=kind, is_nullable=is_nullable)
    outputs = getattr(whole.function, "outputs", None)
    if outputs is None:
        yield whole
    for output in outputs or ():
        yield replace(whole, name=f"{name}_{output}", output=output)


def _function_again(prop: Property, text: str, given: RecordFunction | None, dataset: str) -> RecordFunction:
    if given is None:
        if "local" in prop.origin:
            raise ConfigError(
                f"functions of {dataset!r}: lacks {prop.name}, which {text} computed; it cannot be imported, so pass "
                f"functions={{{prop.name!r}: …}}, or add the property anew by a function of a module"
            )
        return restored(text)
    if reference(given) != text:
        raise ConfigError(
            f"functions of {dataset!r}: property {prop.name!r} was computed by {text}, got {reference(given)}; "
            "add the property anew to compute it otherwise"
        )
    return given

"""Read-only SQL over the tables of a lake, with errors a person can act on."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa
from datafusion import DataFrame, SessionContext, SQLOptions

from mixlake.catalog import schema
from mixlake.catalog.errors import QueryError, listed, nearest

_READ_ONLY = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)
_VOLATILE = re.compile(
    r"""\b(random|rand|uuid|now|today|current_date|current_time|current_timestamp)\b"?\s*\("""
    r"""|(?<![."'\w])(current_date|current_time|current_timestamp)\b""",
    re.IGNORECASE,
)
_WINDOW = re.compile(r"\)\s*over\b", re.IGNORECASE)
_IGNORED = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|\"(?P<name>(?:[^\"]|\"\")*)\"", re.DOTALL)
_PREFIXES = re.compile(r"^((DataFusion error|SQL error|Schema error|Arrow error|Error during planning): )+")
_UNKNOWN_FIELD = re.compile(r"No field named ([^\n]+?)\.(\s|$)")
_UNKNOWN_INNER = re.compile(r"Field (\w+) not found in struct")
_REFUSED = re.compile(r"(?:DDL|DML|Statement) not supported: (\w+)")
_UNKNOWN_TABLE = re.compile(r"table '(?:datafusion\.public\.)?(.+?)' not found")
_MAX_MESSAGE = 300


def run_query(context: SessionContext, query: str, where: str) -> DataFrame:
    """Plan a query that can only read; it runs when the frame is collected.

    Args:
        context: the session with the tables.
        query: one SELECT, or anything else that only reads.
        where: what the query runs against, for messages: ``catalog@12``.

    Raises:
        QueryError: the query does not parse, names something unknown, or would write.
    """
    try:
        return context.sql_with_options(query, _READ_ONLY)
    except Exception as error:  # datafusion raises ValueError and bare Exception alike for refused SQL
        unknown = _UNKNOWN_TABLE.search(str(error))
        if unknown:
            tables = sorted(schema.TABLES)
            reason = f"unknown table {unknown[1]!r}; there are: {listed(tables)}.{nearest(unknown[1], tables)}"
        else:
            reason = _explain(error, where)
        raise QueryError(f"{reason} in: {query.strip()}") from error


def check_predicate(frame: DataFrame, predicate: str, what: str, where: str) -> None:
    """Refuse a predicate that is not one deterministic boolean expression over the frame's columns.

    Args:
        frame: any frame with the columns; nothing of it is read.
        predicate: the SQL expression.
        what: whose predicate it is, for messages: ``component 'german'``.
        where: what it is checked against, for messages: ``samples@12``.

    Raises:
        QueryError: naming what is wrong and the nearest known name.
    """
    if not isinstance(predicate, str) or not predicate.strip():
        raise QueryError(f"{what}: expected an SQL predicate, got {predicate!r}")
    refuse_impure(predicate, what)
    columns = frame.schema()
    try:
        empty = SessionContext().from_arrow(columns.empty_table())
        empty.parse_sql_expr(predicate)  # whole as it is, and in the parentheses that it will stand in
        answers = empty.select(empty.parse_sql_expr(f"(\n{predicate}\n)").alias("answer"))
        kind = answers.schema().field(0).type
        answers.collect()  # types are compared, and aggregates refused, only when a plan is made to run
    except Exception as error:  # datafusion raises bare Exception for SQL that does not parse
        unknown = _UNKNOWN_FIELD.search(str(error))
        hint = " Text is written in single quotes," if unknown and f'"{unknown[1].strip(chr(34))}"' in predicate else ""
        raise QueryError(f"{what}: {_explain(error, where, columns.names)}{hint} in: {predicate.strip()}") from error
    if not pa.types.is_boolean(kind):
        raise QueryError(f"{what}: {predicate.strip()!r} is {kind}, expected true or false for each sample")


def refuse_impure(expression: str, what: str) -> None:
    """Refuse expressions whose answer for a sample depends on more than the sample: on the call, or on other samples.

    Raises:
        QueryError: naming the function; with it the same inputs would not give the same order.
    """
    code = _IGNORED.sub(_masked, expression)
    volatile = _VOLATILE.search(code)
    if volatile:
        name = volatile[1] or volatile[2]
        raise QueryError(f"{what}: {name} gives another answer at each call, so a run could not be repeated")
    if _WINDOW.search(code):
        raise QueryError(f"{what}: OVER looks at other samples; expected an expression over one sample")


def unknown_property(name: str, names: Iterable[str], where: str) -> str:
    """Return what is wrong with the name of a property, and the columns that samples have: properties come first.

    >>> unknown_property("langage", ["row", "language"], "samples@2")
    "unknown property 'langage'; samples@2 has: language, row. Did you mean 'language'?"
    """
    known = properties_first(names)
    return f"unknown property {name!r}; {where} has: {listed(known)}.{nearest(name, known)}"


def properties_first(names: Iterable[str]) -> list[str]:
    """Return the columns of samples in the order in which a message lists them."""
    return sorted(names, key=lambda name: name in schema.RESERVED_COLUMNS)


def _masked(ignored: re.Match[str]) -> str:
    """Return a blank for a string or comment; a quoted name stays, as one word."""
    return " " if ignored["name"] is None else '"' + re.sub(r"\W", "_", ignored["name"]) + '"'


def first_line(error: BaseException) -> str:
    """Return the telling part of an engine's message: its innermost cause, and the engine's hint."""
    lines = str(error).split("\ncaused by\n")[-1].strip().splitlines() or [type(error).__name__]
    text = _PREFIXES.sub("", lines[0]).rstrip(".")
    text = text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}…"
    return f"{text}. {lines[1]}" if len(lines) > 1 and lines[1].startswith("Did you mean") else text


def _explain(error: BaseException, where: str, names: Iterable[str] = ()) -> str:
    unknown = _UNKNOWN_FIELD.search(str(error))
    if unknown:
        name = unknown[1].split(".")[-1].strip('"')
        if names:
            return unknown_property(name, names, where)
        known = _valid_fields(str(error))
        return f"unknown column {name!r}; {where} has: {listed(known)}.{nearest(name, known)}"
    inner = _UNKNOWN_INNER.search(str(error))
    if inner:
        known = list(dict.fromkeys(f.name for t in schema.TABLES.values() for c in t.described for f in c.inner))
        return f"unknown field {inner[1]!r} of a struct; fields: {listed(known, 30)}.{nearest(inner[1], known)}"
    refused = _REFUSED.search(str(error))
    return f"{refused[1]} is refused: queries only read" if refused else first_line(error)


def _valid_fields(message: str) -> list[str]:
    fields = re.search(r"Valid fields are (.+?)\.?$", message, re.MULTILINE)
    names = fields[1].split(",") if fields else []
    return list(dict.fromkeys(name.split(".")[-1].strip().strip('"') for name in names))

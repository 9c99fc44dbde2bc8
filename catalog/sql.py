"""Read-only SQL over the tables of a lake, with errors a person can act on."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa
from datafusion import DataFrame, SessionContext, SQLOptions

from mixlake.catalog.errors import QueryError, listed, nearest

_READ_ONLY = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)
_VOLATILE = re.compile(
    r"\b(random|rand|uuid|now|current_date|current_time|current_timestamp|today)\b\s*(\(|$|[^\w.(])", re.IGNORECASE
)
_UNKNOWN_FIELD = re.compile(r"No field named ([^\n]+?)\.(\s|$)")
_STRING = re.compile(r"'(?:[^']|'')*'")


def run_query(context: SessionContext, query: str, where: str) -> DataFrame:
    """Plan a query that can only read; it runs when the frame is collected.

    Args:
        context: the session with the tables.
        query: one SELECT, or anything else that only reads.
        where: what the query runs against, for messages: ``samples@12``.

    Raises:
        QueryError: the query does not parse, names something unknown, or would write.
    """
    try:
        return context.sql_with_options(query, _READ_ONLY)
    except Exception as error:  # datafusion raises ValueError and bare Exception alike for refused SQL
        raise QueryError(f"{_explain(error, where)} in: {query.strip()}") from error


def check_predicate(frame: DataFrame, predicate: str, what: str, where: str) -> None:
    """Refuse a predicate that is not one deterministic boolean expression over the frame's columns.

    Args:
        frame: any frame with the columns; nothing is read.
        predicate: the SQL expression.
        what: whose predicate it is, for messages: ``component 'german'``.
        where: what it is checked against, for messages: ``samples@12``.

    Raises:
        QueryError: naming what is wrong and the nearest known name.
    """
    if not isinstance(predicate, str) or not predicate.strip():
        raise QueryError(f"{what}: expected an SQL predicate, got {predicate!r}")
    refuse_volatile(predicate, what)
    names = frame.schema().names
    try:
        expression = frame.parse_sql_expr(predicate)
        kind = frame.select(expression.alias("answer")).schema().field(0).type
    except Exception as error:  # datafusion raises bare Exception for SQL that does not parse
        raise QueryError(f"{what}: {_explain(error, where, names)} in: {predicate.strip()}") from error
    if not pa.types.is_boolean(kind):
        raise QueryError(f"{what}: {predicate.strip()!r} is {kind}, expected true or false for each sample")


def refuse_volatile(expression: str, what: str) -> None:
    """Refuse functions whose answer changes from call to call: the same inputs must give the same order."""
    match = _VOLATILE.search(_STRING.sub("''", expression))
    if (match and match[2] == "(") or (match and match[1].lower().startswith("current_")):
        raise QueryError(f"{what}: {match[1]} gives another answer at each call, so a run could not be repeated")


def first_line(error: BaseException) -> str:
    """Return the telling part of an engine's message."""
    text = str(error).split("\n\n")[0].splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"^(DataFusion error: |SQL error: |Error during planning: )+", "", text).rstrip(".")


def _explain(error: BaseException, where: str, names: Iterable[str] = ()) -> str:
    unknown = _UNKNOWN_FIELD.search(str(error))
    if unknown:
        name = unknown[1].split(".")[-1].strip('"')
        known = list(names) or _valid_fields(str(error))
        return f"unknown property {name!r}; {where} has: {listed(known)}.{nearest(name, known)}"
    return first_line(error)


def _valid_fields(message: str) -> list[str]:
    fields = re.search(r"Valid fields are (.+?)\.?$", message, re.MULTILINE)
    return [name.split(".")[-1].strip().strip('"') for name in fields[1].split(",")] if fields else []

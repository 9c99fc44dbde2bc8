"""Predicates that fail on a sample: whose they are, and what on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from datafusion import DataFrame
from datafusion import functions as f

from mixlake.catalog import MixlakeError, QueryError
from mixlake.catalog.sql import first_line
from mixlake.mixing.program import Leaf


@contextlib.contextmanager
def failures_named(
    samples: DataFrame, condition: str | None, leaves: Sequence[Leaf], where: str, path: str = "mixture"
) -> Iterator[None]:
    """Name the predicate that makes a query fail: some text is no number, a divisor is zero.

    The types of a predicate are checked before; what it makes of the values is found out by asking it.

    Args:
        samples: the samples, before the filter.
        condition: the filter.
        leaves: components whose predicates the query asks.
        where: whose samples they are, for messages: ``samples@12``.
        path: where the filter is declared.

    Raises:
        QueryError: a predicate fails.
    """
    try:
        yield
    except MixlakeError:
        raise
    except Exception as error:  # datafusion raises bare Exception for values that an expression fails on
        if condition is not None:
            samples = samples.filter(samples.parse_sql_expr(condition))
        pairs = [(leaf.path, predicate) for leaf in leaves for predicate in (*leaf.requires, *leaf.excludes)]
        if condition is not None:  # first: where it fails all do
            pairs.insert(0, (f"{path}.filter", condition))
        for declared, predicate in pairs:
            if reason := _failure(samples, predicate):
                raise QueryError(f"{declared}: {predicate} fails on {where}: {reason}") from error
        raise


def _failure(samples: DataFrame, predicate: str) -> str:
    answer = f.sum(samples.parse_sql_expr(f"CASE WHEN (\n{predicate}\n) THEN 1 ELSE 0 END"))
    try:
        samples.aggregate([], [answer.alias("num")]).collect()
    except Exception as error:  # noqa: BLE001  (as above; the reason is what is wanted)
        return first_line(error)
    return ""

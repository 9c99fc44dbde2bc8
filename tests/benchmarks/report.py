"""How benchmarks run and report: every case in a process of its own, every number beside its limit."""

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One number: ours, the limit, and which of both should be the larger."""

    what: str
    ours: float
    limit: float
    unit: str
    at_least: bool = False


def show(title: str, lines: list[Line]) -> None:
    """Print a table; a ratio of up to 1 keeps the limit."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("", "ours", "limit", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for line in lines:
        ratio = line.limit / line.ours if line.at_least else line.ours / line.limit
        bound = "at least" if line.at_least else "at most"
        table.add_row(line.what, f"{line.ours:,.4g} {line.unit}", f"{bound} {line.limit:,.4g}", f"{ratio:.2f}")
    Console(width=120).print(table)


def alone(case: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Run a case in a fresh process; return its result, and the process's peak memory in MB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # its process may have children
        return pool.submit(_measured, case, *arguments).result()


def _measured(case: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    result = case(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

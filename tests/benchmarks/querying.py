"""How fast a catalog answers: beside DataFusion on the same Parquet files; and how fast one of many versions opens.

python -m tests.benchmarks.querying [samples] [versions]     default: 10,000,000 and 1,000 (two minutes, 1 GB of disk)
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from datafusion import SessionContext

from mixlake.catalog import Catalog, schema
from tests.benchmarks.report import Line, alone, show

_QUERY = "SELECT language, source, count(*) AS n, sum(num_chars) AS chars FROM samples GROUP BY 1, 2 ORDER BY 1, 2"
_RUNS = 5
_MAX_OPEN_MS = 100


def main() -> None:
    num_samples = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    num_versions = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone(_generate, folder, num_samples)
        bare, _ = alone(_fastest, _bare, folder)
        ours, memory = alone(_fastest, _ours, folder)
        lines = [
            Line(what="aggregate by two properties; 2 times DataFusion", ours=ours, limit=2 * bare, unit="ms"),
            Line(what="peak memory", ours=memory, limit=1000, unit="MB"),
        ]
        show(f"{num_samples:,} samples", lines)
        alone(_generate_versions, folder, num_versions)
        versions = [
            Line(what=what, ours=alone(_fastest, action, folder)[0], limit=_MAX_OPEN_MS, unit="ms")
            for what, action in (
                ("open the newest version", _open),
                ("open an early version", _open_early),
                ("open the last version but one", _open_late),
                ("open, and read the history", _history),
            )
        ]
        show(f"a catalog of {num_versions:,} versions", versions)


def _generate(folder: Path, num: int) -> None:
    with (folder / "small.jsonl").open("w") as lines:
        for index in range(num):
            language = "de" if index % 3 else "en"
            lines.write(f'{{"text":"t{index % 1000}","language":"{language}","source":"s{index % 7}"}}\n')
    properties = {"language": "language", "source": "source", "num_chars": "character_length(text)"}
    Catalog.create(str(folder / "lake")).register("docs", str(folder / "small.jsonl"), properties=properties)


def _generate_versions(folder: Path, num: int) -> None:
    (folder / "tiny.jsonl").write_text('{"text": "a"}\n')
    catalog = Catalog.create(str(folder / "versions"))
    for _ in range(num):
        catalog.register("docs", str(folder / "tiny.jsonl"), replace=True)


def _fastest(action: Callable[[Path], Any], folder: Path) -> float:
    """Milliseconds of the fastest of some runs."""
    seconds = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        action(folder)
        seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds)


def _ours(folder: Path) -> pa.Table:
    return Catalog.open(str(folder / "lake")).sql(_QUERY).to_arrow_table()


def _bare(folder: Path) -> pa.Table:
    context = SessionContext()
    context.register_parquet("samples", str(folder / "lake" / schema.SAMPLES))
    return context.sql(_QUERY).to_arrow_table()


def _open(folder: Path) -> int:
    return len(Catalog.open(str(folder / "versions")).list_datasets())


def _open_early(folder: Path) -> int:
    return len(Catalog.open(str(folder / "versions")).at(version=17).list_datasets())


def _open_late(folder: Path) -> int:
    catalog = Catalog.open(str(folder / "versions"))
    return len(catalog.at(version=catalog.version - 1).list_datasets())


def _history(folder: Path) -> int:
    return Catalog.open(str(folder / "versions")).history().count()


if __name__ == "__main__":
    main()

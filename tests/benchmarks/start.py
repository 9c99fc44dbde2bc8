"""From `Run.start` to the first committed snapshot, beside one bare aggregate; time and memory.

python -m tests.benchmarks.start [samples …]     default: 10 million and 100 million (a minute, 1.5 GB of disk)
"""

import sys
import tempfile
import time

from mixlake.catalog import Catalog
from mixlake.mixing import Run
from tests.benchmarks.generated import five_components, make_lake
from tests.benchmarks.report import Line, alone, show

_MEMORY_MB = {10_000_000: 1000.0, 100_000_000: 2500.0}


def generate(folder: str, num_samples: int) -> None:
    make_lake(folder, num_samples)


def aggregate(folder: str) -> float:
    """Seconds for (component, file, count), the best of three."""
    catalog = Catalog.open(folder)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        catalog.sql("SELECT language, file_id, count(*) FROM samples GROUP BY 1, 2").to_arrow_table()
        best = min(best, time.perf_counter() - began)
    return best


def first_snapshot(folder: str, name: str) -> float:
    """Seconds to the first committed snapshot; the catalog is open."""
    catalog = Catalog.open(folder)
    began = time.perf_counter()
    Run.start(catalog, name, five_components()).schedule(1)
    return time.perf_counter() - began


def main() -> None:
    lines = []
    per_sample = []
    for num_samples in [int(argument) for argument in sys.argv[1:]] or [10_000_000, 100_000_000]:
        with tempfile.TemporaryDirectory() as folder:
            lake = f"{folder}/lake"
            alone(generate, lake, num_samples)
            bare, _ = alone(aggregate, lake)
            tries = [alone(first_snapshot, lake, f"run-{number}") for number in range(3)]
        seconds, peak = min(seconds for seconds, _ in tries), max(peak for _, peak in tries)
        label = f"{num_samples / 1e6:,.0f} million samples"
        lines.append(Line(what=f"{label}: first snapshot", ours=seconds, limit=5 * bare, unit="s"))
        lines.append(Line(what=f"{label}: peak memory", ours=peak, limit=_MEMORY_MB.get(num_samples, 2500), unit="MB"))
        per_sample.append((num_samples, seconds))
    (small, quick), (large, slow) = per_sample[0], per_sample[-1]
    if large > small:
        lines.append(Line(what="growth of the time", ours=slow / quick, limit=large / small, unit="times"))
    show("Run.start to the first committed snapshot", lines)


if __name__ == "__main__":
    main()

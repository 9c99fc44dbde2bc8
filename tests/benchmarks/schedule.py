"""Scheduling and committing chunks of 1,000: samples per second, with a few components and with many.

python -m tests.benchmarks.schedule
"""

import tempfile
import time

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, Run
from tests.benchmarks.generated import five_components, make_lake, many_components
from tests.benchmarks.report import Line, alone, show

_NUM_SAMPLES = 5_000_000
_CHUNK_SIZE = 1_000
_MEASURED = 2_000_000


def generate(folder: str, interleaved: bool) -> None:
    make_lake(folder, _NUM_SAMPLES, interleaved=interleaved)


def rate(folder: str, mixture: Mixture, name: str) -> float:
    """Samples per second after the first snapshot, with every part of a commit."""
    run = Run.start(Catalog.open(folder), name, mixture, chunk_size=_CHUNK_SIZE)
    run.schedule(1)
    began = time.perf_counter()
    num = run.schedule(_MEASURED // _CHUNK_SIZE)
    return num * _CHUNK_SIZE / (time.perf_counter() - began)


def best_rate(folder: str, mixture: Mixture, name: str) -> float:
    """The best of three processes."""
    return max(float(alone(rate, folder, mixture, f"{name}-{number}")[0]) for number in range(3))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        alone(generate, f"{folder}/interleaved", True)
        alone(generate, f"{folder}/runs", False)
        few = best_rate(f"{folder}/interleaved", five_components(), "few")
        many = best_rate(f"{folder}/interleaved", many_components(), "many")
        by_bytes, by_tokens = (
            best_rate(f"{folder}/interleaved", five_components(unit=unit), unit) for unit in ("bytes", "tokens")
        )
        runs = best_rate(f"{folder}/runs", five_components(shuffle="none"), "runs")
    lines = [
        Line(what="interleaved, 5 components", ours=few / 1e6, limit=1, unit="million samples/s", at_least=True),
        Line(what="the same, of bytes", ours=by_bytes / 1e6, limit=1, unit="million samples/s", at_least=True),
        Line(what="the same, of tokens", ours=by_tokens / 1e6, limit=1, unit="million samples/s", at_least=True),
        Line(what="long runs, not shuffled", ours=runs / 1e6, limit=5, unit="million samples/s", at_least=True),
        Line(what="500 components, 2,000 cells: slower than 5", ours=few / many, limit=3, unit="times"),
    ]
    show(f"Drawing and committing chunks of {_CHUNK_SIZE:,}", lines)


if __name__ == "__main__":
    main()

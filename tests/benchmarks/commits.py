"""What a commit costs after many of them: one run commits chunk after chunk.

python -m tests.benchmarks.commits [commits]     default: 10,000 (four minutes)
"""

import sys
import tempfile
import time

from mixlake.catalog import Catalog
from mixlake.mixing import Run
from tests.benchmarks.generated import five_components, make_lake
from tests.benchmarks.report import Line, alone, show

_CHUNK_SIZE = 100


def generate(folder: str, num_samples: int) -> None:
    make_lake(folder, num_samples)


def commit_times(folder: str, num: int) -> list[float]:
    """Mean CPU seconds of a commit in every tenth of them, each chunk drawn, committed and looked for."""
    run = Run.start(Catalog.open(folder), "run", five_components(), chunk_size=_CHUNK_SIZE)
    run.schedule(1)
    means = []
    for _ in range(10):
        began = time.process_time()
        for _ in range(num // 10):
            run.schedule(1)
            assert run.chunks.last()[0] >= 0
        means.append((time.process_time() - began) / (num // 10))
    return means


def main() -> None:
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        alone(generate, f"{folder}/lake", 2 * num * _CHUNK_SIZE)
        means, _ = alone(commit_times, f"{folder}/lake", num)
    first, last = means[0], means[-1]
    lines = [
        Line(what="a commit in the first tenth", ours=first * 1e3, limit=first * 1e3, unit="ms"),
        *(
            Line(what=f"in tenth {number}", ours=mean * 1e3, limit=1.5 * first * 1e3, unit="ms")
            for number, mean in enumerate(means[1:-1], start=2)
        ),
        Line(what="a commit in the last tenth", ours=last * 1e3, limit=1.5 * first * 1e3, unit="ms"),
    ]
    show(f"{num:,} commits of one chunk, time of all processors", lines)


if __name__ == "__main__":
    main()

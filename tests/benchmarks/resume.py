"""How soon the first batch comes, of a new loader and of one that goes on, early and late in a run.

Ten million short samples are registered as they would be: a thousand names of one file of ten thousand lines.

python -m tests.benchmarks.resume     (two minutes)
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mixlake.catalog import Catalog
from mixlake.loaders import make_loader
from mixlake.mixing import Run
from tests.benchmarks.generated import LANGUAGES, SHARES, five_components
from tests.benchmarks.report import Line, alone, show

_NUM_FILES = 1_000
_SAMPLES_PER_FILE = 10_000
_CHUNK_SIZE = 100
_LANES = 8
_CHUNKS = (10, 99_000)
_TRIES = 3


def generate(folder: str) -> None:
    """Register the samples, and schedule a run to its end: a hundred thousand chunks."""
    files = Path(folder, "texts")
    files.mkdir()
    random = np.random.Generator(np.random.Philox(0))
    languages = random.choice(LANGUAGES, _SAMPLES_PER_FILE, p=SHARES)
    lines = [json.dumps({"text": f"short text {n} " * 4, "language": str(name)}) for n, name in enumerate(languages)]
    (files / "0000.jsonl").write_text("\n".join(lines))
    for number in range(1, _NUM_FILES):
        os.link(files / "0000.jsonl", files / f"{number:04}.jsonl")
    catalog = Catalog.open(f"{folder}/lake", create=True)
    catalog.register("texts", str(files), properties={"language": "language"})
    Run.start(catalog, "whole", five_components(), chunk_size=_CHUNK_SIZE, lanes=_LANES).schedule(1 << 30)


def first_batch(run: Run, state: dict[str, Any] | None, **options: Any) -> tuple[float, Any]:
    """Seconds from `make_loader` to a batch, and that."""
    began = time.perf_counter()
    loader = make_loader(run, **options)
    if state is not None:
        loader.load_state_dict(state)
    batches: Any = iter(loader)
    batch = next(batches)
    seconds = time.perf_counter() - began
    batches.close()
    return seconds, batch


def started(folder: str, name: str, num_workers: int) -> float:
    """Seconds to the first batch of a run that this process has started."""
    run = Run.start(Catalog.open(f"{folder}/lake"), name, five_components(), lanes=_LANES)
    return first_batch(run, None, batch_size=8, num_workers=num_workers)[0]


def loaded(folder: str, name: str, num_workers: int) -> float:
    """Seconds to the first batch of a run that another process has started: the samples are counted once more."""
    Run.start(Catalog.open(f"{folder}/lake"), name, five_components(), lanes=_LANES)
    run = Run.load(Catalog.open(f"{folder}/lake"), name)
    return first_batch(run, None, batch_size=8, num_workers=num_workers)[0]


def resumed(folder: str, chunk: int, num_workers: int) -> float:
    """Seconds to the first batch of a loader that goes on at a chunk; it must be the first samples from there on."""
    run = Run.load(Catalog.open(f"{folder}/lake"), "whole")
    state = make_loader(run, batch_size=1, tokenizer=None).state_dict()
    firsts = [next(n for n in range(chunk, chunk + _LANES) if n % _LANES == lane) for lane in range(_LANES)]
    for lane, first in enumerate(firsts):
        index = first // _LANES
        state["lanes"][str(lane)] = {"num_items": chunk // _LANES * _CHUNK_SIZE, "queue": [index, 0]}
    seconds, batch = first_batch(run, state, batch_size=_LANES, tokenizer=None, num_workers=num_workers)
    expected = [run.samples(first).limit(1).to_pylist()[0] for first in firsts]
    assert [tuple(address) for address in batch["sample"]] == [
        (row["registration"], row["file_id"], row["row"]) for row in expected
    ]
    return seconds


def best(case: Callable[..., float], *arguments: Any) -> float:
    """The best of three processes."""
    return min(float(alone(case, *arguments)[0]) for _ in range(_TRIES))


def main() -> None:
    early, late = _CHUNKS
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        alone(generate, folder)
        for workers in (0, 2):
            cases = {
                "a new run": min(
                    float(alone(started, folder, f"new-{workers}-{n}", workers)[0]) for n in range(_TRIES)
                ),
                "a run of another process": min(
                    float(alone(loaded, folder, f"other-{workers}-{n}", workers)[0]) for n in range(_TRIES)
                ),
                f"going on at chunk {early:,}": best(resumed, folder, early, workers),
                f"going on at chunk {late:,}": best(resumed, folder, late, workers),
            }
            lines += [
                Line(what=f"{what}, {workers} workers", ours=seconds, limit=1, unit="s")
                for what, seconds in cases.items()
            ]
            at_early, at_late = list(cases.values())[2:]
            lines.append(
                Line(what=f"late over early, {workers} workers", ours=at_late / at_early, limit=1.5, unit="times")
            )
    show(f"From make_loader to the first batch, {_NUM_FILES * _SAMPLES_PER_FILE / 1e6:,.0f} million samples", lines)


if __name__ == "__main__":
    main()

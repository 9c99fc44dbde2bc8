"""Workers that are killed, that fail, and that have more lanes than others."""

import contextlib
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import MixlakeError
from mixlake.loaders import make_loader


def rows(batch: dict[str, Any]) -> list[bytes]:
    return [row.tobytes() for row in batch["input_ids"].numpy()]


def test_after_a_worker_was_killed_the_next_loader_goes_on_exactly(make_run: Any, workers: Any) -> None:
    run = make_run(unit="bytes", on_exhausted="repeat", max_passes=20)  # more than workers read ahead
    options: dict[str, Any] = {"batch_size": 4, "sequence_length": 64}
    whole = [rows(batch) for batch in make_loader(run, **options)]
    state: dict[str, Any] = {}
    delivered: list[list[bytes]] = []
    for number, num_batches in ((1, 2), (0, 5)):
        loader = make_loader(run, num_workers=2, timeout=60, **options)
        if state:
            loader.load_state_dict(state)
        stream = iter(loader)
        delivered += [rows(next(stream)) for _ in range(num_batches)]
        os.kill(workers()[f"mixlake-worker-{number}"], signal.SIGKILL)
        with pytest.raises(MixlakeError, match=rf"worker {number} of the loader \(process \d+\) was killed by SIGKILL"):
            delivered.extend(map(rows, stream))
        state = loader.state_dict()
        assert not workers()
    last = make_loader(run, **options)
    last.load_state_dict(state)
    assert delivered + [rows(batch) for batch in last] == whole


def test_workers_with_unequal_numbers_of_lanes_give_the_same_batches(make_run: Any) -> None:
    run = make_run(unit="bytes", lanes=3)
    alone = [rows(batch) for batch in make_loader(run, batch_size=4, sequence_length=64)]
    loader = make_loader(run, batch_size=4, sequence_length=64, num_workers=2, timeout=60)
    assert [rows(batch) for batch in loader] == alone
    stats = loader.stats()
    assert stats.num_batches == len(alone)
    assert stats.num_items == sum(map(len, alone))
    assert stats.read.num_samples == 900
    assert 0 < stats.waiting_seconds <= stats.seconds


HAS_TORCH = """
import sys

def has_torch(sample):
    return "torch" in sys.modules
"""


def test_workers_read_without_torch_unless_something_imports_it(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "looking.py").write_text(HAS_TORCH)
    (tmp_path / "torching.py").write_text(f"import torch\n{HAS_TORCH}")
    monkeypatch.syspath_prepend(tmp_path)
    for module, expected in (("looking", False), ("torching", True)):
        transform = importlib.import_module(module).has_torch
        options: dict[str, Any] = {"tokenizer": None, "transform": transform, "collate": list}
        found: Any = next(iter(make_loader(make_run(), batch_size=2, num_workers=1, **options)))
        assert found == [expected, expected]


def no_ids(text: str) -> Any:
    return len(text)


def test_an_error_that_is_not_ours_is_raised_in_the_trainer_and_says_where(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # workers import this module for its function
    loader = make_loader(make_run(), batch_size=4, num_workers=1, tokenizer=no_ids)
    with pytest.raises(TypeError) as caught:
        list(loader)
    assert "in worker 0 of the loader:" in caught.value.__notes__[0]


def test_every_so_many_batches_a_line_tells_how_loading_goes(make_run: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(unit="bytes")
    caplog.set_level(logging.INFO, "mixlake.loaders")
    loader = make_loader(run, batch_size=4, sequence_length=256, log_every=20)
    num_batches = sum(1 for _ in loader)
    lines = [record.getMessage() for record in caplog.records if record.name == "mixlake.loaders"]
    assert len(lines) == num_batches // 20 > 2
    pattern = r"run {}, rank 0: {} batches, waited [\d.]+% of the time, [\d,]+ tokens/s, [\d.,]+ MB/s read"
    for number, line in enumerate(lines, start=1):
        assert re.match(pattern.format(run.name, 20 * number), line)


ORPHANS = """
import os, signal, sys
from mixlake.catalog import Catalog
from mixlake.loaders import make_loader
from mixlake.mixing import Run

if __name__ == "__main__":
    run = Run.load(Catalog.open(sys.argv[1]), sys.argv[2])
    next(iter(make_loader(run, batch_size=4, num_workers=2, multiprocessing_context=sys.argv[3])))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def members(group: int) -> list[int]:
    """The processes of a process group that are alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = status.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks for processes in /proc")
@pytest.mark.parametrize("method", ["fresh", "forkserver"])
def test_nothing_is_left_of_a_trainer_that_was_killed(make_run: Any, tmp_path: Path, method: str) -> None:
    run = make_run(unit="bytes")
    script = tmp_path / "trainer.py"
    script.write_text(ORPHANS)
    command = [sys.executable, str(script), run.catalog.lake.uri, run.name, method]
    trainer = subprocess.Popen(command, start_new_session=True)
    assert trainer.wait(timeout=240) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while members(trainer.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(trainer.pid) == []

"""Workers that are killed, that fail, and that have more lanes than others."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import MixlakeError
from mixlake.loaders import make_loader


def rows(batch: dict[str, Any]) -> list[bytes]:
    return [row.tobytes() for row in batch["input_ids"].numpy()]


def worker(number: int) -> int:
    found = [child.pid for child in multiprocessing.active_children() if child.name == f"mixlake-worker-{number}"]
    assert len(found) == 1
    return found[0] or 0


def test_after_a_worker_was_killed_the_next_loader_goes_on_exactly(make_run: Any) -> None:
    run = make_run(unit="bytes")
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
        os.kill(worker(number), signal.SIGKILL)
        with pytest.raises(MixlakeError, match=rf"worker {number} of the loader \(process \d+\) was killed by SIGKILL"):
            delivered.extend(map(rows, stream))
        state = loader.state_dict()
        assert not [child for child in multiprocessing.active_children() if child.name.startswith("mixlake-worker")]
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

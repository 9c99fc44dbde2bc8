"""A loader of a fork begins where the fork does, or goes on from where its parent's loader was left."""

from collections.abc import Callable
from typing import Any

import pytest

from mixlake.catalog import ConfigError
from mixlake.loaders import Loader, make_loader
from mixlake.mixing import Run

MakeRun = Callable[..., Run]
OTHER = {"components": {"all": {"weight": 1}}}


def loader(run: Run, tokenizer: str | None) -> Loader[Any]:
    return make_loader(run, batch_size=4, tokenizer=tokenizer, sequence_length=64)


def addresses(batches: list[Any]) -> list[Any]:
    return [address for batch in batches for address in (batch["sample"] if "sample" in batch else batch["documents"])]


def drawn(run: Run, first: int, stop: int) -> set[Any]:
    keys = ("registration", "file_id", "row")
    rows = [row for chunk in range(first, stop) for row in run.samples(chunk).to_pylist()]
    return {tuple(row[key] for key in keys) for row in rows}


@pytest.mark.parametrize("tokenizer", [None, "bytes"])
@pytest.mark.parametrize("unit", ["samples", "bytes"])
def test_a_new_loader_begins_with_the_forks_own_chunks(make_run: MakeRun, tokenizer: str | None, unit: str) -> None:
    parent = make_run(unit=unit)
    parent.schedule(12)
    fork = parent.fork(f"{parent.name}-fork", at_chunk=6, mixture={**OTHER, "unit": unit})
    found = {tuple(address) for address in addresses(list(loader(fork, tokenizer)))}
    assert found.isdisjoint(drawn(parent, 0, 6))
    assert found == drawn(fork, 6, fork.chunks.last()[0] + 1)


@pytest.mark.parametrize("unit", ["samples", "bytes"])
def test_a_parents_state_is_taken_up_and_everything_comes_once(make_run: MakeRun, unit: str) -> None:
    parent = make_run(unit=unit, lanes=2)
    before = loader(parent, None)
    batches = iter(before)
    first = [next(batches) for _ in range(20)]
    state = before.state_dict()
    fork = parent.fork(f"{parent.name}-fork", at_chunk=8, mixture={**OTHER, "unit": unit}, seed=3)
    after = loader(fork, None)
    after.load_state_dict(state)
    found = [tuple(address) for address in addresses([*first, *after])]
    assert len(found) == len(set(found))
    assert set(found) == drawn(fork, 0, fork.chunks.last()[0] + 1)
    again = loader(fork, None)
    again.load_state_dict(after.state_dict())
    assert list(again) == []


def test_a_state_that_has_gone_past_the_fork_is_refused(make_run: MakeRun) -> None:
    parent = make_run(lanes=2)
    before = loader(parent, None)
    batches = iter(before)
    for _ in range(40):
        next(batches)
    fork = parent.fork(f"{parent.name}-fork", at_chunk=2)
    with pytest.raises(ConfigError, match=r"loader state has gone past chunk 2, where run '.*-fork' begins"):
        loader(fork, None).load_state_dict(before.state_dict())

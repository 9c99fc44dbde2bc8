"""torchdata's StatefulDataLoader owns the datasets as they are."""

import json
from itertools import islice
from typing import Any

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

from mixlake.loaders import SampleDataset, TokenDataset

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata still calls it


def samples(run: Any, num_workers: int) -> StatefulDataLoader[Any]:
    return StatefulDataLoader(
        SampleDataset(run, timeout=60),
        batch_size=5,
        collate_fn=list,
        num_workers=num_workers,
        multiprocessing_context="forkserver" if num_workers else None,
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_go_on_in_the_middle_of_an_epoch(make_run: Any, num_workers: int) -> None:
    run = make_run(chunk_size=64)  # nobody has scheduled it: its first worker does
    whole = [[s["sample"] for s in batch] for batch in samples(run, num_workers)]
    assert sum(map(len, whole)) == len({address for batch in whole for address in batch}) == 900
    delivered: list[Any] = []
    state = None
    for num_batches in (7, 30, 1000):
        loader = samples(run, num_workers)
        if state is not None:
            loader.load_state_dict(state)
        delivered += [[s["sample"] for s in batch] for batch in islice(loader, num_batches)]
        state = json.loads(json.dumps(loader.state_dict()))
    assert delivered == whole


def test_sequences_go_on_in_the_middle_of_an_epoch(make_run: Any) -> None:
    def sequences() -> StatefulDataLoader[Any]:
        return StatefulDataLoader(TokenDataset(run, sequence_length=64), batch_size=4, collate_fn=list)

    run = make_run(unit="bytes")
    whole = [item.input_ids.tobytes() for batch in sequences() for item in batch]
    first = sequences()
    delivered = [item.input_ids.tobytes() for batch in islice(first, 9) for item in batch]
    second = sequences()
    second.load_state_dict(first.state_dict())
    assert delivered + [item.input_ids.tobytes() for batch in second for item in batch] == whole

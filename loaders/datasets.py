"""Lanes as torch datasets, for trainers with a loader of their own, such as torchdata's `StatefulDataLoader`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from mixlake.loaders.samples import SampleLanes
from mixlake.loaders.sequences import PackedSequence
from mixlake.loaders.tokens import TokenLanes


class SampleDataset(SampleLanes, IterableDataset[Any]):
    """Yields samples as dicts: the record's fields, ``component`` (its name) and ``sample`` (its address).

    The address is (registration, file_id, row). Only the text is read, as ``text``, unless ``fields`` asks for more.
    """

    def __iter__(self) -> Iterator[Any]:
        return self.items(*_worker())


class TokenDataset(TokenLanes, IterableDataset[PackedSequence]):
    """Yields packed sequences of a fixed number of tokens.

    Where the mixture counts bytes or tokens, the declared shares hold in delivered tokens at every sequence, within
    one sequence per component and lane (see `mixlake.loaders.best_fit` for its own bound); where it counts samples,
    documents follow in the order of the chunks.
    """

    def __iter__(self) -> Iterator[PackedSequence]:
        return self.items(*_worker())


def _worker() -> tuple[int, int]:
    """Return the number of the DataLoader's worker that this process is, and how many there are."""
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 1)

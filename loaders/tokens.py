"""Tokens out of a run's lanes: one item per packed sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mixlake.catalog import ConfigError
from mixlake.catalog.tokenizers import Tokenizer, TokenizerSpec, load_tokenizer, settled
from mixlake.loaders.best_fit import BestFitPacker
from mixlake.loaders.collate import Batch, collate_tokens
from mixlake.loaders.deliveries import Place
from mixlake.loaders.documents import LaneChunks
from mixlake.loaders.lanes import Lanes, Reading
from mixlake.loaders.packing import ConcatPacker, Packing
from mixlake.loaders.placement import Group
from mixlake.loaders.sequences import PackedSequence, make_padding
from mixlake.mixing import Run, Unit

_PACKERS: dict[str, type[ConcatPacker] | type[BestFitPacker]] = {"concat": ConcatPacker, "best_fit": BestFitPacker}


class TokenLanes(Lanes[PackedSequence]):
    """What `mixlake.loaders.TokenDataset` yields."""

    def __init__(
        self,
        run: Run,
        *,
        tokenizer: TokenizerSpec = "bytes",
        sequence_length: int = 1024,
        packing: str = "concat",
        overlap: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        group: Group | None = None,
        schedules: bool | None = None,
        lookahead: int | None = None,
        timeout: float = 300.0,
        cache_bytes: int = 256 << 20,
        on_error: str = "raise",
    ) -> None:
        """Open a run's tokens.

        Args:
            run: the run.
            tokenizer: ``bytes``, the path of a tokenizer file, a TokenizerFile, or a callable from text to ids.
            sequence_length: tokens per sequence.
            packing: ``concat`` cuts documents where a sequence ends; ``best_fit`` cuts only those that are longer than
                a sequence, and pads what nothing fits into.
            overlap: 1 if the label of a sequence's last position may be the first token of the next one, 0 if not.
            rank: this data-parallel rank; 0 where neither it nor a group is given.
            world_size: number of data-parallel ranks; it must divide the run's lanes.
            group: in place of both: the data-parallel process group or mesh dimensions.
            schedules: whether this process schedules the run; None is rank 0, with a group the global one.
            lookahead: chunks to schedule in advance; four per lane where it is not given.
            timeout: seconds to wait for a chunk that another process schedules.
            cache_bytes: bound of what is held of files in memory, per process, in bytes when decoded.
            on_error: ``raise``, or ``skip`` to deliver other samples in the place of those that cannot be read.

        Raises:
            ConfigError: world_size does not divide the lanes, rank or sequence_length is out of range, or the tokenizer
                cannot be loaded.
        """
        _check_packing(sequence_length, packing, overlap)
        loaded = load_tokenizer(tokenizer)  # refused here rather than in a worker
        kind = f"tokens, sequence_length {sequence_length}, {packing}, overlap {overlap}, tokenizer {loaded.name}"
        reading = Reading.of(
            run,
            rank=rank,
            world_size=world_size,
            group=group,
            schedules=schedules,
            lookahead=lookahead,
            timeout=timeout,
            cache_bytes=cache_bytes,
            on_error=on_error,
        )
        super().__init__(run, kind, reading)
        self.tokenizer_spec = settled(tokenizer, loaded)
        num_components = None if run.program.unit is Unit.SAMPLES else len(self.components)
        self.packing = Packing(length=sequence_length, overlap=overlap, num_components=num_components)
        self._packer = _PACKERS[packing]
        self._tokenizer: Tokenizer | None = loaded

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read: none but the text."""
        return ()

    def collate(self, items: Sequence[PackedSequence]) -> Batch:
        """Return sequences as tensors."""
        return collate_tokens(items, self.components)

    def padding(self) -> PackedSequence:
        """Return a sequence of padding."""
        return make_padding(self.packing.layout(self._loaded().pad_id))

    def num_tokens(self, items: Sequence[PackedSequence]) -> int:
        """Return how many tokens sequences hold, without padding."""
        return sum(item.num_tokens for item in items)

    def weights_version(self, items: Sequence[PackedSequence]) -> int | None:
        """Return the newest weights that sequences were drawn with."""
        return max(item.weights_version for item in items)

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Iterator[tuple[PackedSequence, Place]]:
        """Return a lane's packed sequences."""
        return _packed(self._packer(chunks, self._loaded(), self.packing, self.run.shares, state))

    def lane_state(self, place: Place) -> dict[str, Any]:
        """Return a place as JSON."""
        return self._packer.state_of(place)

    def chunk_reached(self, place: Place) -> int:
        """Return how many chunks of its lane a lane has opened at a place."""
        num_open: int = place[-1][1]
        return num_open

    def _loaded(self) -> Tokenizer:
        self._tokenizer = self._tokenizer or load_tokenizer(self.tokenizer_spec)
        return self._tokenizer

    def __getstate__(self) -> dict[str, Any]:
        """Leave the tokenizer behind: each process loads its own."""
        return {**super().__getstate__(), "_tokenizer": None}


def _packed(packer: ConcatPacker | BestFitPacker) -> Iterator[tuple[PackedSequence, Place]]:
    while (sequence := packer.next()) is not None:
        yield sequence, packer.place()


def _check_packing(sequence_length: int, packing: str, overlap: int) -> None:
    if sequence_length < 2:
        raise ConfigError(f"sequence_length is {sequence_length}; expected 2 or more")
    if packing not in _PACKERS:
        raise ConfigError(f"packing is {packing!r}; expected one of {', '.join(_PACKERS)}")
    if overlap not in (0, 1):
        raise ConfigError(f"overlap is {overlap!r}; expected 0 or 1")

"""Samples as a torch dataset: one item per sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mixlake.catalog.columns import WHOLE
from mixlake.catalog.fields import parse_path
from mixlake.loaders.collate import Batch, collate_samples
from mixlake.loaders.documents import LaneChunks, SampleQueue
from mixlake.loaders.lanes import Lane, LaneDataset, Reading
from mixlake.loaders.reading import SampleGroup
from mixlake.mixing import Run


class SampleDataset(LaneDataset[dict[str, Any]]):
    """Yields samples as dicts: the record's fields, ``component`` (its name) and ``sample`` (its address).

    The address is (registration, file_id, row). Only the text is read, as ``text``, unless ``fields`` asks for more.
    """

    def __init__(
        self,
        run: Run,
        *,
        fields: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        lookahead: int | None = None,
        timeout: float = 300.0,
        cache_bytes: int = 256 << 20,
    ) -> None:
        """Open a run's samples.

        Args:
            run: the run.
            fields: names of the record fields to yield instead of the text; ``["*"]`` yields all of them.
            rank: this data-parallel rank.
            world_size: number of data-parallel ranks; it must divide the run's lanes.
            lookahead: chunks to schedule at a time; four per lane where it is not given.
            timeout: seconds to wait for a chunk that another process schedules.
            cache_bytes: bound of decoded row groups kept.

        Raises:
            ConfigError: world_size does not divide the lanes, or rank is out of range.
        """
        reading = Reading.of(
            run, rank=rank, world_size=world_size, lookahead=lookahead, timeout=timeout, cache_bytes=cache_bytes
        )
        super().__init__(run, "samples", reading)
        self._fields = None if fields is None else tuple(fields)

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read."""
        if self._fields is None:
            return ()
        return None if "*" in self._fields else self._fields

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch:
        """Return samples as lists, one per field."""
        return collate_samples(items, self.components)

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Lane[dict[str, Any]]:
        """Return a lane of samples."""
        return _SampleLane(chunks, self.components, self._fields, state)


class _SampleLane:
    def __init__(
        self,
        chunks: LaneChunks,
        components: Sequence[str],
        fields: Sequence[str] | None,
        state: dict[str, Any] | None,
    ) -> None:
        self._chunks = chunks
        self._queue = SampleQueue(chunks, None, *(state["queue"] if state else (chunks.first, 0)))
        self._ready: Iterator[dict[str, Any]] = iter(())
        self._components = components
        self._fields = None if fields is None else {name: parse_path(name) for name in fields if name != "*"}
        self._takes_all = fields is not None and "*" in fields

    def next(self) -> dict[str, Any] | None:
        while (sample := next(self._ready, None)) is None:
            group = self._queue.next_group(self._queue.chunk_index + 1)
            if group is not None:
                self._ready = self._samples(group)
                self._chunks.close_before(self._queue.chunk_index)
            elif self._chunks.get(self._queue.chunk_index) is None:
                return None
        self._queue.skip()
        return sample

    def state(self) -> dict[str, Any]:
        return {"queue": [self._queue.chunk_index, self._queue.index]}

    def _samples(self, group: SampleGroup) -> Iterator[dict[str, Any]]:
        names = [self._components[component] for component in group.components]
        addresses = zip(group.registrations, group.file_ids, group.rows, strict=True)
        for record, component, address in zip(self._records(group), names, addresses, strict=True):
            record["component"], record["sample"] = component, address
            yield record

    def _records(self, group: SampleGroup) -> Iterable[dict[str, Any]]:
        if self._takes_all:
            return group.columns[WHOLE]
        if self._fields is not None:
            columns = [group.columns[path] for path in self._fields.values()]
            return (dict(zip(self._fields, values, strict=True)) for values in zip(*columns, strict=True))
        return ({"text" if isinstance(content, str) else "tokens": content} for content in group.checked_contents())

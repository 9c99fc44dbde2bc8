"""Finds what is delivered in the place of samples that cannot be read: see `mixlake.loaders.replacing` for the rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mixlake.catalog import DataError
from mixlake.catalog.records import FieldPath, IntArray
from mixlake.loaders.groups import SampleGroup
from mixlake.loaders.reading import SampleReader
from mixlake.loaders.replacing import Address, Replaced, Replacements, Unreadable
from mixlake.mixing.chunks import Chunk, Delivery


class OrderedChunk(NamedTuple):
    """A chunk, and the order in which its samples are delivered."""

    chunk: Chunk
    order: Delivery

    def address(self, position: int) -> Address:
        """Return where the sample at a delivery position is."""
        interval = self.order.interval[position]
        registration = self.chunk.registrations[self.chunk.intervals.registration[interval]]
        return registration, int(self.chunk.intervals.file_id[interval]), int(self.order.row[position])

    def read(self, reader: SampleReader, position: int) -> tuple[Any, dict[FieldPath, Any]]:
        """Return content and fields of one sample, whether it has been taken or not."""
        interval = self.order.interval[[position]]
        contents, columns = reader.read(self.chunk, interval)
        offset = int(self.order.row[position] - self.chunk.intervals.row_start[interval[0]])
        return contents[offset], {path: column[offset] for path, column in columns.items()}


class _Candidate(NamedTuple):
    source: OrderedChunk
    position: int

    @property
    def address(self) -> Address:
        return self.source.address(self.position)


class Substitutes:
    """Puts other samples in the place of a chunk's that cannot be read."""

    def __init__(
        self,
        chunk: OrderedChunk,
        reader: SampleReader,
        replacements: Replacements,
        neighbours: Callable[[], Iterable[OrderedChunk]],
    ) -> None:
        """Prepare for a chunk.

        Args:
            chunk: the chunk.
            reader: reads candidates.
            replacements: what has been replaced so far.
            neighbours: other chunks of its lane, in which it is looked where this one has no candidate left.
        """
        self._chunk = chunk
        self._reader = reader
        self._replacements = replacements
        self._neighbours = neighbours
        self._unreadable: set[Address] = set()

    def put_into(self, group: SampleGroup, positions: IntArray) -> None:
        """Replace what cannot be read of a group, whose samples are those at some delivery positions.

        Raises:
            DataError: nothing can take its place.
        """
        assert isinstance(group.contents, list)
        number, known = self._chunk.chunk.number, self._replacements.of_chunk(self._chunk.chunk.number)
        bad = [index for index, content in enumerate(group.contents) if isinstance(content, Unreadable)]
        self._unreadable.update(group.address(index) for index in bad)
        if known:
            bad = [index for index in range(len(group)) if index in set(bad) or group.address(index) in known]
        found = []
        for index in bad:
            address, position = group.address(index), int(positions[index])
            before = known.get(address)
            reason = before.reason if before else group.contents[index].reason
            candidates = self._candidates(position, known.keys(), None if before is None else before.by)
            by = self._put(group, index, candidates, reason)
            if before is None or before.by != by:
                component = self._replacements.component(group.components[index])
                found.append(Replaced(chunk=number, component=component, address=address, reason=reason, by=by))
        if found:
            self._replacements.record(found)

    def _put(self, group: SampleGroup, index: int, candidates: Iterable[_Candidate], reason: str) -> Address:
        """Put the first candidate that can be read into a group; return where it comes from."""
        assert isinstance(group.contents, list)
        for candidate in candidates:
            content, values = candidate.source.read(self._reader, candidate.position)
            if isinstance(content, Unreadable):
                self._unreadable.add(candidate.address)
                continue
            group.contents[index] = content
            for path, value in values.items():
                group.columns[path][index] = value
            by = candidate.address
            group.registrations[index], group.file_ids[index], group.rows[index] = by
            return by
        component = self._replacements.component(group.components[index])
        raise DataError(
            f"chunk {self._chunk.chunk.number}: nothing of component {component!r} can take the place of a sample that "
            f"cannot be read, neither in this chunk nor in those of its lane around it: {reason}. "
            "Restore its files, or go on without it in a fork of the run with another mixture"
        )

    def _candidates(self, position: int, replaced: Iterable[Address], before: Address | None) -> Iterator[_Candidate]:
        """Yield what may take the place of a sample: what did before, then by the rule."""
        bad = self._unreadable.union(replaced)
        if before is not None:
            yield from (each for each in self._by_rule(position) if each.address == before)
        yield from (each for each in self._by_rule(position) if each.address not in bad)

    def _by_rule(self, position: int) -> Iterator[_Candidate]:
        order = self._chunk.order
        mine = np.flatnonzero(order.component == order.component[position])
        place = int(np.searchsorted(mine, position))
        yield from (_Candidate(self._chunk, other) for other in np.roll(mine, -place)[1:].tolist())
        for source in self._neighbours():
            theirs = np.flatnonzero(source.order.component == order.component[position])
            if len(theirs):
                yield from (_Candidate(source, other) for other in np.roll(theirs, -place % len(theirs)).tolist())

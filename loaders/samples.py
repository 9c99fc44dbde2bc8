"""Samples out of a run's lanes: one item per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, repeat
from typing import Any

from mixlake.catalog.columns import WHOLE, as_sent, as_text
from mixlake.catalog.fields import parse_path
from mixlake.loaders.collate import collate_samples
from mixlake.loaders.deliveries import Place
from mixlake.loaders.documents import LaneChunks, SampleQueue
from mixlake.loaders.groups import SampleGroup
from mixlake.loaders.images import Images
from mixlake.loaders.lanes import Lanes, Reading
from mixlake.loaders.placement import Group
from mixlake.loaders.replacing import Address
from mixlake.mixing import Run

_TEXT = (str, memoryview)


class SampleLanes(Lanes[Any]):
    """What `mixlake.loaders.SampleDataset` yields."""

    def __init__(
        self,
        run: Run,
        *,
        fields: Sequence[str] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        group: Group | None = None,
        schedules: bool | None = None,
        lookahead: int | None = None,
        timeout: float = 300.0,
        cache_bytes: int = 256 << 20,
        on_error: str = "raise",
        images: Sequence[str] | bool = False,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        collate: Callable[[Sequence[Any]], Any] | None = None,
    ) -> None:
        """Open a run's samples.

        Args:
            run: the run.
            fields: names of the record fields to yield instead of the text; ``["*"]`` yields all of them.
            rank: this data-parallel rank; 0 where neither it nor a group is given.
            world_size: number of data-parallel ranks; it must divide the run's lanes.
            group: in place of both: the data-parallel process group or mesh dimensions.
            schedules: whether this process schedules the run; None is rank 0, with a group the global one.
            lookahead: chunks to schedule in advance; four per lane where it is not given.
            timeout: seconds to wait for a chunk that another process schedules.
            cache_bytes: bound of what is held of files in memory, per process, in bytes when decoded.
            on_error: ``raise``, or ``skip`` to deliver other samples in the place of those that cannot be read.
            images: names of the fields that hold images, to be decoded with Pillow; True for all whose names end like
                image files (``jpg``, ``seg.png``). Without ``fields``, whole records are yielded then.
            transform: called with every sample; what it returns is yielded. Worker processes must be able to import it.
            collate: called with a list of what is yielded; what it returns is the batch.

        Raises:
            ConfigError: world_size does not divide the lanes, or rank is out of range.
        """
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
        super().__init__(run, "samples", reading)
        self._image_names = images
        self._transform = transform
        self._collate = collate
        chosen = ["*"] if fields is None and images else fields
        self._fields = None if chosen is None else tuple(chosen)
        self.images()  # refused here rather than in a worker

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read."""
        if self._fields is None:
            return ()
        return None if "*" in self._fields else self._fields

    def form(self) -> Callable[[Any], Any]:
        """Return what texts are to be read as."""
        return as_sent if self._sends_texts() else as_text

    def images(self) -> Images | None:
        """Return what decodes the images."""
        return Images(self._image_names) if self._image_names else None

    def collate(self, items: Sequence[Any]) -> Any:
        """Return samples as lists, one per field, unless another way was given."""
        return self._collate(items) if self._collate else collate_samples(items, self.components)

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Iterator[tuple[Any, Place]]:
        """Return a lane's samples; a place is the lane's chunk, and how many of its samples are taken."""
        return self._items(chunks, SampleQueue(chunks, None, *(state["queue"] if state else (chunks.first, 0))))

    def _items(self, chunks: LaneChunks, queue: SampleQueue) -> Iterator[tuple[Any, Place]]:
        while chunks.get(queue.chunk_index) is not None:
            group = queue.next_group(queue.chunk_index + 1)
            if group is None:
                continue
            chunk_index = queue.chunk_index
            chunks.close_before(chunk_index)
            places = zip(repeat(chunk_index), count(queue.index + 1), strict=False)
            yield from zip(self._samples(group), places, strict=False)
            queue.skip(len(group))

    def lane_state(self, place: Place) -> dict[str, Any]:
        """Return a place as JSON."""
        return {"queue": list(place)}

    def chunk_reached(self, place: Place) -> int:
        """Return how many chunks of its lane a lane has opened at a place."""
        return int(place[0]) + 1

    def _samples(self, group: SampleGroup) -> Iterable[Any]:
        names = [self.components[component] for component in group.components]
        addresses = zip(group.registrations, group.file_ids, group.rows, strict=True)
        as_delivered = _as_it_is if self._sends_texts() else as_text
        samples = self._records(group, names, addresses, as_delivered)
        return samples if self._transform is None else (_transformed(self._transform, sample) for sample in samples)

    def _sends_texts(self) -> bool:
        return self.is_sent and self._transform is None

    def _records(
        self, group: SampleGroup, names: Iterable[str], addresses: Iterable[Address], as_delivered: Callable[[Any], Any]
    ) -> Iterable[dict[str, Any]]:
        if self._fields is None:
            contents = group.checked_contents()
            if set(map(type, contents)) == {str}:
                texts = zip(contents, names, addresses, strict=True)
                return ({"text": text, "component": name, "sample": address} for text, name, address in texts)
            return (
                {_kind(content): as_delivered(content), "component": name, "sample": address}
                for content, name, address in zip(contents, names, addresses, strict=True)
            )
        if "*" in self._fields:
            records = zip(group.columns[WHOLE], names, addresses, strict=True)
            return ({**record, "component": name, "sample": address} for record, name, address in records)
        columns = [map(as_delivered, group.columns[parse_path(name)]) for name in self._fields]
        keys = (*self._fields, "component", "sample")
        return (dict(zip(keys, values, strict=True)) for values in zip(*columns, names, addresses, strict=True))


def _kind(content: Any) -> str:
    return "text" if type(content) in _TEXT else "tokens"


def _as_it_is(value: Any) -> Any:
    return value


def _transformed(transform: Callable[[dict[str, Any]], Any], sample: dict[str, Any]) -> Any:
    address = sample["sample"]
    try:
        return transform(sample)
    except Exception as error:
        error.add_note(f"the transform failed at sample {address}")
        raise

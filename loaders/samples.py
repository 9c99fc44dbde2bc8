"""Samples as a torch dataset: one item per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mixlake.catalog.columns import WHOLE
from mixlake.catalog.fields import parse_path
from mixlake.loaders.collate import collate_samples
from mixlake.loaders.documents import LaneChunks, SampleQueue
from mixlake.loaders.groups import SampleGroup
from mixlake.loaders.images import Images
from mixlake.loaders.lanes import Lane, LaneDataset, Reading
from mixlake.loaders.placement import Group
from mixlake.mixing import Run


class SampleDataset(LaneDataset[Any]):
    """Yields samples as dicts: the record's fields, ``component`` (its name) and ``sample`` (its address).

    The address is (registration, file_id, row). Only the text is read, as ``text``, unless ``fields`` asks for more.
    """

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
            cache_bytes: bound of what is held of files in memory, per process, in bytes as they lie in the files.
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

    def images(self) -> Images | None:
        """Return what decodes the images."""
        return Images(self._image_names) if self._image_names else None

    def collate(self, items: Sequence[Any]) -> Any:
        """Return samples as lists, one per field, unless another way was given."""
        return self._collate(items) if self._collate else collate_samples(items, self.components)

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Lane[Any]:
        """Return a lane of samples."""
        return _SampleLane(chunks, self.components, self._fields, state, self._transform)


class _SampleLane:
    def __init__(
        self,
        chunks: LaneChunks,
        components: Sequence[str],
        fields: Sequence[str] | None,
        state: dict[str, Any] | None,
        transform: Callable[[dict[str, Any]], Any] | None,
    ) -> None:
        self._transform = transform
        self._chunks = chunks
        self._queue = SampleQueue(chunks, None, *(state["queue"] if state else (chunks.first, 0)))
        self._ready: Iterator[dict[str, Any]] = iter(())
        self._components = components
        self._fields = None if fields is None else {name: parse_path(name) for name in fields if name != "*"}
        self._takes_all = fields is not None and "*" in fields

    def next(self) -> Any:
        while (sample := next(self._ready, None)) is None:
            group = self._queue.next_group(self._queue.chunk_index + 1)
            if group is not None:
                self._ready = self._samples(group)
                self._chunks.close_before(self._queue.chunk_index)
            elif self._chunks.get(self._queue.chunk_index) is None:
                return None
        self._queue.skip()
        return sample if self._transform is None else _transformed(self._transform, sample)

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


def _transformed(transform: Callable[[dict[str, Any]], Any], sample: dict[str, Any]) -> Any:
    address = sample["sample"]
    try:
        return transform(sample)
    except Exception as error:
        error.add_note(f"the transform failed at sample {address}")
        raise

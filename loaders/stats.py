"""What loading costs the trainer: time waited, rates, how far workers are ahead, what was read, what was cached."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mixlake.catalog import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a process has read so far."""

    num_bytes: int = 0
    """Of the samples read; where a format does not say how long they are, of so many of the dataset's mean."""
    num_samples: int = 0
    cache_hits: int = 0
    """Pieces of files, such as row groups and decompressed files, that were found in the cache; reads of plain lines
    need none."""
    cache_misses: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """How loading went, since the loader was made."""

    num_batches: int
    num_items: int
    """Samples or sequences delivered."""
    num_tokens: int
    """Tokens delivered, without padding; 0 for samples."""
    seconds: float
    """Time that was spent iterating, the trainer's own work included."""
    waiting_seconds: float
    """Time of that in which the trainer waited for a batch."""
    read: Counts
    """What all its processes have read; it is ahead of what is delivered."""
    num_ready: tuple[int, ...]
    """Per worker, how many batches' parts it had ready when it sent its last one."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens delivered per second."""
        return self.num_tokens / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Bytes read per second."""
        return self.read.num_bytes / self.seconds if self.seconds else 0.0

    def line(self) -> str:
        """Return it as one line.

        >>> Stats(num_batches=10, num_items=80, num_tokens=81920, seconds=2.0, waiting_seconds=0.1,
        ...       read=Counts(num_bytes=400_000, cache_hits=3, cache_misses=1), num_ready=(2, 1)).line()
        '10 batches, waited 5.0% of the time, 40,960 tokens/s, 0.2 MB/s read, ready 2 1, cache hits 3 of 4'
        """
        waited = self.waiting_seconds / self.seconds if self.seconds else 0.0
        items = self.num_items / self.seconds if self.seconds else 0.0
        parts = [
            f"{self.num_batches:,} batches",
            f"waited {waited:.1%} of the time",
            f"{self.tokens_per_second:,.0f} tokens/s" if self.num_tokens else f"{items:,.0f} samples/s",
            f"{self.bytes_per_second / 1e6:,.1f} MB/s read",
        ]
        if self.num_ready:
            parts.append("ready " + " ".join(map(str, self.num_ready)))
        if asked := self.read.cache_hits + self.read.cache_misses:
            parts.append(f"cache hits {self.read.cache_hits:,} of {asked:,}")
        return ", ".join(parts)

    def to_json(self) -> str:
        """Return it as a line of JSON, for a file that `read_stats` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Stats:
        """Return what ``to_json`` gave.

        Raises:
            ConfigError: the line is something else.
        """
        try:
            state = json.loads(line)
            return cls(**{**state, "read": Counts(**state["read"]), "num_ready": tuple(state["num_ready"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{line[:80]!r} is no line of loader.stats().to_json()") from error


def read_stats(path: str | Path) -> list[Stats]:
    """Return the statistics of a file that has a line of `Stats.to_json` for each moment of a loader's life.

    Raises:
        ConfigError: the file is missing, or holds something else.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"stats {str(path)!r} cannot be read: {error}") from error
    return [Stats.from_json(line) for line in lines if line.strip()]


class Meter:
    """Counts what is delivered, and how long it is waited for."""

    def __init__(self) -> None:
        self.num_batches = self._num_items = self._num_tokens = 0
        self._seconds = self._waiting_seconds = 0.0
        self._last: float | None = None
        self._read = Counts()

    def begin(self) -> None:
        """Note that iterating begins."""
        self._last = time.perf_counter()

    def wait(self) -> None:
        """Note that a batch is waited for from now on."""
        now = time.perf_counter()
        self._seconds += now - (self._last or now)
        self._last = now

    def deliver(self, num_items: int, num_tokens: int) -> None:
        """Note that a batch has come."""
        now = time.perf_counter()
        waited = now - (self._last or now)
        self._seconds += waited
        self._waiting_seconds += waited
        self._last = now
        self.num_batches += 1
        self._num_items += num_items
        self._num_tokens += num_tokens

    def end(self, read: Counts) -> None:
        """Note that iterating has ended, and what was read meanwhile."""
        self._last = None
        self._read += read

    def stats(self, read: Counts, num_ready: Sequence[int]) -> Stats:
        """Return how it went.

        Args:
            read: what has been read in this iteration.
            num_ready: what the workers have ready.
        """
        return Stats(
            num_batches=self.num_batches,
            num_items=self._num_items,
            num_tokens=self._num_tokens,
            seconds=self._seconds,
            waiting_seconds=self._waiting_seconds,
            read=self._read if self._last is None else self._read + read,
            num_ready=tuple(num_ready),
        )

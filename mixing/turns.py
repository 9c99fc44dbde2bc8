"""Whose turn it is: the components of consecutive samples, with those that run out on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.components import OnExhausted
from mixlake.mixing.cursor import Cursor
from mixlake.mixing.quotas import SCALE, carried, credits_after, fair_turns, leaning, without
from mixlake.mixing.quotas import Turns as FairTurns
from mixlake.mixing.streams import Stream

_LEAST_SHARE = SCALE // 64
"""Lanes do not lean where a component is rarer. It would get its samples where others have to wait, long before it is
owed one, and leave all others behind by as much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """The components of consecutive samples, and the quotas after them."""

    component: IntArray
    changes: list[tuple[int, tuple[int, ...]]]
    """(samples before, shares after) of every change of the shares."""
    shares: tuple[int, ...]
    credits: tuple[int, ...]
    lane_credits: tuple[tuple[int, ...], ...]
    """See `mixlake.mixing.cursor.Cursor`."""
    is_ended: bool
    """Whether nothing comes after them."""


def take_turns(streams: Sequence[Stream], cursor: Cursor, lanes: IntArray, chunk_size: int) -> Turns:
    """Let the streams take turns for a chunk of each of some lanes; for fewer samples where the run ends.

    The sizes of a component's next samples depend on the lane, so chunk is drawn after chunk, unless each counts one.

    Args:
        streams: by component.
        cursor: where the run stands.
        lanes: of the chunks, and of the one after them.
        chunk_size: samples per chunk.
    """
    shares, credits, rows = cursor.shares, cursor.credits, list(cursor.lane_credits)
    if all(stream.counts_samples for stream in streams):
        return _take(streams, shares, credits, (len(lanes) - 1) * chunk_size, looks_ahead=True)
    parts: list[IntArray] = []
    changes: list[tuple[int, tuple[int, ...]]] = []
    is_ended = False
    _enter(streams, lanes)
    for number in range(len(lanes) - 1):
        lane, lean = _leaning(cursor.next_chunk + number, rows, shares)
        turns = _take(streams, shares, credits, chunk_size, looks_ahead=False, lean=lean)
        parts.append(turns.component)
        changes += [(number * chunk_size + place, after) for place, after in turns.changes]
        if rows:
            gains = [after - before for after, before in zip(turns.credits, credits, strict=True)]
            rows[lane] = tuple(own + gain for own, gain in zip(rows[lane], gains, strict=True))
        if turns.changes:
            rows = [carried(row, turns.shares) for row in rows]
        shares, credits, is_ended = turns.shares, turns.credits, turns.is_ended
        _enter(streams, lanes[number + 1 :])
        _, next_lean = _leaning(cursor.next_chunk + number + 1, rows, shares)
        if is_ended or (is_ended := _is_over(streams, shares, credits, next_lean)):
            break
    return Turns(
        component=np.concatenate(parts),
        changes=changes,
        shares=shares,
        credits=credits,
        lane_credits=tuple(rows),
        is_ended=is_ended,
    )


def _leaning(chunk: int, rows: Sequence[Sequence[int]], shares: Sequence[int]) -> tuple[int, list[int] | None]:
    """Return the lane of a chunk, and what its turns lean towards; nothing where lanes are not told apart."""
    lane = chunk % max(len(rows), 1)
    is_rare = 0 < min(filter(None, shares)) < _LEAST_SHARE
    return lane, leaning(lane, rows) if rows and not is_rare else None


def _take(
    streams: Sequence[Stream],
    shares: tuple[int, ...],
    credits: tuple[int, ...],
    num: int,
    *,
    looks_ahead: bool,
    lean: Sequence[int] | None = None,
) -> Turns:
    """Let the streams take turns for ``num`` samples; for fewer where a component is due that has none left.

    Args:
        streams: by component.
        shares: of the components.
        credits: what each is owed.
        num: how many samples.
        looks_ahead: whether to find out if the run ends after exactly as many.
        lean: see `fair_turns`.
    """
    parts: list[IntArray] = []
    changes: list[tuple[int, tuple[int, ...]]] = []
    left, reach = num, 1
    is_ended = is_done = False
    while not is_done:
        leaver = _leaver(streams, shares)
        if leaver is not None:
            is_ended = is_done = shares.count(0) == len(shares) - 1
            if not is_done:
                shares, credits = without(leaver, shares, credits)
                changes.append((num - left, shares))
            continue
        turns, sizes = _next(streams, shares, credits, left + looks_ahead, reach, lean)
        part = turns.components[: min(left, _first_leave(streams, turns.components))]
        counts = np.bincount(part, minlength=len(streams)).tolist()
        credits = credits_after(shares, credits, [int(u[:n].sum()) for u, n in zip(sizes, counts, strict=True)])
        for stream, count in zip(streams, counts, strict=True):
            stream.advance(count)
        parts.append(part)
        left -= len(part)
        if _leaver(streams, shares) is None:
            is_ended = turns.is_due and len(part) == len(turns.components)
            is_done = is_ended or len(part) < len(turns.components) or not (left or looks_ahead)
            reach *= 2  # if there is another round, the sizes that were known did not reach far enough
    component = np.concatenate([np.empty(0, np.int64), *parts])
    return Turns(
        component=component, changes=changes, shares=shares, credits=credits, lane_credits=(), is_ended=is_ended
    )


def _next(
    streams: Sequence[Stream],
    shares: Sequence[int],
    credits: Sequence[int],
    num: int,
    reach: int,
    lean: Sequence[int] | None = None,
) -> tuple[FairTurns, list[IntArray]]:
    """Return the next turns, and the sizes of each stream's next samples."""
    ahead = _num_ahead(streams, shares, credits, num * reach)
    sizes = [stream.units(number) for stream, number in zip(streams, ahead, strict=True)]
    is_all = [len(known) == stream.num_left for known, stream in zip(sizes, streams, strict=True)]
    return fair_turns(shares, credits, sizes, is_all, num, lean), sizes


def _enter(streams: Sequence[Stream], lanes: IntArray) -> None:
    """Go on with the first of some chunks, given their lanes and that of one more."""
    lane = int(lanes[0])
    num_chunks = max(1, int(np.count_nonzero(lanes[:-1] == lane)))
    for stream in streams:
        stream.enter(lane, num_chunks)


def _is_over(
    streams: Sequence[Stream], shares: Sequence[int], credits: Sequence[int], lean: Sequence[int] | None
) -> bool:
    """Say whether a component is due that has run out and ends the run."""
    pairs = zip(streams, shares, strict=True)
    if not any(share and not stream.num_left for stream, share in pairs):
        return False
    turns, _ = _next(streams, shares, credits, 1, 1, lean)
    return turns.is_due and not len(turns.components)


def _leaver(streams: Sequence[Stream], shares: Sequence[int]) -> int | None:
    """Return a component that has run out and leaves its share to the others, if there is one."""
    for index, (stream, share) in enumerate(zip(streams, shares, strict=True)):
        if share and not stream.num_left and stream.on_exhausted is not OnExhausted.STOP:
            return index
    return None


def _first_leave(streams: Sequence[Stream], component: IntArray) -> int:
    """Return how many of the turns there are until a component that then leaves has taken its last sample."""
    counts = np.bincount(component, minlength=len(streams)).tolist()
    leaves = [
        int(np.flatnonzero(component == index)[stream.num_left - 1]) + 1
        for index, stream in enumerate(streams)
        if stream.on_exhausted is not OnExhausted.STOP and 0 < stream.num_left <= counts[index]
    ]
    return min(leaves, default=len(component))


def _num_ahead(streams: Sequence[Stream], shares: Sequence[int], credits: Sequence[int], num: int) -> list[int]:
    """Return how many samples each component is about to take while all of them take ``num``.

    Exactly enough where every sample counts one; else, from the mean sizes, as many as hardly ever are too few.
    """
    means = [stream.mean_units for stream in streams]
    units = num / sum(share / SCALE / mean for share, mean in zip(shares, means, strict=True))
    numbers = [
        int((max(0, share * units + credit) / SCALE) / mean) + 2
        for share, credit, mean in zip(shares, credits, means, strict=True)
    ]
    return [
        number if stream.counts_samples else number + 2 * math.isqrt(number)
        for number, stream in zip(numbers, streams, strict=True)
    ]

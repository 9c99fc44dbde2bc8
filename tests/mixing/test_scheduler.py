"""Chunks keep the promises: exact proportions, every sample once, tails delivered, and the same from any cursor."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, ScheduleError
from mixlake.mixing import Mixture, OnExhausted, Unit
from mixlake.mixing.cell_rows import CellRows
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.chunks import Chunk, delivery
from mixlake.mixing.cursor import Cursor
from mixlake.mixing.index import IndexReader
from mixlake.mixing.resolution import plan_cells, program_of
from mixlake.mixing.scheduler import Scheduler
from mixlake.mixing.weights import Reweighting

MakeMixture = Callable[..., Mixture]
MakeCatalog = Callable[..., Catalog]
Address = tuple[str, int, int]

WHERES = ("language = 'de'", "kind = 'code'", "n % 9 = 0", "quality > 0.5", "language IS NULL", "true")
LANES = 3
SLACK = Fraction(1, 10**6)
ONCE = (OnExhausted.STOP, OnExhausted.REDISTRIBUTE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """All chunks of a run, and their samples in delivery order."""

    chunks: list[Chunk]
    components: list[int]
    addresses: list[Address]

    @classmethod
    def of(cls, chunks: list[Chunk], *, seed: int, shuffled: bool) -> "Drawn":
        components: list[int] = []
        addresses: list[Address] = []
        for chunk in chunks:
            order = delivery(chunk, seed=seed, shuffled=shuffled)
            i = chunk.intervals
            names = [chunk.registrations[index] for index in i.registration[order.interval]]
            components += order.component.tolist()
            addresses += zip(names, i.file_id[order.interval].tolist(), order.row.tolist(), strict=True)
        return cls(chunks=chunks, components=components, addresses=addresses)


def planned(catalog: Catalog, mixture: Mixture) -> CellPlan:
    return plan_cells(catalog, program_of(catalog, mixture))


def make_scheduler(
    catalog: Catalog, mixture: Mixture, plan: CellPlan, *, seed: int = 0, chunk_size: int = 100
) -> Scheduler:
    program = program_of(catalog, mixture)
    rows = CellRows(plan, IndexReader(catalog, program, plan), seed=seed, window=mixture.window, lanes=LANES)
    return Scheduler(program, plan, rows, chunk_size=chunk_size)


def chunks_from(scheduler: Scheduler, cursor: Cursor) -> Iterator[tuple[Chunk, Cursor]]:
    while not cursor.is_ended:
        drawn = scheduler.draw(cursor, 1)
        cursor = drawn.cursor
        yield drawn.chunks[0], cursor


def draw_all(catalog: Catalog, mixture: Mixture, *, seed: int = 0, chunk_size: int = 100) -> Drawn:
    plan = planned(catalog, mixture)
    scheduler = make_scheduler(catalog, mixture, plan, seed=seed, chunk_size=chunk_size)
    chunks = [chunk for chunk, _ in chunks_from(scheduler, Cursor.start(program_of(catalog, mixture), plan, LANES))]
    return Drawn.of(chunks, seed=seed, shuffled=mixture.window > 0)


def plain(chunk: Chunk) -> list[Any]:
    """Everything that a chunk says, as lists."""
    i = chunk.intervals
    columns = [getattr(i, name).tolist() for name in i.__dataclass_fields__]
    return [chunk.number, chunk.weights_version, *columns, chunk.component_order.tolist(), chunk.is_last]


mixtures = (
    st.lists(
        st.tuples(
            st.sampled_from(WHERES),
            st.sampled_from([0, 1e-6, 0.001, 1, 1, 2, 7, 100]) | st.floats(0.01, 10),
            st.sampled_from(ONCE),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda component: component[0],
    )
    .filter(lambda components: any(weight for _, weight, _ in components))
    .map(lambda components: sorted(components, key=lambda component: component[0] == "true"))  # else the rest is empty
)


def first_matches(frame: pd.DataFrame, mixture: Mixture) -> list[int]:
    """The component of each sample of the frame, found without queries; -1 for none."""
    answers = {
        "language = 'de'": frame.language == "de",
        "kind = 'code'": frame.kind == "code",
        "n % 9 = 0": frame.n % 9 == 0,
        "quality > 0.5": frame.quality > 0.5,
        "language IS NULL": frame.language.isna(),
        "true": frame.n >= 0,
    }
    owners = np.full(len(frame), -1)
    for index, component in reversed(list(enumerate(mixture.components))):
        owners[answers[str(component.where)].to_numpy()] = index
    return [int(owner) for owner in owners]


def prefix_until_one_runs_out(drawn: Drawn, sizes: list[int]) -> int:
    """Length of the longest prefix in which no component has run out before the last sample."""
    left = list(sizes)
    for position, component in enumerate(drawn.components):
        left[component] -= 1
        if not left[component]:
            return position + 1
    return len(drawn.components)


def check_proportions(mixture: Mixture, sizes: list[int], drawn: Drawn) -> None:
    """Every prefix is within one sample of the weights until a component has run out; zero weights never come."""
    total = sum(Fraction(c.weight) for c in mixture.components)
    shares = [Fraction(c.weight) / total for c in mixture.components]
    taken = [0] * len(shares)
    until = prefix_until_one_runs_out(drawn, sizes)
    for position, component in enumerate(drawn.components[:until]):
        taken[component] += 1
        for count, share in zip(taken, shares, strict=True):
            assert abs(count - share * (position + 1)) <= 1 + SLACK
    assert all(shares[component] for component in set(drawn.components))


def check_end(mixture: Mixture, sizes: list[int], drawn: Drawn) -> None:
    """The run ends when a component that stops it is due and has run out, or when all is delivered."""
    counts = [drawn.components.count(index) for index in range(len(mixture.components))]
    weighted = [index for index, c in enumerate(mixture.components) if c.weight]
    finished = [index for index in weighted if counts[index] == sizes[index]]
    stopping = [i for i in finished if mixture.components[i].rules.on_exhausted is OnExhausted.STOP]
    if not any(mixture.components[index].rules.on_exhausted is OnExhausted.STOP for index in weighted):
        assert finished == weighted
    else:
        assert stopping
    if finished == stopping and len(weighted) > len(finished):  # nobody left before: the shares are the weights
        total = sum(Fraction(c.weight) for c in mixture.components)
        owed = [Fraction(mixture.components[i].weight) / total * len(drawn.components) - counts[i] for i in stopping]
        assert max(owed) >= -SLACK


@settings(deadline=None, max_examples=60)
@given(
    components=mixtures,
    seed=st.integers(0, 2**63 - 1),
    chunk_size=st.sampled_from([1, 7, 64, 500, 100_000]),
    shuffle=st.sampled_from(["none", {"window": 1}, {"window": 5}]),
)
def test_a_run_keeps_its_promises_to_the_end(
    catalog: Catalog,
    frame: pd.DataFrame,
    make_mixture: MakeMixture,
    components: list[tuple[str, float, str]],
    seed: int,
    chunk_size: int,
    shuffle: Any,
) -> None:
    small = chunk_size < 64  # so that there are not too many chunks
    mixture = make_mixture(*components, shuffle=shuffle, filter="n % 10 = 0" if small else None)
    kept = frame[frame.n % 10 == 0] if small else frame
    owners = first_matches(kept, mixture)
    sizes = [owners.count(index) for index in range(len(components))]
    assert all(sizes)
    drawn = draw_all(catalog, mixture, seed=seed, chunk_size=chunk_size)
    assert len(set(drawn.addresses)) == len(drawn.addresses)
    places = zip(kept.registration, kept.file_id, kept.row, strict=True)
    owner_of = dict(zip(places, owners, strict=True))
    assert [owner_of[address] for address in drawn.addresses] == drawn.components
    assert [chunk.num_samples for chunk in drawn.chunks[:-1]] == [chunk_size] * (len(drawn.chunks) - 1)
    assert 0 < drawn.chunks[-1].num_samples <= chunk_size
    assert [chunk.is_last for chunk in drawn.chunks] == [False] * (len(drawn.chunks) - 1) + [True]
    assert [chunk.number for chunk in drawn.chunks] == list(range(len(drawn.chunks)))
    check_proportions(mixture, sizes, drawn)
    check_end(mixture, sizes, drawn)


@settings(deadline=None, max_examples=40)
@given(
    components=mixtures,
    unit=st.sampled_from([Unit.BYTES, Unit.TOKENS]),
    chunk_size=st.sampled_from([5, 64, 500]),
    seed=st.integers(0, 2**63 - 1),
)
@example(  # where the lane of the next chunk leans, a component is due that has run out
    components=[("kind = 'code'", 1, "stop"), ("language IS NULL", 1, "stop"), ("language = 'de'", 1e-6, "stop")],
    unit=Unit.BYTES,
    chunk_size=5,
    seed=0,
)
def test_units_are_shared_out_within_one_sample_after_every_chunk(
    catalog: Catalog,
    frame: pd.DataFrame,
    make_mixture: MakeMixture,
    components: list[tuple[str, float, str]],
    unit: Unit,
    chunk_size: int,
    seed: int,
) -> None:
    mixture = make_mixture(*components, unit=unit, filter="n % 2 = 0")
    kept = frame[frame.n % 2 == 0]
    owners = first_matches(kept, mixture)
    sizes = [owners.count(index) for index in range(len(components))]
    assert all(sizes)
    drawn = draw_all(catalog, mixture, seed=seed, chunk_size=chunk_size)
    assert len(set(drawn.addresses)) == len(drawn.addresses)
    units_of = kept.set_index(["registration", "file_id", "row"])[unit.property_name].to_dict()
    largest = max(units_of.values())
    total = sum(Fraction(c.weight) for c in mixture.components)
    shares = [Fraction(c.weight) / total for c in mixture.components]
    got = np.zeros(len(shares), np.int64)
    until = prefix_until_one_runs_out(drawn, sizes)
    for position, (component, address) in enumerate(zip(drawn.components, drawn.addresses, strict=True)):
        got[component] += units_of[address]
        if (position + 1) % chunk_size == 0 and position + 1 < until:
            owed = [share * int(got.sum()) - int(count) for share, count in zip(shares, got, strict=True)]
            assert max(map(abs, owed)) <= largest + SLACK
    check_end_of_units(mixture, sizes, drawn)


def check_end_of_units(mixture: Mixture, sizes: list[int], drawn: Drawn) -> None:
    counts = [drawn.components.count(index) for index in range(len(sizes))]
    ended = [index for index, c in enumerate(mixture.components) if c.weight and counts[index] == sizes[index]]
    stops = [index for index in ended if mixture.components[index].rules.on_exhausted is OnExhausted.STOP]
    assert stops or ended == [index for index, c in enumerate(mixture.components) if c.weight]


@settings(deadline=None, max_examples=25)
@given(
    components=mixtures,
    unit=st.sampled_from(Unit),
    chunk_size=st.sampled_from([30, 170]),
    shuffle=st.sampled_from(["none", {"window": 2}]),
    cut=st.integers(0, 20),
)
def test_a_cursor_that_went_through_json_gives_the_same_chunks_to_a_new_scheduler(
    catalog: Catalog,
    make_mixture: MakeMixture,
    components: list[tuple[str, float, str]],
    unit: Unit,
    chunk_size: int,
    shuffle: Any,
    cut: int,
) -> None:
    mixture = make_mixture(*components, unit=unit, shuffle=shuffle)
    plan = planned(catalog, mixture)
    steps = list(
        chunks_from(
            make_scheduler(catalog, mixture, plan, chunk_size=chunk_size),
            Cursor.start(program_of(catalog, mixture), plan, LANES),
        )
    )
    cut = min(cut, len(steps) - 1)
    cursor = Cursor.from_dict(json.loads(json.dumps(steps[cut][1].to_dict())))
    assert cursor == steps[cut][1]
    again = make_scheduler(catalog, mixture, planned(catalog, mixture), chunk_size=chunk_size)
    rest = [plain(chunk) for chunk, _ in islice(chunks_from(again, cursor), 4)]
    assert rest == [plain(chunk) for chunk, _ in steps[cut + 1 : cut + 5]]


@settings(deadline=None, max_examples=25)
@given(
    components=mixtures,
    unit=st.sampled_from(Unit),
    chunk_size=st.sampled_from([7, 30, 170]),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_it_does_not_matter_how_many_chunks_are_drawn_at_once(
    catalog: Catalog,
    make_mixture: MakeMixture,
    components: list[tuple[str, float, str]],
    unit: Unit,
    chunk_size: int,
    cuts: list[int],
) -> None:
    mixture = make_mixture(*components, unit=unit, filter="n % 3 = 0")
    plan = planned(catalog, mixture)
    scheduler = make_scheduler(catalog, mixture, plan, chunk_size=chunk_size)
    whole = scheduler.draw(Cursor.start(program_of(catalog, mixture), plan, LANES), 1_000)
    assert whole.cursor.is_ended
    cursor = Cursor.start(program_of(catalog, mixture), plan, LANES)
    chunks: list[Chunk] = []
    changes: list[Reweighting] = []
    for num in [*cuts, 1_000]:
        if not cursor.is_ended:
            drawn = scheduler.draw(cursor, num)
            cursor, chunks, changes = drawn.cursor, chunks + drawn.chunks, changes + drawn.changes
    assert [plain(chunk) for chunk in chunks] == [plain(chunk) for chunk in whole.chunks]
    assert (changes, cursor) == (whole.changes, whole.cursor)
    assert [change.version for change in changes] == list(range(2, cursor.weights_version + 1))


# Cases worth their own name


def numbers(catalog: Catalog, drawn: Drawn) -> list[int]:
    """The property ``n`` of every sample, in delivery order."""
    rows = catalog.sql("SELECT registration, file_id, row, n FROM samples").to_pandas()
    n_of = rows.set_index(["registration", "file_id", "row"]).n.to_dict()
    return [int(n_of[address]) for address in drawn.addresses]


def tiny_catalog(make_catalog: MakeCatalog, folder: Path, num: int = 60) -> Catalog:
    return make_catalog(folder, {"a": [{"text": "x" * (n % 3), "n": n} for n in range(num)]}, {"n": "n"})


def test_an_unshuffled_run_of_one_component_is_the_stored_order(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = tiny_catalog(make_catalog, tmp_path)
    drawn = draw_all(catalog, make_mixture(("true", 0.3), shuffle="none"), chunk_size=7)
    assert numbers(catalog, drawn) == list(range(60))
    assert [chunk.num_samples for chunk in drawn.chunks] == [7] * 8 + [4]
    assert [len(chunk.intervals.row_start) for chunk in drawn.chunks] == [1] * 9


def test_the_chunks_of_a_run_never_change_between_versions(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = tiny_catalog(make_catalog, tmp_path)
    mixture = make_mixture(("n % 3 = 0", 2), ("n % 2 = 0", 1), ("true", 1), on_exhausted="redistribute")
    drawn = draw_all(catalog, mixture, seed=12, chunk_size=9)
    assert "".join(map(str, drawn.components)) == "0102" * 10 + "12" * 10
    assert numbers(catalog, drawn) == [
        *(51, 22, 54, 13, 39, 26, 45, 7, 6, 40, 30, 41, 27, 50, 9, 53, 0, 28, 57, 19),
        *(3, 2, 48, 1, 15, 8, 36, 23, 33, 14, 18, 47, 12, 38, 42, 35, 21, 46, 24, 17),
        *(20, 29, 58, 37, 56, 11, 52, 5, 34, 59, 32, 25, 16, 49, 10, 43, 44, 55, 4, 31),
    ]


def test_a_run_that_fills_its_last_chunk_ends_with_it(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = tiny_catalog(make_catalog, tmp_path)
    for policy in ONCE:
        drawn = draw_all(catalog, make_mixture(("n < 40", 2, policy), ("true", 1, policy)), chunk_size=20)
        assert [chunk.num_samples for chunk in drawn.chunks] == [20] * 3
        assert [chunk.is_last for chunk in drawn.chunks] == [False, False, True]


def test_stop_ends_the_run_in_front_of_the_missing_sample(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = tiny_catalog(make_catalog, tmp_path)
    mixture = make_mixture(("n < 5", 1, "stop"), ("true", 1, "redistribute"), shuffle="none")
    drawn = draw_all(catalog, mixture, chunk_size=100)
    assert numbers(catalog, drawn) == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]


def test_redistribute_delivers_the_tail_in_the_proportions_of_the_rest(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = tiny_catalog(make_catalog, tmp_path)
    mixture = make_mixture(("n < 2", 2), ("n < 8", 1), ("n < 20", 1), on_exhausted="redistribute", shuffle="none")
    drawn = draw_all(catalog, mixture, chunk_size=100)
    assert "".join(map(str, drawn.components)) == "0102" + "12" * 5 + "2" * 6
    assert numbers(catalog, drawn)[:4] == [0, 2, 1, 8]


def test_the_weights_version_counts_the_components_that_left(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = tiny_catalog(make_catalog, tmp_path)
    mixture = make_mixture(("n < 4", 1), ("n < 12", 1), ("n < 30", 1), on_exhausted="redistribute")
    drawn = draw_all(catalog, mixture, chunk_size=5)
    assert [chunk.weights_version for chunk in drawn.chunks] == [1, 1, 2, 2, 3, 3]


def test_a_component_that_left_stays_away_in_the_next_chunks(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = tiny_catalog(make_catalog, tmp_path)
    mixture = make_mixture(("n < 3", 5), ("true", 1), on_exhausted="redistribute")
    for chunk_size in (1, 2, 3, 4, 5):
        drawn = draw_all(catalog, mixture, chunk_size=chunk_size)
        assert sorted(numbers(catalog, drawn)) == list(range(60))


def test_ties_between_components_never_leave_an_empty_chunk(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = tiny_catalog(make_catalog, tmp_path, num=202)
    components = [("n < 37", 5, "stop"), ("n < 187", 10, "redistribute"), ("true", 1, "redistribute")]
    drawn = draw_all(catalog, make_mixture(*components), chunk_size=12)
    assert [chunk.num_samples for chunk in drawn.chunks][:-1] == [12] * (len(drawn.chunks) - 1)
    assert drawn.chunks[-1].num_samples > 0
    assert drawn.components.count(0) == 37


def test_samples_without_units_are_delivered_too(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    records = [{"text": "x" * (n % 3), "n": n} for n in range(60)]
    properties = {"n": "n", "num_bytes": "octet_length(text)"}
    catalog = make_catalog(tmp_path, {"a": records}, properties)
    mixture = make_mixture(("n < 20", 1), ("true", 3), unit="bytes", on_exhausted="redistribute")
    drawn = draw_all(catalog, mixture, chunk_size=8)
    assert sorted(numbers(catalog, drawn)) == list(range(60))


def test_another_seed_gives_another_order_of_the_same_components(catalog: Catalog, make_mixture: MakeMixture) -> None:
    mixture = make_mixture(("language = 'de'", 1), ("true", 2))
    one, other = (draw_all(catalog, mixture, seed=seed, chunk_size=50) for seed in (1, 2))
    assert one.components == other.components
    assert one.addresses[:50] != other.addresses[:50]
    assert set(one.addresses) != set(other.addresses)


def test_intervals_are_sorted_and_as_long_as_they_can_be(catalog: Catalog, make_mixture: MakeMixture) -> None:
    drawn = draw_all(catalog, make_mixture(("language = 'de'", 1), ("true", 4)), chunk_size=300)
    for chunk in drawn.chunks:
        i = chunk.intervals
        keys = list(zip(i.component, i.pass_number, i.registration, i.file_id, i.row_start, strict=True))
        assert keys == sorted(keys)
        ends = list(zip(i.component, i.pass_number, i.registration, i.file_id, i.row_stop, strict=True))
        assert not set(keys) & set(ends)
        assert (i.byte_stop > i.byte_start).all()


def test_a_cursor_of_another_version_is_refused(catalog: Catalog, make_mixture: MakeMixture) -> None:
    mixture = make_mixture(("true", 1))
    state = Cursor.start(program_of(catalog, mixture), planned(catalog, mixture), LANES).to_dict()
    with pytest.raises(ScheduleError, match="the run's cursor has version 99; this program reads versions 4 and 5"):
        Cursor.from_dict({**state, "version": 99})


def test_a_run_whose_cursor_knows_nothing_of_lanes_goes_on_without(catalog: Catalog, make_mixture: MakeMixture) -> None:
    mixture = make_mixture(("kind = 'code'", 1), ("true", 1), unit=Unit.BYTES)
    plan = planned(catalog, mixture)
    start = Cursor.start(program_of(catalog, mixture), plan, LANES)
    older = {key: value for key, value in start.to_dict().items() if key != "lane_credits"} | {"version": 4}
    scheduler = make_scheduler(catalog, mixture, plan, chunk_size=10)
    assert len(scheduler.draw(start, 4).cursor.lane_credits) == LANES
    assert scheduler.draw(Cursor.from_dict(older), 4).cursor.lane_credits == ()

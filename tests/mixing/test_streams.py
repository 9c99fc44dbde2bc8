"""A component goes through its samples pass by pass, band by band, and never twice in one pass."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, Run
from mixlake.mixing.streams import lend, pick, spread

NewName = Callable[[], str]
Draws = Callable[[Run], pd.DataFrame]


def start(catalog: Catalog, name: str, mixture: dict[str, Any], num_chunks: int = 1000, **settings: Any) -> Run:
    run = Run.start(catalog, name, Mixture.from_dict(mixture), **settings)
    run.schedule(num_chunks)
    return run


@settings(deadline=None, max_examples=8)
@given(
    passes=st.integers(1, 4),
    chunk_size=st.sampled_from([23, 50, 400]),
    cut=st.integers(2, 9),
    seed=st.integers(0, 2**63 - 1),
    unit=st.sampled_from(["samples", "bytes"]),
)
def test_a_repeated_component_has_every_sample_once_in_each_pass(
    catalog: Catalog, new_name: NewName, draws: Draws, passes: int, chunk_size: int, cut: int, seed: int, unit: str
) -> None:
    repeated = {"where": "n % 97 = 0", "weight": 1, "on_exhausted": "repeat", "max_passes": passes}
    mixture = {"unit": unit, "components": {"few": repeated, "many": {"where": "n % 5 = 1", "weight": 3}}}
    run = Run.start(catalog, new_name(), mixture, seed=seed, chunk_size=chunk_size)
    while run.schedule(cut):
        run = Run.load(catalog, run.name)
    found = draws(run)
    few = found[found.component == "few"]
    counts = few.groupby("number").n.agg(["size", "nunique"])
    size = len(range(0, 2400, 97))
    assert (counts["size"] == counts["nunique"]).all()
    assert (counts["size"].iloc[:-1] == size).all()
    assert counts.index.tolist() == list(range(len(counts)))
    assert few.groupby("chunk").number.max().is_monotonic_increasing
    assert len(counts) <= passes
    many = found[found.component == "many"]
    assert many.n.is_unique
    if unit == "samples":  # three of the others for each of the repeated, until its passes are over
        assert abs(len(few) - min(passes * size, 475 / 3)) <= 1
        assert len(many) == 475


def test_a_component_that_a_stage_does_without_is_not_asked_for_sizes(catalog: Catalog, new_name: NewName) -> None:
    german, all_ = {"a": {"where": "language = 'de'", "weight": 1}}, {"b": {"where": "true", "weight": 1}}
    mixture = {"unit": "bytes", "components": german | {"rest": {"weight": 1}}}
    stages = {"first": {"until": {"chunks": 2}}, "then": {"mixture": {"components": all_}}}
    run = start(catalog, new_name(), mixture, 4, curriculum={"stages": stages}, chunk_size=10)
    assert run.chunks.last()[0] == 3


def test_every_pass_has_another_order(catalog: Catalog, new_name: NewName, draws: Draws) -> None:
    mixture = {"components": {"all": {"where": "n < 60", "weight": 1, "on_exhausted": "repeat", "max_passes": 3}}}
    found = draws(start(catalog, new_name(), mixture, chunk_size=60))
    orders = [found[found.number == number].n.tolist() for number in range(3)]
    assert [sorted(order) for order in orders] == [list(range(60))] * 3
    assert len({tuple(order) for order in orders}) == 3


def test_a_component_without_a_last_pass_goes_on_for_ever(catalog: Catalog, new_name: NewName, draws: Draws) -> None:
    mixture = {"components": {"three": {"where": "n < 3", "weight": 1, "on_exhausted": "repeat"}}}
    found = draws(start(catalog, new_name(), mixture, num_chunks=4, chunk_size=10))
    assert sorted(Counter(found.n).values()) == [13, 13, 14]
    assert found.groupby("number").n.nunique().tolist()[:-1] == [3] * 13


def test_a_component_leaves_after_its_last_pass_and_the_others_share_its_weight(
    catalog: Catalog, new_name: NewName, draws: Draws
) -> None:
    few = {"where": "n < 10", "weight": 1, "on_exhausted": "repeat", "max_passes": 2}
    mixture = {"components": {"few": few, "many": {"weight": 1, "on_exhausted": "redistribute"}}}
    run = start(catalog, new_name(), mixture, chunk_size=10)
    assert run.weights().to_pandas()[["version", "chunk", "cause"]].values.tolist() == [
        [1, 0, "declared"],
        [2, 4, "exhausted"],
    ]
    found = draws(run)
    assert found.component.value_counts().to_dict() == {"many": 2390, "few": 20}


@pytest.mark.parametrize(("descending", "bands"), [(False, 8), (True, 5)])
def test_an_ordered_component_goes_from_easy_to_hard(
    catalog: Catalog, new_name: NewName, draws: Draws, descending: bool, bands: int
) -> None:
    order = {"property": "quality", "descending": descending, "bands": bands}
    mixture = {
        "components": {
            "sorted": {"where": "language = 'de'", "weight": 1, "order_by": order},
            "rest": {"weight": 1, "on_exhausted": "redistribute"},
        }
    }
    found = draws(start(catalog, new_name(), mixture, chunk_size=20))
    quality = found[found.component == "sorted"].quality
    size = len(quality) / bands
    ranks = quality.rank(method="first", ascending=not descending) - 1
    place = pd.Series(range(len(quality)), index=quality.index)
    assert len(quality) == 625
    assert ((ranks - place).abs() <= size + 20).all()  # a band, and the chunk that it ends in
    assert (ranks - place).abs().max() > 20  # inside a band there is no order


def test_samples_without_the_property_come_last(catalog: Catalog, new_name: NewName, draws: Draws) -> None:
    mixture = {"components": {"all": {"where": "n < 400", "weight": 1, "order_by": "language"}}}
    found = draws(start(catalog, new_name(), mixture, chunk_size=10))
    languages = found.language
    num = int(languages.isna().sum())
    assert num > 50
    assert languages.iloc[-num + 20 :].isna().all()
    assert languages.dropna().drop_duplicates().tolist() == ["de", "en", "fr"]


def test_order_by_an_unknown_property_is_refused(catalog: Catalog, new_name: NewName) -> None:
    mixture = {"components": {"all": {"weight": 1, "order_by": "qualty"}}}
    with pytest.raises(ValueError, match=r"components.all.order_by: unknown property 'qualty'; .* mean 'quality'\?"):
        start(catalog, new_name(), mixture)


# Spreading a component over its cells


sizes_of_cells = st.lists(st.integers(0, 400), min_size=1, max_size=8).filter(any)


def spread_all(sizes: list[int]) -> list[int]:
    return spread_one(sizes, [0] * len(sizes), sum(sizes))


def spread_one(sizes: list[int], taken: list[int], num: int) -> list[int]:
    """The cells of one lane's samples."""
    sizes_CQ, taken_CQ = (np.array(values, np.int64)[:, None] for values in (sizes, taken))
    return [int(cell) for cell in spread(sizes_CQ, taken_CQ, np.array([num]))]


def test_cells_come_in_proportion_to_their_sizes() -> None:
    assert spread_all([2, 4]) == [1, 0, 1, 1, 0, 1]
    assert spread_all([1, 1, 1]) == [0, 1, 2]
    assert spread_all([0, 3, 0, 3]) == [1, 3, 1, 3, 1, 3]
    assert spread_one([5], [1], 3) == [0, 0, 0]


@settings(deadline=None)
@given(sizes=sizes_of_cells)
def test_all_samples_are_spread(sizes: list[int]) -> None:
    assert np.bincount(spread_all(sizes), minlength=len(sizes)).tolist() == sizes


@settings(deadline=None)
@given(sizes=sizes_of_cells, data=st.data())
def test_a_spread_that_is_cut_anywhere_and_continued_is_the_same(sizes: list[int], data: st.DataObject) -> None:
    whole = spread_all(sizes)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    taken = np.bincount(np.array(whole[:start], np.int64), minlength=len(sizes)).tolist()
    assert spread_one(sizes, taken, stop - start) == whole[start:stop]


@settings(deadline=None)
@given(data=st.data(), num_cells=st.integers(1, 5), lanes=st.integers(1, 4))
def test_lanes_are_spread_each_by_itself(data: st.DataObject, num_cells: int, lanes: int) -> None:
    size = st.lists(st.integers(0, 30), min_size=num_cells, max_size=num_cells)
    sizes = [data.draw(size) for _ in range(lanes)]
    taken = [[data.draw(st.integers(0, most)) for most in lane] for lane in sizes]
    num = [data.draw(st.integers(0, sum(lane) - sum(gone))) for lane, gone in zip(sizes, taken, strict=True)]
    together = spread(np.array(sizes).T, np.array(taken).T, np.array(num)).tolist()
    apart = [spread_one(*lane) for lane in zip(sizes, taken, num, strict=True)]
    assert together == [cell for lane in apart for cell in lane]


@settings(deadline=None)
@given(sizes=sizes_of_cells)
def test_every_prefix_of_a_spread_is_in_proportion(sizes: list[int]) -> None:
    cells = np.array(spread_all(sizes))
    share = np.array(sizes) / sum(sizes)
    taken = np.cumsum(cells[:, None] == np.arange(len(sizes)), axis=0)
    ideal = np.arange(1, len(cells) + 1)[:, None] * share
    assert (np.abs(taken - ideal) <= 0.5 + share * len(sizes) / 2 + 1e-9).all()


@settings(deadline=None)
@given(data=st.data(), sizes=sizes_of_cells)
def test_cells_that_are_behind_come_first(data: st.DataObject, sizes: list[int]) -> None:
    taken = [data.draw(st.integers(0, size)) for size in sizes]
    found = spread_one(sizes, taken, sum(sizes) - sum(taken))
    assert found == [
        c
        for c, _ in sorted(
            ((c, j) for c in range(len(sizes)) for j in range(taken[c], sizes[c])),
            key=lambda cj: ((cj[1] + 0.5) / sizes[cj[0]], cj[0]),
        )
    ]


def test_a_large_component_is_spread_without_listing_it() -> None:
    cells = np.array(spread_one([10**11, 3 * 10**11], [10**10, 3 * 10**10], 1000))
    assert np.bincount(cells).tolist() == [250, 750]


# Lending


@settings(deadline=None)
@given(data=st.data(), lanes=st.integers(1, 5), first=st.integers(0, 4))
def test_chunks_take_their_own_lane_first_and_all_there_is_in_the_end(
    data: st.DataObject, lanes: int, first: int
) -> None:
    wanted = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=12))
    left = data.draw(st.lists(st.integers(0, 40), min_size=lanes, max_size=lanes))
    lane = (first + np.arange(len(wanted))) % lanes
    given_KQ = lend(np.array(wanted), lane, np.array(left))
    assert given_KQ.sum() == min(sum(wanted), sum(left))
    assert (given_KQ.sum(axis=1) <= wanted).all()
    assert (given_KQ.sum(axis=0) <= left).all()
    for number, own in enumerate(lane.tolist()):
        before = given_KQ[:number].sum(axis=0)
        if given_KQ[number].sum() > given_KQ[number, own]:
            assert before[own] + given_KQ[number, own] == left[own]
    cut = data.draw(st.integers(0, len(wanted)))
    head = lend(np.array(wanted[:cut]), lane[:cut], np.array(left)) if cut else np.zeros((0, lanes), np.int64)
    tail = lend(np.array(wanted[cut:]), lane[cut:], np.array(left) - head.sum(axis=0))
    assert np.concatenate([head, tail]).tolist() == given_KQ.tolist()


@pytest.mark.parametrize("lane", [0, 1, 2])
def test_what_comes_first_does_not_depend_on_how_much_a_chunk_takes(lane: int) -> None:
    sizes_CQ, taken_CQ = np.array([[4, 9, 3], [1, 2, 6]]), np.array([[1, 0, 1], [0, 2, 2]])

    def cells_and_lanes(num: int) -> list[tuple[int, int]]:
        given_KQ = lend(np.array([num]), np.array([lane]), (sizes_CQ - taken_CQ).sum(axis=0))
        counts_CQ, order = pick(sizes_CQ, taken_CQ, given_KQ, np.array([lane]))
        queues = [(cell, queue) for queue in range(3) for cell in range(2) for _ in range(counts_CQ[cell, queue])]
        return [queue for _, queue in sorted(zip(order.tolist(), queues, strict=True))]

    all_of_them = cells_and_lanes(int((sizes_CQ - taken_CQ).sum()))
    assert all(cells_and_lanes(num) == all_of_them[:num] for num in range(1, len(all_of_them)))
    own = int((sizes_CQ - taken_CQ)[:, lane].sum())
    assert {queue for _, queue in all_of_them[:own]} == {lane}


def test_a_component_whose_cell_an_earlier_stage_has_drawn_whole_begins_its_next_pass(
    catalog: Catalog, new_name: NewName, draws: Draws
) -> None:
    few = {"where": "n % 500 = 7", "weight": 1, "on_exhausted": "repeat"}
    stages = {"a": {"until": {"samples": 2_380}}, "b": {"mixture": {"components": {"few": few}}}}
    everything = {"components": {"all": {"weight": 1}}, "shuffle": "none"}  # 2,007 is the last of the few
    run = Run.start(catalog, new_name(), everything, curriculum={"stages": stages}, chunk_size=20, lanes=1)
    run.schedule(120)
    found = draws(run)
    assert found[found.stage == 1].number.tolist() == [number for number in (1, 2, 3, 4) for _ in range(5)]

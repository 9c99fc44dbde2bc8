"""A component goes through its samples pass by pass, band by band, and never twice in one pass."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, Run

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

"""Whatever is declared: every sample once per pass, pass after pass, all tails, and the same from any restart."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog
from mixlake.mixing import Run

WHERES = ("language = 'de'", "kind = 'code'", "n % 9 = 0", "quality > 0.5", "language IS NULL")
ORDERS = (None, "quality", {"property": "num_tokens", "descending": True, "bands": 3})

policies = st.one_of(
    st.just({"on_exhausted": "stop"}),
    st.just({"on_exhausted": "redistribute"}),
    st.integers(1, 3).map(lambda passes: {"on_exhausted": "repeat", "max_passes": passes}),
)


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    wheres = draw(st.lists(st.sampled_from(WHERES), min_size=1, max_size=3, unique=True))
    components = {
        f"c{number}": {"where": where, "weight": draw(st.sampled_from([1e-3, 1, 2, 7])), **draw(policies)}
        | {"order_by": draw(st.sampled_from(ORDERS))}
        for number, where in enumerate(wheres)
    }
    components["rest"] = {"weight": 1, **draw(policies)}
    return {
        "components": components,
        "unit": draw(st.sampled_from(["samples", "bytes", "tokens"])),
        "filter": "n % 4 = 1",
        "shuffle": draw(st.sampled_from(["none", {"window": 2}])),
    }


def stages(chunks: int, names: list[str]) -> dict[str, Any]:
    return {
        "stages": {
            "first": {"until": {"chunks": chunks}},
            "second": {"weights": {names[0]: 0.7}, "ramp": {"over": {"chunks": 2}}},
        }
    }


@settings(deadline=None, max_examples=10)
@given(
    mixture=mixtures(),
    change=st.none() | st.integers(1, 6),
    chunk_size=st.integers(40, 200),
    seed=st.integers(0, 2**63 - 1),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_promises_hold_for_any_policies_units_orders_and_stages(
    catalog: Catalog,
    new_name: Callable[[], str],
    draws: Callable[[Run], pd.DataFrame],
    mixture: dict[str, Any],
    change: int | None,
    chunk_size: int,
    seed: int,
    cuts: list[int],
) -> None:
    curriculum = None if change is None else stages(change, list(mixture["components"]))
    declared: dict[str, Any] = {"curriculum": curriculum, "chunk_size": chunk_size, "seed": seed}
    run, pieces = (Run.start(catalog, new_name(), mixture, **declared) for _ in range(2))
    run.schedule(1_000)
    for number in (*cuts, 1_000):
        Run.load(catalog, pieces.name).schedule(number)
    found = draws(run)
    assert found.equals(draws(pieces))
    assert [row["weights"] for row in run.weights().to_pylist()] == [
        row["weights"] for row in pieces.weights().to_pylist()
    ]
    assert run.chunks.last()[2]
    ordered = found.sort_values(["chunk", "number"], kind="stable")
    assert ordered.number.tolist() == ordered.groupby("n").cumcount().tolist()  # once in a pass, pass after pass
    times = found.groupby("component").n.value_counts()
    for name, component in mixture["components"].items():
        allowed = component.get("max_passes", 1)
        mine = found[found.component == name]
        passes = mine.groupby("number").n.nunique()
        assert len(mine) == 0 or times[name].max() <= allowed
        assert passes.nunique() <= 1 or passes.iloc[:-1].nunique() == 1  # none begins before the last one is through
    if not any(component["on_exhausted"] == "stop" for component in mixture["components"].values()):
        owed = {name: component.get("max_passes", 1) for name, component in mixture["components"].items()}
        assert sorted(found.n.unique()) == list(range(1, 2400, 4))
        assert all((times[name] == passes).all() for name, passes in owed.items() if name in times.index.levels[0])


redefined = st.lists(
    st.tuples(st.integers(1, 5), mixtures(), st.sampled_from([None, "linear", "cosine"])), min_size=1, max_size=3
)


@settings(deadline=None, max_examples=10)
@given(
    mixture=mixtures(),
    others=redefined,
    chunk_size=st.integers(40, 120),
    lanes=st.sampled_from([1, 3, 8]),
    seed=st.integers(0, 2**63 - 1),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_promises_hold_where_every_stage_has_components_of_its_own(
    catalog: Catalog,
    new_name: Callable[[], str],
    draws: Callable[[Run], pd.DataFrame],
    mixture: dict[str, Any],
    others: list[tuple[int, dict[str, Any], str | None]],
    chunk_size: int,
    lanes: int,
    seed: int,
    cuts: list[int],
) -> None:
    declared: dict[str, Any] = {"s0": {"until": {"chunks": 2}}}
    at = 2
    for number, (length, other, shape) in enumerate(others, start=1):
        at += length
        own = {key: other[key] for key in ("components", "filter")}
        ramp = {} if shape is None else {"ramp": {"over": {"chunks": 1 + length // 2}, "shape": shape, "changes": 3}}
        declared[f"s{number}"] = {"mixture": own, **ramp, **({"until": {"chunks": at}} if number < len(others) else {})}
    settings: dict[str, Any] = {"curriculum": {"stages": declared}, "chunk_size": chunk_size, "lanes": lanes}
    run, pieces = (Run.start(catalog, new_name(), mixture, seed=seed, **settings) for _ in range(2))
    run.schedule(1_000)
    for number in (*cuts, 1_000):
        Run.load(catalog, pieces.name).schedule(number)
    found = draws(run)
    assert found.equals(draws(pieces))
    assert run.chunks.last()[2]
    ordered = found.sort_values(["chunk", "number"], kind="stable")
    assert ordered.number.tolist() == ordered.groupby("n").cumcount().tolist()  # once in a pass, pass after pass
    allowed = max(
        c.get("max_passes", 1) for m in (mixture, *(m for _, m, _ in others)) for c in m["components"].values()
    )
    assert found.n.value_counts().max() <= allowed
    assert set(found.n) <= set(range(1, 2400, 4))

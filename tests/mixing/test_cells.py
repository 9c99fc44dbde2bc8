"""Cells and their counts are those that the predicates give sample by sample."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, ConfigError, QueryError
from mixlake.mixing import Mixture, Unit
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.resolution import plan_cells, program_of

MakeMixture = Callable[..., Mixture]
MakeCatalog = Callable[..., Catalog]

PREDICATES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "language = 'de'": lambda f: f.language == "de",
    "language <> 'de'": lambda f: f.language.notna() & (f.language != "de"),  # NULL is no match
    "NOT (language = 'en' OR kind = 'code')": lambda f: f.language.notna() & ~f.language.eq("en") & ~f.kind.eq("code"),
    "language IS NULL": lambda f: f.language.isna(),
    "language IN ('fr', 'es') -- no Spanish yet": lambda f: f.language == "fr",
    "quality > 0.5": lambda f: f.quality > 0.5,
    "kind = 'code'\n AND /* only\n bad */ quality < 0.3": lambda f: (f.kind == "code") & (f.quality < 0.3),
    "KIND = 'prose'": lambda f: f.kind == "prose",
    "kind = 'O''Brien' OR kind = 'table'": lambda f: f.kind == "table",
    "n % 7 = 3": lambda f: f.n % 7 == 3,
    "n BETWEEN 390 AND 420": lambda f: f.n.between(390, 420),
    "dataset = 'web-crawl.v2'": lambda f: f.dataset == "web-crawl.v2",
    "file_id = 1 AND row < 17": lambda f: (f.file_id == 1) & (f.row < 17),
    "num_bytes = 0": lambda f: f.num_bytes == 0,
    "n < 0": lambda f: f.n < 0,
    "true": lambda f: f.n >= 0,
}
UNIT_COLUMNS = {Unit.SAMPLES: None, Unit.BYTES: "num_bytes", Unit.TOKENS: "num_tokens"}
Counts = dict[tuple[tuple[bool, ...], str, int], int]
"""(answers, registration, block) -> samples."""


def count_by_hand(frame: pd.DataFrame, answers: Mapping[str, Any]) -> Counts:
    keys = zip(zip(*(answers[where] for where in answers), strict=True), frame.registration, frame.block, strict=True)
    return dict(Counter(keys))


def units_by_hand(frame: pd.DataFrame, answers: Mapping[str, Any], unit: Unit) -> dict[tuple[bool, ...], int]:
    column = UNIT_COLUMNS[unit]
    units = frame[column] if column else pd.Series(1, index=frame.index)
    totals: Counter[tuple[bool, ...]] = Counter()
    for key, unit_count in zip(zip(*(answers[where] for where in answers), strict=True), units, strict=True):
        totals[key] += int(unit_count)
    return dict(totals)


def count_in_plan(plan: CellPlan) -> Counts:
    return {
        (
            tuple(plan.matches_CP[cell].tolist()),
            plan.registrations[plan.block_registration_B[block]],
            int(plan.block_number_B[block]),
        ): samples
        for cell, block, samples in zip(
            plan.entry_cell_E.tolist(), plan.entry_block_E.tolist(), plan.entry_samples_E.tolist(), strict=True
        )
    }


def units_in_plan(plan: CellPlan) -> dict[tuple[bool, ...], int]:
    return {
        tuple(answers): units
        for answers, units in zip(plan.matches_CP.tolist(), plan.num_units_C.tolist(), strict=True)
    }


def planned(catalog: Catalog, mixture: Mixture) -> CellPlan:
    return plan_cells(catalog, program_of(catalog, mixture))


def owners(catalog: Catalog, plan: CellPlan, mixture: Mixture) -> Any:
    return plan.owners(program_of(catalog, mixture).segments[0].leaves)


@settings(deadline=None, max_examples=60)
@given(
    wheres=st.lists(st.sampled_from(list(PREDICATES)), min_size=1, max_size=7),
    condition=st.none() | st.sampled_from(list(PREDICATES)),
    unit=st.sampled_from(Unit),
)
def test_cells_are_counted_as_by_hand(
    catalog: Catalog,
    frame: pd.DataFrame,
    make_mixture: MakeMixture,
    wheres: list[str],
    condition: str | None,
    unit: Unit,
) -> None:
    mixture = make_mixture(*((where, 1.0) for where in wheres), filter=condition, unit=unit)
    kept = frame if condition is None else frame[PREDICATES[condition](frame)]
    answers = {where: PREDICATES[where](kept) for where in dict.fromkeys(wheres)}
    firsts = [int(np.argmax(row)) if any(row) else -1 for row in zip(*(answers[w] for w in wheres), strict=True)]
    column = UNIT_COLUMNS[unit]
    totals = pd.Series(kept[column] if column else 1, index=kept.index).groupby(np.array(firsts, int)).sum()
    if any(not totals.get(index) for index in range(len(wheres))):
        with pytest.raises(
            ConfigError, match=r"is empty: (no sample|all .* samples that) match|hold no (bytes|tokens)"
        ):
            planned(catalog, mixture)
        return
    plan = planned(catalog, mixture)
    assert count_in_plan(plan) == count_by_hand(kept, answers)
    assert units_in_plan(plan) == units_by_hand(kept, answers, unit)
    found = owners(catalog, plan, mixture)
    for index in range(-1, len(wheres)):
        assert plan.num_samples_C[found == index].sum() == firsts.count(index)
        assert plan.num_units_C[found == index].sum() == totals.get(index, 0)


def test_cells_and_blocks_are_in_an_order_that_registration_ids_have_no_part_in(
    catalog: Catalog, frame: pd.DataFrame, make_mixture: MakeMixture
) -> None:
    plan = planned(catalog, make_mixture(("language = 'de'", 1), ("quality > 0.5", 1)))
    assert plan.matches_CP.tolist() == [[False, False], [True, False], [False, True], [True, True]]
    assert plan.words_CW.tolist() == [[0], [1], [2], [3]]
    names = [catalog.dataset(name).registrations[0] for name in ("books", "code_2", "web-crawl.v2")]
    assert list(plan.registrations) == names
    blocks = frame.groupby(["dataset", "registration", "block"]).size()
    assert [plan.registrations[index] for index in plan.block_registration_B] == [key[1] for key in blocks.index]
    assert plan.block_number_B.tolist() == [key[2] for key in blocks.index]
    assert plan.num_rows_B.tolist() == blocks.tolist()
    assert len(blocks) > 25
    pairs = list(zip(plan.entry_cell_E.tolist(), plan.entry_block_E.tolist(), strict=True))
    assert pairs == sorted(pairs)


def test_a_sample_belongs_to_the_first_component_that_it_matches(
    catalog: Catalog, frame: pd.DataFrame, make_mixture: MakeMixture
) -> None:
    for wheres in [("kind = 'code'", "language = 'de'"), ("language = 'de'", "kind = 'code'")]:
        mixture = make_mixture(*((where, 1) for where in wheres))
        plan = planned(catalog, mixture)
        sizes = [int(plan.num_samples_C[owners(catalog, plan, mixture) == index].sum()) for index in (-1, 0, 1)]
        is_code, is_german = frame.kind == "code", frame.language == "de"
        first, second = (is_code, is_german) if wheres[0].startswith("kind") else (is_german, is_code)
        assert sizes == [(~is_code & ~is_german).sum(), first.sum(), (second & ~first).sum()]


def test_more_predicates_than_fit_into_one_word_are_told_apart(
    catalog: Catalog, frame: pd.DataFrame, make_mixture: MakeMixture
) -> None:
    wheres = [f"n % 70 = {remainder}" for remainder in range(70)] + ["n % 2 = 1", "language = 'de'"]
    filtered = make_mixture(*((where, 1) for where in wheres[:69]), (wheres[71], 1), (wheres[70], 1))
    plan = planned(catalog, filtered)
    assert plan.words_CW.shape[1] == 2
    answers = {where: frame.n % 70 == remainder for remainder, where in enumerate(wheres[:69])}
    answers |= {wheres[71]: frame.language == "de", wheres[70]: frame.n % 2 == 1}
    assert count_in_plan(plan) == count_by_hand(frame, answers)
    assert owners(catalog, plan, filtered).max() == 70


# Refusals


def test_an_empty_component_is_refused_with_the_reason(catalog: Catalog, make_mixture: MakeMixture) -> None:
    at = f"in samples@{catalog.version}"
    empty = make_mixture(("true", 1), ("language = 'xx'", 1))
    with pytest.raises(ConfigError, match=rf"components.c1 is empty: no sample matches \(language = 'xx'\) {at}"):
        planned(catalog, empty)
    filtered = make_mixture(("language = 'de'", 1), filter="language <> 'de'")
    with pytest.raises(ConfigError, match=r"components.c0 is empty: no sample matches after the filter \(language"):
        planned(catalog, filtered)


def test_a_component_that_those_before_it_cover_is_refused(
    catalog: Catalog, frame: pd.DataFrame, make_mixture: MakeMixture
) -> None:
    num = (frame.language == "de").sum()
    twice = make_mixture(("language = 'de'", 1), ("language = 'de'", 1))
    with pytest.raises(ConfigError, match=rf"c1 is empty: all {num} samples that match belong to other components"):
        planned(catalog, twice)


def test_a_component_of_weight_zero_still_keeps_its_samples_from_those_after_it(
    catalog: Catalog, frame: pd.DataFrame, make_mixture: MakeMixture
) -> None:
    mixture = make_mixture(("language = 'de'", 0), ("true", 1))
    plan = planned(catalog, mixture)
    rest = owners(catalog, plan, mixture) == 1
    assert plan.num_samples_C[rest].sum() == (frame.language != "de").sum()


def test_an_empty_catalog_is_refused(tmp_path: Path, make_mixture: MakeMixture) -> None:
    with pytest.raises(ConfigError, match=r"c0 is empty: no sample matches .* in samples@0"):
        planned(Catalog.create(str(tmp_path / "lake")), make_mixture(("true", 1)))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("langauge = 'de'", r"c0.where: unknown property 'langauge'; samples@\d+ has: .* Did you mean 'language'\?"),
        ("language", r"c0.where: 'language' is string, expected true or false"),
        ("language = 'de", "c0.where: .*Unterminated"),
        ("language = 'de' garbage", "c0.where: .*found: garbage"),
        ("true) OR (false", "c0.where: "),
        ("true; DELETE FROM samples", "c0.where: "),
        ("random() < 0.5", "c0.where: random gives another answer at each call"),
        ("row_number() OVER () > 3", "c0.where: OVER looks at other samples"),
        ("count(*) > 3", "c0.where: "),
        ("n < 10 AS x", "c0.where: "),
        ("n IN (SELECT n FROM samples)", "c0.where: "),
        ("10 / (n - 5) > 1", r"mixture.components.c0: 10 / \(n - 5\) > 1 fails on samples@\d: Divide by zero"),
        ("language = 3", "mixture.components.c0: language = 3 fails on samples@.*Cannot cast string"),
        ('language = "de"', "unknown property 'de'; .* Text is written in single quotes, in: language"),
    ],
)
def test_a_wrong_predicate_is_refused(catalog: Catalog, make_mixture: MakeMixture, where: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        planned(catalog, make_mixture((where, 1)))


def test_a_wrong_filter_is_refused(catalog: Catalog, make_mixture: MakeMixture) -> None:
    with pytest.raises(QueryError, match=r"mixture.filter: unknown property 'qualty'; .* Did you mean 'quality'\?"):
        planned(catalog, make_mixture(("true", 1), filter="qualty > 1"))


# Units


def units_catalog(make_catalog: MakeCatalog, folder: Path, values: list[Any], expression: str = "size") -> Catalog:
    records = [{"text": "x", "size": value, "n": n} for n, value in enumerate(values)]
    return make_catalog(folder, {"a": records}, properties={"n": "n", "num_tokens": expression})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None, 3, None], r"'num_tokens' is null for 2 samples in samples@\d+; leave them out .*: num_tokens >= 0"),
        ([1, -7, 3], r"'num_tokens' is negative \(-7\) in samples@\d+; leave them out with mixture.filter"),
        ([1.5, 2.0], r"'num_tokens' is double in samples@\d+; it must be a whole number: cast it"),
        (["12", "7"], r"'num_tokens' is .*string.* in samples@\d+; it must be a whole number"),
    ],
)
def test_units_that_do_not_count_are_refused(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path, values: list[Any], message: str
) -> None:
    catalog = units_catalog(make_catalog, tmp_path, values)
    with pytest.raises(ConfigError, match=f"mixture.unit is tokens, but property {message}"):
        planned(catalog, make_mixture(("true", 1), unit="tokens"))


def test_the_filter_may_leave_out_samples_without_units(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = units_catalog(make_catalog, tmp_path, [1, None, 3, -5])
    plan = planned(catalog, make_mixture(("true", 1), unit="tokens", filter="num_tokens >= 0"))
    assert (plan.num_samples_C.tolist(), plan.num_units_C.tolist()) == ([2], [4])


def test_a_unit_needs_its_property(make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path) -> None:
    catalog = units_catalog(make_catalog, tmp_path, [1])
    message = r"is bytes, so every sample needs a property 'num_bytes'; samples@\d+ has: .*add-property name=num_bytes"
    with pytest.raises(ConfigError, match=message):
        planned(catalog, make_mixture(("true", 1), unit="bytes"))


def test_a_weighted_component_without_any_units_is_refused(
    make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path
) -> None:
    catalog = units_catalog(make_catalog, tmp_path, [0, 0, 3])
    message = r"components.c0 has a share of 0.5, but its 2 samples hold no tokens \(n < 2\) in samples@\d+"
    with pytest.raises(ConfigError, match=message):
        planned(catalog, make_mixture(("n < 2", 1), ("true", 1), unit="tokens"))
    assert planned(catalog, make_mixture(("n < 2", 0), ("true", 1), unit="tokens")).num_cells == 2

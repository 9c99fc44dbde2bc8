"""Declarations mean at a catalog version what a count by hand says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mixlake.catalog import Catalog, ConfigError, QueryError
from mixlake.mixing import Mixture, Run
from mixlake.mixing.program import Leaf, Resolution
from mixlake.mixing.resolution import plan_cells, program_of, resolve

MakeCatalog = Callable[..., Catalog]
NewName = Callable[[], str]


def sizes(catalog: Catalog, declared: dict[str, Any]) -> dict[str, int]:
    """Samples by component, and under None those of nobody."""
    program = program_of(catalog, Mixture.from_dict(declared))
    plan = plan_cells(catalog, program)
    leaves = program.segments[0].leaves
    owner_C = plan.owners(leaves)
    names = [(leaf.name, index) for index, leaf in enumerate(leaves)] + [("", -1)]
    return {name: int(plan.num_samples_C[owner_C == index].sum()) for name, index in names}


def shares(catalog: Catalog, declared: dict[str, Any], **settings: Any) -> dict[str, float]:
    (leaves,) = resolve(catalog, Mixture.from_dict(declared), **settings).stages
    return {leaf.name: leaf.share for leaf in leaves}


def test_a_component_without_where_takes_the_rest_of_what_is_around_it(catalog: Catalog, frame: pd.DataFrame) -> None:
    code = {
        "where": "kind = 'code'",
        "weight": 1,
        "components": {"other": {"weight": 1}, "good": {"where": "quality > 0.5", "weight": 1}},
    }
    declared = {"rest": {"weight": 1}, "code": code, "german": {"where": "language = 'de'", "weight": 1}}
    is_code, is_german, is_good = frame.kind == "code", frame.language == "de", frame.quality > 0.5
    assert sizes(catalog, {"components": declared}) == {
        "rest": (~is_code & ~is_german).sum(),
        "code.other": (is_code & ~is_good).sum(),
        "code.good": (is_code & is_good).sum(),
        "german": (is_german & ~is_code).sum(),
        "": 0,
    }


def test_what_no_inner_component_matches_is_nobodys_even_if_a_later_component_does(
    catalog: Catalog, frame: pd.DataFrame
) -> None:
    inner = {"good": {"where": "quality > 0.5", "weight": 1}}
    declared = {
        "code": {"where": "kind = 'code'", "weight": 1, "components": inner},
        "german": {"where": "language = 'de'", "weight": 1},
    }
    is_code, is_german, is_good = frame.kind == "code", frame.language == "de", frame.quality > 0.5
    found = sizes(catalog, {"components": declared})
    assert (found["code.good"], found["german"]) == ((is_code & is_good).sum(), (is_german & ~is_code).sum())


def test_inferred_components_have_their_natural_shares(catalog: Catalog, frame: pd.DataFrame) -> None:
    found = shares(catalog, {"kind": "inferred", "by": ["language", "kind"], "unit": "bytes", "filter": "n < 2000"})
    kept = frame[frame.n < 2000].assign(language=frame.language.fillna("(none)"))
    natural = kept.groupby(["language", "kind"]).num_bytes.sum() / kept.num_bytes.sum()
    assert found == pytest.approx({".".join(key): share for key, share in natural.items()})
    assert list(found) == sorted(found, key=lambda name: (not name.startswith("(none)"), name))


def test_inferred_components_are_drawn_in_their_shares(catalog: Catalog, new_name: NewName) -> None:
    run = Run.start(catalog, new_name(), {"kind": "inferred", "by": "kind", "on_exhausted": "redistribute"})
    run.schedule(10)
    rows = [run.samples(chunk).to_pandas() for chunk in range(3)]
    assert sum(map(len, rows)) == 2400
    assert set(run.components) == {"code", "prose", "table"}


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("file_id", ["0", "1", "2"]),
        ("is_long", ["false", "true"]),
        ("score", ["(none)", "0.25", "0.5"]),
        ("tags", ["(none)", "[a, b]", "[a]", "[]"]),
        ("word", ["(none)", "(empty)", "O'Brien"]),
    ],
)
def test_components_are_inferred_from_properties_of_any_type(
    make_catalog: MakeCatalog, tmp_path: Path, by: str, names: list[str]
) -> None:
    values: dict[str, list[Any]] = {
        "score": [0.25, None, 0.5],
        "tags": [["a", "b"], ["a"], [], None],
        "word": ["O'Brien", "", None],
        "is_long": [True, False],
    }
    records = [{"text": "x", "i": i} | {k: v[i % len(v)] for k, v in values.items()} for i in range(36)]
    catalog = make_catalog(tmp_path, {"a": records}, {name: name for name in values})
    expected = ["0"] if by == "file_id" else names
    run = Run.start(catalog, "exp1", {"kind": "inferred", "by": by})
    assert sorted(run.components) == sorted(expected)
    assert run.schedule(10) == 1


def test_a_component_may_ask_what_a_list_holds(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    records = [{"text": "x", "tags": tags} for tags in (["math", "en"], ["de"], ["math"], None)]
    catalog = make_catalog(tmp_path, {"a": records}, {"tags": "tags"})
    declared = {"math": {"where": "array_has(tags, 'math')", "weight": 1}, "rest": {"weight": 1}}
    assert sizes(catalog, {"components": declared}) == {"math": 2, "rest": 2, "": 0}


def test_an_arbitrary_mixture_is_everything_once_in_storage_order(catalog: Catalog, new_name: NewName) -> None:
    run = Run.start(catalog, new_name(), {"kind": "arbitrary", "shuffle": "none", "filter": "n < 900"}, chunk_size=400)
    assert run.schedule(10) == 3
    rows = [run.samples(chunk).to_pandas() for chunk in range(3)]
    found = pd.concat(rows)[["dataset", "file_id", "row"]].values.tolist()
    assert found == sorted(found)
    assert len(found) == 900


# Estimated tokens


def test_tokens_are_estimated_from_bytes_by_component(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    records = [{"text": "x" * (i % 40 + 1), "kind": ("code", "prose")[i % 2]} for i in range(400)]
    catalog = make_catalog(tmp_path, {"a": records}, {"kind": "kind", "num_bytes": "octet_length(text)"})
    declared = {name: {"where": f"kind = '{name}'", "weight": 1} for name in ("code", "prose")}
    mixture = {"unit": "tokens", "components": declared}
    with pytest.raises(ConfigError, match=r"needs a property 'num_tokens'; .* Or give a tokenizer .*, to estimate it"):
        Run.start(catalog, "exp1", mixture)
    ratios = {"code": 0.5, "prose": 0.125}
    run = Run.start(catalog, "exp1", mixture, tokens_per_byte=ratios, chunk_size=20)
    run.schedule(5)
    assert Run.load(catalog, "exp1").program.tokens_per_byte == ratios
    rows = pd.concat([run.samples(chunk).to_pandas() for chunk in range(5)])
    rows["num_bytes"] = rows.row % 40 + 1
    tokens = (rows.num_bytes * rows.component.map(ratios)).round().clip(lower=1).groupby(rows.component).sum()
    assert abs(tokens["code"] - tokens["prose"]) <= 20


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"de": 0.3}, "tokens_per_byte lacks component 'en'; it has: de"),
        ({"de": 0.3, "en": 0.3, "fr": 1}, "tokens_per_byte: no component 'fr'; there are: de, en"),
        ({"de": 0.3, "en": 0}, "tokens_per_byte.en is 0; expected a number up to 16"),
    ],
)
def test_wrong_ratios_are_refused(make_catalog: MakeCatalog, tmp_path: Path, ratios: Any, message: str) -> None:
    records = [{"text": "x", "language": language} for language in ("de", "en")]
    properties = {"language": "language", "num_bytes": "octet_length(text)"}
    catalog = make_catalog(tmp_path, {"a": records}, properties)
    mixture = Mixture.from_dict({"kind": "inferred", "by": "language", "unit": "tokens"})
    with pytest.raises(ConfigError, match=message):
        resolve(catalog, mixture, tokens_per_byte=ratios)


def test_ratios_that_would_be_ignored_are_refused(catalog: Catalog) -> None:
    declared: dict[str, Any] = {"components": {"a": {"weight": 1}}}
    with pytest.raises(ConfigError, match="tokens_per_byte is given, but the mixture counts samples; leave it out"):
        resolve(catalog, Mixture.from_dict(declared), tokens_per_byte=0.3)
    with pytest.raises(ConfigError, match="but the property 'num_tokens' counts tokens; leave one of them out"):
        resolve(catalog, Mixture.from_dict({**declared, "unit": "tokens"}), tokens_per_byte=0.3)


# Records and refusals


def test_a_resolution_goes_through_json(catalog: Catalog) -> None:
    declared = {"components": {"a": {"where": "n < 9", "weight": 1, "order_by": "quality"}, "b": {"weight": 2}}}
    found = resolve(catalog, Mixture.from_dict(declared))
    assert Resolution.from_dict(found.to_dict()) == found
    assert isinstance(found.stages[0][0], Leaf)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"kind": "inferred", "by": "langauge"}, r"mixture.by: unknown property 'langauge'; .* mean 'language'\?"),
        ({"kind": "inferred", "by": "language", "floor": 0.3}, "mixture.floor is 0.3, but there are 4 components"),
        ({"kind": "inferred", "by": "kind", "filter": "n < 0"}, "mixture: no sample passes the filter"),
        (
            {"components": {"a": {"weight": 1, "components": {"b": {"where": "x", "weight": 1}}}}},
            "a.components.b.where",
        ),
        (
            {"components": {"a": {"where": "true", "weight": 1}, "b": {"weight": 1}}},
            "components.b is empty: the components beside it leave no sample",
        ),
        (
            {"components": {"a": {"where": "true", "weight": 1}, "b": {"where": "n >= 0", "weight": 1}}},
            "components.b is empty: all 2400 samples that match belong to other components",
        ),
    ],
)
def test_what_does_not_fit_the_catalog_is_refused(catalog: Catalog, declared: Any, message: str) -> None:
    with pytest.raises((ConfigError, QueryError), match=message):
        plan_cells(catalog, program_of(catalog, Mixture.from_dict(declared)))

"""A mixture is what its config says, or it is refused with the path of what is wrong."""

import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import ConfigError
from mixlake.mixing import Component, Mixture, OnExhausted, Rules, Unit
from mixlake.mixing.components import OrderBy, leaves
from mixlake.mixing.mixture import Kind

MULTILINGUAL = """
filter: "num_bytes > 200"
unit: tokens
components:
  english: {where: "language = 'en'", weight: 0.5}
  german:
    where: |
      language = 'de'  -- Austria too
      AND kind <> 'code'
    weight: 3
    on_exhausted: stop
  rest: {where: "true", weight: 0}
on_exhausted: redistribute
shuffle: {window: 7}
"""


def config(**overrides: Any) -> dict[str, Any]:
    return {"components": {"english": component(), "german": component(where="language = 'de'")}, **overrides}


def component(**overrides: Any) -> dict[str, Any]:
    return {"where": "language = 'en'", "weight": 1, **overrides}


def shares(declared: Any) -> dict[str, float]:
    found = leaves(Mixture.from_dict(declared).components)
    return {".".join(component.name for component in chain): share for chain, share in found}


policies = st.one_of(
    st.fixed_dictionaries({}, optional={"on_exhausted": st.sampled_from(["stop", "redistribute"])}),
    st.fixed_dictionaries({"on_exhausted": st.just("repeat")}, optional={"max_passes": st.integers(1, 9)}),
)
orders: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {}, optional={"order_by": st.just("quality") | st.builds(dict, property=st.just("n"), descending=st.booleans())}
)
names = st.text(min_size=1).filter(lambda name: name.strip() and "." not in name and name != "rest")


@st.composite
def components(draw: st.DrawFn, depth: int) -> dict[str, Any]:
    """Components by name, some with others inside them, and perhaps one that takes the rest."""
    declared: dict[str, Any] = {}
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)) + draw(st.just([]) | st.just(["rest"])):
        inner = {"components": draw(components(depth - 1))} if depth and draw(st.booleans()) else {}
        where = {} if name == "rest" else {"where": draw(st.text(min_size=1).filter(str.strip))}
        weight = draw(st.integers(1, 100) | st.floats(1e-3, 1e3))
        declared[name] = {**where, "weight": weight, **draw(policies), **draw(orders), **inner}
    return declared


kinds: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(lambda inner: {"components": inner}, components(depth=2)),
    st.just({"kind": "arbitrary"}),
    st.fixed_dictionaries(
        {"kind": st.just("inferred"), "by": st.sampled_from(["language", ["language", "kind"]])},
        optional={"temperature": st.floats(0.1, 10), "floor": st.floats(0, 0.1)},
    ),
    st.builds(
        lambda budget, passes: {
            "kind": "inferred",
            "by": "language",
            "unimax": {"budget": budget, "max_passes": passes},
        },
        st.floats(1, 1e12),
        st.integers(1, 9),
    ),
)
common: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "filter": st.none() | st.text(),
        "unit": st.sampled_from(["samples", "bytes", "tokens"]),
        "shuffle": st.just("none") | st.just({}) | st.builds(dict, window=st.integers(1, 99)),
    },
)
mixtures = st.builds(lambda kind, settings, policy: {**kind, **settings, **policy}, kinds, common, policies)


# What is declared


def test_a_mixture_is_read_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "multilingual.yaml").write_text(MULTILINGUAL)
    others = Rules(on_exhausted=OnExhausted.REDISTRIBUTE)
    german = "language = 'de'  -- Austria too\nAND kind <> 'code'\n"
    assert Mixture.from_yaml(tmp_path / "multilingual.yaml") == Mixture(
        components=(
            Component(name="english", where="language = 'en'", weight=0.5, rules=others),
            Component(name="german", where=german, weight=3.0, rules=Rules()),
            Component(name="rest", where="true", weight=0.0, rules=others),
        ),
        rules=others,
        filter="num_bytes > 200",
        unit=Unit.TOKENS,
        window=7,
    )


def test_everything_but_components_has_a_default() -> None:
    mixture = Mixture.from_dict(config())
    assert (mixture.filter, mixture.unit, mixture.window) == (None, Unit.SAMPLES, 4)
    assert [c.rules.on_exhausted for c in mixture.components] == [OnExhausted.STOP] * 2


def test_a_mixture_without_shuffling_has_no_window() -> None:
    assert Mixture.from_dict(config(shuffle="none")).window == 0
    assert Mixture.from_dict(config(shuffle="none")).to_dict()["shuffle"] == "none"


def test_components_keep_the_order_in_which_they_are_declared() -> None:
    names = ["zebra", "ant", "mouse"]
    mixture = Mixture.from_dict(config(components={name: component() for name in names}))
    assert [c.name for c in mixture.components] == names


def test_shares_are_the_weights_divided_by_their_sum() -> None:
    declared = {name: component(weight=weight) for name, weight in [("a", 1), ("b", 0), ("c", 3.0)]}
    assert shares(config(components=declared)) == {"a": 0.25, "b": 0.0, "c": 0.75}


@settings(deadline=None)
@given(declared=mixtures)
def test_a_mixture_written_out_declares_itself_also_through_json(declared: dict[str, Any]) -> None:
    mixture = Mixture.from_dict(declared)
    assert Mixture.from_dict(json.loads(json.dumps(mixture.to_dict()))) == mixture
    assert math.isclose(sum(share for _, share in leaves(mixture.components)), float(mixture.kind == "static"))


def test_weights_multiply_down_the_tree() -> None:
    inner = {"python": component(weight=0.8), "other": {"weight": 0.2}}
    declared = {"web": component(weight=3), "code": component(weight=1, components=inner)}
    assert shares(config(components=declared)) == {"web": 0.75, "code.python": 0.2, "code.other": 0.05}


def test_inner_components_take_the_rules_of_the_one_around_them() -> None:
    inner = {"a": component(), "b": component(on_exhausted="stop"), "c": component(max_passes=2, order_by=None)}
    declared = config(components={"x": component(on_exhausted="repeat", max_passes=4, order_by="n", components=inner)})
    found = [chain[-1].rules for chain, _ in leaves(Mixture.from_dict(declared).components)]
    order = OrderBy(property="n", descending=False, bands=32)
    assert found == [
        Rules(on_exhausted=OnExhausted.REPEAT, max_passes=4, order_by=order),
        Rules(on_exhausted=OnExhausted.STOP, order_by=order),
        Rules(on_exhausted=OnExhausted.REPEAT, max_passes=2),
    ]


def test_a_mixture_whose_shares_are_limited_by_passes_repeats_its_components() -> None:
    mixture = Mixture.from_dict({"kind": "inferred", "by": "language", "unimax": {"budget": 1e6, "max_passes": 4}})
    assert mixture.kind is Kind.INFERRED
    assert mixture.rules == Rules(on_exhausted=OnExhausted.REPEAT, max_passes=4)


def test_two_components_of_one_name_are_refused() -> None:
    declared = {"a": component(components={"b": component()}), "a.b": component()}
    with pytest.raises(ConfigError, match=r"components.a.b is called 'a.b', as is mixture.components.a.components.b"):
        Mixture.from_dict(config(components=declared))


def test_units_name_the_property_that_counts_them() -> None:
    assert [unit.property_name for unit in Unit] == [None, "num_bytes", "num_tokens"]


# Refusals


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, "mixture lacks 'components'; it has: none"),
        (["english"], r"mixture: expected a mapping with 'components', got \['english'\]"),
        (None, "mixture: expected a mapping with 'components', got None"),
        (config(component={}), r"mixture has no key 'component'; allowed: components, .* mean 'components'\?"),
        (config(kind="infered"), r"mixture.kind is 'infered'; allowed: static, .* Did you mean 'inferred'\?"),
        (
            config(kind="inferred", by="language"),
            "mixture.components is for kind: static, but mixture.kind is inferred",
        ),
        (config(floor=0.1), "mixture.floor is for kind: inferred, but mixture.kind is static"),
        ({"kind": "inferred"}, "mixture lacks 'by'; it has: kind"),
        ({"kind": "inferred", "by": []}, r"mixture.by: expected one property or several, got \[\]"),
        ({"kind": "inferred", "by": ["a", 3]}, r"mixture.by: expected one property or several, got \['a', 3\]"),
        ({"kind": "inferred", "by": "a", "temperature": 0}, "mixture.temperature is 0; expected a number from 0.001"),
        ({"kind": "inferred", "by": "a", "floor": 2}, "mixture.floor is 2; expected a number from 0 to 1"),
        ({"kind": "inferred", "by": "a", "unimax": {"budget": 9}}, "mixture.unimax lacks 'max_passes'"),
        (
            {"kind": "inferred", "by": "a", "floor": 0.1, "unimax": {"budget": 9, "max_passes": 1}},
            "mixture.floor and mixture.unimax both decide the weights; leave one of them out",
        ),
        ({"kind": "arbitrary", "components": {}}, "mixture.components is for kind: static, but mixture.kind is arbit"),
        ({"kind": "inferred", "by": ["kind", "kind"]}, "mixture.by: kind, kind names a property twice"),
        (config(max_passes=3), "mixture.max_passes is 3, but its on_exhausted is stop; only repeat has passes"),
        (config(on_exhausted="repeat", max_passes=0), "mixture.max_passes is 0; expected a number of passes, 1 or"),
        (config(order_by=3), "mixture.order_by: expected a property, or property, descending and bands, got 3"),
        (config(order_by={"by": "n"}), "mixture.order_by has no key 'by'; allowed: property, descending, bands"),
        (config(order_by={"property": "n", "descending": 1}), "order_by.descending is 1; expected true or false"),
        (config(components={}), "mixture.components: expected at least one named component, got {}"),
        (config(components=None), "mixture.components: expected at least one named component, got None"),
        (config(components=["english"]), "mixture.components: expected at least one named component"),
        (config(filter=["true"]), r"mixture.filter: expected an SQL predicate, got \['true'\]"),
        (config(filter=True), "mixture.filter: expected an SQL predicate, got True"),
        (config(unit="token"), "mixture.unit is 'token'; allowed: samples, bytes, tokens. Did you mean 'tokens'?"),
        (config(unit=["samples"]), r"mixture.unit is \['samples'\]; allowed"),
        (config(on_exhausted="again"), "mixture.on_exhausted is 'again'; allowed: stop, redistribute, repeat"),
        (config(shuffle=None), "mixture.shuffle is None; expected none, or window: a number of blocks"),
        (config(shuffle=True), "mixture.shuffle is True; expected none, or window"),
        (config(shuffle={"windows": 3}), r"mixture.shuffle has no key 'windows'; .* Did you mean 'window'\?"),
        (config(shuffle={"window": 0}), "mixture.shuffle.window is 0; expected a number of blocks, 1 or more"),
        (config(shuffle={"window": True}), "mixture.shuffle.window is True; expected a number of blocks"),
        (config(shuffle={"window": 2.5}), "mixture.shuffle.window is 2.5; expected a number of blocks"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_path(declared: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture.from_dict(declared)


def test_a_component_that_was_added_by_a_typo_is_told_whom_it_resembles() -> None:
    declared = config(components={"german": component(), "rest": {"weight": 1}, "germn": {"on_exhausted": "repeat"}})
    with pytest.raises(ConfigError, match=r"germn lacks 'weight'; other components: german, rest\..* 'german'\?"):
        Mixture.from_dict(declared)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (None, "german: expected where and weight, got None"),
        ("language = 'de'", "german: expected where and weight, got \"language = 'de'\""),
        ({"where": "true"}, "german lacks 'weight'; it has: where"),
        ({}, "german lacks 'weight'; it has: none"),
        (component(wieght=2), r"german has no key 'wieght'; allowed: weight, where, on_exhausted, .* 'weight'\?"),
        (component(max_passes=2), "german.max_passes is 2, but its on_exhausted is stop; only repeat has passes"),
        (component(components={}), "german.components: expected at least one named component, got {}"),
        (component(components={"a": component(weight=0)}), r"german.components: all weights are zero \(a\)"),
        (
            component(components={"a": component(), "b": {"weight": 1}, "c": {"weight": 1}}),
            "german.components: b, c lack 'where'; only one component can take what the others leave",
        ),
        (component(where=""), "german.where: expected an SQL predicate, got ''"),
        (component(where=" \n"), "german.where: expected an SQL predicate"),
        (component(where=True), "german.where: expected an SQL predicate, got True"),
        (component(on_exhausted="stopp"), r"german.on_exhausted is 'stopp'; allowed: .* mean 'stop'\?"),
        (component(weight=None), "german.weight is None; expected a number"),
        (component(weight="0.5"), "german.weight is '0.5'; expected a number"),
        (component(weight=True), "german.weight is True; expected a number"),
        (component(weight=-0.1), r"german.weight is -0.1; expected a number from 0"),
        (component(weight=math.nan), "german.weight is nan; expected a number from 0"),
        (component(weight=math.inf), "german.weight is inf; expected a number from 0"),
        (component(weight=-math.inf), "german.weight is -inf; expected a number from 0"),
        (component(weight=1e308), r"german.weight is 1e\+308; expected a number from 0 to 1e\+100"),
        (component(weight=10**400), "german.weight is 1000+; expected a number from 0"),
        (component(weight=1e-20), "german.weight is 1e-20, a share of 1e-20; shares below 1e-14 would never be drawn"),
    ],
)
def test_a_wrong_component_is_refused_with_its_path(declared: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^mixture\.components\." + message):
        Mixture.from_dict(config(components={"english": component(), "german": declared}))


def test_some_weights_may_be_zero_but_not_all() -> None:
    assert shares(config(components={"a": component(weight=0), "b": component()})) == {"a": 0.0, "b": 1.0}
    with pytest.raises(ConfigError, match=r"mixture.components: all weights are zero \(a, b\)"):
        Mixture.from_dict(config(components={"a": component(weight=0), "b": component(weight=0.0)}))


@pytest.mark.parametrize("name", ["", " ", 2024, None])
def test_a_component_without_a_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=f"mixture.components: {name!r} is not a name"):
        Mixture.from_dict(config(components={name: component()}))


def test_the_norwegian_component_of_a_yaml_file_is_refused_until_it_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text("components: {no: {where: \"language = 'no'\", weight: 1}}")
    with pytest.raises(ConfigError, match=r"mixture.components: False is not a name; in YAML, put quotes around"):
        Mixture.from_yaml(path)
    path.write_text("components: {'no': {where: \"language = 'no'\", weight: 1}}")
    assert [c.name for c in Mixture.from_yaml(path).components] == ["no"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"mixture file '.*mixture.yaml' cannot be read: .*No such file"),
        ("components: {", "mixture file '.*mixture.yaml' cannot be read: while parsing"),
        ("", "mixture file '.*mixture.yaml': expected a mapping with 'components', got None"),
        ("- english", r"mixture file '.*mixture.yaml': expected a mapping with 'components', got \['english'\]"),
        (
            "components: {a: {where: x, weight: 1e-6}}",
            r"a.weight is '1e-6'; expected a number \(YAML reads 1e-6 as text; write 1.0e-6\)",
        ),
    ],
)
def test_a_wrong_file_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Mixture.from_yaml(path)


def test_a_mixture_shows_its_components() -> None:
    inner = {"python": {"where": "extension = 'py'", "weight": 3}, "other": {"weight": 1}}
    mixture = Mixture.from_dict(
        {
            "filter": "n > 1",
            "components": {
                "code": {"where": "kind = 'code'", "weight": 1, "components": inner},
                "rest": {"weight": 1, "on_exhausted": "repeat", "max_passes": 4},
            },
        }
    )
    assert [re.sub(" {2,}", " | ", line.strip()) for line in repr(mixture).splitlines() if "──" not in line] == [
        "static mixture of samples",
        "",
        "component | share | where | then",
        "code.python | 37.50% | (kind = 'code') and (extension = 'py') | stop",
        "code.other | 12.50% | (kind = 'code') | stop",
        "rest | 50.00% | the rest | repeat, 4 passes",
        "",
        "filter: n > 1",
        "4 blocks are shuffled at a time",
    ]
    assert "(extension = &#x27;py&#x27;)" in mixture._repr_html_()
    assert "a component for each language and kind" in str(
        Mixture.from_dict({"kind": "inferred", "by": ["language", "kind"]})
    )


@pytest.mark.parametrize("weight", [np.float32(0.25), np.float64(0.25), np.int64(3), Fraction(1, 3), 10**30])
def test_numbers_of_any_kind_are_weights_and_are_stored_as_plain_ones(weight: Any) -> None:
    mixture = Mixture.from_dict({"components": {"a": {"weight": weight}}})
    assert mixture.components[0].weight == float(weight)
    assert Mixture.from_dict(json.loads(json.dumps(mixture.to_dict()))) == mixture

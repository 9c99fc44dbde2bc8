"""SQL on the command line needs the shell's quotes and no others; everything else is Hydra's grammar."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mixlake.catalog import ConfigError
from mixlake.conf.overrides import hydra_arguments

EXPRESSIONS = [
    "language = 'de'",
    "language = 'de' AND quality > 0.3",
    "octet_length(text)",
    "array_has(tags, 'news')",
    "language IN ('en', 'de')",
    "lower(url) LIKE '%.de'",
    "meta['odd key']",
    'meta."odd key" = \'a "b" \\ c\'',
    "CAST(score AS DOUBLE)",
    "url LIKE '%a,b\\'",
    "meta.language",
    "is_long",
]


@pytest.mark.parametrize("key", ["properties.p", "mixture.filter", "mixture.components.a.where", "where"])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_arrives_as_it_was_written(key: str, expression: str) -> None:
    command = {"properties.p": "register", "where": "remove"}.get(key, "run")
    _, (override,) = hydra_arguments(command, None, [f"{key}={expression}"])
    parsed = OverridesParser.create().parse_override(override)
    assert (parsed.key_or_group, parsed.value()) == (key, expression)


@pytest.mark.parametrize(
    ("written", "value"),
    [("properties.p='lower(text)'", "lower(text)"), ("properties.p={expression: n, type: string}", None)],
)
def test_what_hydra_reads_is_left_to_it(written: str, value: str | None) -> None:
    _, (override,) = hydra_arguments("register", None, [written])
    assert override == f"++{written}"
    parsed = OverridesParser.create().parse_override(override).value()
    assert parsed == (value or {"expression": "n", "type": "string"})


def test_a_typo_in_what_is_not_sql_stays_an_error() -> None:
    _, (override,) = hydra_arguments("run", None, ["seed=[1"])
    with pytest.raises(HydraException):
        OverridesParser.create().parse_override(override)


@pytest.mark.parametrize("name", ["PubMed Central", "(none)", "de.(none)", "[a, b]", "{x: 1}", "c++", r"back\\slash"])
def test_a_component_of_any_name_is_given_a_number(name: str) -> None:
    _, (override,) = hydra_arguments("weights", None, [f"set.{name}=0.25"])
    assert OverridesParser.create().parse_override(override).value() == {name: 0.25}


def test_a_dict_of_names_of_ones_own_needs_no_plus() -> None:
    _, overrides = hydra_arguments("weights", None, ["set={german: 0.4}"])
    assert overrides == ["++set={german: 0.4}"]


@pytest.mark.parametrize("given", [["set.code=0.4", "set.code.short=0.2"], ["set.code.short=0.2", "set.code=0.4"]])
def test_numbers_that_would_take_one_anothers_place_are_refused(given: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"set.code and set.code.short are both given, but the one is inside the other"
    ):
        hydra_arguments("weights", None, given)

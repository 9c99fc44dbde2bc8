"""SQL on the command line needs the shell's quotes and no others; everything else is Hydra's grammar."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

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

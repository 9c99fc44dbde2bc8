"""What Mixlake raises on purpose, and the phrases its messages are made of."""

from __future__ import annotations

import pytest

from mixlake.catalog import ConfigError, DataError, LakeError, MixlakeError, QueryError, ScheduleError
from mixlake.catalog.errors import listed, nearest


@pytest.mark.parametrize("error", [ConfigError, QueryError, DataError, LakeError, ScheduleError])
def test_every_error_is_one_that_a_user_can_catch_as_such(error: type[Exception]) -> None:
    assert issubclass(error, MixlakeError)
    assert error.__doc__


@pytest.mark.parametrize("error", [ConfigError, QueryError, DataError])
def test_a_wrong_value_is_also_a_value_error(error: type[Exception]) -> None:
    assert issubclass(error, ValueError)


@pytest.mark.parametrize(
    ("names", "phrase"),
    [
        ([], "none"),
        (["a"], "a"),
        (["b", "a"], "b, a"),
        (list("abcdefghijkl"), "a, b, c, d, e, f, g, h, i, j, k, l"),
        (list("abcdefghijklm"), "a, b, c, d, e, f, g, h, i, j, k, l, … (13 in all)"),
    ],
)
def test_names_are_listed_in_order_up_to_a_dozen(names: list[str], phrase: str) -> None:
    assert listed(names) == phrase
    assert listed(iter(names)) == phrase


@pytest.mark.parametrize(
    ("name", "hint"),
    [("langauge", " Did you mean 'language'?"), ("kind", " Did you mean 'kind'?"), ("zzz", ""), ("", "")],
)
def test_the_nearest_name_is_hinted_at_if_one_is_near(name: str, hint: str) -> None:
    assert nearest(name, ["language", "kind"]) == hint
    assert nearest(name, []) == ""

"""The list of formats, and the options they take."""

from __future__ import annotations

import re

import pytest

from mixlake.catalog import ConfigError
from mixlake.catalog.formats import check_options, formats, get_format, known_suffixes


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def test_a_format_is_found_under_its_name() -> None:
    assert {name: get_format(name).name for name in formats()} == {name: name for name in formats()}
    assert {"files", "jsonl", "parquet"} <= formats().keys()


def test_no_two_formats_claim_the_same_ending() -> None:
    assert len(set(known_suffixes())) == len(known_suffixes())


def test_an_unknown_format_is_refused_with_the_nearest_one() -> None:
    message = f"unknown format 'parqet'; there are: {', '.join(formats())}. Did you mean 'parquet'?"
    with pytest.raises(ConfigError, match=exactly(message)):
        get_format("parqet")


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    check_options(get_format("files"), {"encoding": "latin-1"})
    message = "format 'files' has no option 'encodin'; it takes: encoding, encoding_errors. Did you mean 'encoding'?"
    with pytest.raises(ConfigError, match=exactly(message)):
        check_options(get_format("files"), {"encoding": "latin-1", "encodin": "utf-8"})


def test_an_option_is_refused_by_a_format_that_takes_none() -> None:
    with pytest.raises(ConfigError, match=exactly("format 'jsonl' has no option 'encoding'; it takes: none.")):
        check_options(get_format("jsonl"), {"encoding": "utf-8"})

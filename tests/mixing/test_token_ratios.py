"""Tokens per byte are measured on some documents of each component, always the same ones, and stored with the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import Catalog, ConfigError
from mixlake.mixing import Run, explain

MakeCatalog = Callable[..., Catalog]
PROPERTIES = {"n": "n", "num_bytes": "octet_length(text)"}
MIXTURE: dict[str, Any] = {
    "unit": "tokens",
    "components": {"short": {"where": "n % 3 = 0", "weight": 1}, "rest": {"weight": 2}},
    "on_exhausted": "redistribute",
}


def text(n: int) -> str:
    """Words of four bytes in one third of the documents, of eight in the others; the documents differ in length."""
    words = n * 2654435761 % 97 + 1
    return ("abc " if n % 3 == 0 else "abcdefg ") * words


def count_words(text: str) -> list[int]:
    return [0] * len(text.split())


@pytest.fixture(scope="module")
def words(make_catalog: MakeCatalog, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("words")
    names = {"a": range(2_000), "b": range(2_000, 3_000)}
    return make_catalog(folder, {k: [{"text": text(n), "n": n} for n in v] for k, v in names.items()}, PROPERTIES)


def test_the_ratio_is_that_of_the_component(words: Catalog) -> None:
    run = Run.start(words, "measured", MIXTURE, tokenizer=count_words, chunk_size=50)
    assert run.config.tokens_per_byte == pytest.approx({"short": 1 / 4, "rest": 1 / 8})
    measurement = run.config.resolution.measurement
    assert measurement is not None
    assert (measurement["tokenizer"], measurement["source"]) == ("callable count_words", None)
    for name, found in measurement["components"].items():
        assert found["num_documents"] == 256
        assert found["num_tokens"] == found["num_bytes"] * (run.config.tokens_per_byte or {})[name]
    assert Run.load(words, "measured").config == run.config
    run.schedule(10)
    drawn = [run.samples(chunk).to_pandas() for chunk in range(10)]
    rows = words.sql("SELECT registration, file_id, row, num_bytes FROM samples").to_pandas()
    tokens = {"short": 0.0, "rest": 0.0}
    for frame in drawn:
        found = frame.merge(rows, on=["registration", "file_id", "row"])
        for name, ratio in (("short", 1 / 4), ("rest", 1 / 8)):
            tokens[name] += found[found.component == name].num_bytes.sum() * ratio
    assert tokens["rest"] / sum(tokens.values()) == pytest.approx(2 / 3, abs=98 / sum(tokens.values()))


def test_documents_of_all_lengths_are_measured(words: Catalog) -> None:
    """The ratio of bytes as tokens depends on the documents' lengths: each has one token more than bytes."""
    ratios = resolve_ratios(words, MIXTURE, "bytes")
    rows = words.sql(
        "SELECT n % 3 = 0 AS is_short, count(*) / CAST(sum(num_bytes) AS DOUBLE) AS extra FROM samples GROUP BY 1"
    ).to_pylist()
    extra = {"short" if row["is_short"] else "rest": row["extra"] for row in rows}
    for name, ratio in ratios.items():
        assert ratio - 1 == pytest.approx(extra[name], rel=0.15)


def resolve_ratios(catalog: Catalog, mixture: dict[str, Any], tokenizer: Any) -> dict[str, float]:
    number = catalog.sql("SELECT run FROM runs").count()
    config = Run.start(catalog, f"ratios-{number}", mixture, tokenizer=tokenizer).config
    return dict(config.tokens_per_byte or {})


def test_another_lake_over_the_same_files_gives_the_same_run(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    records = {"a": [{"text": text(n), "n": n} for n in range(900)]}
    one, other = (make_catalog(tmp_path / name, records, PROPERTIES) for name in ("one", "other"))
    assert resolve_ratios(one, MIXTURE, "bytes") == resolve_ratios(other, MIXTURE, "bytes")


def test_inferred_shares_are_of_measured_tokens(words: Catalog) -> None:
    mixture = {"kind": "inferred", "by": "n", "unit": "tokens", "filter": "n < 6"}
    config = Run.start(words, "inferred", mixture, tokenizer=count_words).config
    tokens = {n: len(text(n).split()) for n in range(6)}
    shares = {leaf.name: leaf.share for leaf in config.resolution.stages[0]}
    assert shares == pytest.approx({str(n): count / sum(tokens.values()) for n, count in tokens.items()}, rel=0.05)


def test_every_stage_is_measured(words: Catalog) -> None:
    stages = {"a": {"until": {"chunks": 3}}, "b": {"mixture": {"components": {"few": {"where": "n < 9", "weight": 1}}}}}
    run = Run.start(words, "staged", MIXTURE, curriculum={"stages": stages}, tokenizer="bytes")
    measurement = run.config.resolution.measurement
    assert measurement is not None
    found = {name: measured["num_documents"] for name, measured in measurement["components"].items()}
    assert found == {"short": 256, "rest": 256, "few": 9}


def test_token_ids_are_counted_as_they_are(make_catalog: MakeCatalog, write_jsonl: Any, tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, {})
    file = write_jsonl(tmp_path / "ids.jsonl", [{"ids": list(range(n)), "size": 2 * n} for n in range(1, 40)])
    catalog.register("ids", str(file), text="ids", properties={"num_bytes": "size"})
    assert resolve_ratios(catalog, {"kind": "arbitrary", "unit": "tokens"}, count_words) == {"all": 0.5}


def test_a_component_without_tokens_is_estimated_by_the_others(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    records = [{"text": "abc " if n % 3 else "    ", "n": n} for n in range(30)]
    catalog = make_catalog(tmp_path, {"a": records}, PROPERTIES)
    assert resolve_ratios(catalog, MIXTURE, count_words) == {"short": 1 / 8 * 4 / 3, "rest": 1 / 4}


def test_explain_shows_what_estimates_rest_on(words: Catalog) -> None:
    shown = str(explain(words, MIXTURE, tokenizer=count_words))
    assert "tokens per byte, measured with callable count_words" in shown
    assert " short                0.2500         256 " in shown
    assert "tokens per byte, as given" in str(explain(words, MIXTURE, tokens_per_byte=0.25))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": "bytes", "tokens_per_byte": 0.3}, "tokens_per_byte and tokenizer both say"),
        ({"tokenizer": "none.json"}, "tokenizer 'none.json' is no file"),
        ({"tokenizer": 7}, "tokenizer is 7; expected 'bytes'"),
        ({}, r"give a tokenizer \(or tokens_per_byte\), to estimate it from num_bytes"),
        ({"tokens_per_byte": {"short": 0.3}}, "tokens_per_byte lacks component 'rest'; it has: short"),
        ({"tokens_per_byte": {"short": 1, "rest": 1, "more": 1}}, "tokens_per_byte: no component 'more'; there are"),
        ({"tokens_per_byte": {"short": 1, "rest": "x"}}, "tokens_per_byte.rest is 'x'; expected a number up to 16"),
    ],
)
def test_an_estimate_that_makes_no_sense_is_refused(words: Catalog, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        explain(words, MIXTURE, **settings)


def test_a_tokenizer_is_refused_where_nothing_is_estimated(words: Catalog, catalog: Catalog) -> None:
    with pytest.raises(ConfigError, match="tokenizer is given, but the mixture counts samples"):
        resolve_ratios(words, {"kind": "arbitrary"}, "bytes")
    with pytest.raises(ConfigError, match="tokenizer is given, but the property 'num_tokens' counts tokens"):
        resolve_ratios(catalog, {"kind": "arbitrary", "unit": "tokens"}, "bytes")


def test_a_fork_with_another_mixture_is_measured_anew(words: Catalog) -> None:
    parent = Run.start(words, "parent", MIXTURE, tokenizer="bytes", chunk_size=50)
    parent.schedule(2)
    same = parent.fork("same", at_chunk=1, seed=3)
    assert same.config.tokens_per_byte == parent.config.tokens_per_byte
    other = parent.fork("other", at_chunk=1, mixture={"unit": "tokens", "components": {"all": {"weight": 1}}})
    assert set(other.config.tokens_per_byte or {}) == {"all"}

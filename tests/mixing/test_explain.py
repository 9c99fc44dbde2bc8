"""The dry run says what a count by hand says, and what then happens."""

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mixlake.catalog import Catalog, ConfigError, QueryError
from mixlake.mixing import Mixture, OnExhausted, Run, Unit, explain

MakeMixture = Callable[..., Mixture]
MakeCatalog = Callable[..., Catalog]
NewName = Callable[[], str]


def test_the_numbers_are_those_of_a_count_by_hand(
    catalog: Catalog, frame: pd.DataFrame, make_mixture: MakeMixture
) -> None:
    mixture = make_mixture(
        ("language = 'de'", 1, "stop"),
        ("kind = 'code' OR language = 'de'", 3, "redistribute"),
        ("language = 'fr' AND kind = 'table'", 0),
        filter="quality < 0.9",
        unit="bytes",
    )
    kept = frame[frame.quality < 0.9]
    is_german = kept.language == "de"
    is_code = (kept.kind == "code") & ~is_german
    is_table = (kept.language == "fr") & (kept.kind == "table")
    found = explain(catalog, mixture)
    units = [int(kept.num_bytes[mine].sum()) for mine in (is_german, is_code, is_table)]
    german, code, table = found.components
    assert [c.num_samples for c in found.components] == [is_german.sum(), is_code.sum(), is_table.sum()]
    assert [c.num_units for c in found.components] == units
    assert [c.share for c in found.components] == [0.25, 0.75, 0.0]
    assert [c.natural_share for c in found.components] == pytest.approx([u / sum(units) for u in units])
    assert [c.num_overlaps for c in found.components] == [0, is_german.sum(), 0]
    assert (german.lasts_for, code.lasts_for, table.lasts_for) == (units[0] * 4, units[1] / 0.75, math.inf)
    assert [c.on_exhausted for c in found.components] == [OnExhausted.STOP, OnExhausted.REDISTRIBUTE, OnExhausted.STOP]
    assert [c.num_cells for c in found.components] == [1, 1, 1]
    assert [c.contents["bytes"] for c in found.components] == units
    tokens = [int(kept.num_tokens[mine].sum()) for mine in (is_german, is_code, is_table)]
    assert [c.contents["tokens"] for c in found.components] == tokens
    assert found.num_unmatched == (~is_german & ~is_code & ~is_table).sum()
    assert (found.catalog_version, found.unit, found.num_cells) == (catalog.version, Unit.BYTES, 3)
    assert found.num_blocks == kept.groupby(["registration", "block"]).ngroups


@pytest.mark.parametrize("policies", [("stop", "stop"), ("stop", "redistribute"), ("redistribute", "stop")])
def test_a_run_stops_when_it_was_said_to(
    catalog: Catalog, make_mixture: MakeMixture, new_name: NewName, policies: tuple[str, str]
) -> None:
    mixture = make_mixture(("n < 1000", 1, policies[0]), ("n < 1200", 2, policies[1]))
    found = explain(catalog, mixture)
    assert [c.lasts_for for c in found.components] == pytest.approx([3000, 300])
    # The second component runs out after 300 samples; where it leaves, the first goes on alone.
    assert found.forecast.num_units == pytest.approx(1200 if policies == ("stop", "redistribute") else 300)
    run = Run.start(catalog, new_name(), mixture)
    run.schedule(100)
    (row,) = catalog.sql(f"SELECT sum(num_samples) AS n FROM chunks WHERE run = '{run.name}'").to_pylist()
    assert row["n"] == pytest.approx(found.forecast.num_units, abs=1)


def test_a_run_without_a_stopping_component_has_no_end_but_its_data(
    catalog: Catalog, make_mixture: MakeMixture
) -> None:
    found = explain(catalog, make_mixture(("n < 10", 1), ("true", 1), on_exhausted="redistribute"))
    assert found.forecast.num_units == pytest.approx(2400)
    assert found.forecast.exhausted == (("c0", 20.0), ("c1", 2400.0))
    assert found.notes()[-1] == "The run ends after about 2,400 samples."


def test_a_component_of_weight_zero_does_not_stop_a_run(catalog: Catalog, make_mixture: MakeMixture) -> None:
    found = explain(catalog, make_mixture(("n < 10", 0), ("n < 100", 1)))
    assert found.forecast.num_units == pytest.approx(90)
    assert found.notes()[-1] == "The run stops after about 90 samples, when c1 runs out."


def test_printed_it_is_a_table(make_catalog: MakeCatalog, make_mixture: MakeMixture, tmp_path: Path) -> None:
    records = [{"text": "x" * (n % 3), "n": n} for n in range(3000)]
    catalog = make_catalog(tmp_path, {"a": records}, {"n": "n", "num_bytes": "octet_length(text)"})
    mixture = make_mixture(
        ("n < 3", 0.001), ("n < 1500", 3), ("n < 2999", 0), on_exhausted="redistribute", unit="bytes"
    )
    text = str(explain(catalog, mixture))
    assert text.splitlines()[0] == "mixture over samples@1"
    assert [line.split() for line in text.splitlines()[2:7] if line.strip(" ─")] == [
        ["component", "share", "natural", "samples", "bytes", "lasts", "for", "(bytes)", "then", "overlaps"],
        ["c0", "0.0333%", "0.10%", "3", "3", "9,003", "redistribute", "0"],
        ["c1", "99.97%", "49.93%", "1,497", "1,497", "1,497", "redistribute", "3"],
        ["c2", "0.00%", "49.97%", "1,499", "1,498", "∞", "redistribute", "1,500"],
    ]
    blocks = catalog.sql("SELECT count(DISTINCT block) AS n FROM samples").to_pylist()[0]["n"]
    assert f"3 cells in {blocks} blocks; samples that match no component: 1." in text.splitlines()
    assert text.splitlines()[-2:] == [
        "warning: 50% of what c2 matches belongs to components before it",
        "warning: c2 has no weight: its samples are never drawn",
    ]
    assert not [line for line in text.splitlines() if line != line.rstrip() or len(line) > 120]


def test_names_are_printed_as_they_are(catalog: Catalog) -> None:
    components = {
        "[bold]code[/bold]": {"where": "kind = 'code'", "weight": 1},
        ":smile:": {"where": "true", "weight": 1},
    }
    text = str(explain(catalog, Mixture.from_dict({"components": components})))
    assert "[bold]code[/bold]" in text.splitlines()[4]
    assert ":smile:" in text.splitlines()[5]
    assert "when [bold]code[/bold] runs out." in text


def test_nothing_is_written(catalog: Catalog, make_mixture: MakeMixture) -> None:
    before = {name: catalog.lake.table(name).version() for name in ("runs", "weights", "chunks", "datasets")}
    explain(catalog, make_mixture(("true", 1)))
    assert {name: catalog.lake.table(name).version() for name in before} == before


def test_what_a_run_would_refuse_is_refused(catalog: Catalog, make_mixture: MakeMixture) -> None:
    with pytest.raises(ConfigError, match="c0 is empty"):
        explain(catalog, make_mixture(("n < 0", 1)))
    with pytest.raises(QueryError, match=r"Did you mean 'language'\?"):
        explain(catalog, make_mixture(("langage = 'de'", 1)))


def test_an_old_version_is_explained_as_it_was(catalog: Catalog, make_mixture: MakeMixture) -> None:
    found = explain(catalog.at(version=1), make_mixture(("true", 1)))
    assert (found.catalog_version, found.components[0].num_samples) == (1, 800)


def test_what_a_rest_leaves_to_the_components_beside_it_is_no_overlap(catalog: Catalog, frame: pd.DataFrame) -> None:
    components = {
        "code": {"where": "kind = 'code'", "weight": 1},
        "european": {
            "where": "language <> 'en'",
            "weight": 1,
            "components": {"german": {"where": "language = 'de'", "weight": 1}, "others": {"weight": 1}},
        },
    }
    found = explain(catalog, Mixture.from_dict({"components": components}))
    is_code, is_german = frame.kind == "code", frame.language == "de"
    is_other = frame.language.notna() & (frame.language != "en") & ~is_german
    assert [c.name for c in found.components] == ["code", "european.german", "european.others"]
    assert [c.num_overlaps for c in found.components] == [0, (is_german & is_code).sum(), (is_other & is_code).sum()]

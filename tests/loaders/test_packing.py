"""Packed sequences: every token once, labels within documents, declared shares at every prefix."""

import json
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog
from mixlake.loaders import PackedSequence, TokenDataset
from mixlake.loaders.documents import NO_LABEL
from mixlake.mixing import Mixture, Run


def pieces(sequences: list[PackedSequence]) -> dict[Any, list[tuple[list[int], list[int]]]]:
    """The pieces of each document, as (ids, labels), in the order of delivery."""
    found = defaultdict(list)
    for sequence in sequences:
        for number, address in enumerate(sequence.documents):
            here = sequence.document_ids == number
            found[address].append((sequence.input_ids[here].tolist(), sequence.labels[here].tolist()))
    return found


@pytest.mark.parametrize("unit", ["samples", "bytes"])
@pytest.mark.parametrize("length", [7, 64, 1000])
def test_every_token_of_every_document_is_delivered_once_and_in_order(
    catalog: Catalog, make_run: Any, unit: str, length: int
) -> None:
    run = make_run(unit=unit)
    found = pieces(list(TokenDataset(run, sequence_length=length)))
    rows = catalog.sql("SELECT registration, file_id, row, num_bytes FROM samples").to_pylist()
    assert set(found) == {(row["registration"], row["file_id"], row["row"]) for row in rows}
    for row in rows:
        parts = found[row["registration"], row["file_id"], row["row"]]
        ids = [token for part, _ in parts for token in part]
        labels = [label for _, part in parts for label in part]
        assert len(ids) == row["num_bytes"] + 1
        assert ids[-1] == 256
        assert labels == [*ids[1:], NO_LABEL]


@pytest.mark.parametrize("unit", ["samples", "bytes"])
def test_positions_and_components_follow_the_pieces(make_run: Any, unit: str) -> None:
    for sequence in TokenDataset(make_run(unit=unit), sequence_length=50):
        for number in range(len(sequence.documents)):
            here = sequence.document_ids == number
            assert sequence.position_ids[here].tolist() == list(range(here.sum()))
            assert len(set(sequence.component_ids[here].tolist())) == 1
        padding = sequence.document_ids == -1
        assert (sequence.component_ids[padding] == -1).all()
        assert (sequence.labels[padding] == NO_LABEL).all()
        assert not padding.any() or padding[padding.argmax() :].all()


def test_only_the_last_sequence_of_a_lane_is_padded(make_run: Any) -> None:
    run = make_run(unit="bytes", lanes=3)
    sequences = list(TokenDataset(run, sequence_length=64))
    assert sum((sequence.document_ids == -1).any() for sequence in sequences) <= 3


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3),
    length=st.sampled_from([32, 100, 300]),
    chunk_size=st.integers(8, 64),
    seed=st.integers(0, 3),
)
@settings(max_examples=12, deadline=None)
def test_each_lane_keeps_to_the_declared_shares_within_one_sequence(
    make_run: Any, weights: list[float], length: int, chunk_size: int, seed: int
) -> None:
    names = ["language = 'en'", "kind = 'note'", "language IN ('de', 'fr')"]
    components = {
        f"c{i}": {"where": where, "weight": w} for i, (where, w) in enumerate(zip(names, weights, strict=True))
    }
    run = make_run(unit="bytes", lanes=1, chunk_size=chunk_size, seed=seed, components=components, on_exhausted="stop")
    shares = np.array(weights) / sum(weights)
    run.schedule(10_000)
    drawn = num_tokens_drawn(run)
    delivered = np.zeros(3)
    for sequence in islice(TokenDataset(run, sequence_length=length), 500):
        delivered += np.bincount(sequence.component_ids[sequence.component_ids >= 0], minlength=3)
        if (delivered > drawn * 0.9 - 2 * length).any():
            break  # near its end a component may have no document left to keep up with
        assert np.abs(delivered - delivered.sum() * shares).max() <= length


def num_tokens_drawn(run: Run) -> np.ndarray[Any, Any]:
    """Bytes per component that the whole run draws."""
    rows = run.catalog.sql(
        "SELECT i.component AS component, sum(s.num_bytes) AS n FROM "
        f"(SELECT unnest(intervals) AS i FROM chunks WHERE run = '{run.name}') JOIN samples s "
        "ON i.registration = s.registration AND i.file_id = s.file_id AND s.row >= i.row_start AND s.row < i.row_stop "
        "GROUP BY 1"
    ).to_pylist()
    totals = {row["component"]: row["n"] for row in rows}
    return np.array([totals.get(f"c{index}", 0) for index in range(3)], float)


def test_short_and_very_long_documents_are_mixed_in_exact_shares(tmp_path: Path) -> None:
    with (tmp_path / "short.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"text": "0123456789", "kind": "short"}) + "\n" for _ in range(20_000))
    with (tmp_path / "long.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"text": "x" * 100_000, "kind": "long"}) + "\n" for _ in range(3))
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    properties = {"kind": "kind", "num_bytes": "octet_length(text)"}
    for name in ("short", "long"):
        catalog.register(name, str(tmp_path / f"{name}.jsonl"), properties=properties)
    components = {name: {"where": f"kind = '{name}'", "weight": 0.5} for name in ("short", "long")}
    run = Run.start(catalog, "mixed", Mixture.from_dict({"unit": "bytes", "components": components}), lanes=1)
    delivered = np.zeros(2)
    for number, sequence in enumerate(TokenDataset(run, sequence_length=512)):
        delivered += np.bincount(sequence.component_ids[sequence.component_ids >= 0], minlength=2)
        assert abs(delivered[0] - delivered[1]) <= 2 * 512
        if number == 600:
            break
    assert delivered.sum() == 601 * 512


def test_a_document_without_text_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    catalog.register("a", str(tmp_path / "a.jsonl"))
    mixture = Mixture.from_dict({"components": {"all": {"where": "true", "weight": 1}}, "shuffle": "none"})
    run = Run.start(catalog, "a", mixture, lanes=1)
    with pytest.raises(Exception, match=r"a-\w+, file 0, row 1: field 'text' is NoneType, expected text or token ids"):
        list(TokenDataset(run, sequence_length=8))

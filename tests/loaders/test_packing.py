"""Packed sequences: every token once, labels within documents, declared shares at every prefix."""

import json
from collections import defaultdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog
from mixlake.loaders import PackedSequence, SampleDataset, TokenDataset, make_loader
from mixlake.loaders.documents import NO_LABEL
from mixlake.mixing import Mixture, Run
from mixlake.mixing.quotas import SCALE


def pieces(sequences: list[PackedSequence]) -> dict[Any, list[tuple[list[int], list[int]]]]:
    """The pieces of each document, as (ids, labels), in the order of delivery."""
    found = defaultdict(list)
    for sequence in sequences:
        for number, address in enumerate(sequence.documents):
            here = sequence.document_ids == number
            found[address].append((sequence.input_ids[here].tolist(), sequence.labels[here].tolist()))
    return found


@pytest.mark.parametrize("unit", ["samples", "bytes"])
@pytest.mark.parametrize(("length", "packing"), [(7, "concat"), (64, "concat"), (1000, "concat"), (64, "best_fit")])
def test_every_token_of_every_document_is_delivered_once_and_in_order(
    catalog: Catalog, make_run: Any, unit: str, length: int, packing: str
) -> None:
    run = make_run(unit=unit)
    found = pieces(list(TokenDataset(run, sequence_length=length, packing=packing)))
    rows = catalog.sql("SELECT registration, file_id, row, num_bytes FROM samples").to_pylist()
    assert set(found) == {(row["registration"], row["file_id"], row["row"]) for row in rows}
    for row in rows:
        parts = found[row["registration"], row["file_id"], row["row"]]
        ids = [token for part, _ in parts for token in part]
        labels = [label for _, part in parts for label in part]
        assert len(ids) == row["num_bytes"] + 1
        assert ids[-1] == 256
        assert labels == [*ids[1:], NO_LABEL]


@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 10, 31, 32, 33, 500]), min_size=1, max_size=5),
    length=st.sampled_from([2, 32, 100]),
    overlap=st.integers(0, 1),
    packing=st.sampled_from(["concat", "best_fit"]),
    unit=st.sampled_from(["samples", "bytes"]),
)
@settings(max_examples=8, deadline=None)
def test_no_token_is_lost_or_repeated_whatever_the_lengths_of_documents(
    make_run: Any, lengths: list[int], length: int, overlap: int, packing: str, unit: str
) -> None:
    def tokenizer(text: str) -> list[int]:
        number = crc32(text.encode())
        return [(number + index) % 50_000 for index in range(lengths[number % len(lengths)])]

    run = make_run(unit=unit, filter="kind <> 'row'", lanes=3)
    options: dict[str, Any] = {"tokenizer": tokenizer, "sequence_length": length, "packing": packing}
    sequences = list(TokenDataset(run, overlap=overlap, **options))
    found = pieces(sequences)
    expected = {sample["sample"]: tokenizer(sample["text"]) for sample in SampleDataset(run)}
    assert found.keys() == {address for address, ids in expected.items() if ids}
    for address, parts in found.items():
        ids = expected[address]
        assert [token for part, _ in parts for token in part] == ids
        labels = [label for _, part in parts for label in part]
        differing = [label for label, wanted in zip(labels, [*ids[1:], NO_LABEL], strict=True) if label != wanted]
        assert differing == [NO_LABEL] * len(differing)
        assert len(differing) <= (1 - overlap) * (len(parts) - 1)
    assert all(len(sequence.input_ids) == length for sequence in sequences)


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


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_attention_within_documents_can_tell_them_apart(make_run: Any, packing: str) -> None:
    for batch in make_loader(make_run(unit="bytes"), batch_size=3, sequence_length=64, packing=packing):
        bounds = batch["cu_seqlens"].tolist()
        assert bounds[0] == 0
        assert bounds[-1] == batch["input_ids"].numel()
        assert batch["max_seqlen"] == max(np.diff(bounds))
        numbers, positions = batch["document_ids"].flatten(), batch["position_ids"].flatten()
        for start, stop in pairwise(bounds):
            assert len(set(numbers[start:stop].tolist())) == 1
            assert positions[start:stop].tolist() == list(range(stop - start))
        assert (positions == 0).sum() == len(bounds) - 1
        assert (batch["loss_mask"] == (batch["labels"] != NO_LABEL)).all()
        assert batch["cu_seqlens"].dtype == torch.int32


def test_without_overlap_the_last_label_is_none_of_another_sequence(make_run: Any) -> None:
    run = make_run(unit="bytes")
    num_differing = 0
    for one, none in zip(
        TokenDataset(run, sequence_length=50), TokenDataset(run, sequence_length=50, overlap=0), strict=True
    ):
        assert (one.input_ids == none.input_ids).all()
        assert (one.labels[:-1] == none.labels[:-1]).all()
        assert none.labels[-1] == NO_LABEL
        num_differing += int(one.labels[-1] != NO_LABEL)
    assert num_differing > 100


@pytest.mark.parametrize("unit", ["samples", "bytes"])
def test_best_fit_cuts_only_what_is_longer_than_a_sequence(make_run: Any, unit: str) -> None:
    length, run = 1000, make_run(unit=unit, lanes=1)
    sequences = list(TokenDataset(run, sequence_length=length, packing="best_fit"))
    for parts in pieces(sequences).values():
        lengths = [len(ids) for ids, _ in parts]
        assert lengths[:-1] == [length] * (len(lengths) - 1)
    num_tokens = sum(len(sequence.ids) for sequence in sequences)
    fill = num_tokens / length / len(sequences)
    assert fill > 0.97, fill


def test_only_the_last_sequence_of_a_lane_is_padded(make_run: Any) -> None:
    run = make_run(unit="bytes", lanes=3)
    sequences = list(TokenDataset(run, sequence_length=64))
    assert sum((sequence.document_ids == -1).any() for sequence in sequences) <= 3


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3),
    length=st.sampled_from([32, 100, 300]),
    chunk_size=st.integers(8, 64),
    seed=st.integers(0, 3),
    packing=st.sampled_from(["concat", "best_fit"]),
)
@settings(max_examples=16, deadline=None)
def test_each_lane_keeps_to_the_declared_shares(
    make_run: Any, weights: list[float], length: int, chunk_size: int, seed: int, packing: str
) -> None:
    """Within one sequence; with best fit nobody is further ahead, but may be behind by what both others are ahead."""
    names = ["language = 'en'", "kind = 'note'", "language IN ('de', 'fr')"]
    components = {
        f"c{i}": {"where": where, "weight": w} for i, (where, w) in enumerate(zip(names, weights, strict=True))
    }
    run = make_run(unit="bytes", lanes=1, chunk_size=chunk_size, seed=seed, components=components, on_exhausted="stop")
    shares = np.array(weights) / sum(weights)
    run.schedule(10_000)
    drawn = num_tokens_drawn(run)
    delivered = np.zeros(3)
    for sequence in islice(TokenDataset(run, sequence_length=length, packing=packing), 500):
        delivered += np.bincount(sequence.component_ids[sequence.component_ids >= 0], minlength=3)
        if (delivered > drawn * 0.9 - 2 * length).any():
            break  # near its end a component may have no document left to keep up with
        ahead = delivered - delivered.sum() * shares
        assert ahead.max() <= length
        assert -ahead.min() <= (length if packing == "concat" else 2 * length)


@given(
    changes=st.lists(
        st.tuples(st.floats(0.0, 0.7), st.lists(st.floats(0.02, 1.0), min_size=3, max_size=3)), min_size=1, max_size=6
    ),
    lanes=st.integers(1, 4),
    chunk_size=st.sampled_from([2, 3, 8, 40]),
    length=st.sampled_from([32, 100, 300]),
    packing=st.sampled_from(["concat", "best_fit"]),
    seed=st.integers(0, 3),
)
@settings(max_examples=8, deadline=None)
def test_each_lane_keeps_to_weights_that_change(
    make_run: Any,
    changes: list[tuple[float, list[float]]],
    lanes: int,
    chunk_size: int,
    length: int,
    packing: str,
    seed: int,
) -> None:
    """At every prefix, in small chunks too, while documents that were drawn by earlier weights are left."""
    num_sequences = 120 * lanes
    run = make_run(unit="bytes", lanes=lanes, chunk_size=chunk_size, seed=seed, on_exhausted="repeat")
    num_chunks = num_sequences * length // (140 * chunk_size)  # documents have 140 bytes in the mean
    for at, weights in sorted(changes):
        chunk = max(run.chunks.last()[0] + 1, int(at * num_chunks))
        run.set_weights(dict(zip(run.components, weights, strict=True)), from_chunk=chunk)
        run.schedule(chunk + 1 - run.chunks.last()[0])
    lane_sequences: list[list[PackedSequence]] = [[] for _ in range(lanes)]
    for delivery in islice(TokenDataset(run, sequence_length=length, packing=packing).deliveries(), num_sequences):
        lane_sequences[delivery.turn[1]].append(delivery.item)
    assert max(sequence.weights_version for sequences in lane_sequences for sequence in sequences) > 1
    for sequences in lane_sequences:
        delivered = np.array([np.bincount(s.component_ids[s.component_ids >= 0], minlength=3) for s in sequences])
        shares = np.array([run.shares(s.weights_version) for s in sequences]) / SCALE
        ahead = (delivered - shares * delivered.sum(1, keepdims=True)).cumsum(0)[:-1]
        unknown = length * np.abs(np.diff(shares, axis=0)).cumsum(0)  # where within a sequence others came into force
        assert (ahead <= length + unknown).all()
        assert (-ahead <= (1 if packing == "concat" else 2) * length + unknown).all()


def test_a_component_that_is_hundreds_of_small_chunks_away_keeps_to_its_share_too(make_run: Any) -> None:
    components = {"rare": {"where": "kind = 'note'", "weight": 0.006}, "rest": {"where": "true", "weight": 0.994}}
    run = make_run(unit="bytes", lanes=2, chunk_size=1, components=components, on_exhausted="repeat")
    delivered, num_open = np.zeros((2, 2)), 0
    dataset = TokenDataset(run, sequence_length=32)
    for delivery in islice(dataset.deliveries(), 4000):
        lane, state = delivery.turn[1], dataset.lane_state(delivery.place)
        delivered[lane] += np.bincount(delivery.item.component_ids, minlength=2)
        assert np.abs(delivered[lane] - delivered[lane].sum() * np.array([0.006, 0.994])).max() <= 32
        num_open = max(num_open, state["num_open"] - min(chunk for chunk, *_ in state["queues"]))
    assert num_open > 64


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


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("length", [512, 4096])
def test_documents_of_10_and_of_100_000_tokens_are_mixed_in_exact_shares(
    tmp_path: Path, packing: str, length: int
) -> None:
    with (tmp_path / "short.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"text": "012345678", "kind": "short"}) + "\n" for _ in range(20_000))
    with (tmp_path / "long.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"text": "x" * 99_999, "kind": "long"}) + "\n" for _ in range(6))
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    properties = {"kind": "kind", "num_tokens": "octet_length(text) + 1"}
    for name in ("short", "long"):
        catalog.register(name, str(tmp_path / f"{name}.jsonl"), properties=properties)
    weights = np.array([0.3, 0.7])
    components = {
        name: {"where": f"kind = '{name}'", "weight": w} for name, w in zip(("short", "long"), weights, strict=True)
    }
    run = Run.start(catalog, "mixed", Mixture.from_dict({"unit": "tokens", "components": components}), lanes=1)
    delivered = np.zeros(2)
    dataset = TokenDataset(run, sequence_length=length, packing=packing)
    for sequence in islice(dataset, 400_000 // length):
        delivered += np.bincount(sequence.component_ids[sequence.component_ids >= 0], minlength=2)
        assert np.abs(delivered - delivered.sum() * weights).max() <= length
    assert delivered.sum() > 0.9 * 400_000 // length * length
    assert len(json.dumps(dataset.state_dict())) < 2_000  # positions, whatever waits


def test_a_document_without_text_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    catalog.register("a", str(tmp_path / "a.jsonl"))
    mixture = Mixture.from_dict({"components": {"all": {"where": "true", "weight": 1}}, "shuffle": "none"})
    run = Run.start(catalog, "a", mixture, lanes=1)
    with pytest.raises(Exception, match=r"a-\w+, file 0, row 1: field 'text' is NoneType, expected text or token ids"):
        list(TokenDataset(run, sequence_length=8))


def test_weights_hold_from_the_newest_chunk_that_a_lane_has_opened(make_run: Any) -> None:
    run = make_run(unit="bytes", lanes=2, chunk_size=4, on_exhausted="repeat")
    for chunk in range(6, 30, 4):
        run.set_weights({"english": 0.2 + chunk / 60}, from_chunk=chunk)
    run.schedule(300 - run.chunks.last()[0])
    versions = [chunk.weights_version for chunk in Run.load(run.catalog, run.name).chunks.read(0, 300)]
    newest, num_behind = [0, 0], 0
    dataset = TokenDataset(run, sequence_length=64)
    for delivery in islice(dataset.deliveries(), 600):
        lane, before = delivery.turn[1], newest[delivery.turn[1]]
        state = dataset.lane_state(delivery.place)
        newest[lane] = state["num_open"] - 1
        version = delivery.item.weights_version
        assert versions[2 * before + lane] <= version <= versions[2 * newest[lane] + lane]
        oldest = min(position[0] for position in state["queues"])
        num_behind += versions[2 * oldest + lane] < version
    assert version == max(versions) == 7
    assert num_behind > 20


def test_what_has_no_share_any_more_is_given_out_before_the_new_weights_hold(make_run: Any) -> None:
    run = make_run(unit="bytes", lanes=2, chunk_size=4)
    run.set_weights({"notes": 0.0}, from_chunk=40)
    notes, versions = run.components.index("notes"), set()
    documents: set[tuple[str, int, int]] = set()
    for sequence in islice(TokenDataset(run, sequence_length=64), 600):
        versions.add(sequence.weights_version)
        documents.update(sequence.documents)
        assert sequence.weights_version == 1 or not (sequence.component_ids == notes).any()
    assert versions == {1, 2}
    drawn = [row for chunk in range(40) for row in run.samples(chunk).to_pylist() if row["component"] == "notes"]
    assert {(row["registration"], row["file_id"], row["row"]) for row in drawn} <= documents

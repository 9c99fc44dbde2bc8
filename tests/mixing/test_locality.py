"""What is foretold about reading is what drawing then finds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.chunks import Chunk
from mixlake.mixing.locality import Locality, expected_locality
from mixlake.mixing.resolution import plan_cells, program_of
from mixlake.mixing.run import Run

MakeMixture = Callable[..., Mixture]
LANES = 4


@pytest.fixture(scope="module")
def wide(make_catalog: Callable[..., Catalog], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """6,000 samples in blocks of about 240, three kinds from row to row."""
    records = [{"text": "x" * 50, "kind": n * 2654435761 % 2**32 // 7 % 3} for n in range(6_000)]
    return make_catalog(tmp_path_factory.mktemp("wide"), {"a": records}, {"kind": "kind"})


def locality(catalog: Catalog, mixture: Mixture, chunk_size: int, lanes: int = LANES) -> tuple[CellPlan, Locality]:
    program = program_of(catalog, mixture)
    plan, leaves = plan_cells(catalog, program), program.segments[0].leaves
    shares = [leaf.share for leaf in leaves]
    found = expected_locality(
        plan, plan.owners(leaves), shares, window=mixture.window, chunk_size=chunk_size, lanes=lanes
    )
    return plan, found


def measured(catalog: Catalog, chunks: list[Chunk]) -> float:
    """Rows decoded over rows drawn, if every lane decodes a block once."""
    samples = catalog.sql("SELECT row, block FROM samples ORDER BY row").to_pandas()
    block_of, rows_of = samples.block.to_numpy(), np.bincount(samples.block)
    decoded = set()
    for chunk in chunks:
        for start, stop in zip(chunk.intervals.row_start, chunk.intervals.row_stop, strict=True):
            decoded |= {(chunk.number % LANES, int(block)) for block in block_of[start:stop]}
    return sum(int(rows_of[block]) for _, block in decoded) / sum(chunk.num_samples for chunk in chunks)


@pytest.mark.parametrize("chunk_size", [30, 300, 1500])
@pytest.mark.parametrize("shuffle", ["none", {"window": 1}, {"window": 4}])
def test_read_amplification_is_as_foretold(
    wide: Catalog, make_mixture: MakeMixture, chunk_size: int, shuffle: Any
) -> None:
    mixture = make_mixture(("kind = 0", 1), ("kind = 1", 1), ("kind = 2", 1), shuffle=shuffle)
    name = f"run-{chunk_size}-{shuffle if shuffle == 'none' else shuffle['window']}"
    run = Run.start(wide, name, mixture, chunk_size=chunk_size, lanes=LANES)
    run.schedule(1_000)
    _, expected = locality(wide, mixture, chunk_size)
    off_by = 0.05 if chunk_size == 30 else 0.1  # where a chunk takes more than a block, much depends on the last one
    assert expected.read_amplification == pytest.approx(measured(wide, run.chunks.read(0, 1_000)), rel=off_by)


def test_lanes_share_few_blocks_unless_storage_order_is_kept(wide: Catalog, make_mixture: MakeMixture) -> None:
    components = [("kind = 0", 1), ("true", 2)]
    for size in (20, 100):
        assert locality(wide, make_mixture(*components), size)[1].read_amplification < 2
        unshuffled = locality(wide, make_mixture(*components, shuffle="none"), size)[1]
        assert unshuffled.read_amplification > 3
    assert locality(wide, make_mixture(*components), 20, lanes=1)[1].read_amplification == pytest.approx(1, abs=0.05)


def test_components_that_go_through_the_blocks_apart_read_them_apart(wide: Catalog, make_mixture: MakeMixture) -> None:
    together = locality(wide, make_mixture(("kind = 0", 1), ("true", 2)), 10, lanes=1)[1]
    apart = locality(wide, make_mixture(("kind = 0", 20), ("true", 1)), 10, lanes=1)[1]
    assert apart.read_amplification > 2 * together.read_amplification


def test_shuffling_moves_neighbours_apart(wide: Catalog, make_mixture: MakeMixture) -> None:
    components = [("kind = 0", 1), ("kind = 1", 1), ("kind = 2", 1)]
    plain, one, four = (
        locality(wide, make_mixture(*components, shuffle=shuffle), 20)[1]
        for shuffle in ("none", {"window": 1}, {"window": 4})
    )
    assert plain.neighbour_distance == plain.unshuffled_distance == pytest.approx(one.unshuffled_distance)
    assert plain.neighbour_distance == pytest.approx(3, rel=0.1)
    assert one.neighbour_distance == pytest.approx(LANES * 240 / 3, rel=0.35)  # of a window in each lane
    assert four.neighbour_distance > 1.5 * one.neighbour_distance


def test_what_is_hardly_drawn_does_not_count(wide: Catalog, make_mixture: MakeMixture) -> None:
    for weight in (0, 1e-6):
        found = locality(wide, make_mixture(("kind = 0", weight), ("true", 1)), 20)[1]
        assert found.unshuffled_distance <= 2.01  # in the mean as many as there are components
        assert found.neighbour_distance < 6_000

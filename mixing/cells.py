"""Cells: samples that answer every predicate of a run alike, counted per block.

Planning holds no list of samples: per cell and block it knows how many there are and how many units they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.mixing.cell_counts import count_cells, registrations_of
from mixlake.mixing.consumed import Consumed
from mixlake.mixing.index_frames import BITS_PER_WORD, CONSUMED
from mixlake.mixing.program import Leaf, Program


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPlan:
    """What a run can draw from.

    Axes: C cells, P predicates, B blocks, E entries (pairs of a cell and a block where it has samples).
    """

    predicates: tuple[str, ...]
    matches_CP: npt.NDArray[np.bool_]
    words_CW: IntArray
    """The answers packed into integers, as the index queries return them; rows are sorted."""
    registrations: tuple[str, ...]
    """By dataset name and part, so that nothing depends on how registration ids come out."""
    block_registration_B: IntArray
    """Index into ``registrations``."""
    block_number_B: IntArray
    """The block's number within its registration; blocks are in storage order."""
    num_rows_B: IntArray
    """Samples of the block that pass the filter."""
    entry_cell_E: IntArray
    entry_block_E: IntArray
    entry_samples_E: IntArray
    num_samples_C: IntArray
    num_units_C: IntArray
    num_passes_C: IntArray
    """How often the cell's samples were drawn before the run began: by those that it goes on from."""

    @property
    def num_cells(self) -> int:
        """The number of cells."""
        return len(self.num_samples_C)

    def owners(self, leaves: Sequence[Leaf]) -> IntArray:
        """Return which of some components each cell belongs to: the first that it matches, or -1."""
        column = {predicate: index for index, predicate in enumerate(self.predicates)}
        requires_PL, excludes_PL = (np.zeros((len(column), len(leaves)), np.float32) for _ in range(2))
        for index, leaf in enumerate(leaves):
            requires_PL[[column[predicate] for predicate in leaf.requires], index] = 1
            excludes_PL[[column[predicate] for predicate in leaf.excludes], index] = 1
        matches_CP = self.matches_CP.astype(np.float32)
        is_all_CL = matches_CP @ requires_PL == requires_PL.sum(axis=0)
        owned_CL = is_all_CL & (matches_CP @ excludes_PL == 0)
        return np.where(owned_CL.any(axis=1), owned_CL.argmax(axis=1), -1).astype(np.int64)

    def matching(self, leaf: Leaf) -> npt.NDArray[np.bool_]:
        """Return which cells match what a component is declared as, whether they belong to it or not."""

        def columns(predicates: Sequence[str]) -> list[int]:
            return [self.predicates.index(predicate) for predicate in predicates]

        is_required = self.matches_CP[:, columns(leaf.requires)].all(axis=1)
        is_left_over = ~self.matches_CP[:, columns(leaf.excludes if leaf.is_rest else ())].any(axis=1)
        return np.asarray(is_required & is_left_over)


def find_cells(catalog: Catalog, program: Program, consumed: Consumed | None = None) -> CellPlan:
    """Find the cells of a program and count them per block; rows that were consumed equally often are apart.

    Raises:
        QueryError: the filter or a predicate fails on a sample.
        ConfigError: samples lack the property that the unit counts.
    """
    counts = count_cells(catalog, program, consumed)
    return _plan(counts, program.predicates, registrations_of(catalog))


def _plan(counts: pa.Table, predicates: tuple[str, ...], registrations: tuple[str, ...]) -> CellPlan:
    words = [name for name in counts.schema.names if name.startswith("word_")]
    words_EW = np.stack([counts[word].to_numpy() for word in words], axis=1).astype(np.int64)
    words_CW, cell_E = np.unique(words_EW, axis=0, return_inverse=True)
    ordinal = {registration: index for index, registration in enumerate(registrations)}
    registration_E = np.array([ordinal[r] for r in counts["registration"].to_pylist()], np.int64)
    key_E = np.stack([registration_E, counts["block"].to_numpy().astype(np.int64)], axis=1)
    key_B, block_E = np.unique(key_E.reshape(-1, 2), axis=0, return_inverse=True)
    samples_E = counts["num_samples"].to_numpy().astype(np.int64)
    units_E = counts["num_units"].to_numpy().astype(np.int64)
    order = np.lexsort((block_E.ravel(), cell_E.ravel()))
    cell_E, block_E = cell_E.ravel()[order].astype(np.int64), block_E.ravel()[order].astype(np.int64)
    samples_E, units_E = samples_E[order], units_E[order]
    num_cells = len(words_CW)
    bits = np.arange(len(predicates))
    return CellPlan(
        predicates=predicates,
        matches_CP=(words_CW[:, bits // BITS_PER_WORD] >> (bits % BITS_PER_WORD) & 1).astype(bool),
        words_CW=words_CW,
        registrations=registrations,
        block_registration_B=key_B[:, 0],
        block_number_B=key_B[:, 1],
        num_rows_B=np.bincount(block_E, samples_E, minlength=len(key_B)).astype(np.int64),
        entry_cell_E=cell_E,
        entry_block_E=block_E,
        entry_samples_E=samples_E,
        num_samples_C=np.bincount(cell_E, samples_E, minlength=num_cells).astype(np.int64),
        num_units_C=np.bincount(cell_E, units_E, minlength=num_cells).astype(np.int64),
        num_passes_C=words_CW[:, -1] if words[-1] == CONSUMED else np.zeros(num_cells, np.int64),
    )

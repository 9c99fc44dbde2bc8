"""From items to batches as trainers take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixlake.loaders.sequences import PackedSequence, expanded

Batch = dict[str, Any]


def collate_tokens(sequences: Sequence[PackedSequence], component_names: Sequence[str]) -> Batch:
    """Return a batch of B sequences of T tokens.

    ``input_ids``, ``labels``, ``component_ids``, ``document_ids`` and ``position_ids`` are int64 tensors of shape
    (B, T), ``loss_mask`` is a bool one. Labels are -100 where there is no loss, which is where the mask is false;
    component and document ids are -1 for padding. Positions begin with 0 at every piece of a document. For attention
    within documents ``cu_seqlens`` (int32) says where pieces begin in the batch's B * T tokens, and B * T; padding
    counts as a piece; ``max_seqlen`` is the longest. ``documents`` lists the batch's documents as (registration,
    file_id, row), which document ids index; ``components`` has the names that component ids index;
    ``weights_versions`` has one entry per sequence.
    """
    import torch  # noqa: PLC0415  (not for worker processes, which start without it in half the time)

    arrays = expanded(sequences)
    return {
        **{name: torch.from_numpy(array) if isinstance(array, np.ndarray) else array for name, array in arrays.items()},
        "components": tuple(component_names),
        "weights_versions": [sequence.weights_version for sequence in sequences],
    }


def collate_samples(samples: Sequence[dict[str, Any]], component_names: Sequence[str]) -> Batch:
    """Return a batch of samples: one list per field, and ``components``, which names the mixture's components."""
    layouts = dict.fromkeys(map(tuple, samples))  # nearly always the same
    names = dict.fromkeys(name for layout in layouts for name in layout)
    return {
        **{name: [sample.get(name) for sample in samples] for name in names},
        "components": tuple(component_names),
    }

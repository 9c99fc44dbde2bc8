"""From items to batches as trainers take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mixlake.loaders.packing import PackedSequence

Batch = dict[str, Any]


def collate_tokens(sequences: Sequence[PackedSequence], component_names: Sequence[str]) -> Batch:
    """Return a batch of B sequences of T tokens.

    ``input_ids``, ``labels``, ``component_ids``, ``document_ids`` and ``position_ids`` are int64 tensors of shape
    (B, T). Labels are -100 where there is no loss; component and document ids are -1 for padding. ``documents`` lists
    the batch's documents as (registration, file_id, row), which document ids index; ``components`` has their
    names; ``weights_versions`` has one entry per sequence.
    """
    documents: list[Any] = []
    document_ids = []
    for sequence in sequences:
        ids = sequence.document_ids
        document_ids.append(np.where(ids < 0, -1, ids + len(documents)))
        documents += sequence.documents
    return {
        "input_ids": _stacked([sequence.input_ids for sequence in sequences]),
        "labels": _stacked([sequence.labels for sequence in sequences]),
        "component_ids": _stacked([sequence.component_ids for sequence in sequences]),
        "document_ids": _stacked(document_ids),
        "position_ids": _stacked([sequence.position_ids for sequence in sequences]),
        "documents": documents,
        "components": tuple(component_names),
        "weights_versions": [sequence.weights_version for sequence in sequences],
    }


def collate_samples(samples: Sequence[dict[str, Any]], component_names: Sequence[str]) -> Batch:
    """Return a batch of samples: one list per field, and ``components``, which names the mixture's components."""
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    return {
        **{name: [sample.get(name) for sample in samples] for name in names},
        "components": tuple(component_names),
    }


def _stacked(arrays: Sequence[np.ndarray[Any, Any]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))

"""How training reads it: chunks in place, packed tokens in exact proportions, lanes, resumable state.

What trainers call imports torch, which worker processes need not: it is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mixlake.catalog.tokenizers import ByteTokenizer, CallableTokenizer, Tokenizer, TokenizerFile, load_tokenizer
from mixlake.loaders.sequences import PackedSequence
from mixlake.loaders.state import merge_states
from mixlake.loaders.stats import Stats

if TYPE_CHECKING:
    from mixlake.loaders.datasets import SampleDataset, TokenDataset
    from mixlake.loaders.loader import Loader, make_loader
    from mixlake.loaders.losses import all_reduce_losses, component_losses, sum_by_component

__all__ = [
    "ByteTokenizer",
    "CallableTokenizer",
    "Loader",
    "PackedSequence",
    "SampleDataset",
    "Stats",
    "TokenDataset",
    "Tokenizer",
    "TokenizerFile",
    "all_reduce_losses",
    "component_losses",
    "load_tokenizer",
    "make_loader",
    "merge_states",
    "sum_by_component",
]

_WITH_TORCH = {
    "datasets": ("SampleDataset", "TokenDataset"),
    "loader": ("Loader", "make_loader"),
    "losses": ("all_reduce_losses", "component_losses", "sum_by_component"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

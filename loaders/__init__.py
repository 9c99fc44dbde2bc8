"""How training reads it: chunks in place, packed tokens in exact proportions, lanes, resumable state."""

from mixlake.catalog.tokenizers import ByteTokenizer, CallableTokenizer, Tokenizer, TokenizerFile, load_tokenizer
from mixlake.loaders.loader import Loader, make_loader
from mixlake.loaders.losses import all_reduce_losses, component_losses, sum_by_component
from mixlake.loaders.samples import SampleDataset
from mixlake.loaders.sequences import PackedSequence
from mixlake.loaders.state import merge_states
from mixlake.loaders.stats import Stats
from mixlake.loaders.tokens import TokenDataset

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

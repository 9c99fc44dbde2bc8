"""What data there is: formats, registration, Delta tables, versions, read-only SQL."""

from mixlake.catalog.catalog import Catalog
from mixlake.catalog.collection import Collected
from mixlake.catalog.diff import Difference
from mixlake.catalog.duplicates import ExactDuplicates, NearDuplicates
from mixlake.catalog.errors import ConfigError, DataError, LakeError, MixlakeError, QueryError, ScheduleError
from mixlake.catalog.inferring import Proposal, Proposals, propose_properties
from mixlake.catalog.quality import Quality
from mixlake.catalog.records import BatchFunction, DataFile, Dataset, Part, Property, RecordFunction, Removal, Span
from mixlake.catalog.refresh import Refreshed
from mixlake.catalog.removal import Removed
from mixlake.catalog.text_properties import Language, NumTokens
from mixlake.catalog.tokenizing import tokenize

__all__ = [
    "BatchFunction",
    "Catalog",
    "Collected",
    "ConfigError",
    "DataError",
    "DataFile",
    "Dataset",
    "Difference",
    "ExactDuplicates",
    "LakeError",
    "Language",
    "MixlakeError",
    "NearDuplicates",
    "NumTokens",
    "Part",
    "Property",
    "Proposal",
    "Proposals",
    "Quality",
    "QueryError",
    "RecordFunction",
    "Refreshed",
    "Removal",
    "Removed",
    "ScheduleError",
    "Span",
    "propose_properties",
    "tokenize",
]

"""What data there is: formats, registration, Delta tables, versions, read-only SQL."""

from mixlake.catalog.catalog import Catalog
from mixlake.catalog.errors import ConfigError, DataError, LakeError, MixlakeError, QueryError, ScheduleError
from mixlake.catalog.records import BatchFunction, DataFile, Dataset, Part, Property, Removal, Span

__all__ = [
    "BatchFunction",
    "Catalog",
    "ConfigError",
    "DataError",
    "DataFile",
    "Dataset",
    "LakeError",
    "MixlakeError",
    "Part",
    "Property",
    "QueryError",
    "Removal",
    "ScheduleError",
    "Span",
]

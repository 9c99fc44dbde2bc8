"""The catalog: what data there is, at any version."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from datafusion import DataFrame, SessionContext
from rich.console import Group
from rich.text import Text

from mixlake.catalog import schema
from mixlake.catalog.adding import add_property
from mixlake.catalog.collection import Collected, Retention, collect_versions
from mixlake.catalog.declaring import PropertySource
from mixlake.catalog.diff import Difference, compare_versions
from mixlake.catalog.duplicates import Grouping
from mixlake.catalog.durations import parse_duration
from mixlake.catalog.errors import ConfigError, LakeError, listed, nearest
from mixlake.catalog.frames import datasets_frame, new_context, open_session, properties_frame, samples_frame
from mixlake.catalog.history import history_frame, version_at
from mixlake.catalog.lake import Lake
from mixlake.catalog.problems import checked_on_error
from mixlake.catalog.publishing import publish, read_datasets
from mixlake.catalog.records import Dataset, Progress, RecordFunction
from mixlake.catalog.refresh import Refreshed, refresh_dataset
from mixlake.catalog.registration import register_files
from mixlake.catalog.removal import Removed, remove_samples
from mixlake.catalog.requesting import check_name, request_registration
from mixlake.catalog.showing import Shown, new_table
from mixlake.catalog.sql import run_query


class Catalog(Shown):
    r"""A central, read-only layer over collections of files: samples and their properties, in versions.

    An opened catalog follows the newest version; ``at`` gives one that stays where it is and cannot be written.

    >>> import pathlib
    >>> lines = ['{"text": "Hallo", "meta": {"language": "de"}}', '{"text": "Hello", "meta": {"language": "en"}}']
    >>> _ = pathlib.Path("greetings.jsonl").write_text("\n".join(lines))
    >>> catalog = Catalog.open("lake", create=True)
    >>> catalog.register("greetings", "greetings.jsonl", properties={"language": "meta.language"})
    1
    >>> catalog.sql("SELECT language, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1").to_pylist()
    [{'language': 'de', 'n': 1}, {'language': 'en', 'n': 1}]
    """

    def __init__(self, lake: Lake, pinned: int | None = None) -> None:
        self.lake = lake
        self._pinned = pinned
        self._cached_datasets: tuple[int, tuple[Dataset, ...]] | None = None

    @classmethod
    def open(cls, uri: str, *, create: bool = False, storage_options: Mapping[str, str] | None = None) -> Catalog:
        """Return the catalog of the lake at ``uri``; with ``create`` the lake is made where there is none.

        Raises:
            LakeError: there is no lake.
        """
        lake = Lake(uri, storage_options)
        if not lake.exists():
            if not create:
                raise LakeError(
                    f"there is no lake at {lake.uri}; check the path; `mixlake register` or create=True makes one"
                )
            lake.create()
        return cls(lake)

    @classmethod
    def create(cls, uri: str, *, storage_options: Mapping[str, str] | None = None) -> Catalog:
        """Make a new lake at ``uri`` and return its catalog.

        Raises:
            LakeError: there is one already.
        """
        lake = Lake(uri, storage_options)
        if lake.exists():
            raise LakeError(f"there is a lake at {lake.uri} already; open it instead")
        lake.create()
        return cls(lake)

    def __rich__(self) -> Group:
        is_pinned = "" if self._pinned is None else ", read-only"
        names = ("dataset", "format", "files", "samples", "bytes", "properties")
        title = Text(f"catalog@{self.version} of {self.lake.uri}{is_pinned}")  # may be wider than the table
        table = new_table("", *names, right=names[2:5])
        for one in self.list_datasets():
            counts = (f"{num:,}" for num in (one.num_files, one.num_samples, one.num_bytes))
            table.add_row(Text(one.name), one.format, *counts, Text(", ".join(p.name for p in one.properties)))
        datasets = self.list_datasets()
        return Group(
            title, table, Text(f"{sum(one.num_samples for one in datasets):,} samples in {len(datasets):,} datasets")
        )

    @property
    def version(self) -> int:
        """The catalog version: the Delta version of `datasets`."""
        return self.lake.table(schema.DATASETS).version() if self._pinned is None else self._pinned

    def at(self, *, version: int | None = None, timestamp: str | datetime | None = None) -> Catalog:
        """Return the catalog as it was at a version, or at a moment (ISO 8601; UTC where no zone is given).

        Raises:
            ConfigError: not exactly one of the two is given, or the timestamp does not parse.
            LakeError: there was no such version.
        """
        if (version is None) == (timestamp is None):
            raise ConfigError(f"at() takes a version or a timestamp, got version={version}, timestamp={timestamp}")
        if timestamp is not None:
            version = version_at(self.lake.table(schema.DATASETS), timestamp)
        if not isinstance(version, int) or isinstance(version, bool):
            raise ConfigError(f"at(version={version!r}): expected a whole number")
        self.lake.table_at(schema.DATASETS, version)
        return Catalog(self.lake, pinned=version)

    def register(
        self,
        name: str,
        uris: str | Sequence[str],
        *,
        format: str | None = None,
        text: str | None = None,
        properties: Mapping[str, PropertySource] | Literal["infer"] | None = None,
        exclude: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        replace: bool = False,
        on_error: str = "raise",
        progress: Progress | None = None,
    ) -> int:
        """Index files where they lie, as a new catalog version, and return that version.

        Args:
            name: the dataset's name: letters, digits, ``_``, ``-`` and ``.``.
            uris: folders, globs (``**`` crosses folders) or paths.
            format: ``files``, ``jsonl``, ``parquet``, …; inferred from the names where it is not given.
            text: the record field that holds a sample's text, or its token ids; where it is not given, ``text``, and
                ``tokens`` for ``megatron`` and ``numpy``.
            properties: name to SQL expression over the record (``meta.language``, ``character_length(text)``), or to
                a batch function (`Language`, a `BatchFunction`, …), or to ``{expression: …, type: …, nullable: …}``
                of either. Every record also has ``_path``, ``_row``, ``_text`` and, by format, ``_num_bytes``.
                ``infer`` takes what `propose_properties` proposes.
            exclude: glob patterns of relative paths to leave out.
            options: options of the format.
            replace: take the place of a dataset of that name; older versions keep showing the old one.
            on_error: ``raise`` refuses files that cannot be read whole; ``skip`` leaves out what cannot be read and
                writes it down in `skipped`.
            progress: called with bytes done and bytes in all.

        Raises:
            ConfigError: a name, path, option or property is wrong.
            DataError: a file cannot be read; nothing is registered then.
            LakeError: the name is taken, or this catalog is pinned to a version.
        """
        self._check_writable("register")
        version, live = self._live()
        check_name(name, version, () if replace else live)
        request = request_registration(
            name,
            uris,
            lake=self.lake.uri,
            format_name=format,
            text=text,
            properties=properties or {},
            exclude=exclude,
            options=options or {},
            on_error=on_error,
        )
        return register_files(self.lake, request, live, version=version, progress=progress)

    def refresh(
        self,
        name: str,
        *,
        functions: Mapping[str, RecordFunction] | None = None,
        on_error: str = "raise",
        progress: Progress | None = None,
    ) -> Refreshed:
        """Bring a dataset up to date with its files, as a new catalog version; say which have changed.

        New files are indexed, changed ones anew, the samples of vanished ones leave; unchanged ones are not read. What
        was removed stays out. Where no file has changed there is no new version.

        Args:
            name: the dataset.
            functions: by property, those batch functions that cannot be imported (lambdas, functions of a script).
            on_error: ``raise``, or ``skip`` what cannot be read in new files and write it down in `skipped`.
            progress: called with bytes done and bytes in all.

        Raises:
            ConfigError: not one file is left, a function is missing, or a property has another type in the new files.
            DataError: a file cannot be read; nothing is changed then.
            LakeError: there is no such dataset, another process has changed it meanwhile, or this catalog is pinned.
        """
        self._check_writable("refresh")
        version, live = self._live()
        dataset = _find(name, version, live)
        policy = checked_on_error(on_error)
        return refresh_dataset(
            self.lake, dataset, live, version=version, functions=functions, on_error=policy, progress=progress
        )

    def add_property(
        self,
        name: str,
        source: PropertySource | Grouping,
        dataset: str | Sequence[str] | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Give samples one property more, as a new catalog version, and return that version. No data file is touched.

        Names in SQL mean the properties that a dataset has, and fields of the record where it has none of that name.
        Where properties are all that it needs, no file is read. Samples that were removed stay removed.

        Args:
            name: the property, or what its names begin with: ``Quality()`` gives NAME_num_words and others.
            source: as in ``register``; or ``ExactDuplicates()``, ``NearDuplicates()``, which compare the samples of all
                the datasets and give NAME_group and NAME_rank.
            dataset: one dataset, or several; None means all.
            replace: take the place of a property of that name, in the type that it has.
            progress: called with samples done and samples in all.

        Raises:
            ConfigError: a name, expression or type is wrong, or the property is there already.
            DataError: a value cannot be computed, or a file has changed since it was registered.
            LakeError: there is no such dataset, another process has changed it meanwhile, or this catalog is pinned.
        """
        self._check_writable("add properties")
        version, live = self._live()
        names = [dataset] if isinstance(dataset, str) else dataset
        chosen = live if names is None else [_find(one, version, live) for one in names]
        if not chosen:
            raise LakeError(f"datasets@{version} holds no dataset that could get the property {name!r}")
        return add_property(
            self.lake, chosen, live, name, source, version=version, is_replaced=replace, progress=progress
        )

    def unregister(self, name: str) -> int:
        """Take a dataset away, as a new catalog version, and return that version; older versions keep showing it.

        Raises:
            LakeError: there is no such dataset, another process has changed it meanwhile, or this catalog is pinned.
        """
        self._check_writable("unregister")
        version, live = self._live()
        return publish(self.lake, {_find(name, version, live).name: None}, version=version, action="unregister")

    def remove(self, predicate: str, *, reason: str, progress: Progress | None = None) -> Removed:
        """Take samples out of their datasets, as a new catalog version; say how many. The files are left alone.

        The removal is recorded with the datasets, and what they are refreshed with must not match the predicate either
        (unless it names addresses, which mean other samples then). Older versions keep showing the samples.

        Args:
            predicate: SQL over the columns of `samples`: ``dataset = 'web' AND url LIKE '%//example.org/%'``.
            reason: why, for whoever asks later.
            progress: called with samples looked at and samples in all.

        Raises:
            ConfigError: there is no reason.
            QueryError: the predicate is wrong.
            LakeError: another process has changed one of the datasets meanwhile, or this catalog is pinned.
        """
        self._check_writable("remove")
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f"reason={reason!r}: expected a few words; they are kept with what was removed")
        version, live = self._live()
        return remove_samples(self.lake, live, predicate, reason=reason, version=version, progress=progress)

    def gc(
        self,
        older_than: str | timedelta = "30d",
        *,
        keep_versions: int = 1,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Collected:
        """Collect old catalog versions, and delete the index of what only they show; say what went and what was kept.

        Kept are the newest version, those that were the newest less than ``older_than`` ago, and those that a run is
        pinned to. What killed processes left behind goes too, once nothing of it has been written for a day. Reading a
        collected version is an error. The registered files are left alone.

        Args:
            older_than: ``30d``, ``12h``, ``90m`` or a timedelta.
            keep_versions: the newest so many are kept, however old.
            dry_run: only say what would go.
            progress: called with registrations done and registrations in all.

        Raises:
            ConfigError: ``older_than`` or ``keep_versions`` is wrong.
            LakeError: this catalog is pinned.
        """
        self._check_writable("collect")
        retention = Retention(older_than=parse_duration(older_than, "older_than"), keep_versions=keep_versions)
        return collect_versions(self.lake, retention, dry_run=dry_run, progress=progress)

    def list_datasets(self) -> tuple[Dataset, ...]:
        """Return the datasets of this version, by name."""
        return self._live()[1]

    def dataset(self, name: str) -> Dataset:
        """Return one dataset of this version.

        Raises:
            LakeError: there is none of that name.
        """
        return _find(name, *self._live())

    def datasets(self) -> DataFrame:
        """Return a frame of the datasets of this version: format, counts, parts, removals, folders."""
        return datasets_frame(self.list_datasets())

    def properties(self) -> DataFrame:
        """Return a frame of all properties: dataset, name, type, expression, origin."""
        return properties_frame(self.list_datasets())

    def history(self) -> DataFrame:
        """Return a frame of the catalog's versions, newest first: when, who, what, how many samples, parameters."""
        return history_frame(self.lake.table(schema.DATASETS), self.version)

    def diff(self, before: int, after: int | None = None) -> Difference:
        """Compare two catalog versions: datasets, properties, and sample counts per property value.

        Args:
            before: a version.
            after: another one; None is this catalog's.

        Raises:
            LakeError: there is no such version, or one has been collected.
        """
        versions = (before, self.version if after is None else after)
        old, new = ((version, self.at(version=version).list_datasets()) for version in versions)
        return compare_versions(self.lake, old, new)

    def sql(self, query: str) -> DataFrame:
        """Run a query that can only read, and return its frame.

        Tables: `samples`, `files`, `skipped` and `datasets` (one row per part) as they are at this version; `runs`,
        `weights`, `chunks`, `feedback` and `replaced` as they are now.

        Raises:
            QueryError: the query does not parse, names something unknown, or would write.
        """
        # Opening all tables takes 20 ms. The samples tell, whatever is asked, if the version has been collected.
        named = [schema.SAMPLES, *(n for n in schema.TABLES if n != schema.SAMPLES and n in query.lower())]
        return run_query(self.session(named), query, f"catalog@{self.version}")

    def session(self, tables: Collection[str] = tuple(schema.TABLES)) -> SessionContext:
        """Return a DataFusion session with some or all of the lake's tables at this version."""
        version, live = self._live()
        return open_session(self.lake, version, live, tables)

    def samples(self, context: SessionContext | None = None) -> DataFrame:
        """Return a frame of all samples at this version."""
        return samples_frame(context or new_context(), self.lake, self._live()[1])

    def _live(self) -> tuple[int, tuple[Dataset, ...]]:
        version = self.version
        if self._cached_datasets is None or self._cached_datasets[0] != version:
            self._cached_datasets = (version, read_datasets(self.lake.table_at(schema.DATASETS, version)))
        return self._cached_datasets

    def _check_writable(self, what: str) -> None:
        if self._pinned is not None:
            raise LakeError(f"catalog@{self._pinned} is read-only; {what} through Catalog.open")


def _find(name: str, version: int, live: Sequence[Dataset]) -> Dataset:
    for dataset in live:
        if dataset.name == name:
            return dataset
    names = [dataset.name for dataset in live]
    raise LakeError(f"no dataset {name!r} in datasets@{version}; there are: {listed(names)}.{nearest(name, names)}")

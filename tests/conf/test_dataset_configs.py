"""The ``dataset`` configs: each registers files written in its collection's schema, and samples read back."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog
from mixlake.conf.cli import main
from mixlake.loaders import SampleDataset
from mixlake.mixing import Mixture, Run

CONFIGS = {path.stem for path in Path(str(sys.modules["mixlake.conf"].__path__[0])).glob("dataset/*.yaml")}
TEXT = "Grüße, 世界\n"  # 10 characters, 16 bytes
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """A little of a collection, and what its properties are."""

    files: Mapping[str, Sequence[Record]]
    """The records of every file; the name decides how they are written."""
    expected: Sequence[Record]
    """The properties of each sample, in the order of paths and rows."""
    others: Sequence[str] = ()
    """Files of the collection that hold samples of another schema, and are left out."""
    overrides: Sequence[str] = ()
    """What the command line says besides, as the config's comments suggest it."""


def jsonl(records: Sequence[Record]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def parquet(records: Sequence[Record]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records)), sink)
    return sink.getvalue()


def tar(records: Sequence[Record]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for key, record in enumerate(records):
            for field, value in record.items():
                content = value if isinstance(value, bytes) else value.encode()
                member = tarfile.TarInfo(f"{key:09}.{field}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


WRITERS: dict[str, Callable[[Sequence[Record]], bytes]] = {
    ".jsonl": jsonl,
    ".zst": lambda records: pa.compress(jsonl(records), "zstd", asbytes=True),
    ".gz": lambda records: gzip.compress(jsonl(records)),
    ".parquet": parquet,
    ".tar": tar,
}
SIZE: Record = {"num_bytes": 16, "num_chars": 10}
FINEWEB: Record = {
    "text": TEXT,
    "id": "<urn:uuid:06d23f03-0bd8-4a2b-9b4c-2b1b7b2b7f1f>",
    "dump": "CC-MAIN-2013-20",
    "url": "http://example.org/a",
    "file_path": "s3://commoncrawl/crawl-data/CC-MAIN-2013-20/segments/1368696381249/warc/CC-MAIN-00000.warc.gz",
    "language": "en",
    "language_score": 0.97,
    "token_count": 9,
}
FINEWEB_PROPERTIES: Record = {
    "url": "http://example.org/a",
    "dump": "CC-MAIN-2013-20",
    "language": "en",
    "language_score": 0.97,
    "num_tokens": 9,
    **SIZE,
}
STACK: Record = {
    "hexsha": "e3767ec899c9b2cfe3e4c0ecb875d932cb01a27d",
    "size": 20,
    "ext": "py",
    "lang": "Python",
    "max_stars_repo_path": "src/a.py",
    "max_stars_repo_name": "someone/something",
    "max_stars_repo_head_hexsha": "e3767ec899c9b2cfe3e4c0ecb875d932cb01a27d",
    "max_stars_repo_licenses": ["MIT", "Apache-2.0"],
    "max_stars_count": 7,
    "max_stars_repo_stars_event_min_datetime": "2020-01-01T00:00:00.000Z",
    "content": TEXT,
    "avg_line_length": 9.0,
    "max_line_length": 9,
    "alphanum_fraction": 0.7,
}
STACK_PROPERTIES: Record = {
    "language": "Python",
    "extension": "py",
    "repository": "someone/something",
    "path": "src/a.py",
    "licenses": ["MIT", "Apache-2.0"],
    "num_stars": 7,
    "avg_line_length": 9.0,
    "max_line_length": 9,
    "alphanum_fraction": 0.7,
    **SIZE,
}


def starcoder(stars: float | None) -> Record:
    return {
        "max_stars_repo_path": "src/a.py",
        "max_stars_repo_name": "someone/something",
        "max_stars_count": stars,
        "id": "0",
        "content": TEXT,
    }


# By config, and what is special about a second one for the same config.
COLLECTIONS = {
    "slimpajama": Collection(
        files={
            "train/chunk1/example_train_0.jsonl.zst": [{"text": TEXT, "meta": {"redpajama_set_name": "RedPajamaC4"}}]
        },
        expected=[{"source": "RedPajamaC4", **SIZE}],
    ),
    "the_pile": Collection(
        files={"train/00.jsonl.zst": [{"text": TEXT, "meta": {"pile_set_name": "Pile-CC"}}]},
        expected=[{"source": "Pile-CC", **SIZE}],
    ),
    "redpajama_v1": Collection(
        files={
            "arxiv/arxiv_0a.jsonl": [{"text": TEXT, "meta": {"arxiv_id": "1", "language": "en", "timestamp": "2020"}}],
            "cc_2019-30_sample.jsonl": [{"text": TEXT, "meta": "{'pred_label': '__label__cc'}"}],
            "common_crawl/2023-06/en_head_0000.json.gz.dedup.classifier.jsonl.zst": [
                {
                    "text": TEXT,
                    "pred_label": "__label__wiki",
                    "pred_label_prob": 0.6,
                    "source": "cc/2023-06/en_head_0000",
                }
            ],
            "github/filtered_0a.sampled.jsonl": [
                {"text": TEXT, "meta": {"language": [{"name": "C", "bytes": "9"}], "license": "mit"}}
            ],
            "stackexchange/stackexchange.jsonl": [
                {"text": TEXT, "meta": {"language": "en", "url": "https://example.org", "question_score": "1"}}
            ],
        },
        expected=[
            {"source": source, **SIZE}
            for source in ("arxiv", "common_crawl", "common_crawl", "github", "stackexchange")
        ],
    ),
    "redpajama_v1 of one subset": Collection(
        files={"stackexchange.jsonl": [{"text": TEXT, "meta": {"language": "en", "url": "http://example.org/a"}}]},
        overrides=["properties.url=meta.url", "properties.source=\"'forum'\""],
        expected=[{"source": "forum", "url": "http://example.org/a", **SIZE}],
    ),
    "redpajama_v2": Collection(
        files={
            "2023-14/0000/en_head.json.gz": [
                {
                    "url": "http://example.org/a",
                    "date_download": "2023-03-21T19:03:49Z",
                    "digest": "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ",
                    "length": 10,
                    "nlines": 1,
                    "source_domain": "example.org",
                    "title": "Grüße",
                    "raw_content": TEXT,
                    "cc_segment": "crawl-data/CC-MAIN-2023-14/segments/1679296943698.79/wet/CC-MAIN-00000.warc.wet.gz",
                    "original_nlines": 3,
                    "original_length": 50,
                    "line_ids": [2],
                    "language": "de",
                    "language_score": 0.91,
                    "perplexity": 312.5,
                    "bucket": "head",
                }
            ]
        },
        expected=[
            {
                "url": "http://example.org/a",
                "domain": "example.org",
                "date": datetime(2023, 3, 21, 19, 3, 49, tzinfo=UTC),
                "dump": "CC-MAIN-2023-14",
                "language": "de",
                "language_score": 0.91,
                "perplexity": 312.5,
                "bucket": "head",
                "num_lines": 1,
                **SIZE,
            }
        ],
    ),
    "fineweb": Collection(
        files={"data/CC-MAIN-2013-20/000_00000.parquet": [{**FINEWEB, "date": "2013-05-18T05:48:54Z"}]},
        expected=[{**FINEWEB_PROPERTIES, "date": datetime(2013, 5, 18, 5, 48, 54, tzinfo=UTC)}],
    ),
    "fineweb_edu": Collection(
        files={"data/CC-MAIN-2013-20/train-00000-of-00014.parquet": [{**FINEWEB, "score": 3.4, "int_score": 3}]},
        expected=[{**FINEWEB_PROPERTIES, "quality": 3.4}],
    ),
    "dolma": Collection(
        files={
            "documents/c4-0000.json.gz": [
                {
                    "id": "c4-1",
                    "text": TEXT,
                    "source": "c4",
                    "added": "2023-05-10T22:05:57.000Z",
                    "created": "2019-04-25T12:57:54.000Z",
                    "metadata": {"url": "http://example.org/a"},
                }
            ],
            "documents/pes2o-0000.json.gz": [{"id": "1", "text": TEXT, "source": "s2"}],
        },
        expected=[{"source": "c4", **SIZE}, {"source": "s2", **SIZE}],
    ),
    "dolma with dates": Collection(
        files={
            "c4-0000.json.gz": [
                {"id": "1", "text": TEXT, "source": "c4", "created": "2019-04-25T12:57:54.000Z"},
                {"id": "2", "text": TEXT, "source": "c4", "created": "unknown"},
            ]
        },
        overrides=["properties.date='TRY_CAST(created AS TIMESTAMP)'"],
        expected=[
            {"source": "c4", "date": datetime(2019, 4, 25, 12, 57, 54, tzinfo=UTC), **SIZE},
            {"source": "c4", "date": None, **SIZE},
        ],
    ),
    "starcoder": Collection(
        files={
            "c/train-00000-of-00001.parquet": [starcoder(None)],
            "python/train-00000-of-00001.parquet": [starcoder(7.0), starcoder(None)],
        },
        others=[
            "git-commits-cleaned/train-00000-of-00001.parquet",
            "github-issues-filtered-structured/train-00000-of-00001.parquet",
            "jupyter-structured-clean-dedup/train-00000-of-00001.parquet",
        ],
        expected=[
            {"language": language, "repository": "someone/something", "path": "src/a.py", "num_stars": stars, **SIZE}
            for language, stars in (("c", None), ("python", 7), ("python", None))
        ],
    ),
    "the_stack": Collection(
        files={"data/python/train-00000-of-00206.parquet": [STACK, {**STACK, "max_stars_count": None}]},
        expected=[STACK_PROPERTIES, {**STACK_PROPERTIES, "num_stars": None}],
    ),
    "llava": Collection(
        files={
            "00000.tar": [
                {
                    "jpg": b"\xff\xd8\xff\xe0 a longer image \xff\xd9",
                    "txt": TEXT,
                    "json": json.dumps(
                        {
                            "id": "004539375",
                            "image": "00453/004539375.jpg",
                            "conversations": [
                                {"from": "human", "value": "Render a clear and concise summary.\n<image>"},
                                {"from": "gpt", "value": TEXT},
                            ],
                        }
                    ),
                }
            ]
        },
        expected=[{"num_turns": 2, "num_image_bytes": 22, **SIZE}],
    ),
    "llava by img2dataset": Collection(
        files={
            "00000.tar": [
                {
                    "jpg": b"\xff\xd8\xff\xe0 a longer image \xff\xd9",
                    "json": json.dumps(
                        {
                            "caption": TEXT,
                            "url": "http://example.org/a.jpg",
                            "key": "000000000",
                            "status": "success",
                            "error_message": None,
                            "width": 256,
                            "height": 128,
                            "exif": "{}",
                        }
                    ),
                    "txt": TEXT,
                }
            ]
        },
        overrides=["~properties.num_turns", "properties.width=json.width", "properties.height=json.height"],
        expected=[{"num_image_bytes": 22, "width": 256, "height": 128, **SIZE}],
    ),
}


SQL_TYPES: Mapping[type, str] = {
    str: "string",
    int: "int64",
    float: "double",
    datetime: "timestamp[us, tz=UTC]",
    list: "list<item: string>",
}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", [])
    return lambda *arguments: main(arguments)


def write(name: str) -> None:
    collection = COLLECTIONS[name]
    others: Mapping[str, Sequence[Record]] = {path: [{"issue_id": 1}] for path in collection.others}
    for path, records in {**collection.files, **others}.items():
        file = Path("data", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(WRITERS[file.suffix](records))


def types_of(catalog: Catalog) -> dict[str, str]:
    return {row["name"]: row["type"] for row in catalog.properties().to_pylist()}


def properties_of(catalog: Catalog) -> list[Record]:
    columns = ", ".join(f"samples.{name}" for name in types_of(catalog))
    query = f"SELECT {columns} FROM samples JOIN files USING (registration, file_id) ORDER BY files.path, row"
    return catalog.sql(query).to_pylist()


def test_every_config_has_a_collection_here() -> None:
    assert {name.partition(" ")[0] for name in COLLECTIONS} == CONFIGS


@pytest.mark.parametrize("name", sorted(COLLECTIONS))
def test_a_collection_registers_with_the_properties_of_its_records(call: Callable[..., None], name: str) -> None:
    write(name)
    call("register", f"dataset={name.partition(' ')[0]}", "name=it", "uri=data", *COLLECTIONS[name].overrides)
    catalog = Catalog.open("lake")
    expected = COLLECTIONS[name].expected
    assert properties_of(catalog) == list(expected)
    kinds = {key: type(value) for properties in expected for key, value in properties.items() if value is not None}
    assert types_of(catalog) == {key: SQL_TYPES[kind] for key, kind in kinds.items()}
    run = Run.start(catalog, "exp", Mixture.from_dict({"components": {"all": {"where": "true", "weight": 1}}}))
    assert [sample["text"] for sample in SampleDataset(run)] == [TEXT] * len(expected)


def test_the_command_line_overrides_single_properties_and_the_text(call: Callable[..., None]) -> None:
    write("slimpajama")
    changes = [
        "properties.source='lower(meta.redpajama_set_name)'",
        "~properties.num_chars",
        "properties.position=_row",
    ]
    call("register", "dataset=slimpajama", "name=a", "uri=data", *changes, "text=meta.redpajama_set_name")
    assert properties_of(Catalog.open("lake")) == [{"source": "redpajamac4", "num_bytes": 11, "position": 0}]


def test_help_lists_the_configs_and_cfg_shows_the_chosen_one(
    call: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    call("register", "--help")
    words = " ".join(capsys.readouterr().out.split())  # the line is folded
    assert f" dataset: {' | '.join(sorted(CONFIGS))} #" in words
    call("register", "dataset=dolma", "--cfg", "job")
    assert "  source: source\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=dolmo"], "there is no dataset 'dolmo'; there are: dolma, fineweb, "),
        (["--config-dir", "my", "dataset=mine"], "there is no key 'propertys'; there are: lake, "),
        (["dataset=dolma"], "property 'source' of 'a': no record has a field 'source'; fields: text, meta"),
    ],
)
def test_a_wrong_name_key_or_collection_is_refused(
    call: Callable[..., None], capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    write("slimpajama")
    mine = Path("my", "dataset", "mine.yaml")
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\npropertys: {num_bytes: octet_length(_text)}\n")
    with pytest.raises(SystemExit, match=r"^2$"):
        call("register", *arguments, "name=a", "uri=data")
    assert message in capsys.readouterr().err

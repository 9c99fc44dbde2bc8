"""The ``webdataset`` format: samples in tars, their byte ranges, what is refused, and reading them back."""

from __future__ import annotations

import io
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import BatchFunction, Catalog, DataError, DataFile, Span, format_webdataset
from mixlake.catalog.format_webdataset import WebDatasetFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, FieldPath, FilePart
from mixlake.loaders import SampleDataset
from mixlake.mixing import Mixture, Run

BLOCK = 512
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
KEYS = st.text(st.sampled_from("ab01é猫_- /"), min_size=1, max_size=8).filter(
    lambda key: not key.startswith(("/", "__")) and not key.endswith("/") and "//" not in key
)
LONG_KEYS = st.builds(lambda key, num: "long/" * num + key, KEYS, st.integers(0, 40))
MEMBERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "txt": st.text(max_size=30),
        "json": st.dictionaries(st.text(max_size=3), st.integers(-9, 9) | st.text(max_size=3), max_size=3),
        "cls": st.integers(-(2**40), 2**40),
        "jpg": st.binary(max_size=1500),
        "seg.png": st.binary(max_size=20),
    },
).filter(bool)
Members = Iterable[tuple[str, bytes]]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def encoded(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value).encode() if isinstance(value, str | int) else orjson.dumps(value)


def write(path: Path, members: Members, *, mode: Any = "w", tar_format: int = tarfile.PAX_FORMAT) -> DataFile:
    with tarfile.open(path, mode, format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5  # a fraction, as the webdataset library writes it, needs pax
            tar.addfile(info, io.BytesIO(content))
    return listed(path)


def listed(path: Path) -> DataFile:
    (file,) = find_files([str(path)], format_name="webdataset")[1]
    return file


def members_of(samples: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, bytes]]:
    return [(f"{key}.{field}", encoded(value)) for key, fields in samples.items() for field, value in fields.items()]


def scan(file: DataFile, *fields: FieldPath, problems: Problems | None = None) -> list[Block]:
    parts = [FilePart(file_id=0, file=file)]
    return list(WebDatasetFormat().scan(parts, dict.fromkeys(fields, pa.null()), {}, problems or Problems()))


def values(blocks: list[Block], *path: str) -> list[Any]:
    return [
        value
        for block in blocks
        for value in (block.columns[path].to_pylist() if path in block.columns else [None] * len(block.rows))
    ]


def spans_of(blocks: list[Block]) -> list[Span]:
    return [
        Span(row_start=row, row_stop=row + 1, byte_start=start, byte_stop=stop)
        for block in blocks
        if block.byte_starts is not None and block.byte_stops is not None
        for row, start, stop in zip(
            block.rows.tolist(), block.byte_starts.tolist(), block.byte_stops.tolist(), strict=True
        )
    ]


def merged(first: Span, last: Span) -> Span:
    return Span(
        row_start=first.row_start, row_stop=last.row_stop, byte_start=first.byte_start, byte_stop=last.byte_stop
    )


def read(file: DataFile, spans: list[Span], *fields: FieldPath) -> list[dict[str, Any]]:
    return WebDatasetFormat().read(file, spans, fields or None, {}, ReadCache())


def image(width: int, height: int) -> bytes:
    """Return the smallest PNG of that size: grey, one byte a pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_members_with_one_key_are_one_sample_whose_bytes_cover_them_all(tmp_path: Path) -> None:
    members = [("a/1.jpg", b"x" * 600), ("a/1.TXT", b"ein Hund"), ("a/2.json", b'{"n": 1}')]
    file = write(tmp_path / "a.tar", members, tar_format=tarfile.USTAR_FORMAT)
    (block,) = scan(file, ("__key__",), ("txt",), ("json", "n"), ("jpg",))
    assert values([block], "__key__") == ["a/1", "a/2"]
    assert values([block], "txt") == ["ein Hund", None]
    assert values([block], "json", "n") == [None, 1]
    assert values([block], "jpg") == [b"x" * 600, None]
    assert [(span.byte_start, span.byte_stop) for span in spans_of([block])] == [(0, 5 * BLOCK), (5 * BLOCK, 7 * BLOCK)]
    assert [block.place(0), block.place(1)] == ["sample 'a/1'", "sample 'a/2'"]
    assert (block.num_bytes, block.num_records) == (7 * BLOCK, 2)
    assert read(file, spans_of([block])) == [
        {"__key__": "a/1", "jpg": b"x" * 600, "txt": "ein Hund"},
        {"__key__": "a/2", "json": {"n": 1}},
    ]
    assert read(file, spans_of([block])[:1], ("txt",)) == [{"__key__": "a/1", "txt": "ein Hund"}]


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    samples=st.dictionaries(LONG_KEYS, MEMBERS, max_size=6),
    tar_format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    suffix=st.sampled_from([".tar", ".tgz", ".tar.xz", ".tar.bz2"]),
    num_bytes=st.sampled_from([1, 3000, 8 << 20]),
)
def test_every_sample_is_scanned_and_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    samples: dict[str, dict[str, Any]],
    tar_format: int,
    suffix: str,
    num_bytes: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"beliebige Bilder ä{suffix}"
    mode = {".tar": "w", ".tgz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"}[suffix]
    file = write(path, members_of(samples), mode=mode, tar_format=tar_format)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_webdataset, "_BYTES_PER_BLOCK", num_bytes)
        blocks = scan(file, ("__key__",), ("txt",), ("cls",), ("__num_bytes__", "jpg"))
    assert values(blocks, "__key__") == list(samples)
    assert values(blocks, "txt") == [fields.get("txt") for fields in samples.values()]
    assert values(blocks, "cls") == [fields.get("cls") for fields in samples.values()]
    sizes = [len(fields["jpg"]) if "jpg" in fields else None for fields in samples.values()]
    assert values(blocks, "__num_bytes__", "jpg") == sizes
    spans, wanted = spans_of(blocks), [{"__key__": key, **fields} for key, fields in samples.items()]
    assert [span.row_start for span in spans] == list(range(len(wanted)))
    assert sum(block.num_records for block in blocks) == len(wanted)
    order = data.draw(st.permutations(range(len(spans))))
    assert read(file, [spans[i] for i in order]) == [wanted[i] for i in order]
    for first in range(len(spans)):
        last = data.draw(st.integers(first, len(spans) - 1))
        assert read(file, [merged(spans[first], spans[last])]) == wanted[first : last + 1]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_names_and_sizes_are_those_that_tarfile_finds(tmp_path: Path, tar_format: str) -> None:
    names = [
        "plain.txt",
        f"{'folder/' * 20}long.txt",
        *(["ä.txt", f"{'x' * 150}.txt"] if tar_format != "ustar" else []),
    ]
    file = write(tmp_path / "a.tar", [(name, b"content") for name in names], tar_format=FORMATS[tar_format])
    with tarfile.open(file.uri) as tar:
        assert (
            values(scan(file, ("__key__",)), "__key__") == [info.name[:-4] for info in tar] == [n[:-4] for n in names]
        )


def test_what_has_no_key_belongs_to_no_sample(tmp_path: Path) -> None:
    members = [("README", b"?"), ("1.txt", b"a"), (".hidden", b"?"), ("__meta__/1.txt", b"?"), ("1.cls", b"3\n")]
    file = write(tmp_path / "a.tar", [*members, ("x/.y", b"?"), ("v1.0/2.txt", b"b")])
    with tarfile.open(file.uri, "a") as tar:
        folder = tarfile.TarInfo("folder.d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    blocks = scan(listed(Path(file.uri)))
    assert read(listed(Path(file.uri)), spans_of(blocks)) == [
        {"__key__": "1", "txt": "a", "cls": 3},
        {"__key__": "v1.0/2", "txt": "b"},
    ]


def test_content_that_no_property_needs_is_not_read(tmp_path: Path) -> None:
    size = 9 << 30  # more than octal digits can say, and it takes no space on the disk
    path = tmp_path / "a.tar"
    with open(path, "wb") as stream:
        for key in ("1", "2"):
            for name, num_bytes in ((f"{key}.jpg", size), (f"{key}.txt", BLOCK)):
                info = tarfile.TarInfo(name)
                info.size = num_bytes
                stream.write(info.tobuf(tarfile.GNU_FORMAT))
                stream.seek(num_bytes, os.SEEK_CUR) if name.endswith("jpg") else stream.write(b"x" * BLOCK)
        stream.write(bytes(2 * BLOCK))
    before = num_bytes_read()
    blocks = scan(listed(path), ("txt",), ("__num_bytes__", "jpg"))
    assert num_bytes_read() - before < 100_000
    assert values(blocks, "txt") == ["x" * BLOCK] * 2
    assert values(blocks, "__num_bytes__", "jpg") == [size] * 2


def num_bytes_read() -> int:
    return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])


def info(name: str, **attributes: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


SOUND = [("0.txt", b"first"), ("9.txt", b"last")]


@pytest.mark.parametrize(
    ("bad", "place", "reason"),
    [
        ([info("../1.txt")], "../1.txt", "its name leads out of the tar"),
        ([info("1.txt"), info("1.txt")], "1.txt", "its sample has a member 'txt' already"),
        ([info("1.txt"), info("1.TXT")], "1.TXT", "its sample has a member 'txt' already"),
        ([info("0.cls")], None, None),
        ([info("1.txt"), info("0.txt")], "0.txt", "its key came before; members of a sample must follow one another"),
        ([info("1.jpg"), info("1.txt", type=tarfile.SYMTYPE, linkname="x")], "1.txt", "it is a symbolic link"),
        ([info("1.txt", type=tarfile.LNKTYPE, linkname="0.txt")], "1.txt", "it is a hard link"),
        ([info("1.txt", type=tarfile.CHRTYPE)], "1.txt", "it is a device"),
        ([info("1.txt", type=tarfile.GNUTYPE_SPARSE)], "1.txt", "it is a sparse file"),
        ([info("1.txt", pax_headers={"GNU.sparse.major": "1"})], "1.txt", "it is a sparse file"),
        ([info("1.txt", type=b"V")], "1.txt", "its type 'V' is not known"),
        ([info("../etc/passwd")], "../etc/passwd", "its name leads out of the tar"),
    ],
)
def test_a_member_that_cannot_be_used_is_refused_or_left_out_with_its_sample(
    tmp_path: Path, bad: list[tarfile.TarInfo], place: str | None, reason: str | None
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for member in [info("0.txt"), *bad, info("9.txt")]:
            tar.addfile(member)
    file = listed(path)
    if reason is None:
        assert values(scan(file, ("__key__",)), "__key__") == ["0", "9"]
        return
    with pytest.raises(DataError, match=exactly(f"{file.uri}, member {place!r}: {reason}")):
        scan(file)
    problems = Problems(OnError.SKIP)
    blocks = scan(file, ("__key__",), problems=problems)
    assert [(problem.place, problem.reason) for problem in problems.found] == [(f"member {place!r}", reason)]
    sound = [key for key in values(blocks, "__key__") if key != "1"]
    assert sound == ["0", "9"]
    assert [record["__key__"] for record in read(file, spans_of(blocks))] == values(blocks, "__key__")
    rows = [span.row_start for span in spans_of(blocks)]
    assert rows == sorted(set(rows))


def test_an_absolute_name_and_one_that_is_not_utf8_are_refused(tmp_path: Path) -> None:
    for name, reason in (("/1.txt", "its name is absolute"), ("\udcff.txt", "its name is not UTF-8")):
        path = tmp_path / "a.tar"
        path.write_bytes(info(name).tobuf(tarfile.USTAR_FORMAT, errors="surrogateescape") + bytes(2 * BLOCK))
        with pytest.raises(DataError, match=exactly(f"{path}, member {name!r}: {reason}")):
            scan(listed(path))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("1.json", b'{"a": ', r"not JSON \(.+\)"),
        ("1.txt", b"\xff", r"not UTF-8 text \(invalid start byte at byte 0\)"),
        ("1.cls", b"cat", r"not an integer, but b'cat'"),
    ],
)
def test_a_member_that_does_not_hold_what_its_name_says_is_refused_where_it_is_needed(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    file = write(tmp_path / "a.tar", [SOUND[0], (name, content), SOUND[1]])
    message = rf"^{re.escape(file.uri)}, member '{name}': {reason}$"
    field = name.partition(".")[2]
    with pytest.raises(DataError, match=message):
        scan(file, (field,))
    problems = Problems(OnError.SKIP)
    blocks = scan(file, ("__key__",), (field,), problems=problems)
    assert values(blocks, "__key__") == ["0", "9"]
    assert [span.row_start for span in spans_of(blocks)] == [0, 2]
    assert len(problems.found) == 1
    unread = spans_of(scan(file))
    assert len(unread) == 3
    with pytest.raises(DataError, match=message):
        read(file, unread)


def test_an_object_that_does_not_fit_the_others_is_refused_with_its_sample(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tar", [("1.json", b'{"n": 1}'), ("2.json", b'{"n": "two"}'), ("3.json", b"{}")])
    with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}, sample '2': field 'json.n' is a string \('two'\)"):
        scan(file, ("json", "n"))
    blocks = scan(file, ("json", "n"), problems=Problems(OnError.SKIP))
    assert values(blocks, "json", "n") == [1, None]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("tar_format", FORMATS)
def test_a_tar_that_is_cut_off_anywhere_gives_what_is_whole_and_a_problem(
    tmp_path: Path, tar_format: str, suffix: str
) -> None:
    members = [(f"{index}.{field}", bytes(b"7" * (index * 200))) for index in range(1, 4) for field in ("txt", "cls")]
    whole = write(tmp_path / "whole.tar", members, tar_format=FORMATS[tar_format])
    content = Path(whole.uri).read_bytes()
    spans = spans_of(scan(whole))
    end = len(content.rstrip(b"\0")) + BLOCK - 1 & -BLOCK
    for cut in [*range(1, end, 129), *range(BLOCK, end + 1, BLOCK)]:
        path = tmp_path / f"cut{suffix}"
        compress = zlib.compressobj(wbits=31)
        path.write_bytes(content[:cut] if suffix == ".tar" else compress.compress(content[:cut]) + compress.flush())
        file = listed(path)
        with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}, byte \d+: the tar (is cut off|has no end)"):
            scan(file, ("txt",))
        problems = Problems(OnError.SKIP)
        found = spans_of(scan(file, ("txt",), problems=problems))
        assert len(problems.found) == 1
        assert found == [span for span in spans if span.byte_stop < cut][: len(found)]
        assert len(found) >= sum(span.byte_stop + BLOCK <= cut for span in spans) - 1


def test_a_torn_compressed_tar_gives_what_came_before(tmp_path: Path) -> None:
    noise = os.urandom(300_000)
    members = [(f"{index}.bin", noise) for index in range(20)]
    file = write(tmp_path / "a.tar.gz", members, mode="w:gz")
    os.truncate(file.uri, file.num_bytes // 2)
    file = listed(Path(file.uri))
    with pytest.raises(DataError, match=exactly(f"{file.uri}: cannot be decompressed (it ends too early)")):
        scan(file)
    problems = Problems(OnError.SKIP)
    keys = values(scan(file, ("__key__",), problems=problems), "__key__")
    assert keys == [str(index) for index in range(len(keys))]
    assert 0 < len(keys) < 10
    assert len(problems.found) == 1


@pytest.mark.parametrize("offset", [0, 124, 148, 156, 511])
def test_a_damaged_header_ends_the_tar_with_a_problem(tmp_path: Path, offset: int) -> None:
    members = [(f"{index}.txt", b"text") for index in range(4)]
    file = write(tmp_path / "a.tar", members, tar_format=tarfile.USTAR_FORMAT)
    with open(file.uri, "r+b") as stream:
        stream.seek(4 * BLOCK + offset)
        stream.write(b"\x07")
    with pytest.raises(DataError, match=exactly(f"{file.uri}, byte {4 * BLOCK}: the header's checksum is wrong")):
        scan(file)
    problems = Problems(OnError.SKIP)
    assert values(scan(file, ("__key__",), problems=problems), "__key__") == ["0"]
    assert [(problem.place, problem.byte_start) for problem in problems.found] == [("byte 2048", 2048)]


def test_signed_checksums_of_old_writers_are_right_too(tmp_path: Path) -> None:
    header = bytearray(info("ä.txt").tobuf(tarfile.USTAR_FORMAT))
    unsigned = int(header[148:154], 8)
    header[148:156] = b"%06o\0 " % (unsigned - 2 * 256)  # two bytes above 127
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(2 * BLOCK))
    assert values(scan(listed(tmp_path / "a.tar"), ("__key__",)), "__key__") == ["ä"]


def test_several_tars_in_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    file = write(path, SOUND)
    path.write_bytes(path.read_bytes() * 2)
    message = "something lies behind the end of the tar; are there several tars in the file?"
    with pytest.raises(DataError, match=exactly(f"{file.uri}, byte {file.num_bytes}: {message}")):
        scan(listed(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file is empty"),
        (b"no tar at all" * 99, ", byte 0: the header's checksum is wrong"),
        (b"no tar at all", ", byte 0: the tar is cut off at byte 13"),
        (
            zlib.compress(b"x", wbits=31),
            ": its name says that it is not compressed, its content that it is gzip; rename it",
        ),
    ],
)
def test_what_is_no_tar_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=exactly(f"{path}{message}")):
        scan(listed(path))


def test_a_tar_without_members_has_no_sample(tmp_path: Path) -> None:
    assert scan(write(tmp_path / "a.tar", [])) == []


def test_a_file_that_has_changed_since_is_refused_when_it_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tar", SOUND, tar_format=tarfile.USTAR_FORMAT)
    spans = spans_of(scan(file))
    write(tmp_path / "a.tar", [("0.txt", b"x"), ("0.cls", b"1")], tar_format=tarfile.USTAR_FORMAT)
    with pytest.raises(DataError, match=exactly(f"{file.uri}, rows 0 to 2: found 1 samples in their place")):
        read(file, [merged(*spans)])
    write(tmp_path / "a.tar", [("0.txt", b"x" * 9000)], tar_format=tarfile.USTAR_FORMAT)
    with pytest.raises(DataError, match=rf"^{re.escape(file.uri)}, byte \d+: "):
        read(file, spans)


def widths(batch: pa.RecordBatch) -> pa.Array:
    """Take the width out of PNG headers, as a batch function with an image library would."""
    return pa.array([struct.unpack(">I", content[16:20])[0] for content in batch.column("png").to_pylist()])


def test_a_tar_collection_is_registered_and_loaded_through_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "Bilder ä"
    folder.mkdir()
    for shard in range(3):
        samples = {
            f"{shard}-{index}": {
                "png": image(index + 1, 2),
                "json": {"caption": f"image {shard} {index}", "language": "de" if index % 2 else "en"},
            }
            for index in range(20)
        }
        write(folder / f"shard {shard}.tar", members_of(samples))
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    properties: dict[str, str | BatchFunction] = {
        "language": "json.language",
        "key": "__key__",
        "image_bytes": "__num_bytes__.png",
        "width": BatchFunction(function=widths, fields=("png",)),
        "num_bytes": "_num_bytes",
    }
    catalog.register("images", str(folder), text="json.caption", properties=properties)
    rows = catalog.sql("SELECT key, width, image_bytes, num_bytes FROM samples ORDER BY file_id, row").to_pylist()
    assert [row["key"] for row in rows] == [f"{shard}-{index}" for shard in range(3) for index in range(20)]
    assert [row["width"] for row in rows] == list(range(1, 21)) * 3
    assert [row["image_bytes"] for row in rows] == [len(image(index + 1, 2)) for index in range(20)] * 3
    mixture = Mixture.from_dict({"components": {"german": {"where": "language = 'de'", "weight": 1}}})
    run = Run.start(catalog, "run", mixture, chunk_size=8, lanes=2)
    loaded = sorted(sample["text"] for sample in SampleDataset(run))
    assert loaded == sorted(f"image {shard} {index}" for shard in range(3) for index in range(1, 20, 2))

"""What samples can be: text, fields, bytes, images; passed through a transform, and into batches of one's own."""

import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixlake.catalog import Catalog, ConfigError, DataError
from mixlake.loaders import SampleDataset, make_loader
from mixlake.mixing import Run

NUM_PAIRS = 12
SIZE = (5, 7)


def png(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", SIZE, (number, 0, 255 - number)).save(content, "PNG")
    return content.getvalue()


def write_tar(path: Path, images: Sequence[bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(images):
            for name, content in ((f"{number:03}.png", image), (f"{number:03}.txt", f"image {number}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A mixture of pairs of image and caption in a tar, of pairs in Parquet, and of texts alone."""
    data = tmp_path / "data"
    for name in ("pairs", "table", "texts"):
        (data / name).mkdir(parents=True)
    write_tar(data / "pairs" / "0.tar", [png(number) for number in range(NUM_PAIRS)])
    images = [{"bytes": png(number), "path": f"{number}.png"} for number in range(NUM_PAIRS)]
    captions = [f"image {number}" for number in range(NUM_PAIRS)]
    pq.write_table(pa.table({"txt": captions, "image": images}), data / "table" / "0.parquet", row_group_size=5)
    (data / "texts" / "0.jsonl").write_text("".join(f'{{"txt": "text {n}", "n": {n}}}\n' for n in range(NUM_PAIRS)))
    catalog = Catalog.create(str(tmp_path / "lake"))
    for name in ("pairs", "table", "texts"):
        catalog.register(name, str(data / name), text="txt", properties={"source": f"'{name}'"})
    components = {name: {"where": f"source = '{name}'", "weight": 1} for name in ("pairs", "table", "texts")}
    return Run.start(catalog, "run", {"components": components}, chunk_size=12, lanes=2)


def test_images_of_several_formats_are_decoded_beside_texts(run: Run) -> None:
    samples = list(SampleDataset(run, fields=["txt", "png", "image"], images=["png", "image"]))
    assert len(samples) == 3 * NUM_PAIRS
    for sample in samples:
        field = {"pairs": "png", "table": "image", "texts": None}[sample["component"]]
        assert all(sample[name] is None for name in ("png", "image") if name != field)
        if field:
            number = int(sample["txt"].removeprefix("image "))
            assert sample[field].size == SIZE
            assert sample[field].getpixel((0, 0)) == (number, 0, 255 - number)


def test_bytes_stay_bytes_unless_images_are_asked_for(run: Run) -> None:
    samples = [s for s in SampleDataset(run, fields=["png", "txt"]) if s["component"] == "pairs"]
    assert {s["txt"]: s["png"] for s in samples} == {f"image {number}": png(number) for number in range(NUM_PAIRS)}


def test_true_decodes_whatever_is_named_like_an_image_file(run: Run) -> None:
    by_component = {sample["component"]: sample for sample in SampleDataset(run, images=True)}
    assert isinstance(by_component["pairs"]["png"], Image.Image)
    assert set(by_component["pairs"]) == {"__key__", "png", "txt", "component", "sample"}
    assert by_component["table"]["image"]["bytes"].startswith(b"\x89PNG")
    assert set(by_component["texts"]) == {"txt", "n", "component", "sample"}


def test_a_damaged_image_is_an_error_or_replaced(run: Run, tmp_path: Path) -> None:
    images = [png(number) for number in range(NUM_PAIRS)]
    images[3] = images[3][:20] + b"?" * (len(images[3]) - 20)
    (tmp_path / "more").mkdir()
    write_tar(tmp_path / "more" / "1.tar", images)
    catalog = Catalog.open(run.catalog.lake.uri)
    catalog.register("more", str(tmp_path / "more"), properties={"source": "'more'"})
    mixture = {"components": {"more": {"where": "source = 'more'", "weight": 1}}}
    other = Run.start(catalog, "other", mixture, chunk_size=12, lanes=1)
    with pytest.raises(DataError, match=r"1\.tar, row 3: field 'png' cannot be decoded as an image"):
        list(SampleDataset(other, fields=["png"], images=["png"]))
    samples = list(SampleDataset(other, fields=["png"], images=["png"], on_error="skip"))
    assert len(samples) == NUM_PAIRS
    assert all(sample["png"].size == SIZE for sample in samples)
    (row,) = other.catalog.sql("SELECT row, reason FROM replaced").to_pylist()
    assert row["row"] == 3
    assert "cannot be decoded as an image" in row["reason"]


def test_images_without_pillow_are_refused_with_the_remedy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"images= needs Pillow: pip install 'mixlake\[images\]'"):
        SampleDataset(run, images=True)


def shortened(sample: dict[str, Any]) -> tuple[str, str]:
    return sample["component"], sample["text"].upper()


def joined(items: Sequence[tuple[str, str]]) -> str:
    return "|".join(f"{component}:{text}" for component, text in items)


def stumble(sample: dict[str, Any]) -> None:
    raise RuntimeError(f"no {sample['text']}")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_transform_and_collate_make_batches_as_the_trainer_wants_them(
    run: Run, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # workers import this module for its functions
    expected = [f"{s['component']}:{s['text'].upper()}" for s in SampleDataset(run)]
    loader = make_loader(
        run, batch_size=5, tokenizer=None, transform=shortened, collate=joined, num_workers=num_workers
    )
    batches: list[Any] = list(loader)
    assert [part for batch in batches for part in batch.split("|")] == expected
    assert [batch.count("|") + 1 for batch in batches] == [5] * 7 + [1]


def test_an_error_of_a_transform_names_the_sample(run: Run) -> None:
    with pytest.raises(RuntimeError, match="no ") as caught:
        next(iter(SampleDataset(run, transform=stumble)))
    assert "the transform failed at sample (" in caught.value.__notes__[0]


def test_a_transform_goes_with_samples_alone(run: Run) -> None:
    with pytest.raises(ConfigError, match="transform goes with tokenizer=None"):
        make_loader(run, batch_size=1, transform=shortened)

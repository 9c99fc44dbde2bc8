"""Messages between processes: whatever is sent arrives, through the pipe alone."""

import os
import threading
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np
import pytest
import torch

from mixlake.catalog.columns import as_sent, as_text
from mixlake.loaders.messages import Inlet, Outlet, channel, pack, unpack


def through(ends: tuple[Inlet, Outlet], message: Any, pieces: Any = ()) -> tuple[Any, bytes]:
    here, there = ends
    sender = threading.Thread(target=there.send, args=(message, pieces))
    sender.start()
    with here.receive() as (found, beside):
        content = bytes(beside)
    sender.join()
    return found, content


def sent(message: Any) -> Any:
    return through(channel(), message)[0]


def delivered(items: list[Any], *, is_shared: bool = True) -> list[Any]:
    ends = channel() if is_shared else (Inlet((pipe := Pipe(duplex=False))[0], None), Outlet(pipe[1], None))
    packed, beside = through(ends, *pack(items))
    return unpack(packed, memoryview(beside))


def test_texts_bytes_and_everything_else_arrive_as_they_were() -> None:
    texts = ["", "plain " * 100, "größer " * 100, "漢字" * 3000, "\U0001f600" * 70, "half a pair \ud800" * 20]
    items = [
        {
            "text": text,
            "image": text.encode("utf-8", "surrogatepass"),
            "name": "a",
            "place": ("r", 1, 2),
            "meta": {"n": 1},
        }
        for text in texts
    ]
    assert delivered(items) == items
    assert delivered(items, is_shared=False) == items
    others: tuple[list[Any], ...] = (
        [{"text": "x" * 100}, {"text": None}],
        [{"a": 1}, {"b": 2}],
        [b"x" * 100, "y" * 100],
        [],
        [{}, {}],
    )
    for mixed in others:
        assert delivered(mixed) == mixed


def test_a_text_in_utf8_arrives_as_a_str() -> None:
    texts = ["größer", "", "漢字"]
    items: list[dict[str, Any]] = [
        {"text": memoryview(text.encode()), "number": number} for number, text in enumerate(texts)
    ]
    expected: list[dict[str, Any]] = [{"text": text, "number": number} for number, text in enumerate(texts)]
    assert delivered(items) == expected
    items[1]["text"], expected[1]["text"] = None, None
    assert delivered(items) == expected
    assert delivered([*items[:1], {"tokens": [1]}]) == [expected[0], {"tokens": [1]}]


def test_a_text_that_is_encoded_to_be_sent_arrives_as_it_was() -> None:
    texts = [
        "plain " * 30,
        "größer " * 30,
        "漢字" * 50,
        "\U0001f600" * 70,
        "half a pair \ud800" * 20,
        "\ufeff" + "x" * 99,
        "",
    ]
    items: list[dict[str, Any]] = [{"text": as_sent(text), "number": 1} for text in texts]
    assert {type(item["text"]) for item in items} == {memoryview, str}
    assert [as_text(item["text"]) for item in items] == texts
    expected = [{"text": text, "number": 1} for text in texts]
    assert delivered(items) == expected
    assert delivered([*items, {"text": memoryview("größer".encode()), "number": 2}])[-1]["text"] == "größer"
    assert delivered([{"other": 1}, *items])[1:] == expected


def test_a_message_may_be_larger_than_what_the_pipe_holds_and_of_many_parts() -> None:
    arrays = [np.full(1000 + number, number) for number in range(1500)]
    found = sent(arrays)
    assert len(found) == len(arrays)
    assert all(np.array_equal(here, there) for here, there in zip(found, arrays, strict=True))
    found[0][0] = 7  # the trainer's own memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_tensors_arrive_in_memory_that_nobody_shares(dtype: torch.dtype) -> None:
    tensors = [
        torch.arange(12).reshape(3, 4).T.to(dtype),
        torch.tensor(1, dtype=dtype),
        torch.empty((0, 3), dtype=dtype),
    ]
    for found, tensor in zip(sent(tensors), tensors, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, tensor)
        assert not found.is_shared()
    weights = torch.ones(2, requires_grad=True)
    assert sent(weights).requires_grad


def test_a_message_that_breaks_off_is_the_end() -> None:
    here, there = Pipe(duplex=False)
    begin_a_message(there)
    with pytest.raises(EOFError), Inlet(here, None).receive():
        pass


def begin_a_message(there: Connection) -> None:
    os.write(there.fileno(), np.array([1, 100, 0, -1, 100], np.int64).tobytes() + bytes(50))
    there.close()

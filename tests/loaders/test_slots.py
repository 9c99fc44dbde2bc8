"""Slots of memory: what is put there is found there, nobody waits for a place, and nothing is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixlake.loaders.slots import Slots

_MEGABYTE = 1 << 20


def test_pieces_lie_one_after_the_other_until_the_slot_is_freed() -> None:
    slots = Slots.make()
    pieces = [bytes([number % 256]) * (number % 7) for number in range(5000)]  # more than one call takes
    content = b"".join(pieces)
    slot = slots.put(pieces, len(content))
    assert slot is not None
    assert slots.look(slot, len(content)) == content
    other = slots.put([b"other"], 5)
    assert other not in (None, slot)
    assert slots.look(slot, len(content)) == content
    slots.free(slot)
    assert slots.put([memoryview(b"new")], 3) == slot
    assert bytes(slots.look(slot, 3)) == b"new"


def test_where_all_slots_are_taken_or_too_small_nobody_waits() -> None:
    slots = Slots.make()
    assert slots.put([bytes(5 * _MEGABYTE)], 5 * _MEGABYTE) is None
    taken = []
    while (slot := slots.put([b"x"], 1)) is not None:
        taken.append(slot)
    assert len(set(taken)) == len(taken) == 4
    slots.free(taken[2])
    assert slots.put([b"y"], 1) == taken[2]


def fill(slots: Slots, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    answers.put(slots.put([b"from ", b"a child"], 12))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_that_is_started_has_the_same_memory(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # it imports this module for its function
    context: Any = multiprocessing.get_context(method)
    slots, answers = Slots.make(), context.Queue()
    child = context.Process(target=fill, args=(slots, answers))
    child.start()
    slot = answers.get(timeout=60)
    child.join()
    assert bytes(slots.look(slot, 12)) == b"from a child"


KILLED = """
import os, signal
from mixlake.loaders.slots import Slots
slots = [Slots.make() for _ in range(3)]
slots[0].put([b"x" * 1000], 1000)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="names of shared memory are looked for in /dev/shm")
def test_a_process_that_is_killed_leaves_no_name_behind() -> None:
    before = set(os.listdir("/dev/shm"))
    assert subprocess.run([sys.executable, "-c", KILLED], check=False).returncode == -signal.SIGKILL
    assert {name for name in os.listdir("/dev/shm") if "mixlake" in name} <= before


def test_the_memory_is_gone_with_who_has_it() -> None:
    slots = Slots.make()
    descriptor = slots.descriptor
    os.fstat(descriptor)
    del slots
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)

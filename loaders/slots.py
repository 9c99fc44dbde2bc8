"""Slots of memory that a worker fills and its trainer empties: what lies there is not copied through a pipe.

The memory has no name: it is gone with the last process that has it, however that ends. Who fills it looks for a free
slot and waits for none; where all are taken, there is the pipe.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import reduction
from typing import Any

_NUM_SLOTS = 4
"""As many as a worker may be ahead; more of them would not stay in the processor's cache."""
_SLOT_BYTES = 4 << 20
_FIRST_SLOT = 4096
"""Before it, one byte per slot says whether it is taken."""
_MAX_PIECES = 1000
"""Of one call: the kernel takes 1,024."""


class Slots:
    """The memory. Of what is never put there, nothing is ever taken from the kernel."""

    def __init__(self, descriptor: int) -> None:
        """Take over an open file that `make` has made."""
        self.descriptor = descriptor
        self._view: memoryview | None = None
        weakref.finalize(self, _close, descriptor)

    @classmethod
    def make(cls) -> Slots:
        """Return new slots, all of them free.

        Raises:
            OSError: there is no memory without a name to be had.
        """
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("mixlake")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        slots = cls(descriptor)
        os.ftruncate(descriptor, _FIRST_SLOT + _NUM_SLOTS * _SLOT_BYTES)
        return slots

    def __reduce__(self) -> Any:
        """Go along to a process that is being started, as connections do."""
        return _inherited, (reduction.DupFd(self.descriptor),)

    def put(self, pieces: Sequence[Any], num_bytes: int) -> int | None:
        """Put pieces one after the other into a free slot; return which one, or None where they find no place."""
        if num_bytes > _SLOT_BYTES:
            return None
        slot = os.pread(self.descriptor, _NUM_SLOTS, 0).find(b"\0")
        if slot < 0:
            return None
        with suppress(OSError):  # no space: the slot stays taken, and nobody tries it again
            os.pwrite(self.descriptor, b"\1", slot)
            self._write(pieces, _FIRST_SLOT + slot * _SLOT_BYTES)
            return slot
        return None

    def _write(self, pieces: Sequence[Any], place: int) -> None:
        for start in range(0, len(pieces), _MAX_PIECES):
            rest = pieces[start : start + _MAX_PIECES]
            num_bytes = sum(map(len, rest))
            num = os.pwritev(self.descriptor, rest, place)
            if num < num_bytes:  # the kernel stops where it likes; hardly ever
                content = b"".join(rest)
                while num < num_bytes:
                    num += os.pwrite(self.descriptor, content[num:], place + num)
            place += num_bytes

    def look(self, slot: int, num_bytes: int) -> memoryview:
        """Return what lies in a slot, until that is freed."""
        if self._view is None:
            self._view = memoryview(mmap.mmap(self.descriptor, 0, prot=mmap.PROT_READ))
        start = _FIRST_SLOT + slot * _SLOT_BYTES
        return self._view[start : start + num_bytes]

    def free(self, slot: int) -> None:
        """Let a slot be filled again."""
        os.pwrite(self.descriptor, b"\0", slot)


def _inherited(duplicate: Any) -> Slots:
    return Slots(duplicate.detach())


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)

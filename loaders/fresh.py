"""Workers in fresh interpreters, also in the place of forked ones: the lake's handles do not survive a fork.

They begin to read in half a second, as they import what they need and no more: not torch, and the main module only
where a worker needs something that is defined there. So, other than with `spawn`, scripts need no
``if __name__ == "__main__":`` for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import current_process, spawn
from typing import Any

from mixlake.catalog import ConfigError
from mixlake.loaders.messages import Outlet, from_bytes, to_bytes

_COMMAND = (
    "import gc, sys; gc.disable(); "  # whoever works enables it: nothing that is imported is garbage
    "sys.path[:] = sys.argv[3:]; from mixlake.loaders import fresh; fresh.main(sys.argv[2])"
)
_MAIN = ("init_main_from_name", "init_main_from_path", "sys_argv")


class FreshProcess:
    """A worker in an interpreter of its own. Processes that may have no children by `multiprocessing` can have it."""

    def __init__(
        self, name: str, target: Callable[..., None], payload: bytes, arguments: tuple[Any, ...], outlet: Outlet
    ) -> None:
        """Prepare the process.

        Args:
            name: what lists of processes show among its arguments.
            target: a function of a module, called with what loads the payload, the arguments and the outlet.
            payload: something pickled.
            arguments: more, that can be pickled.
            outlet: where it sends to; it is inherited.
        """
        self._content = to_bytes((target, payload, arguments, _main_module()))
        self._outlet = outlet
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; it ends when this one does."""
        one_thread = {"OMP_NUM_THREADS": "1", **os.environ}
        descriptors = self._outlet.descriptors
        inherited = ",".join(map(str, descriptors))
        command = [spawn.get_executable(), "-c", _COMMAND, self._name, inherited, *sys.path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors, env=one_thread)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(self._content).to_bytes(8, "little") + self._content)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died already, which its connection will tell

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._started.pid

    @property
    def exitcode(self) -> int | None:
        """How it ended: its status, or minus the signal that killed it; None while it runs."""
        return self._started.poll()

    def terminate(self) -> None:
        """Have it end."""
        self._started.terminate()

    def join(self) -> None:
        """Wait until it has ended."""
        self._started.wait()
        if self._started.stdin is not None:
            self._started.stdin.close()

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


def check_may_start() -> None:
    """Refuse to start workers while a worker imports the main module: without end, each would start some.

    Raises:
        ConfigError: that is so.
    """
    if getattr(current_process(), "_inheriting", False):
        raise ConfigError(
            "a worker imports the main module for something that is defined there, and that starts workers: put what "
            "does so under if __name__ == '__main__':, or define what workers need in a module of its own"
        )


def main(descriptors: str) -> None:
    """Be such a process.

    Args:
        descriptors: of the outlet, separated by commas.
    """
    source = sys.stdin.buffer
    content = source.read(int.from_bytes(source.read(8), "little"))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    target, payload, arguments, main_module = from_bytes(content)
    target(lambda: _load(payload, main_module), *arguments, Outlet.inherited(list(map(int, descriptors.split(",")))))


def _leave_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing comes: it returns when the other end is closed, which death does too
    os._exit(0)


def _main_module() -> dict[str, Any]:
    """Return how the main module is found, as `multiprocessing` would tell a process."""
    data = spawn.get_preparation_data("mixlake-worker")
    return {key: data[key] for key in _MAIN if key in data}


def _load(payload: bytes, main_module: dict[str, Any]) -> Any:
    try:
        return from_bytes(payload)
    except AttributeError as error:
        if "__main__" not in str(error):
            raise
        path = main_module.get("init_main_from_path")
        if "init_main_from_name" not in main_module and not (path and os.path.exists(path)):
            raise ConfigError(
                "a worker needs something that is defined where Python reads from no file, as in a notebook: define it "
                "in a module, or load with num_workers=0"
            ) from error
    process: Any = current_process()
    process._inheriting = True  # as `multiprocessing` says it, which starts no process meanwhile
    spawn.prepare(main_module)
    process._inheriting = False
    return from_bytes(payload)

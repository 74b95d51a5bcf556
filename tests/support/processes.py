"""Processes that are killed or launched together, without the seconds that a new one takes to import torch."""

import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

LIMIT = 120  # seconds, then a fork is ended: it may wait for a lock that a thread of the parent held


def forked(function: Callable[[], Any]) -> int:
    """Run a function in a fork of this process; return its status: 0, 1 after an error, -9 if it was killed."""
    return _wait(_fork(function))


def memory_of(function: Callable[[], Any]) -> int:
    """Run a function in a fork, which has to succeed; return the MiB by which its memory grew at most. Linux only."""
    reading, writing = os.pipe()

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) >> 10

    def measure() -> None:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        function()
        os.write(writing, f"{resident('VmHWM') - before}".encode())

    status = forked(measure)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert status == 0, f"the fork ended with {status}"
    return int(text)


def launched(function: Callable[[], Any], processes: int) -> list[int]:
    """Run a function in forks that find each other by torchrun's environment; return their statuses."""
    from accelerate.state import AcceleratorState

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def join(rank: int) -> None:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {key: str(value) for key, value in ranks.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        warnings.simplefilter("default")  # as in a process of its own
        AcceleratorState._reset_state(reset_partial_state=True)  # what the parent made of its own environment
        function()

    return [_wait(child) for child in [_fork(partial(join, rank)) for rank in range(processes)]]


def _fork(function: Callable[[], Any]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's: other threads are not in the fork
        child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(LIMIT)
        try:
            function()
            status = 0
        except BaseException:  # noqa: BLE001  # nothing of the tests that the parent runs may run here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def killing(module: Any, name: str, call: int) -> Iterator[None]:
    """Make a module's function kill this process (SIGKILL) when it is called for the n-th time, counted from 1."""
    function, calls = getattr(module, name), 0

    def kill(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(module, name, kill)
    try:
        yield
    finally:
        setattr(module, name, function)

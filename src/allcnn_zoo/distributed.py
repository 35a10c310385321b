"""Several processes as one: who is there, what they have in common, starting them here.

Launched by ``torchrun``, a process finds its place in the environment. Without it, `launch` starts
the processes itself: on a CPU one process of one thread per core is faster than one process of
many threads, and other load on the machine slows one of them instead of every operation.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from .errors import AllCNNZooError, LostProcessError

# One thread each. And activations of some megabytes come and go thousands of times a second:
# glibc would give each back to the system and have it zeroed anew, which costs 10 % of the time.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1073741824"
    ":glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=268435456",
}
_RESULT = "result"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class World:
    """This process among those that work together; alone by default.

    Attributes:
        rank: Its number.
        size: How many there are.
        device: Where it computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, vector: Tensor) -> Tensor:
        """The sum over all processes, in place, the same bits in each.

        Raises:
            LostProcessError: Another process was lost.
        """
        if self.size > 1:
            with _noticing_losses():
                torch.distributed.all_reduce(vector)
        return vector

    def gather(self, value: T) -> list[T]:
        """Every process's value, which can be pickled, in the order of their ranks.

        Raises:
            LostProcessError: Another process was lost.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _noticing_losses():
            torch.distributed.all_gather_object(values, value)
        return values

    def agree(self, attempt: Callable[[], T]) -> T:
        """What `attempt` gives; if it fails anywhere, every process raises the same error.

        Raises:
            AllCNNZooError: What `attempt` raised in the first process where it failed; likewise an
                `OSError`.
        """
        failure: Exception | None = None
        try:
            result = attempt()
        except (AllCNNZooError, OSError) as error:
            failure = error
        for first in self.gather(failure):
            if first is not None:
                raise first
        return result


@contextlib.contextmanager
def _noticing_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(f"another process was lost: {error}") from error


def is_launched() -> bool:
    """Whether ``torchrun`` started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def launched() -> Iterator[World]:
    """The processes that ``torchrun`` started; only this one, on the CPU, if it did not."""
    if is_launched():
        with joined(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) as world:
            yield world
    else:
        yield World()


@contextlib.contextmanager
def joined(rank: int, size: int, init_method: str = "env://") -> Iterator[World]:
    """Meet the other processes, and leave them at the end."""
    device = _device()
    if size > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(
            backend, init_method=init_method, rank=rank, world_size=size
        )
    try:
        yield World(rank, size, device)
    finally:
        if size > 1:
            torch.distributed.destroy_process_group()


def _device() -> torch.device:
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        return device
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_processes() -> int:
    """One for each processor that this process may use; one if there is an accelerator."""
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch(work: Callable[[World, Any], Any], job: Any, processes: int) -> Any:
    """Run ``work(world, job)`` in new processes on this machine; returns the first one's result.

    SIGTERM and SIGINT are passed on to them. If one is lost the others are ended; if this process
    is lost they end by themselves.

    Raises:
        AllCNNZooError: What the work raised in the first process; likewise an `OSError`.
        LostProcessError: A process was killed, or failed in another way.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, _environment(_WORKER_ENVIRONMENT):
        workers: list[BaseProcess] = [
            context.Process(target=_work, args=(work, job, rank, processes, Path(folder)))
            for rank in range(processes)
        ]
        for worker in workers:
            worker.start()
        with _signals_passed_on(workers):
            _supervise(workers)
        result = pickle.loads((Path(folder) / _RESULT).read_bytes())  # noqa: S301  # our own
    if isinstance(result, Exception):
        raise result
    return result


def _work(work: Callable[[World, Any], Any], job: Any, rank: int, size: int, folder: Path) -> None:
    """What each new process does; in `folder` they meet, and the first leaves the result."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        with joined(rank, size, (folder / "meeting").as_uri()) as world:
            result = work(world, job)
    except (AllCNNZooError, OSError) as error:
        result = error
    if rank == 0:
        (folder / _RESULT).write_bytes(pickle.dumps(result))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _supervise(workers: list[BaseProcess]) -> None:
    """Wait until all are done; end all as soon as one is lost."""
    try:
        running = list(workers)
        while running:
            wait([worker.sentinel for worker in running])
            codes = [worker.exitcode for worker in workers]  # once: a second look may see more
            for number, code in enumerate(codes):
                if code not in (None, 0):
                    raise LostProcessError(f"process {number} of {len(workers)} {_fate(code)}")
            running = [worker for worker, code in zip(workers, codes, strict=True) if code is None]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _fate(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return "failed; its traceback is above"


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _signals_passed_on(workers: list[BaseProcess]) -> Iterator[None]:
    def forward(*_: object) -> None:
        for worker in workers:
            worker.terminate()

    with handling_signals(forward):
        yield


@contextlib.contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT; only a main thread can, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)

"""Several processes that work as one: those of torchrun, or processes started here.

On a CPU, one single-threaded process per core is faster than one process with many threads, and
other load slows down one process instead of every operation. So `launch` starts processes unless
``torchrun`` has done so.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import FileStore, PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessContext, ProcessException, start_processes

from .errors import AllCNNZooError, LostProcessError
from .machine import usable_cores

# One thread each. glibc would return activations of some megabytes to the system, thousands of
# times a second, and get zeroed memory back, which takes 10 % of the time.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1073741824"
    ":glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=268435456",
}
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_MEETINGS = itertools.count()

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class World:
    """This process, number `rank` of the `size` that work together; alone by default."""

    rank: int = 0
    size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, vector: Tensor) -> Tensor:
        """The sum over all processes, in place, the same bits in each."""
        if self.size > 1:
            with _noticing_losses():
                torch.distributed.all_reduce(vector)
        return vector

    def gather(self, value: T) -> list[T]:
        """The picklable values of all processes, ordered by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _noticing_losses():
            torch.distributed.all_gather_object(values, value)
        return values

    def agree(self, attempt: Callable[[], T]) -> T:
        """The result of `attempt`; if it fails anywhere, every process raises the first error."""
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
        reason = str(error).splitlines()[0]
        raise LostProcessError(f"another process was lost: {reason:.200}") from error


@contextlib.contextmanager
def launched() -> Iterator[World]:
    """The processes that ``torchrun`` started; only this one, on the CPU, if it did not."""
    if not _is_launched():
        yield World()
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = os.environ.get("LOCAL_RANK", str(rank))
    if rank >= size or not local_rank.isdecimal():
        raise AllCNNZooError(
            f"RANK={rank}, WORLD_SIZE={size} and LOCAL_RANK={local_rank!r:.20} do not go together;"
            " start the processes with torchrun, or unset all three"
        )
    with _joined(rank, size, int(local_rank)) as world:
        yield world


def _is_launched() -> bool:
    return all(os.environ.get(name, "").isdecimal() for name in ("RANK", "WORLD_SIZE"))


@contextlib.contextmanager
def _joined(rank: int, size: int, local_rank: int, store: Any = None) -> Iterator[World]:
    """Connect to the other processes, by `store` or the environment; disconnect at the end."""
    device = _device(local_rank)
    if size == 1:
        yield World(rank, size, device)
        return
    try:
        if store is None:  # torchrun's, which still holds what was agreed on at earlier meetings
            store, *_ = next(rendezvous("env://", rank, size))
            store = PrefixStore(f"allcnn_zoo {next(_MEETINGS)}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise AllCNNZooError(
            f"cannot connect to the processes that RANK and WORLD_SIZE announce ({reason:.200});"
            " start them with torchrun, or unset both"
        ) from error
    try:
        yield World(rank, size, device)
    finally:
        torch.distributed.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_processes() -> int:
    """One process per available core, or one if there is an accelerator."""
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return 1
    return usable_cores()


def launch(work: Callable[[World, Any], T], job: Any, processes: int) -> T:
    """Run ``work(world, job)`` in several processes; return the result of the first.

    Under ``torchrun`` this process is one of them and returns its own. Otherwise new ones are
    started. They get SIGTERM and SIGINT as SIGTERM. If one dies, the others are ended; if this
    process dies, they end by themselves. A daemonic process may not start others, so it does the
    work itself.

    The new processes import `work`, a function of a module. ``__main__`` is hidden from them,
    because it may be an unguarded script, a notebook or standard input. A signal that arrives
    before `handling_signals` is ready in them is delivered afterward, because processes inherit
    blocked signals.

    Raises:
        AllCNNZooError: What the work raised in the first process, likewise an `OSError`; or
            torchrun's processes cannot be met.
        LostProcessError: A process was killed, or failed in another way.
    """
    if _is_launched():
        with launched() as world:
            return work(world, job)
    if multiprocessing.current_process().daemon:
        return work(World(device=_device(0)), job)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resource_tracker.ensure_running()  # now, as it unblocks the signals when it starts
        hidden = {"__main__": types.ModuleType("__main__")}
        with (
            _replaced(sys.modules, hidden),
            _replaced(os.environ, _WORKER_ENVIRONMENT),
            _signals("SIG_BLOCK"),
        ):
            arguments = (work, job, processes, folder)
            context: ProcessContext = start_processes(_work, arguments, processes, join=False)  # type: ignore[no-untyped-call]
        try:
            with handling_signals(lambda *_: [each.terminate() for each in context.processes]):
                # When one is lost, the others have a few seconds to notice it themselves.
                while not context.join(grace_period=5):
                    pass
            result = pickle.loads((folder / "result").read_bytes())  # noqa: S301  # our own
        except ProcessException as error:  # of a failure it holds the whole traceback
            lost, reason = error.error_index, error.msg.strip().splitlines()[-1]
            raise LostProcessError(f"process {lost} of {processes} was lost: {reason}") from error
        finally:
            for process in context.processes:
                process.kill()
    if isinstance(result, Exception):
        raise result
    return result  # type: ignore[no-any-return]


@contextlib.contextmanager
def _replaced(mapping: MutableMapping[str, Any], items: Mapping[str, Any]) -> Iterator[None]:
    before = {name: mapping[name] for name in items if name in mapping}
    mapping.update(items)
    try:
        yield
    finally:
        for name in items:
            del mapping[name]
        mapping.update(before)


def _work(rank: int, work: Callable[[World, Any], Any], job: Any, size: int, folder: Path) -> None:
    """Run in each new process; they connect in `folder`, where the first leaves the result."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        store = FileStore(str(folder / "store"), size)
        with _joined(rank, size, rank, store) as world:
            result = work(world, job)
    except (AllCNNZooError, OSError) as error:
        result = error
    if rank == 0:
        (folder / "result").write_bytes(pickle.dumps(result))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT; no effect outside the main thread, which alone can."""
    numbers = _STOPPING if threading.current_thread() is threading.main_thread() else ()
    before = [signal.signal(number, handler) for number in numbers]
    try:
        with _signals("SIG_UNBLOCK"):
            yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old or signal.SIG_DFL)  # Python cannot restore a handler of C


@contextlib.contextmanager
def _signals(action: str) -> Iterator[None]:
    """Block or unblock SIGTERM and SIGINT in a ``with`` block; no effect on Windows."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(getattr(signal, action), _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""What the tests let other processes do: they import it by name, and no more than they need."""

import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch

from allcnn_zoo.distributed import World, handling_signals
from allcnn_zoo.errors import DatasetError, TrainingError

MUON_SHAPES = [(96, 3, 3, 3), (96, 96, 3, 3), (192, 96, 3, 3), (192, 192, 1, 1)]


def be_quick() -> None:
    """Light trainings in a process of their own, and no compiler.

    PyTorch's optimizers import it, to switch it off, which takes longer than a tiny training.
    """
    from .conftest import make_light

    make_light()
    compiler: Any = types.ModuleType("torch._dynamo")
    compiler.disable = lambda function, *_, **__: function
    compiler.graph_break = lambda: None
    sys.modules[compiler.__name__] = compiler


def everything(world: World, jobs: list[Any]) -> dict[str, Any]:
    """All that needs several processes and goes well, as starting them is what takes time."""
    from allcnn_zoo.training.loop import run

    be_quick()
    for job in jobs:
        run(world, job)
    return {
        "muon": three_steps_of_muon(world),
        "agreed": agree(world),
        "figures": figures_of(world, jobs[0]),
        "signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "script": getattr(__import__("__main__"), "__file__", None),
        "much": b"x" * 1_000_000,  # does not fit into a pipe
    }


def three_steps_of_muon(world: World, _: object = None) -> list[torch.Tensor]:
    """Kernels afterwards, the gradients being noise."""
    from allcnn_zoo.training.learner import Muon

    noise = torch.Generator().manual_seed(0)
    kernels = [torch.nn.Parameter(torch.randn(shape, generator=noise)) for shape in MUON_SHAPES]
    optimizer = Muon(kernels, lr=0.1, momentum=0.6, world=world)
    for _ in range(3):
        for kernel in kernels:
            kernel.grad = torch.randn(kernel.shape, generator=noise)
        optimizer.step()
    return [kernel.detach().clone() for kernel in kernels]


def figures_of(world: World, job: Any) -> dict[str, Any]:
    """The evaluation of a finished run's weights on its test images, in batches of 4."""
    from allcnn_zoo import Classifier, evaluate, load
    from allcnn_zoo.cifar import CIFAR10

    while not (job.out / "weights.safetensors").exists():  # the first writes them
        time.sleep(0.01)
    world.gather(None)
    classifier = Classifier(load(job.out / "weights.safetensors"), batch_size=4)
    test = CIFAR10(job.data).test
    figures = evaluate(classifier, test.images, test.labels, world=world).to_json()
    del figures["seconds"]
    return figures


def agree(world: World) -> list[str]:
    """What the processes make of three attempts: only one fails, all fail, none does."""

    def attempt(*failing: int) -> str:
        def fail() -> str:
            if world.rank in failing:
                raise (TrainingError, DatasetError)[world.rank](f"no luck in {world.rank}")
            return "done"

        try:
            return world.agree(fail)
        except (TrainingError, DatasetError) as error:
            return f"{type(error).__name__}: {error}"

    mine = [attempt(1), attempt(0, 1), attempt()]
    both = world.gather(mine)
    assert both[0] == both[1]
    return mine


def lose_the_second(world: World, folder: Path) -> None:
    """The second is killed in the middle of a sum of many, in which the first takes part."""
    for number in range(1_000_000):
        if world.rank == 1 and number == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            world.sum(torch.zeros(1000))
        except Exception as error:
            (folder / "noticed").write_text(f"{type(error).__name__} {number >= 10}")
            raise


def wait_for_a_signal(_: World, ready: Path) -> None:
    """Held back until there is a handler, a signal stops this; nothing else does."""
    ready.touch()
    while not signal.sigpending() & {signal.SIGINT, signal.SIGTERM}:
        time.sleep(0.01)
    seen: list[int] = []
    with handling_signals(lambda number, _: seen.append(number)):
        pass
    raise TrainingError(f"stopped by a signal, {len(seen) > 0}")


def stumble(_: World, message: str) -> None:
    """A mistake in the program."""
    raise RuntimeError(message)


def die_after(count: int) -> None:
    """Let this process be killed before its `count`-th step, or write of a file, from now."""
    from allcnn_zoo.training import loop

    left = count

    def counted(act: Any) -> Any:
        def counting(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments)

        return counting

    loop.Trainer._step = counted(loop.Trainer._step)  # type: ignore[method-assign]
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]


def train_until_done(job: Any, moments: Any) -> int:
    """Train in one process after the other, each killed somewhere; how many that took."""
    from allcnn_zoo.training.loop import run

    for number in range(1, 100):
        moment = int(moments.integers(1, 30))
        child = os.fork()
        if child == 0:
            try:
                die_after(moment)
                run(World(), job)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return number
        assert os.WIFSIGNALED(status), f"ended by itself with {status}"
    raise AssertionError("no progress in a hundred processes")


if __name__ == "__main__":
    import pickle

    import numpy as np

    from allcnn_zoo.training.loop import run

    be_quick()
    for undisturbed, killed in pickle.loads(Path(sys.argv[1]).read_bytes()):
        run(World(), undisturbed)  # first: the others inherit what it imports
        print(train_until_done(killed, np.random.default_rng(1412)))

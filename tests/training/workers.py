"""What the tests let other processes do: they import it by name."""

import os
import signal
from multiprocessing.synchronize import Event
from typing import Any

import torch

from allcnn_zoo.distributed import World
from allcnn_zoo.errors import DatasetError, TrainingError
from allcnn_zoo.training.loop import Job, Trainer, run
from allcnn_zoo.training.optimizers import Muon

# PyTorch imports much of itself with the first optimizer. Whoever is forked from a process that has
# imported this finds it done.
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def train_alone(job: Job, ready: Event) -> None:
    """A training of one process, which tells when it is about to begin."""
    torch.set_num_threads(1)
    trainer = Trainer(World(), job)
    ready.set()
    trainer.fit()
    trainer.finish()


def train_each(world: World, jobs: list[Job]) -> list[dict[str, Any]]:
    """One training after another, with one thread each, as in the tests' own process."""
    results = []
    for job in jobs:
        torch.set_num_threads(1)  # the end of a run takes all
        results.append(run(world, job))
    return results


def three_steps_of_muon(world: World, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Kernels of these shapes afterwards, the gradients being noise."""
    torch.set_num_threads(1)
    noise = torch.Generator().manual_seed(0)
    kernels = [torch.nn.Parameter(torch.randn(shape, generator=noise)) for shape in shapes]
    optimizer = Muon(kernels, lr=0.1, momentum=0.6, world=world)
    for _ in range(3):
        for kernel in kernels:
            kernel.grad = torch.randn(kernel.shape, generator=noise)
        optimizer.step()
    return [kernel.detach().clone() for kernel in kernels]


def agree(world: World, _: Any) -> list[str]:
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


def lose_the_second(world: World, _: Any) -> None:
    """The first waits for the second, which is killed."""
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.sum(torch.zeros(1))


def return_much(_: World, size: int) -> bytes:
    """More than fits into a pipe."""
    return b"x" * size


def stumble(_: World, message: str) -> None:
    """A mistake in the program."""
    raise RuntimeError(message)


def refuse(_: World, message: str) -> None:
    """An error on purpose."""
    raise TrainingError(message)

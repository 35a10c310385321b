"""How fast this machine is: the table of the published readme, measured here.

Nervana's readme gives forward, backward and iteration of All-CNN-C at batch 128, the mean of 50.
So does `benchmark`, for the network as everybody writes it and as our training runs it: in time, in
operations per second, and as a fraction of what this machine's own matrix multiplication reaches in
the same precision on the same threads.
"""

import contextlib
import dataclasses
import functools
import io
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from .architectures import Architecture
from .classifier import Classifier
from .distributed import World, default_processes, launch
from .engines import EngineName, Precision, usable_device
from .machine import FloatPrecision, describe_machine
from .model import AllCNN
from .training.loop import build_learner, share_gradients
from .training.recipes import BEST, Recipe
from .version import __version__

PRECISIONS = ("float32", "bfloat16", "int8")  #: Training has the first two.
PHASES = ("forward", "backward", "iteration")

#: Milliseconds that the ModelZoo's All_CNN readme gives: batch 128, mean of 50, GTX TITAN X.
PUBLISHED = {
    "neon, GTX TITAN X (readme)": {"forward": 10, "backward": 22, "iteration": 32},
    "Caffe, GTX TITAN X (readme)": {"forward": 19, "backward": 65, "iteration": 85},
}
PUBLISHED_BATCH_SIZE = 128

#: The engines and precisions of `Classifier`.
CLASSIFIERS: tuple[tuple[EngineName, Precision], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)

_BUNDLED = "cifar10_best"  # speed does not depend on the weights, and these need no network
_WARM_UP = 3
_MATRIX_SIZES = (1024, 2048)
_MATRIX_SECONDS = 0.2  # for each of them


def benchmark(
    batch_size: int = PUBLISHED_BATCH_SIZE,
    repeats: int = 50,
    *,
    precisions: Sequence[str] = PRECISIONS,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    architecture: Architecture = BEST.architecture,
) -> dict[str, Any]:
    """Time training steps and classification, on noise; nothing is downloaded.

    On a CPU, training is measured in one process of all threads, and as `training.train` really
    runs it, in one process per core.

    Args:
        batch_size: Images in a training step, and in a call of the classifier.
        repeats: How often each is timed, after a warm-up.
        precisions: Some of `PRECISIONS`; engines that are not installed are left out.
        device: Where to compute.
        threads: How many work on a CPU; as many as PyTorch takes if None.
        architecture: The network that is trained. (The one that classifies is the bundled one.)

    Returns:
        JSON values, times in seconds: ``machine``, ``versions``, ``device`` and ``threads``;
        ``flop``, the arithmetic of one image, and ``multiply_adds``, that of its forward pass;
        ``matmul_flops``, what this machine reaches, by precision; the rows of ``training`` and of
        ``inference``; and the readme's ``published`` milliseconds, where the batch is its own.

    Raises:
        AllCNNZooError: PyTorch cannot use the device.
        LostProcessError: A process that trained was lost.
    """
    device = usable_device(device)
    flop = count_flop(architecture)
    with _threads(threads), tqdm(disable=not sys.stderr.isatty(), leave=False) as bar:

        def announce(what: str) -> None:
            bar.set_description(what)
            bar.update()

        announce("matrix multiplication")
        peaks = {
            name: matmul_flops(getattr(torch, name), device)
            for name in precisions
            if name != "int8"
        }
        first = StepJob("float32", "float32", batch_size, repeats, architecture, device)
        processes = min(threads or default_processes(), default_processes())
        training = []
        for job in _jobs(first, precisions, processes):
            announce(job.name)
            training.append(_training_row(job, flop, peaks[job.precision]))
        inference = []
        for engine, precision in CLASSIFIERS:
            if precision in precisions and _can_run(engine, precision, device):
                announce(f"{engine}, {precision}")
                seconds = time_classifier(engine, precision, batch_size, repeats, device)
                inference.append(_inference_row(engine, precision, batch_size, seconds))
        used = torch.get_num_threads()
    return {
        "batch_size": batch_size,
        "repeats": repeats,
        "device": str(device),
        "threads": used,
        "machine": describe_machine(),
        "versions": {"allcnn_zoo": __version__, "torch": torch.__version__},
        "network": dataclasses.asdict(architecture),
        "multiply_adds": flop["forward"] // 2,
        "flop": flop,
        "matmul_flops": peaks,
        "training": training,
        "inference": inference,
        "published": PUBLISHED if batch_size == PUBLISHED_BATCH_SIZE else {},
    }


def count_flop(architecture: Architecture) -> dict[str, int]:
    """Additions and multiplications for one 32x32 image, counted by PyTorch on the network itself.

    ``forward`` is twice the multiply-adds of the convolutions. ``backward`` is about twice that:
    the gradients of kernels and activations, but not that of the image. ``iteration`` is both.
    """
    with torch.device("meta"):  # shapes without numbers
        model, image = AllCNN(architecture), torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as forward:
        logits = model(image)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    counts = {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}
    return {**counts, "iteration": sum(counts.values())}


def matmul_flops(dtype: torch.dtype, device: torch.device) -> float:
    """The most operations per second that a product of large square matrices reaches."""
    best = 0.0
    for size in _MATRIX_SIZES:
        left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
        for other in (right, right.T):  # some libraries prefer one, some the other
            multiply = functools.partial(torch.matmul, left, other)
            end = time.perf_counter() + _MATRIX_SECONDS
            while True:
                best = max(best, 2 * size**3 / _timed(multiply, device))
                if time.perf_counter() > end:
                    break
    return best


# Training steps.


@dataclasses.dataclass(frozen=True)
class StepJob:
    """A training step to be timed.

    Attributes:
        name: For people.
        precision: Of the arithmetic.
        batch_size: Images in it.
        repeats: How often to time it.
        architecture: The network.
        device: Where to compute.
        layout: How the images lie in memory, for the step that everybody writes; None for ours.
        processes: How many share the work, 0 for the one that asks.
    """

    name: str
    precision: FloatPrecision
    batch_size: int
    repeats: int
    architecture: Architecture
    device: torch.device
    layout: torch.memory_format | None = torch.contiguous_format
    processes: int = 0


class Step(Protocol):
    """A training step on noise, in the parts that are timed."""

    def forward(self) -> Any:
        """From whitened images to logits, ready to go back."""

    def gradients(self) -> None:
        """Forward and backward."""

    def update(self) -> None:
        """The optimizer's part."""


class PlainStep:
    """The step as everybody writes it: float32, SGD with momentum, cross-entropy."""

    def __init__(self, job: StepJob) -> None:
        assert job.layout is not None
        self.model = AllCNN(job.architecture).to(job.device)
        self.model.to(memory_format=job.layout)  # type: ignore[call-overload]  # PyTorch forgot it
        # Noise teaches nothing; at a low rate it does no harm either.
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-4, momentum=0.9, weight_decay=0.001
        )
        images, self.labels = _noise(job.batch_size, job.device)
        self.images = images.contiguous(memory_format=job.layout)

    def forward(self) -> Tensor:
        """The logits."""
        logits: Tensor = self.model(self.images)
        return logits

    def gradients(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        functional.cross_entropy(self.forward(), self.labels).backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """SGD."""
        self.optimizer.step()


class OurStep:
    """The step of `training.train`: this process's micro-batches, a sum over all, the update."""

    def __init__(self, job: StepJob, world: World) -> None:
        recipe = step_recipe(job)
        self.world, self.learner = world, build_learner(recipe, 0, world)
        self.learner.set_learning_rate(0, 0)
        self.batch_size = job.batch_size
        self.sums = torch.zeros(
            sum(p.numel() for p in self.learner.parameters), device=world.device
        )
        share_gradients(self.learner.parameters, self.sums)
        images, labels = _noise(job.batch_size, world.device)
        images = images.to(getattr(torch, recipe.precision), memory_format=torch.channels_last)
        parts = zip(
            torch.split(images, recipe.ghost_batch),
            torch.split(labels, recipe.ghost_batch),
            strict=True,
        )
        self.parts = list(enumerate(parts))[world.rank :: world.size]

    def forward(self) -> None:
        """The logits of each micro-batch."""
        for number, (images, _) in self.parts:
            self.learner.start_part(0, 0, number)
            self.learner.logits(images)

    def gradients(self) -> None:
        """Forward and backward."""
        self.sums.zero_()
        self.learner.start_batch(self.batch_size)
        for number, (images, labels) in self.parts:
            self.learner.start_part(0, 0, number)
            self.learner.accumulate(images, labels, share=len(labels) / self.batch_size)

    def update(self) -> None:
        """The sum over the processes, and the optimizers."""
        self.world.sum(self.sums)
        self.learner.step()


def step_recipe(job: StepJob) -> Recipe:
    """The recipe `best`, for this batch and network, with a part for every process."""
    share = max(1, job.batch_size // max(1, job.processes))
    return dataclasses.replace(
        BEST,
        architecture=job.architecture,
        batch_size=job.batch_size,
        ghost_batch=math.gcd(job.batch_size, BEST.ghost_batch, share),
        precision=job.precision,
    )


def time_step(job: StepJob) -> dict[str, list[float]]:
    """Seconds of each phase in each repeat.

    Backward is what gradients take beyond a forward pass in the same repeat, as our training does
    the two in one go.
    """
    if job.layout is not None:
        return _time(PlainStep(job), job)
    if job.processes:
        seconds: dict[str, list[float]] = launch(_time_ours, job, job.processes)
        return seconds
    return _time_ours(World(device=job.device), job)


def _time_ours(world: World, job: StepJob) -> dict[str, list[float]]:
    return _time(OurStep(job, world), job)


def _time(step: Step, job: StepJob) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for turn in range(-_WARM_UP, job.repeats):
        acts = (step.forward, step.gradients, step.update)
        forward, gradients, update = (_timed(act, job.device) for act in acts)
        if turn >= 0:
            for phase, taken in zip(
                PHASES, (forward, gradients - forward, gradients + update), strict=True
            ):
                seconds[phase].append(taken)
    return seconds


def _jobs(first: StepJob, precisions: Sequence[str], processes: int) -> Iterator[StepJob]:
    """Every row of the table, in the manner of the first."""
    if "float32" in precisions:
        yield first
        yield dataclasses.replace(first, name="float32, channels last", layout=torch.channels_last)
    if "bfloat16" in precisions:
        ours = dataclasses.replace(
            first, name="bfloat16, as we train", precision="bfloat16", layout=None
        )
        yield ours
        if first.device.type == "cpu" and processes > 1:
            name = f"the same, {processes} processes"
            yield dataclasses.replace(ours, name=name, processes=processes)


def _training_row(job: StepJob, flop: Mapping[str, int], peak: float) -> dict[str, Any]:
    times = {phase: summarise(seconds) for phase, seconds in time_step(job).items()}
    flops = {phase: job.batch_size * flop[phase] / times[phase]["mean"] for phase in PHASES}
    return {
        "name": job.name,
        "precision": job.precision,
        "processes": job.processes or 1,
        "seconds": times,
        "flops": flops,
        "of_matmul": {phase: value / peak for phase, value in flops.items()},
    }


# Classification.


def _can_run(engine: EngineName, precision: Precision, device: torch.device) -> bool:
    """Whether what it takes is installed: the runtimes have their engines' names."""
    needed: set[str] = {engine} if engine == "torch" else {engine, "onnx"}
    if precision == "int8":
        needed.add("onnxruntime")  # it quantises
    return (engine == "torch" or device.type == "cpu") and all(map(find_spec, needed))


def time_classifier(
    engine: EngineName, precision: Precision, batch_size: int, repeats: int, device: torch.device
) -> list[float]:
    """Seconds of each call of a `Classifier` on `batch_size` uint8 images."""
    classifier = Classifier.from_pretrained(
        _BUNDLED, device=device, engine=engine, precision=precision
    )
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 3, 32, 32), np.uint8)

    def classify() -> None:
        classifier.predict_proba(images).argmax(axis=1)

    return [_timed(classify, device) for _ in range(_WARM_UP + repeats)][_WARM_UP:]


def _inference_row(
    engine: str, precision: str, batch_size: int, seconds: Sequence[float]
) -> dict[str, Any]:
    times = summarise(seconds)
    return {
        "name": f"{engine}, {precision}",
        "engine": engine,
        "precision": precision,
        "seconds": times,
        "images_per_second": batch_size / times["mean"],
    }


# The clock.


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Mean, median, and the quartiles between which the middle half lies."""
    lower, median, upper = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return {"mean": statistics.fmean(seconds), "median": median, "lower": lower, "upper": upper}


def _timed(act: Callable[[], Any], device: torch.device) -> float:
    """Seconds until everything is computed that `act` asks for."""
    synchronise = getattr(torch, device.type).synchronize  # torch.cuda's, torch.mps's; cpu has one
    synchronise()
    start = time.perf_counter()
    act()
    synchronise()
    return time.perf_counter() - start


def _noise(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Like whitened images (N, 3, 32, 32), and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return images.to(device), torch.randint(10, (count,), generator=generator).to(device)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# The picture.


def draw(report: Mapping[str, Any]) -> bytes:
    """The table as bars, as a PNG file; needs matplotlib (``allcnn-zoo[plots]``)."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    rows = {
        row["name"]: {phase: 1e3 * row["seconds"][phase]["mean"] for phase in PHASES}
        for row in report["training"]
    }
    rows.update(report["published"])
    names = list(rows)
    figure = Figure(figsize=(8, 1 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    start = [0.0] * len(rows)
    for phase in ("forward", "backward"):
        widths = [rows[name][phase] for name in names]
        axes.barh(names, widths, left=start, label=phase, height=0.6)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    axes.plot([rows[name]["iteration"] for name in names], names, "|k", ms=16, label="iteration")
    axes.invert_yaxis()
    axes.set(xlabel=f"milliseconds, batch {report['batch_size']}", title=report["machine"]["cpu"])
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()

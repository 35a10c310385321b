"""The speed of this machine: the table of Nervana's readme, measured here.

The readme gives the times of forward pass, backward pass and iteration of All-CNN-C at batch size
128, the mean of 50. `benchmark` measures them for the plain network and for our training, also in
operations per second and as a fraction of matrix multiplication in the same precision.
"""

import contextlib
import dataclasses
import io
import itertools
import math
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.benchmark import Timer
from torch.utils.benchmark.utils.timer import timer  # waits for accelerators
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from ..architectures import Architecture
from ..classifier import Classifier
from ..distributed import World, default_processes, launch
from ..engines import EngineName, Precision, usable_device, using_threads
from ..errors import AllCNNZooError
from ..machine import describe_machine
from ..model import AllCNN
from ..version import __version__
from .loop import build_learner, share_gradients
from .recipes import BEST, Recipe

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")  #: Training has two of them.
ENGINES: tuple[EngineName, ...] = ("torch", "onnxruntime", "openvino")
PHASES = ("forward", "backward", "iteration")

#: Milliseconds that the ModelZoo's All_CNN readme gives: batch 128, mean of 50, GTX TITAN X.
PUBLISHED = {
    "neon, GTX TITAN X (readme)": {"forward": 10, "backward": 22, "iteration": 32},
    "Caffe, GTX TITAN X (readme)": {"forward": 19, "backward": 65, "iteration": 85},
}
PUBLISHED_BATCH_SIZE = 128
_WARM_UP = 3
_MATRIX_SIZES = (1024, 2048)


@dataclasses.dataclass(frozen=True)
class StepJob:
    """What to time: a training step of `recipe`, `repeats` times.

    Attributes:
        layout: Memory layout of images in PyTorch's usual step; None for our own step.
        processes: Number of processes, 0 for the current one.
    """

    name: str
    recipe: Recipe
    repeats: int
    device: torch.device
    layout: torch.memory_format | None = None
    processes: int = 0


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

    On a CPU, training is measured in one process with all threads, and as in `training.train`,
    in one process per core.

    Args:
        batch_size: Images in a training step, and in a call of the classifier.
        repeats: Measurements of each, after a warm-up.
        precisions: Some of `PRECISIONS`; engines that are not installed are left out.
        device: Where to compute.
        threads: CPU threads; as many as PyTorch uses if None.
        architecture: The network to train. (Classification uses the bundled one.)

    Returns:
        JSON values, times in seconds: ``machine``, ``versions``, ``device`` and ``threads``;
        ``flop``, the arithmetic of one image, and ``multiply_adds``, that of its forward pass;
        ``matmul_flops``, the throughput of matrix multiplication by precision; the rows of
        ``training`` and of ``inference``; and the ``published`` milliseconds of the readme, if the
        batch size is the same.

    Raises:
        AllCNNZooError: PyTorch cannot use the device.
        LostProcessError: A process that trained was lost.
    """
    device = usable_device(device)
    flop = count_flop(architecture)
    used = threads or torch.get_num_threads()
    recipe = dataclasses.replace(BEST, architecture=architecture)
    processes = min(threads or default_processes(), default_processes())
    rows = _jobs(step_recipe(recipe, batch_size), repeats, device, processes)
    jobs = [job for job in rows if job.recipe.precision in precisions]
    pairs = [each for each in itertools.product(ENGINES, PRECISIONS) if each[1] in precisions]
    trained = [name for name in precisions if name != "int8"]
    inference = []
    with using_threads(used):
        peaks = {name: matmul_flops(getattr(torch, name), device) for name in trained}
        bar = tqdm(jobs, "training", leave=False, disable=None)
        training = [_training_row(job, flop, peaks[job.recipe.precision]) for job in bar]
        for engine, precision in tqdm(pairs, "classification", leave=False, disable=None):
            with contextlib.suppress(AllCNNZooError):  # it is not installed, or cannot do this
                row = _inference_row(engine, precision, batch_size, repeats, device)
                inference.append(row)
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


def _jobs(recipe: Recipe, repeats: int, device: torch.device, processes: int) -> Iterator[StepJob]:
    """Yield the steps to time, one for each row of the table of training."""
    plain = dataclasses.replace(recipe, precision="float32")
    yield StepJob("float32", plain, repeats, device, torch.contiguous_format)
    yield StepJob("float32, channels last", plain, repeats, device, torch.channels_last)
    yield StepJob("bfloat16, as we train", recipe, repeats, device)
    if device.type == "cpu" and processes > 1:
        shared = step_recipe(recipe, recipe.batch_size, processes)
        yield StepJob(f"the same, {processes} processes", shared, repeats, device, None, processes)


def step_recipe(recipe: Recipe, batch_size: int, processes: int = 1) -> Recipe:
    """The recipe in bfloat16 with this batch size, which the processes share."""
    ghost_batch = math.gcd(batch_size, recipe.ghost_batch, max(1, batch_size // processes))
    return dataclasses.replace(
        recipe, batch_size=batch_size, ghost_batch=ghost_batch, precision="bfloat16"
    )


def _training_row(job: StepJob, flop: Mapping[str, int], peak: float) -> dict[str, Any]:
    times = {phase: summarize(seconds) for phase, seconds in time_step(job).items()}
    flops = {phase: job.recipe.batch_size * flop[phase] / times[phase]["mean"] for phase in PHASES}
    return {
        "name": job.name,
        "precision": job.recipe.precision,
        "processes": job.processes or 1,
        "seconds": times,
        "flops": flops,
        "of_matmul": {phase: flops[phase] / peak for phase in PHASES},
    }


def _inference_row(
    engine: EngineName, precision: Precision, batch_size: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Time the bundled classifier: speed does not depend on the weights."""
    classifier = Classifier.from_pretrained(
        "cifar10_best", device=device, engine=engine, precision=precision
    )
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 3, 32, 32), np.uint8)
    (seconds,) = _repeat(repeats, lambda: classifier.predict_proba(images).argmax(axis=1))
    taken = summarize(seconds)
    row = {"name": f"{engine}, {precision}", "engine": engine, "precision": precision}
    return {**row, "seconds": taken, "images_per_second": batch_size / taken["mean"]}


def count_flop(architecture: Architecture) -> dict[str, int]:
    """Additions and multiplications for one 32x32 image, counted by PyTorch.

    ``forward`` is twice the multiply-adds of the convolutions. ``backward`` is about twice that,
    for the gradients of kernels and activations but not of the image. ``iteration`` is the sum.
    """
    with torch.device("meta"):  # only shapes are computed
        model, image = AllCNN(architecture), torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as forward:
        logits = model(image)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    counts = {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}
    return {**counts, "iteration": sum(counts.values())}


def matmul_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Measure the operations per second of large square matrix products."""
    best = 0.0
    for size, transposed in itertools.product(_MATRIX_SIZES, (False, True)):
        left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
        names = {"left": left, "right": right.T if transposed else right}  # libraries prefer one
        product = Timer("left @ right", globals=names, num_threads=torch.get_num_threads())
        best = max(best, 2 * size**3 / min(product.blocked_autorange(min_run_time=0.2).times))
    return best


def summarize(seconds: Sequence[float] | npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean, median and quartiles."""
    lower, median, upper = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return {"mean": float(np.mean(seconds)), "median": median, "lower": lower, "upper": upper}


def _repeat(repeats: int, *acts: Callable[[], Any]) -> npt.NDArray[np.float64]:
    """Run the acts in turn, repeatedly after a warm-up; return their seconds (acts, repeats)."""
    rounds = range(_WARM_UP + repeats)
    rows = [[timeit.timeit(act, timer=timer, number=1) for act in acts] for _ in rounds]
    return np.array(rows[_WARM_UP:]).T


def time_step(job: StepJob) -> dict[str, list[float]]:
    """Time a training step; return the seconds of each phase in each repeat.

    Our training runs forward and backward in one call, so "backward" is the time of that call minus
    the time of a forward pass in the same repeat.
    """
    if job.processes:
        return launch(_time_step, job, job.processes)
    return _time_step(World(device=job.device), job)


def _time_step(world: World, job: StepJob) -> dict[str, list[float]]:
    random, count = torch.Generator().manual_seed(0), job.recipe.batch_size
    images = torch.randn(count, 3, 32, 32, generator=random).to(world.device)
    labels = torch.randint(10, (count,), generator=random).to(world.device)
    if job.layout is None:
        acts = _our_step(job.recipe, world, images, labels)
    else:
        acts = _plain_step(job.recipe, job.layout, images, labels)
    forward, gradients, update = _repeat(job.repeats, *acts)
    phases = (forward, gradients - forward, gradients + update)
    return {name: seconds.tolist() for name, seconds in zip(PHASES, phases, strict=True)}


def _plain_step(
    recipe: Recipe, layout: torch.memory_format, images: Tensor, labels: Tensor
) -> Iterator[Callable[[], Any]]:
    """Yield the parts of the usual step: forward pass; forward and backward pass; update (SGD)."""
    model = AllCNN(recipe.architecture).to(images.device)
    model.to(memory_format=layout)  # type: ignore[call-overload]  # PyTorch forgot it
    images = images.contiguous(memory_format=layout)
    # With noise for images, a higher learning rate might make the weights overflow.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=0.001)

    def gradients() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]

    yield lambda: model(images)
    yield gradients
    yield optimizer.step


def _our_step(
    recipe: Recipe, world: World, images: Tensor, labels: Tensor
) -> Iterator[Callable[[], Any]]:
    """Yield the same parts of the step of `training.train`, for this process's micro-batches."""
    learner = build_learner(recipe, 0, world)
    learner.set_learning_rate(0, 0)
    sums = share_gradients(learner.parameters)
    images = images.to(getattr(torch, recipe.precision), memory_format=torch.channels_last)
    split = (torch.split(each, recipe.ghost_batch) for each in (images, labels))
    parts = list(zip(*split, strict=True))[world.rank :: world.size]

    def gradients() -> None:
        sums.zero_()
        for some, their_labels in parts:
            learner.accumulate(some, their_labels, share=1 / len(parts))

    def update() -> None:
        world.sum(sums)
        learner.step()

    yield lambda: [learner.logits(some) for some, _ in parts]
    yield gradients
    yield update


def draw(report: Mapping[str, Any]) -> bytes:
    """Draw the table as bars, as a PNG file; needs matplotlib (``allcnn-zoo[plots]``)."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    rows = {
        row["name"]: {phase: 1e3 * row["seconds"][phase]["mean"] for phase in PHASES}
        for row in report["training"]
    } | report["published"]
    forward, backward, iteration = ([row[phase] for row in rows.values()] for phase in PHASES)
    figure = Figure(figsize=(8, 1 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(rows), forward, label="forward", height=0.6)
    axes.barh(list(rows), backward, left=forward, label="backward", height=0.6)
    axes.plot(iteration, list(rows), "|k", ms=16, label="iteration")
    axes.invert_yaxis()
    axes.set(xlabel=f"milliseconds, batch {report['batch_size']}", title=report["machine"]["cpu"])
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    return buffer.getvalue()

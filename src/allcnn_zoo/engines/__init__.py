"""Engines that run the network for a classifier: PyTorch, or a faster runtime."""

import contextlib
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from ..errors import AllCNNZooError, check_name
from ..machine import PRECISIONS, has_fast_bfloat16, is_forked, usable_cores
from ..machine import Precision as Precision
from ..model import AllCNN
from ..preprocessing import Preprocessor
from .pytorch import Engine as Engine
from .pytorch import open_torch
from .runtimes import RUNTIME_PRECISIONS, import_runtime, open_runtime

EngineName: TypeAlias = Literal["auto", "torch", "openvino", "onnxruntime"]
ENGINES: tuple[str, ...] = get_args(EngineName)

# Fastest first, at every batch size: docs/speed.md has the measurement.
_RUNTIMES = ("openvino", "onnxruntime")


def open_engine(
    model: AllCNN,
    name: str = "auto",
    *,
    precision: str = "float32",
    device: str | torch.device | None = None,
    threads: int | None = None,
    batch_size: int = 32,
    calibration: npt.NDArray[np.uint8] | None = None,
) -> Engine:
    """What computes the probabilities of a model's classes.

    Args:
        model: A network with weights, which becomes the engine's: it may lay the weights out anew.
        name: One of `ENGINES`.
        precision: One of `PRECISIONS`.
        device: Where to run; where the model is if None. Only PyTorch knows others than the CPU.
        threads: How many of the CPU's to use; as many as PyTorch does if None, and never more than
            this process may use.
        batch_size: Images of most micro-batches; others are welcome.
        calibration: uint8 (N, 3, 32, 32), images that decide the ranges of int8; some that come
            with the package if None.

    Raises:
        UnknownNameError: There is no such engine or precision.
        AllCNNZooError: The engine is not installed, or has no such precision or device.
    """
    check_name(name, ENGINES, "engine")
    check_name(precision, PRECISIONS, "precision")
    where = model.classifier.weight.device if device is None else device
    if name in RUNTIME_PRECISIONS and not str(where).startswith("cpu"):
        raise AllCNNZooError(f"engine={name!r} runs on the CPU only; leave out device={where!s}")
    device = usable_device(where)
    if precision == "auto":
        is_fast = name != "onnxruntime" and has_fast_bfloat16(device.type)
        precision = "bfloat16" if is_fast else "float32"
    if calibration is not None and precision != "int8":
        raise AllCNNZooError(f"calibration= is for precision='int8'; leave it out for {precision}")
    if name == "auto":
        name = _fastest(model, precision, device)
    most = 1 if is_forked() else usable_cores()
    if name == "torch":
        return open_torch(model, precision, device, threads, most)
    threads = min(threads or torch.get_num_threads(), most)
    return open_runtime(name, model, precision, threads, batch_size, calibration)


def _fastest(model: AllCNN, precision: str, device: torch.device) -> str:
    """The name of the fastest engine that is installed and computes what is asked for."""
    # A graph holds our own preprocessing only; PyTorch runs any.
    if device.type == "cpu" and type(model.preprocess) is Preprocessor:
        for name in _RUNTIMES:
            if precision in RUNTIME_PRECISIONS[name]:
                with contextlib.suppress(AllCNNZooError):  # not installed, or not usable here
                    import_runtime(name)
                    return name
    return "torch"


def usable_device(name: str | torch.device) -> torch.device:
    """The device of this name, if PyTorch can compute there.

    Raises:
        AllCNNZooError: It cannot.
    """
    try:
        probe = torch.ones(1, device=name)
        probe.cpu()  # "meta" has shapes only
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        # What PyTorch raises depends on its build.
        raise AllCNNZooError(f"cannot run on device {str(name)!r:.60}: {error}") from error
    return probe.device

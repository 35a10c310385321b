"""Which engine there is for what was asked."""

from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from .. import machine
from ..errors import AllCNNZooError, check_name
from ..model import AllCNN
from .engine import PRECISIONS, Engine
from .pytorch import TorchEngine

EngineName: TypeAlias = Literal["torch", "openvino", "onnxruntime"]
ENGINES: tuple[str, ...] = get_args(EngineName)


def open_engine(
    model: AllCNN,
    name: str = "torch",
    *,
    precision: str = "float32",
    device: str | torch.device | None = None,
    threads: int | None = None,
    batch_size: int = 32,
    calibration: npt.NDArray[np.uint8] | None = None,
) -> Engine:
    """What computes the probabilities of a model's classes.

    Args:
        model: A network with weights; left untouched.
        name: One of `ENGINES`.
        precision: One of `PRECISIONS`.
        device: Where to run; where the model is if None. Only PyTorch knows others than the CPU.
        threads: How many of the CPU's to use; as many as PyTorch does if None.
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
    if name != "torch" and not str(where).startswith("cpu"):
        raise AllCNNZooError(f"engine={name!r} runs on the CPU only; leave out device={where!s}")
    device = usable_device(where)
    if precision == "auto":
        is_fast = name != "onnxruntime" and _has_fast_bfloat16(device)
        precision = "bfloat16" if is_fast else "float32"
    if calibration is not None and precision != "int8":
        raise AllCNNZooError(f"calibration= is for precision='int8'; leave it out for {precision}")
    if name == "torch":
        return TorchEngine(model, precision, device, threads)
    from .runtimes import open_runtime

    threads = threads or torch.get_num_threads()
    return open_runtime(name, model, precision, threads, batch_size, calibration)


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


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is arithmetic of this device, and not float32 in disguise."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and machine.has_fast_bfloat16()

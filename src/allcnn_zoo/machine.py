"""This machine: its description, the precision it computes fast in, and the cores it may use."""

import contextlib
import os
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

#: Arithmetic of the convolutions. ``"auto"`` is bfloat16 where it is native, else float32.
FloatPrecision: TypeAlias = Literal["auto", "float32", "bfloat16"]
Precision: TypeAlias = Literal[FloatPrecision, "int8"]
FLOAT_PRECISIONS: tuple[str, ...] = get_args(FloatPrecision)
PRECISIONS: tuple[str, ...] = get_args(Precision)

_forked = False


def describe_machine() -> dict[str, Any]:
    """Processor, cores, operating system, and the GPU if there is one, as JSON values."""
    import platform  # not needed for --help

    import torch

    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    cpu = _cpu() or platform.processor()
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), **gpu}


def _cpu() -> str:
    """The processor's name on Linux, where Python does not tell it."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def has_fast_bfloat16(device_type: str = "cpu") -> bool:
    """Whether this kind of device computes in bfloat16 natively, not via float32."""
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    describe = getattr(torch.cpu, "get_capabilities", dict[str, Any])  # newer releases only
    return torch.cpu._is_avx512_bf16_supported() or bool(describe().get("bf16"))  # x86, or ARM


def usable_cores() -> int:
    """How many cores this process may use: affinity, and the limit of a container."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max" instead of a number
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def survive_forks() -> None:
    """Make PyTorch use one thread in every process that is forked from this one.

    OpenMP's threads do not survive a fork, so a layer that is divided among them never finishes.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    import torch

    global _forked
    _forked = True
    torch.set_num_threads(1)


def is_forked() -> bool:
    """Whether this process was forked from one that had imported `model`."""
    return _forked

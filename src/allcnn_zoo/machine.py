"""The machine: what a measurement was made on, and what its processor can do."""

import os
import platform
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Processor, cores and operating system, as JSON values."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()}


def has_fast_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 itself; only Linux says so."""
    flags = {flag for line in _cpu_info("flags", "Features") for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _cpu() -> str:
    return next(iter(_cpu_info("model name")), platform.processor())


def _cpu_info(*keys: str) -> list[str]:
    """What Linux says of each core under these names; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return []
    pairs = (line.split(":", 1) for line in path.read_text(errors="replace").splitlines())
    return [pair[1].strip() for pair in pairs if pair[0].strip() in keys]

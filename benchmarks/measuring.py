"""What the benchmarks share: the machine, the memory, and results that survive a cut."""

import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from allcnn_zoo.machine import describe_machine
from allcnn_zoo.storage import write_atomically

RESULTS = Path(__file__).parent / "results"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def fix_threads(count: int) -> None:
    """The number of threads in processes that are started from now on."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))


def circumstances(*packages: str) -> dict[str, Any]:
    """The machine, how busy it was, and what is installed of these packages."""
    import torch

    installed = (package for package in packages if find_spec(package))
    instructions = torch.backends.cpu.get_cpu_capability()
    return {
        "machine": {**describe_machine(), "instructions": instructions},
        "load_before": os.getloadavg()[0],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in installed},
    }


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Replace a results file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    """Let VmHWM start anew."""
    Path("/proc/self/clear_refs").write_text("5")

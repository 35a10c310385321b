"""What a machine is asked: its cores, and what it computes in natively."""

import json
import os
import platform
from pathlib import Path

import pytest
import torch

from allcnn_zoo import machine


def linux_only(path: str) -> str:
    if not Path(path).exists():
        pytest.skip(f"{path} is Linux's")
    return Path(path).read_text()


def test_processors_that_are_not_ours_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    limit: str | None = None

    def read(path: Path, *_: object, **__: object) -> str:
        assert path == Path("/sys/fs/cgroup/cpu.max")
        if limit is None:
            raise FileNotFoundError(path)
        return limit

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 9}, raising=False)
    for limit, expected in (
        ("max 100000\n", 3),
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("900000 100000\n", 3),
        ("nonsense\n", 3),
        (None, 3),
    ):
        assert machine.usable_cores() == expected, limit
    monkeypatch.delattr(os, "sched_getaffinity")  # not on macOS and Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert machine.usable_cores() == 1


def test_native_bfloat16_is_what_the_kernel_says() -> None:
    text = linux_only("/proc/cpuinfo")
    words = {
        word
        for line in text.splitlines()
        if line.startswith(("flags", "Features"))
        for word in line.partition(":")[2].split()
    }
    native = bool(words & {"avx512_bf16", "bf16"}) and torch.backends.mkldnn.is_available()
    assert machine.has_fast_bfloat16() == native
    assert not machine.has_fast_bfloat16("mps")


@pytest.mark.parametrize("native", [True, False])
def test_native_bfloat16_is_asked_of_the_accelerator(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: native and not any(
        options.values()
    ))  # fmt: skip
    assert machine.has_fast_bfloat16("cuda") == native


def test_the_description_names_the_processor() -> None:
    described = json.loads(json.dumps(machine.describe_machine()))
    assert described["system"] == platform.system()
    assert described["cores"] == os.cpu_count()
    if "model name" in linux_only("/proc/cpuinfo"):
        assert described["cpu"] in Path("/proc/cpuinfo").read_text()
        assert described["cpu"]

"""Measuring this machine: the arithmetic is counted right, and the table is complete."""

import dataclasses
import json
import pickle

import pytest
import torch

from allcnn_zoo import Architecture
from allcnn_zoo.cli import main
from allcnn_zoo.distributed import World
from allcnn_zoo.training import benchmark as benchmark_
from allcnn_zoo.training.benchmark import (
    PUBLISHED,
    StepJob,
    benchmark,
    count_flop,
    draw,
    step_recipe,
    summarize,
    time_step,
)
from allcnn_zoo.training.recipes import BEST

TRAINED = ("float32", "bfloat16")
TINY = Architecture(widths=(4, 8))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def report():
    before = {"threads before": torch.get_num_threads()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_, "_MATRIX_SIZES", (256,))
        patch.setattr(benchmark_, "ENGINES", ("torch", "onnxruntime"))  # which has no bfloat16
        return benchmark(4, 2, precisions=TRAINED, threads=1, architecture=TINY) | before


def test_arithmetic_of_allcnn_c_is_that_counted_by_hand() -> None:
    kernels = (  # positions, outputs, and inputs of each output, of the nine convolutions
        (32 * 32, 96, 3 * 9),
        (32 * 32, 96, 96 * 9),
        (16 * 16, 96, 96 * 9),
        (16 * 16, 192, 96 * 9),
        (16 * 16, 192, 192 * 9),
        (8 * 8, 192, 192 * 9),
        (8 * 8, 192, 192 * 9),
        (8 * 8, 192, 192),
        (8 * 8, 10, 192),
    )
    by_layer = [2 * positions * outputs * inputs for positions, outputs, inputs in kernels]
    flop = count_flop(Architecture())
    assert flop["forward"] == sum(by_layer) == 2 * 281_174_016
    # Back go the gradients of every kernel, and those of every input but the image.
    assert flop["backward"] == 2 * sum(by_layer) - by_layer[0]
    assert flop["iteration"] == flop["forward"] + flop["backward"]


def test_reports_every_way_to_train_and_to_classify(report) -> None:
    assert [row["precision"] for row in report["training"]] == ["float32", "float32", "bfloat16"]
    ways = {(row["engine"], row["precision"]) for row in report["inference"]}
    assert {("torch", "float32"), ("torch", "bfloat16")} <= ways
    assert (report["batch_size"], report["repeats"], report["threads"]) == (4, 2, 1)
    assert torch.get_num_threads() == report["threads before"]
    assert report["multiply_adds"] == count_flop(TINY)["forward"] // 2
    assert set(report["matmul_flops"]) == set(TRAINED)
    assert all(flops > 1e8 for flops in report["matmul_flops"].values())
    assert report["machine"]["cores"] >= 1
    json.dumps(report, allow_nan=False)


def test_figures_are_of_a_batch_and_published_ones_of_their_own_batch_only(report) -> None:
    assert report["published"] == {}
    assert PUBLISHED["neon, GTX TITAN X (readme)"]["iteration"] == 32
    for row in report["training"]:
        iteration = row["seconds"]["iteration"]
        assert 0 < iteration["lower"] <= iteration["median"] <= iteration["upper"]
        flops = 4 * report["flop"]["iteration"] / iteration["mean"]
        assert row["flops"]["iteration"] == pytest.approx(flops)
        peak = report["matmul_flops"][row["precision"]]
        assert row["of_matmul"]["iteration"] == pytest.approx(flops / peak)


def test_training_is_timed_in_processes_too(monkeypatch) -> None:
    monkeypatch.setattr(benchmark_, "launch", lambda work, job, _: work(World(0, 2), job))
    monkeypatch.setattr(World, "sum", lambda _, vector: vector)
    recipe = dataclasses.replace(BEST, architecture=TINY)
    job = StepJob("", step_recipe(recipe, 4, processes=2), 2, CPU, processes=2)
    assert job.recipe.ghost_batch == 2
    assert pickle.loads(pickle.dumps(job)) == job
    assert all(len(repeats) == 2 for repeats in time_step(job).values())


def test_times_are_summarised_by_mean_median_and_quartiles() -> None:
    assert summarize([1.0, 2.0, 3.0, 4.0, 10.0]) == {
        "mean": 4.0,
        "median": 3.0,
        "lower": 2.0,
        "upper": 4.0,
    }


def test_draws_a_picture(report) -> None:
    assert draw({**report, "published": PUBLISHED}).startswith(b"\x89PNG")


def test_command_prints_a_table_that_lines_up(report, capsys, tmp_path, monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(benchmark_, "benchmark", lambda *a, **more: asked.update(more) or report)
    words = "bench --batch-size 4 --repeats 2 --threads 1 --precision float32 --out"
    assert main([*words.split(), str(tmp_path / "speed.png")]) == 0
    assert asked == {"precisions": ("float32",), "device": "cpu", "threads": 1}
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if line.startswith("training, ms"))
    row = next(line for line in lines if line.startswith("float32, channels last"))
    assert len(row) == len(header)  # the last column is of numbers, at the right
    assert f"{report['multiply_adds']:,} multiply-adds" in "".join(lines)
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_a_batch_of_nothing_and_a_device_that_is_not_there_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--batch-size", "0"])
    assert "not a positive number" in capsys.readouterr().err
    assert main(["bench", "--device", "nonsense"]) == 1
    assert "cannot run on device 'nonsense'" in capsys.readouterr().err

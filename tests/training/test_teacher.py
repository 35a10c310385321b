"""A teacher has its say in every view, and a run says who taught it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from allcnn_zoo import checkpoint
from allcnn_zoo.distributed import World
from allcnn_zoo.errors import TrainingError
from allcnn_zoo.training.loop import Job, build_learner, run
from allcnn_zoo.training.teacher import Teacher

from .conftest import TINY_MODERN, TINY_NEON, save_network

CPU = torch.device("cpu")


def test_a_teacher_gives_the_probabilities_of_its_network(teacher: Path) -> None:
    images = torch.randn(5, 3, 24, 24)
    model = checkpoint.load(teacher)
    expected = model(images).softmax(dim=1)
    torch.testing.assert_close(Teacher(teacher, TINY_MODERN, CPU)(images), expected)
    rounded = dataclasses.replace(TINY_MODERN, precision="bfloat16")
    answers = Teacher(teacher, rounded, CPU)(images.bfloat16())
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers, expected, rtol=0, atol=0.05)


def test_a_teacher_counts_as_much_as_the_labels() -> None:
    images, labels = torch.randn(8, 3, 20, 20), torch.arange(8)
    taught = torch.randn(8, 10).softmax(dim=1)
    smoothed = 0.9 * functional.one_hot(labels, 10) + 0.01
    recipe = dataclasses.replace(TINY_MODERN, dropout=(0.0, 0.0))
    learner, expected = (build_learner(recipe, 0, World()) for _ in range(2))

    loss, _ = learner.accumulate(images, labels, share=0.5, taught=taught)
    expected_loss = functional.cross_entropy(expected.logits(images), (smoothed + taught) / 2) / 2
    expected_loss.backward()
    torch.testing.assert_close(loss, expected_loss)
    for one, other in zip(learner.parameters, expected.parameters, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_student_takes_after_its_teacher(make_job: Callable[..., Job], teacher: Path) -> None:
    recipe = dataclasses.replace(TINY_MODERN, dropout=(0.0, 0.0), epochs=20)
    alone, taught = make_job(recipe, "alone"), make_job(recipe, "taught", teacher=teacher)
    images = torch.randn(64, 3, 32, 32)

    def distance(job: Job) -> float:
        run(World(), job)
        student = checkpoint.load(job.out / "weights.safetensors")
        with torch.no_grad():
            expected = checkpoint.load(teacher)(images).softmax(dim=1)
            return float(functional.cross_entropy(student(images), expected))

    assert distance(taught) < distance(alone)


def test_a_run_says_who_taught_it(make_job: Callable[..., Job], teacher: Path) -> None:
    job = make_job(dataclasses.replace(TINY_MODERN, epochs=1), teacher=teacher)
    run(World(), job)
    results = json.loads((job.out / "results.json").read_text())
    assert (results["teacher"]["tag"], results["teacher"]["provenance"]) == ("noise", {"drawn": 0})
    weights = checkpoint.load(job.out / "weights.safetensors").weights
    assert weights is not None
    assert weights.provenance["teacher"] == results["teacher"]


def test_a_run_does_not_change_its_teacher(make_job: Callable[..., Job], teacher: Path) -> None:
    recipe = dataclasses.replace(TINY_MODERN, epochs=1)
    run(World(), make_job(recipe, teacher=teacher))
    moved = teacher.rename(teacher.with_name("moved.safetensors"))
    run(World(), make_job(recipe, teacher=moved, resume=True))  # the same by another name
    other = save_network(teacher.with_name("other.safetensors"), seed=1)
    for changed in (other, None):
        with pytest.raises(TrainingError, match="started with teacher="):
            run(World(), make_job(recipe, teacher=changed, resume=True))


def test_only_a_network_of_the_same_classes_can_teach(tmp_path: Path, teacher: Path) -> None:
    stranger = save_network(tmp_path / "stranger.safetensors", ("cat", "dog"))
    with pytest.raises(TrainingError, match=r"stranger.safetensors cannot teach .* 2 classes"):
        Teacher(stranger, TINY_MODERN, CPU)
    with pytest.raises(TrainingError, match="the recipe trains 16 outputs"):
        Teacher(teacher, TINY_NEON, CPU)

"""How the modern recipes learn: each rule against arithmetic that is written out here."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from allcnn_zoo.architectures import STAGES
from allcnn_zoo.distributed import World
from allcnn_zoo.model import AllCNN
from allcnn_zoo.training.learner import (
    Learner,
    ModernLearner,
    Muon,
    measure_statistics,
    orthogonalize,
)
from allcnn_zoo.training.loop import build_learner

from .conftest import TINY_MODERN, TINY_NEON


def learner(**changes: object) -> ModernLearner:
    return ModernLearner(dataclasses.replace(TINY_MODERN, **changes), 0, World())


IMAGES, LABELS = (
    torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    torch.arange(8),
)


def train_a_step(trained: Learner) -> float:
    """The loss before it."""
    for parameter in trained.parameters:
        parameter.grad = None
    loss, _ = trained.accumulate(IMAGES, LABELS, 1.0)
    trained.step()
    return float(loss)


def assert_plain_computes_the_same(trained: Learner) -> None:
    with torch.no_grad():
        trained.settle(iter([IMAGES]))
        torch.testing.assert_close(
            trained.plain()(IMAGES), trained.logits(IMAGES), atol=1e-5, rtol=1e-4
        )


# Muon.


def gradient_with(singular_values: torch.Tensor, columns: int) -> torch.Tensor:
    """A matrix whose singular values are these."""
    rows = len(singular_values)
    left = torch.linalg.qr(torch.randn(rows, rows)).Q
    right = torch.linalg.qr(torch.randn(columns, rows)).Q
    return left @ torch.diag(singular_values) @ right.T


@pytest.mark.parametrize("shape", [(8, 5, 3, 3), (24, 2, 3, 3), (6, 6, 1, 1)])
def test_muon_goes_down_the_gradient_in_every_direction_alike(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    rows, columns = sorted((shape[0], shape[1] * shape[2] * shape[3]))
    gradient = gradient_with(torch.linspace(1, 3, rows), columns)
    gradient = gradient if shape[0] == rows else gradient.T
    kernel = nn.Parameter(torch.randn(shape))
    before = kernel.detach().clone()
    kernel.grad = gradient.reshape(shape).clone()
    Muon([kernel], 0.1, 0.0, World()).step()

    normalized = before * (shape[0] ** 0.5 / before.norm())
    update = (normalized - kernel.detach()).flatten(1) / 0.1
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    along = left.T @ update @ right.T  # the gradient's directions, were it exact the unit matrix
    assert along.diagonal().min() > 0.65
    assert along.diagonal().max() < 1.25
    assert (along - along.diagonal().diag()).abs().max() < 0.05
    assert (update - left @ along @ right).norm() < 0.05 * update.norm()


def test_muon_looks_ahead_as_nesterov_does() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(4, 4, 1, 1))
    gradients = [torch.randn(4, 4) for _ in range(3)]
    optimizer = Muon([kernel], 0.1, 0.6, World())
    expected, velocity = kernel.detach().flatten(1).clone(), torch.zeros(4, 4)
    for gradient in gradients:
        kernel.grad = gradient.view_as(kernel).clone()
        optimizer.step()
        velocity = 0.6 * velocity + gradient
        expected = expected * (2 / expected.norm())
        expected = expected - 0.1 * orthogonalize(gradient + 0.6 * velocity)
        torch.testing.assert_close(kernel.detach().flatten(1), expected, atol=1e-3, rtol=0)


def test_only_kernels_before_batch_normalization_are_muons() -> None:
    model = learner().model
    muon, sgd = learner().optimizers
    of_muon = [p.shape for group in muon.param_groups for p in group["params"]]
    kernels = [m.weight.shape for m in model.features if isinstance(m, nn.Conv2d)]
    assert of_muon == kernels
    biases, head = ([p.shape for p in group["params"]] for group in sgd.param_groups)
    assert biases == [m.bias.shape for m in model.features if isinstance(m, nn.BatchNorm2d)]
    assert head == [model.classifier.weight.shape]
    assert [group["weight_decay"] for group in sgd.param_groups] == [0, 0.02]


# Rates, losses, gradients.


def test_learning_rates_fall_in_a_straight_line_to_zero_or_by_stairs() -> None:
    trained = learner()
    groups = [group for optimizer in trained.optimizers for group in optimizer.param_groups]
    for progress in (0.0, 0.25, 0.9, 1.0):
        trained.set_learning_rate(7, progress)
        expected = [peak * (1 - progress) for peak in (0.1, 0.02, 0.2)]
        assert [group["lr"] for group in groups] == pytest.approx(expected)
    neon = build_learner(TINY_NEON, 0, World())
    assert [neon.rate(epoch, epoch / 3) for epoch in range(3)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_the_loss_spreads_a_share_of_each_target_over_all_classes(smoothing: float) -> None:
    trained = learner(label_smoothing=smoothing, dropout=(0.0, 0.0))
    loss, right = trained.accumulate(IMAGES, LABELS, share=0.25)
    logits = trained.logits(IMAGES).detach()
    log = logits - logits.logsumexp(1, keepdim=True)
    targets = torch.full((8, 10), smoothing / 10)
    targets[range(8), LABELS] += 1 - smoothing
    assert float(loss) == pytest.approx(float(0.25 * -(targets * log).sum(1).mean()), rel=1e-5)
    assert int(right) == int((logits.argmax(1) == LABELS).sum())


def test_parts_of_a_batch_add_up_to_the_gradient_of_its_mean_loss() -> None:
    neon = build_learner(TINY_NEON, 0, World())
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    neon.model.eval()  # neither dropout nor batch normalization: nothing depends on the parts
    whole = nn.functional.cross_entropy(neon.model(images), labels)
    expected = torch.autograd.grad(whole, neon.parameters)
    for start, stop in itertools.pairwise((0, 8, 12, 16)):
        part = slice(start, stop)
        neon.accumulate(images[part], labels[part], share=(stop - start) / 16)
    for parameter, gradient in zip(neon.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_bfloat16_is_for_the_trunk_only() -> None:
    trained = learner(precision="bfloat16")
    seen = []
    for layer in (trained.model.features.conv1, trained.model.classifier):
        layer.register_forward_hook(lambda *each: seen.append(each[-1].dtype))
    assert trained.logits(torch.randn(2, 3, 32, 32)).dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]
    trained.set_precision("float32")
    trained.logits(torch.randn(2, 3, 32, 32))
    assert seen[2:] == [torch.float32, torch.float32]


# The beginning, and what is measured.


def test_a_layer_at_first_hands_its_input_on() -> None:
    torch.manual_seed(0)
    inner = learner().model.features.conv2.weight.detach()
    centers = inner[range(4), range(4), 1, 1]
    inner[range(4), range(4), 1, 1] -= 1
    assert inner.std() == pytest.approx((2 / 36) ** 0.5, rel=0.3)  # He's, on 4 * 3 * 3 inputs
    assert centers.mean() > 0.6


def test_statistics_are_the_mean_of_those_of_the_batches() -> None:
    torch.manual_seed(0)
    model = AllCNN(TINY_MODERN.architecture, batch_norm=True)
    batches = [torch.randn(8, 3, 32, 32) * scale for scale in (1, 2, 4)]
    before = model.features.conv1(torch.cat(batches)).detach().split(8)
    model.train()
    model(batches[0])  # running statistics of the training, which are to be forgotten
    model.eval()
    measure_statistics(model, iter(batches))
    norm = model.features.norm1
    assert not norm.training
    assert norm.momentum == 0.1
    means = torch.stack([x.mean((0, 2, 3)) for x in before]).mean(0)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in before]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, variances, atol=1e-5, rtol=1e-4)


def test_folding_keeps_what_the_trained_network_computes_even_where_it_barely_varies() -> None:
    trained = learner(dropout=(0.0, 0.0))
    with torch.no_grad():  # so small that batch normalization's eps counts
        trained.model.features.conv1.weight *= 0.002
    assert_plain_computes_the_same(trained)


@pytest.mark.parametrize("name", STAGES)
def test_every_network_learns_and_becomes_the_plain_one(name: str) -> None:
    trained = build_learner(TINY_MODERN.for_model(name), 0, World())
    trained.start_part(0, 0, 0)
    losses = [train_a_step(trained) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert trained.plain().architecture == TINY_MODERN.for_model(name).architecture
    assert_plain_computes_the_same(trained)

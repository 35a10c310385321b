"""A network in training: the interface for the loop, and the method of the modern recipes."""

import abc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from ..distributed import World
from ..model import AllCNN, fold_batch_norm
from .augmentation import DROPOUT, INITIALIZATION, derive
from .recipes import ModernMethod, Recipe


class Learner(abc.ABC):
    """A network, its optimizers, and its random state, if any.

    The network is on its device, and the optimizers start with their highest learning rates.

    Attributes:
        parameters: The trained parameters, in the model's order.
    """

    logit_scale = 1.0

    def __init__(self, recipe: Recipe, model: AllCNN, optimizers: list[Optimizer]) -> None:
        self.recipe, self.model, self.optimizers = recipe, model, optimizers
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        self.set_precision(recipe.precision)

    # Training calls `set_learning_rate` and `start_batch` for each batch, `start_part` and
    # `accumulate` for each of its parts, and then `step`.

    @abc.abstractmethod
    def rate(self, epoch: int, progress: float) -> float:
        """The share of the highest learning rate after this share of the training."""

    def set_learning_rate(self, epoch: int, progress: float) -> None:
        """Set the learning rates for the next step."""
        rate = self.rate(epoch, progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate

    def start_batch(self, size: int) -> None:  # noqa: B027  # most have nothing to do
        """Prepare for a batch of `size` images, which processes may share."""

    def start_part(self, epoch: int, batch: int, part: int) -> None:  # noqa: B027
        """Prepare for micro-batch number `part` of a batch, and draw its dropout."""

    def accumulate(self, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Add the gradients of whitened images (N, 3, H, W), which are a `share` of the batch.

        Returns their share of the batch's mean loss, and the number of right answers.
        """
        logits = self.logits(images)
        loss = share * functional.cross_entropy(
            logits, labels, label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), (logits.argmax(dim=1) == labels).sum()

    def step(self) -> None:
        """Update the parameters with their gradients."""
        for optimizer in self.optimizers:
            optimizer.step()

    # Measuring.

    def settle(self, batches: Iterator[Tensor]) -> None:
        """Switch to eval mode; batch normalization gets statistics measured on `batches`."""
        self.model.eval()
        with self.autocast:
            measure_statistics(self.model, batches)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of the current network, with the last convolution in float32."""
        with self.autocast:
            features = self.model.forward_features(images)
        return self.model.forward_head(features.float()) * self.logit_scale

    def set_precision(self, precision: str) -> None:
        """Set the arithmetic of the trunk, ``"bfloat16"`` or ``"float32"``."""
        device = self.model.classifier.weight.device.type
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    @abc.abstractmethod
    def plain(self) -> AllCNN:
        """The plain network, one output per class, that computes the same as the settled one."""

    # State.

    def state(self) -> dict[str, Any]:
        """Everything that changes in training."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


class ModernLearner(Learner):
    """A network with batch normalization after every convolution but the last.

    Muon updates the kernels, Nesterov SGD the biases and the last convolution. Dropout derives from
    the position, so there is no random state.
    """

    def __init__(self, recipe: Recipe, seed: int, world: World) -> None:
        method = recipe.method
        assert isinstance(method, ModernMethod)
        self.seed, self.logit_scale = seed, method.logit_scale
        torch.manual_seed(derive(seed, INITIALIZATION))
        model = AllCNN(recipe.architecture, dropout=recipe.dropout, batch_norm=True)
        initialize(model)
        model.to(world.device)
        trunk = [p for p in model.features.parameters() if p.requires_grad]
        kernels = [p for p in trunk if p.dim() > 1]
        biases = {"params": [p for p in trunk if p.dim() == 1], "lr": method.bias_lr}
        head = {
            "params": [model.classifier.weight],
            "lr": method.head_lr,
            "weight_decay": method.head_decay,
        }
        muon = Muon(kernels, method.kernel_lr, method.kernel_momentum, world)
        sgd = torch.optim.SGD([biases, head], momentum=method.sgd_momentum, nesterov=True)
        super().__init__(recipe, model, [muon, sgd])

    def rate(self, epoch: int, progress: float) -> float:
        """A straight line from 1 to 0."""
        return 1 - progress

    def start_part(self, epoch: int, batch: int, part: int) -> None:
        """Seed dropout with the position."""
        torch.manual_seed(derive(self.seed, DROPOUT, epoch, batch, part))

    def plain(self) -> AllCNN:
        """Fold batch normalization and the scale of the logits into the convolutions."""
        plain = fold_batch_norm(self.model)
        scale_logits(plain, self.logit_scale)
        return plain


@torch.no_grad()
def scale_logits(model: AllCNN, factor: float) -> None:
    """Multiply the logits of a network by this factor, in its weights."""
    for parameter in model.classifier.parameters():
        parameter.mul_(factor)


def initialize(model: AllCNN) -> None:
    """He's initialization plus the identity, so a layer mostly passes its input on at first.

    The scale of batch normalization stays 1 (the next kernel can scale), and a bias before it would
    have no effect.
    """
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            layer.bias.requires_grad = False
            out, channels, height, width = layer.weight.shape
            if channels > 3:
                same = torch.arange(min(out, channels))
                with torch.no_grad():
                    layer.weight[same, same, height // 2, width // 2] += 1
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.requires_grad = False
    nn.init.kaiming_normal_(model.classifier.weight, nonlinearity="linear")
    assert model.classifier.bias is not None
    model.classifier.bias.requires_grad = False


def measure_statistics(model: AllCNN, batches: Iterator[Tensor]) -> None:
    """Set batch normalization to the mean of its statistics over batches; ends in eval mode."""
    norms = [layer for layer in model.features if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for batch in batches:
        model.forward_features(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


# Coefficients of the quintic iteration (Jordan et al., "Muon", 2024): they quickly bring every
# singular value into about 0.7...1.2, which is precise enough.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Momentum, orthogonalized: every direction of a kernel's update has about the same length.

    A kernel (out, in, h, w) is treated as a matrix (out, in * h * w). Batch normalization follows
    it, so its norm has no effect; before each step it is set to sqrt(out). Thus the learning rate
    is the relative change, and no weight decay is needed (after airbench, Jordan 2024).

    The momentum is Nesterov's. Orthogonalization is most of the work. The processes of `world` have
    the same gradients; they share the kernels and exchange the results, which changes no bit.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, world: World
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        self.world = world

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; every parameter must have a gradient."""
        assert closure is None
        for group in self.param_groups:
            kernels, momentum = group["params"], group["momentum"]
            sizes = [kernel.numel() for kernel in kernels]
            shared = torch.zeros(sum(sizes), dtype=torch.bfloat16, device=kernels[0].device)
            updates = torch.split(shared, sizes)
            for number, (kernel, place) in enumerate(zip(kernels, updates, strict=True)):
                if not self.state[kernel]:
                    self.state[kernel]["velocity"] = torch.zeros_like(kernel)
                velocity = self.state[kernel]["velocity"]
                torch.add(kernel.grad, velocity, alpha=momentum, out=velocity)
                if number % self.world.size == self.world.rank:
                    update = kernel.grad.add(velocity, alpha=momentum).flatten(1)
                    place.view_as(update).copy_(orthogonalize(update))
            self.world.sum(shared)  # the others left zeros in these places
            for kernel, update in zip(kernels, updates, strict=True):
                kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
                kernel.add_(update.view_as(kernel), alpha=-group["lr"])


def orthogonalize(matrix: Tensor, steps: int = 3) -> Tensor:
    """About U V^T where ``matrix`` is U S V^T, by Newton-Schulz, in bfloat16."""
    a, b, c = _QUINTIC
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    result: Tensor = x.T if tall else x
    return result

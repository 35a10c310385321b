"""A network in training: what the loop needs to know of it, whatever the method."""

import abc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from ..model import AllCNN
from .recipes import Recipe


class Learner(abc.ABC):
    """A network, its optimizers, and whatever randomness it carries.

    Args:
        recipe: How to train.
        model: The network, on the device where it is to be trained.
        optimizers: They cover every parameter that needs a gradient; their learning rates are
            the highest ones.

    Attributes:
        parameters: What gradients are needed for, in the model's order.
    """

    def __init__(self, recipe: Recipe, model: AllCNN, optimizers: list[Optimizer]) -> None:
        self.recipe, self.model, self.optimizers = recipe, model, optimizers
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        self.set_precision(recipe.precision)

    # Training: for each batch `set_learning_rate` and `start_batch`, for each of its parts
    # `start_part` and `accumulate`, at last `step`.

    @abc.abstractmethod
    def rate(self, epoch: int, progress: float) -> float:
        """Learning rate as a fraction of the highest.

        Args:
            epoch: Number of the epoch, from 0.
            progress: Fraction of the whole training that is done, 0...1.
        """

    def set_learning_rate(self, epoch: int, progress: float) -> None:
        """Set the learning rates for the next step."""
        rate = self.rate(epoch, progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate

    @property
    def learning_rate(self) -> float:
        """That of the kernels in the last step."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def start_batch(self, size: int) -> None:  # noqa: B027  # most have nothing to do
        """Make ready for a batch of `size` images, of which this process may see a part."""

    def start_part(self, epoch: int, batch: int, part: int) -> None:  # noqa: B027
        """Make ready for micro-batch number `part` of a batch: now dropout is decided."""

    def accumulate(self, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Add the gradients of a micro-batch.

        Args:
            images: Whitened images (N, 3, H, W).
            labels: int64 (N,).
            share: The part of the batch that this is.

        Returns:
            This part's share of the batch's mean loss, and the number of right answers.
        """
        logits = self.logits(images)
        loss = share * functional.cross_entropy(
            logits, labels, label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), (logits.argmax(dim=1) == labels).sum()

    def step(self) -> None:
        """Update the parameters by their gradients."""
        for optimizer in self.optimizers:
            optimizer.step()

    # Measuring.

    def settle(self, batches: Iterator[Tensor]) -> None:
        """Go to eval mode; `batches` of whitened training images are there to be looked at."""
        del batches
        self.model.eval()

    def logits(self, images: Tensor) -> Tensor:
        """The model's logits; the last convolution stays in float32."""
        with self.autocast:
            features = self.model.forward_features(images)
        logits: Tensor = self.model.final_activation(self.model.classifier(features.float()))
        return logits.mean(dim=(2, 3))

    def set_precision(self, precision: str) -> None:
        """Choose the arithmetic of the trunk, ``"bfloat16"`` or ``"float32"``."""
        device = self.model.classifier.weight.device.type
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    @abc.abstractmethod
    def plain(self) -> AllCNN:
        """The plain network of ten classes that computes what the settled one computes."""

    # State.

    def state(self) -> dict[str, Any]:
        """All that changes in training."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was taken of."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

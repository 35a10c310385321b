"""Distillation: a trained network has a say in what each image shows (Hinton et al., 2015)."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..catalogue import CIFAR10_CLASSES
from ..checkpoint import Metadata
from ..errors import TrainingError
from ..zoo import load
from .recipes import Recipe


class Teacher:
    """A trained network that looks at the very views that the student sees.

    Args:
        source: Its weights, by name or path, as `allcnn_zoo.load` takes them.
        recipe: The student's, which gives the arithmetic.
        device: Where to compute.

    Attributes:
        facts: Which weights these are and where they come from, JSON values.

    Raises:
        AllCNNZooError: The weights cannot be had, or are of other classes than the student's.
    """

    def __init__(self, source: str | Path, recipe: Recipe, device: torch.device) -> None:
        model = load(source, progress=False)
        weights = model.weights
        assert isinstance(weights, Metadata)
        outputs = recipe.architecture.num_classes
        if weights.classes != CIFAR10_CLASSES or outputs != len(CIFAR10_CLASSES):
            raise TrainingError(
                f"{source} cannot teach the recipe {recipe.name!r}: it names {len(weights.classes)}"
                f" classes and the recipe trains {outputs} outputs, where both must be CIFAR-10's"
                f" {len(CIFAR10_CLASSES)}; choose the recipe best or plain, or other weights"
            )
        self.facts: dict[str, Any] = {
            "tag": weights.tag,
            "sha256_of_tensors": _digest(model.state_dict()),
            "provenance": dict(weights.provenance),
        }
        model.to(device, getattr(torch, recipe.precision))
        self.model = model.eval()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Probabilities (N, 10), float32, of whitened images (N, 3, H, W).

        They are not calibrated: a network that learned from smoothed labels gives smoothed answers,
        and these are what another one can learn from.
        """
        logits: Tensor = self.model(images)
        return logits.float().softmax(dim=1)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()

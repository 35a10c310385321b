"""Batch normalisation and Muon: how `plain` and `best` learn."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..distributed import World
from ..model import AllCNN, fold_batch_norm
from . import data
from .learner import Learner
from .optimizers import Muon
from .recipes import ModernMethod, Recipe


class ModernLearner(Learner):
    """A network with batch normalisation after every convolution but the last.

    Dropout derives from the position, so nothing random is carried.

    Args:
        recipe: With a `ModernMethod`.
        seed: Of initialisation and dropout.
        world: Who trains together, and where.
    """

    def __init__(self, recipe: Recipe, seed: int, world: World) -> None:
        assert isinstance(recipe.method, ModernMethod)
        self.method, self.seed = recipe.method, seed
        torch.manual_seed(data.derive(seed, data.INITIALISATION))
        model = AllCNN(recipe.architecture, dropout=recipe.dropout, batch_norm=True)
        initialise(model)
        model.to(world.device)
        super().__init__(recipe, model, build_optimizers(model, recipe.method, world))

    def rate(self, epoch: int, progress: float) -> float:
        """A straight line from 1 to 0."""
        return 1 - progress

    def start_part(self, epoch: int, batch: int, part: int) -> None:
        """Seed dropout by the position."""
        torch.manual_seed(data.derive(self.seed, data.DROPOUT, epoch, batch, part))

    def logits(self, images: Tensor) -> Tensor:
        """The model's logits, scaled."""
        return super().logits(images) * self.method.logit_scale

    def settle(self, batches: Iterator[Tensor]) -> None:
        """Go to eval mode, with the statistics of batch normalisation measured on `batches`."""
        with self.autocast:
            measure_statistics(self.model, batches)

    def plain(self) -> AllCNN:
        """Batch normalisation and the scale of the logits go into the convolutions."""
        plain = fold_batch_norm(self.model)
        assert plain.classifier.bias is not None
        with torch.no_grad():
            plain.classifier.weight.mul_(self.method.logit_scale)
            plain.classifier.bias.mul_(self.method.logit_scale)
        return plain


def initialise(model: AllCNN) -> None:
    """He's initialisation plus the identity: a layer at first mostly hands its input on.

    The scale of batch normalisation stays 1 (the next kernel can do its work), and a bias before
    it would be without effect.
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


def build_optimizers(model: AllCNN, method: ModernMethod, world: World) -> list[Optimizer]:
    """Muon for the kernels, Nesterov SGD for the biases and the last convolution."""
    trunk = [p for p in model.features.parameters() if p.requires_grad]
    kernels = [p for p in trunk if p.dim() > 1]
    sgd_groups = [
        {"params": [p for p in trunk if p.dim() == 1], "lr": method.bias_lr},
        {
            "params": [model.classifier.weight],
            "lr": method.head_lr,
            "weight_decay": method.head_decay,
        },
    ]
    return [
        Muon(kernels, method.kernel_lr, method.kernel_momentum, world),
        torch.optim.SGD(sgd_groups, momentum=method.sgd_momentum, nesterov=True),
    ]


def measure_statistics(model: AllCNN, batches: Iterator[Tensor]) -> None:
    """Set batch normalisation to the mean of its statistics over batches, and go to eval mode."""
    norms = [layer for layer in model.features if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for batch in batches:
        model.forward_features(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()

"""The original recipe of 2015: the training of neon 2.3.0's All-CNN script.

With the same seed it reproduces a run of neon's CPU backend: the same initial weights and dropout
masks bit for bit, and losses, weights and velocities that differ only by rounding. (neon's GPU
backend, which trained the published weights, draws other random numbers.) One difference: neon
reports at most 50 nats as the loss of an image, which does not affect its gradient.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..distributed import World
from ..model import AllCNN, with_tensors
from ..neon.module import Dropout
from .learner import Learner
from .recipes import NeonMethod, Recipe


class MaskedDropout(Dropout):
    """neon's dropout, with given masks."""

    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`x` (N, C, H, W), times `mask` of the same shape in training."""
        return x * self.mask if self.training else super().forward(x)


class NeonSGD(Optimizer):
    """SGD with momentum as in neon: the velocity contains the learning rate.

    After a drop of the learning rate, neon keeps the old, large velocity, which decays, but
    `torch.optim.SGD` scales it down at once. While the rate is constant they agree. Parameter
    groups have ``lr``, ``momentum`` and ``decay``, the weight decay.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; every parameter must have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if not self.state[weight]:
                    self.state[weight]["velocity"] = torch.zeros_like(weight)
                gradient = weight.grad + group["decay"] * weight
                velocity = self.state[weight]["velocity"]
                velocity.mul_(group["momentum"]).sub_(group["lr"] * gradient)
                weight.add_(velocity)


class NeonLearner(Learner):
    """Convolutions without biases, trained by `NeonSGD`.

    All randomness comes from one stream, as in neon: the weights of all convolutions in order, then
    the masks of each batch. The stream cannot skip ahead, so it is part of the state, and each
    process draws the masks of the whole batch but uses only its part.
    """

    def __init__(self, recipe: Recipe, seed: int, world: World) -> None:
        assert isinstance(recipe.method, NeonMethod)
        self.method = method = recipe.method
        self.stream = np.random.RandomState(seed)
        model = AllCNN(recipe.architecture)
        for number, drop in enumerate((recipe.dropout[0], recipe.dropout[1], recipe.dropout[1])):
            setattr(model.features, f"dropout{number}", MaskedDropout(drop))
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        for layer in layers:
            assert layer.bias is not None
            layer.bias.requires_grad = False  # it stays zero: neon has none
            out, *rest = layer.weight.shape
            drawn = self.stream.normal(0, method.init_scale, (int(np.prod(rest)), out))
            kernel = torch.from_numpy(drawn.astype(np.float32).T)  # neon's layout is (C*R*S, K)
            with torch.no_grad():
                layer.weight.copy_(kernel.reshape(layer.weight.shape))
        model.to(world.device)
        kernels = [layer.weight for layer in layers]
        settings = {"lr": method.lr, "momentum": method.momentum, "decay": method.decay}
        optimizer = NeonSGD(kernels, settings)
        super().__init__(recipe, model, [optimizer])
        self.dropouts = [layer for layer in model.features if isinstance(layer, MaskedDropout)]

    def rate(self, epoch: int, progress: float) -> float:
        """A step down at the beginning of each epoch in `steps`."""
        return float(self.method.change ** sum(step <= epoch for step in self.method.steps))

    def start_batch(self, size: int) -> None:
        """Draw the masks of the whole batch, in neon's layout, (C*H*W, N)."""
        first, second = self.recipe.architecture.widths
        shapes = ((3, 32, 32), (first, 16, 16), (second, 8, 8))
        self.masks = []
        for layer, shape in zip(self.dropouts, shapes, strict=True):
            kept = self.stream.random_sample((int(np.prod(shape)), size)) < 1 - layer.p
            self.masks.append(torch.from_numpy(kept.T.reshape(size, *shape)))

    def start_part(self, epoch: int, batch: int, part: int) -> None:
        """Use this part of the masks."""
        start = part * self.recipe.ghost_batch
        device = self.model.classifier.weight.device
        for layer, mask in zip(self.dropouts, self.masks, strict=True):
            layer.mask = mask[start : start + self.recipe.ghost_batch].to(device)

    def plain(self) -> AllCNN:
        """Fold dropout's factors into the next convolution, and drop the padding outputs."""
        classes = len(self.recipe.classes)
        architecture = dataclasses.replace(self.recipe.architecture, num_classes=classes)
        state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        keep = 1.0
        for name, layer in self.model.features.named_children():
            if isinstance(layer, MaskedDropout):
                keep = 1 - layer.p
            elif isinstance(layer, nn.Conv2d):
                state[f"features.{name}.weight"] *= keep
                keep = 1.0
        for name in ("classifier.weight", "classifier.bias"):
            state[name] = state[name][:classes].clone()
        return with_tensors(architecture, state)

    def state(self) -> dict[str, Any]:
        """Everything that changes in training, the random stream included."""
        stream = self.stream.get_state(legacy=False)
        words = torch.from_numpy(stream["state"]["key"].astype(np.int64))
        stream["state"] = {"key": words, "pos": stream["state"]["pos"]}
        return {**super().state(), "stream": stream}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        super().restore(state)
        stream = state["stream"]
        words = stream["state"]["key"].numpy().astype(np.uint32)
        self.stream.set_state({**stream, "state": {**stream["state"], "key": words}})

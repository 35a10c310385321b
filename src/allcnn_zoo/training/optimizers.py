"""Optimizers that PyTorch does not have in the form that the recipes need."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..distributed import World

# Coefficients of the quintic iteration (Jordan et al., "Muon", 2024): they send every singular
# value quickly into about 0.7...1.2, which is all that is needed here.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Momentum, orthogonalized: every direction of a kernel's update has about the same length.

    A kernel (out, in, h, w) counts as a matrix (out, in * h * w). As batch normalization follows
    it, its length means nothing; before each step it is set to sqrt(out), so that the learning
    rate is the relative change and no weight decay is needed (after airbench, Jordan 2024).

    Nearly all the work is in making matrices orthogonal. The processes of `world` share it, a
    kernel for each in turn, and hand on what they got, which changes no bit of the result.

    Args:
        parameters: Kernels, float32, at least two-dimensional.
        lr: Learning rate.
        momentum: Decay of the running sum of gradients; the update is Nesterov's.
        world: The processes that train together; each has the same gradients.
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


class NeonSGD(Optimizer):
    """SGD with momentum as in neon: the velocity contains the learning rate.

    After a drop of the learning rate neon goes on with the old, large velocity, which decays;
    `torch.optim.SGD` would scale it down at once. While the rate is constant they agree. The
    settings of its parameters are ``lr``, ``momentum`` and ``decay``, that of the weights.
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

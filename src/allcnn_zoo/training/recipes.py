"""Named, frozen ways to train All-CNN-C on CIFAR-10: every number that decides the result."""

import dataclasses
import difflib
from typing import Literal

from ..architecture import Architecture
from ..errors import TrainingError, UnknownNameError

NO_LAST_RELU = Architecture(final_relu=False)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, but for the data and the seed.

    Attributes:
        name: What ``--recipe`` calls it.
        summary: One line for people.
        architecture: The network that comes out.
        batch_norm: Train with batch normalisation after every convolution but the last; its scale
            stays 1 and it is folded into the convolutions at the end.
        dropout: Probability of dropping an input value, and an activation after each stage.
        epochs: Passes over the training images.
        batch_size: Images in one optimizer step, over all processes.
        ghost_batch: Images that go through the network together, and so the images over which
            batch normalisation takes its statistics. Fixed, so that the number of processes does
            not change the result.
        optimizer: ``"muon"``: Muon for the kernels, Nesterov SGD for biases and the last
            convolution.
        kernel_lr: Peak learning rate of the kernels.
        kernel_momentum: Their momentum.
        bias_lr: Peak learning rate of the biases, which do not decay.
        head_lr: Peak learning rate of the last convolution.
        head_decay: Its weight decay (as SGD's: multiplied by the learning rate).
        sgd_momentum: Nesterov momentum of biases and last convolution.
        label_smoothing: Share of each target that is spread over all classes.
        logit_scale: Factor of the logits in training; absorbed into the last convolution at the
            end.
        shift: Largest shift of an image in pixels, the border reflected.
        flips: ``"alternating"`` shows every image and its mirror image in turn, ``"none"`` never
            flips.
        resolutions: ``(start, pixels)``: from this fraction of the training on, the network sees
            crops of the whitened images of that size.
        precision: Arithmetic of the convolutions.
        temperature: Divisor of the logits that calibrates the probabilities, chosen on held-out
            images by an earlier run; used when a run has none of its own.
    """

    name: str
    summary: str
    architecture: Architecture = NO_LAST_RELU
    batch_norm: bool = True
    dropout: tuple[float, float] = (0.0, 0.0)
    epochs: int = 50
    batch_size: int = 512
    ghost_batch: int = 64
    optimizer: Literal["muon"] = "muon"
    kernel_lr: float = 0.1
    kernel_momentum: float = 0.6
    bias_lr: float = 0.02
    head_lr: float = 0.2
    head_decay: float = 0.02
    sgd_momentum: float = 0.85
    label_smoothing: float = 0.1
    logit_scale: float = 0.5
    shift: int = 0
    flips: Literal["alternating", "none"] = "none"
    resolutions: tuple[tuple[float, int], ...] = ((0.0, 32),)
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.batch_size % self.ghost_batch:
            raise TrainingError(
                f"batch_size={self.batch_size} is not a multiple of ghost_batch={self.ghost_batch}"
            )
        if self.epochs < 1:
            raise TrainingError(f"epochs={self.epochs}: at least 1 is needed")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="best",
            summary="flips, shifts, growing crops, Muon: as good as this network gets",
            shift=4,
            flips="alternating",
            resolutions=((0.0, 20), (0.3, 24), (0.6, 32)),
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UnknownNameError: There is none; the message lists those there are.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(
            f"no recipe is called {name!r:.60}; there are {', '.join(RECIPES)}{hint}"
        )
    return RECIPES[name]

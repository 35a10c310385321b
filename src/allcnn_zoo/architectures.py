"""The paper's twelve CIFAR-10 networks, in one table.

Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for Simplicity: The All Convolutional Net"
(arXiv 1412.6806), section 3 and tables 1 and 2. Every network is two stages, each of which halves
the resolution, and a head:

    image 32x32 --stage 1, 96 wide--> 16x16 --stage 2, 192 wide--> 8x8 --head--> logits

The model letter (A, B, C) decides how a stage begins, the variant how it ends. The table does not
need PyTorch; `model` builds networks from it.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Mapping
from types import MappingProxyType

from .errors import ArchitectureError

CIFAR10_CLASSES = tuple(
    "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
)

#: The coarse classes of CIFAR-100, each with its five fine ones (Krizhevsky 2009).
CIFAR100_COARSE_CLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple oak palm pine willow",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
CIFAR100_CLASSES = tuple(sorted(" ".join(CIFAR100_COARSE_CLASSES.values()).split()))

#: Test error of each network in percent, trained without augmentation (paper, table 3).
CIFAR10_PAPER_ERRORS = {
    "base_a": 12.47,
    "strided_cnn_a": 13.46,
    "convpool_cnn_a": 10.21,
    "allcnn_a": 10.30,
    "base_b": 10.20,
    "strided_cnn_b": 10.98,
    "convpool_cnn_b": 9.33,
    "allcnn_b": 9.10,
    "base_c": 9.74,
    "strided_cnn_c": 10.19,
    "convpool_cnn_c": 9.31,
    "allcnn_c": 9.08,
}

CHANNELS, SIZE = 3, 32  #: of an image
PIXELS = CHANNELS * SIZE * SIZE


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with a square kernel, followed by a ReLU."""

    kernel: int
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Overlapping 3x3 max-pooling with stride 2."""


# Which kernels a stage begins with (table 1) ...
MODELS: dict[str, tuple[Conv, ...]] = {
    "a": (Conv(5),),
    "b": (Conv(5), Conv(1)),
    "c": (Conv(3), Conv(3)),
}

# ... and how it ends: with pooling, or one of the paper's three alternatives (section 3, table 2).
# "Strided" gives the pooling's stride to the last convolution before it.
VARIANTS: dict[str, Callable[[tuple[Conv, ...]], tuple[Conv | MaxPool, ...]]] = {
    "base_{}": lambda convs: (*convs, MaxPool()),
    "strided_cnn_{}": lambda convs: (*convs[:-1], dataclasses.replace(convs[-1], stride=2)),
    "convpool_cnn_{}": lambda convs: (*convs, Conv(3), MaxPool()),
    "allcnn_{}": lambda convs: (*convs, Conv(3, stride=2)),
}

# For widths and outputs: more than anybody needs, and small enough that shapes cannot overflow.
_LIMIT = 65_536

STAGES: dict[str, tuple[Conv | MaxPool, ...]] = {
    variant.format(model): end(convs)
    for variant, end in VARIANTS.items()
    for model, convs in MODELS.items()
}

#: What every network ends with, before the last convolution, which gives the logits.
HEAD = (Conv(3), Conv(1))


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that decides a network's shapes and its arithmetic at inference.

    Attributes:
        name: One of the twelve names in `STAGES`, for example ``"allcnn_c"``.
        num_classes: Number of outputs; 0 for a network without its last convolution, whose outputs
            are averaged features.
        widths: Channels of the first stage, and of the second stage and the head. The paper's are
            (96, 192).
        last_padding: Padding of the last 3x3 convolution. neon's script pads it by 1 and averages
            8x8 positions; the paper leaves it unpadded (0) and averages 6x6. The weights have the
            same shapes either way, but they belong to the padding that they were trained with.
        final_relu: Whether a ReLU follows the last convolution, as in the paper and in neon.

    Raises:
        ArchitectureError: An attribute is out of its range.
    """

    name: str = "allcnn_c"
    num_classes: int = 10
    widths: tuple[int, int] = (96, 192)
    last_padding: int = 1
    final_relu: bool = True

    def __post_init__(self) -> None:
        if self.name not in STAGES:
            raise ArchitectureError(
                f"no network is called {self.name!r:.60}; choose from {', '.join(STAGES)}"
            )
        if len(self.widths) != 2 or not all(_is_count(width) for width in self.widths):
            raise ArchitectureError(
                f"widths={self.widths!r:.60}: two integers in 1...{_LIMIT} are needed"
            )
        if not _is_count(self.num_classes, least=0):
            raise ArchitectureError(
                f"num_classes={self.num_classes!r:.60}: an integer in 0...{_LIMIT} is needed"
            )
        if type(self.final_relu) is not bool:
            raise ArchitectureError(f"final_relu={self.final_relu!r:.60}: True or False is needed")
        if type(self.last_padding) is not int or self.last_padding not in (0, 1):
            raise ArchitectureError(
                f"last_padding={self.last_padding!r:.60}: 1 is neon's, 0 is the paper's"
            )
        # JSON accepts only Python's integers, and labels.max() + 1 is NumPy's.
        object.__setattr__(self, "num_classes", int(self.num_classes))
        object.__setattr__(self, "widths", tuple(map(int, self.widths)))

    @functools.cache  # noqa: B019 - a frozen value, of which there are few
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor in the `state_dict` of the plain network, in its order."""
        specs = [(spec, width) for width in self.widths for spec in STAGES[self.name]]
        specs += [(spec, self.widths[1]) for spec in HEAD]
        convs = [(spec.kernel, width) for spec, width in specs if isinstance(spec, Conv)]
        layers = {f"features.conv{number}": conv for number, conv in enumerate(convs, start=1)}
        if self.num_classes:
            layers["classifier"] = (1, self.num_classes)
        shapes: dict[str, tuple[int, ...]] = {}
        channels = CHANNELS
        for name, (kernel, width) in layers.items():
            shapes[f"{name}.weight"] = (width, channels, kernel, kernel)
            shapes[f"{name}.bias"] = (width,)
            channels = width
        return MappingProxyType(shapes)

    def code(self) -> tuple[float, float, float]:
        """What decides the function but has no shape: network, last padding, last ReLU.

        The `state_dict` holds it, so weights always compute the function they were trained for.
        """
        number = list(STAGES).index(self.name)
        return float(number), float(self.last_padding), float(self.final_relu)

    def count_parameters(self) -> int:
        """Number of weights and biases of the plain network."""
        return sum(math.prod(shape) for shape in self.shapes().values())


def _is_count(value: object, least: int = 1) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return False
    return least <= int(value) <= _LIMIT

"""neon networks as PyTorch modules that compute the same.

Inside, tensors have PyTorch's shapes: (N, features), (N, channels, height, width), one more axis
for volumes, and (N, time, features) for sequences. Every module has the name of its layer in
`rescue`, so the `state_dict` has the names of a rescued file.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own custom
from torch import Tensor, nn

from ..errors import NeonError
from .layers import LAYER_CLASSES, NotUnderstoodError, Settings
from .model import NeonModel, read_model
from .rescue import Description, RescuedNetwork, kind_of, load_rescued, rescue
from .unpickle import Array

Children: TypeAlias = "OrderedDict[str, nn.Module]"
State: TypeAlias = tuple[Tensor, Tensor]  # of a recurrent layer: its output, and an LSTM's cell

_MOST_NAMED = 10  # layers in one error message; a file may have any number


def to_module(source: str | os.PathLike[str] | NeonModel | RescuedNetwork) -> nn.Module:
    """Rebuild a neon network in PyTorch, with its weights, so that it reproduces neon's outputs.

    Inputs have the shapes of neon's data iterators, (N, *input shape): float images (N, C, H, W),
    float vectors (N, features), word indices (N, time) of any type, float sequences
    (N, features, time); or a list of these for a network with several inputs. Outputs are those of
    neon's last layer: (N, features), (N, C, H, W) or (N, time, features). In training mode, dropout
    works like neon's.

    Args:
        source: A model file of neon 1.2.0 or later, the ``.safetensors`` file that `rescue_neon`
            wrote for one, or the result of `read_model`, `rescue` or `load_rescued`.

    Returns:
        A module in eval mode, with float32 parameters named as `rescue` names them.

    Raises:
        NeonError: The file cannot be read, contradicts itself, or has layers that cannot be
            rebuilt: the message names each with the reason. `rescue` works even then.
        CheckpointError: The ``.safetensors`` file is damaged or not a rescued network.
    """
    if isinstance(source, RescuedNetwork):
        rescued = source
    elif isinstance(source, NeonModel):
        rescued = rescue(source)
    elif os.fspath(source).lower().endswith(".safetensors"):
        rescued = load_rescued(source)
    else:
        rescued = rescue(read_model(source))
    if not rescued.description.get("has_architecture"):
        raise NeonError(
            "a file of neon 1.1.5 or older holds parameters but no network to rebuild;"
            " `allcnn-zoo convert` rescues the parameters"
        )
    problems: list[str] = []
    root = {**rescued.description, "not_understood": rescued.description.get("root_not_understood")}
    network = Network(_build(root, rescued, problems))
    if problems:
        named = "; ".join(problems[:_MOST_NAMED])
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise NeonError(
            f"PyTorch has no equivalent for {len(problems)} of the layers: {named}{more}."
            " `allcnn-zoo convert` rescues their arrays all the same"
        )
    return network.eval()


def _build(layer: Description, network: RescuedNetwork, problems: list[str]) -> nn.Module:
    """Build the module for a layer and those inside it; add what cannot be built to `problems`."""
    children = OrderedDict(
        (inner["name"].rpartition(".")[2], _build(inner, network, problems))
        for inner in layer["layers"]
    )
    try:
        return _build_one(layer, network.arrays_of(layer), children)
    except NotUnderstoodError as error:
        problems.append(f"{layer['name']}: {error}")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        # Anybody can write a header, and PyTorch raises many kinds of errors.
        problems.append(f"{layer['name']}: its description is damaged")
    return nn.Identity()


def _build_one(layer: Description, arrays: Mapping[str, Array], children: Children) -> nn.Module:
    kind, settings = kind_of(layer), layer["settings"]
    if layer.get("not_understood") is not None or settings is None:
        raise NotUnderstoodError(layer["not_understood"])
    tensors = {
        name: torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
        for name, array in arrays.items()
        if not name.startswith("config.")  # initial values for training
    }
    if LAYER_CLASSES[kind].params and not tensors:
        raise NotUnderstoodError("the file does not hold its parameters")
    container = _CONTAINERS.get(kind)
    if container and not children:
        raise NotUnderstoodError("there is nothing in it")
    with torch.device("meta"):
        module = container(children, **settings) if container else _BUILDERS[kind](**settings)
    if tensors:
        try:
            module.load_state_dict(tensors, assign=True)
        except RuntimeError:
            raise NotUnderstoodError("the file does not hold all of its parameters") from None
    return module


class Network(nn.Module):
    """A rebuilt network with inputs in neon's shapes."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """Run the network; see `to_module` for the shapes."""
        if isinstance(inputs, Tensor):
            return self.layers(_time_before_features(inputs))  # type: ignore[no-any-return]
        return self.layers([*map(_time_before_features, inputs)])  # type: ignore[no-any-return]


def _time_before_features(x: Tensor) -> Tensor:
    return x.transpose(1, 2) if x.dim() == 3 else x


# Containers. Their branches are their children, by the layers' names.


class MergeSum(nn.Sequential):
    """Passes the same input to all branches and sums their outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Any tensor in; the branches decide what comes out."""
        return torch.stack([branch(x) for branch in self]).sum(0)


class MergeBroadcast(nn.Sequential):
    """Passes the same input to all branches and concatenates their outputs."""

    def __init__(self, branches: Children, merge: str) -> None:
        super().__init__(branches)
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        """Any tensor in; the branches decide what comes out."""
        return self.join([branch(x) for branch in self])

    def join(self, outputs: list[Tensor]) -> Tensor:
        """Concatenate along channels, along time, or after flattening each."""
        if self.merge == "stack":
            return torch.cat([output.flatten(1) for output in outputs], 1)
        is_sequence = outputs[0].dim() == 3
        return torch.cat(outputs, 2 if is_sequence and self.merge == "depth" else 1)


class MergeMultistream(MergeBroadcast):
    """Passes a separate input to each branch and concatenates their outputs."""

    def forward(self, x: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """As many tensors in as there are branches."""
        return self.join([branch(stream) for branch, stream in zip(self, x, strict=True)])


class SingleOutputTree(nn.Sequential):
    """A trunk, with branches that only training uses."""

    def forward(self, x: Tensor) -> Tensor:
        """The trunk's output."""
        return self[0](x)  # type: ignore[no-any-return]


# Layers with parameters, where PyTorch's own do not fit all of neon's shapes.


class Linear(nn.Linear):
    """A linear layer without bias: on vectors, flattened images, or each step of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) or (N, time, features) in; the last axis becomes the outputs."""
        return super().forward(x.flatten(1) if x.dim() > 3 else x)


class Bias(nn.Module):
    """One value for each feature or channel."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(features))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same out."""
        return x + self.bias.view(-1, *[1] * (x.dim() - 2)) if x.dim() > 3 else x + self.bias


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization of each feature or channel, for any shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same out."""
        if x.dim() == 3:
            return super().forward(x.transpose(1, 2)).transpose(1, 2)
        return super().forward(x)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any number of axes, as `torch.nn.functional.batch_norm` does."""


class LookupTable(nn.Embedding):
    """Rows of a table by their index."""

    def forward(self, x: Tensor) -> Tensor:
        """Indices (N, time) of any type in; (N, time, features) out."""
        return super().forward(x.long())


class Recurrent(nn.Module):
    """A recurrent layer, in one direction or in both, whose outputs are then concatenated.

    The weights have PyTorch's layout and order of gates. PyTorch's layers are not used: they are
    faster, but their activation functions are fixed, and their GRU differs.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        activation: Settings,
        gate_activation: Settings | None = None,
        split_inputs: bool | None = None,  # None in one direction
    ) -> None:
        super().__init__()
        self.units = hidden_size
        self.split_inputs = split_inputs
        self.activation = _function(**activation)
        self.gate = _function(**(gate_activation or {"function": "Identity"}))
        rows, units = self.gates * hidden_size, hidden_size
        shapes = {"weight_ih": (rows, input_size), "weight_hh": (rows, units), "bias": (rows,)}
        for direction in ("",) if split_inputs is None else ("", "_reverse"):
            for name, shape in shapes.items():
                self.register_parameter(name + direction, nn.Parameter(torch.empty(shape)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, time, features) in; (N, time, units), or twice the units, out."""
        x = _as_sequence(x)
        if self.split_inputs is None:
            return self._run(x, "")
        ahead, back = x.chunk(2, -1) if self.split_inputs else (x, x)
        back_output = self._run(back.flip(1), "_reverse").flip(1)
        return torch.cat([self._run(ahead, ""), back_output], -1)

    def _run(self, x: Tensor, direction: str) -> Tensor:
        weight_ih, weight_hh, bias = (
            getattr(self, name + direction) for name in ("weight_ih", "weight_hh", "bias")
        )
        output = cell = x.new_zeros(len(x), self.units)
        outputs = []
        for inputs in F.linear(x, weight_ih, bias).unbind(1):
            output, cell = self._step(inputs, output, cell, weight_hh)
            outputs.append(output)
        return torch.stack(outputs, 1)

    def _step(self, inputs: Tensor, output: Tensor, cell: Tensor, weight_hh: Tensor) -> State:
        """The next output and cell state from the gates' inputs and the previous ones."""
        return self.activation(inputs + F.linear(output, weight_hh)), cell


class LSTM(Recurrent):
    """Long short-term memory."""

    gates = 4

    def _step(self, inputs: Tensor, output: Tensor, cell: Tensor, weight_hh: Tensor) -> State:
        gates = (inputs + F.linear(output, weight_hh)).chunk(4, -1)
        write, forget, read = (self.gate(gates[index]) for index in (0, 1, 3))
        cell = forget * cell + write * self.activation(gates[2])
        return read * self.activation(cell), cell


class GRU(Recurrent):
    """Gated recurrent unit. PyTorch's resets after the product, and swaps old and new."""

    gates = 3

    def _step(self, inputs: Tensor, output: Tensor, cell: Tensor, weight_hh: Tensor) -> State:
        reset_input, update_input, new_input = inputs.chunk(3, -1)
        reset_weight, update_weight, new_weight = weight_hh.chunk(3)
        reset = self.gate(reset_input + F.linear(output, reset_weight))
        update = self.gate(update_input + F.linear(output, update_weight))
        new = self.activation(new_input + F.linear(reset * output, new_weight))
        return output + update * (new - output), cell


def _as_sequence(x: Tensor) -> Tensor:
    """(N, time, features) of a sequence, a vector (one step), or an image (its columns)."""
    if x.dim() == 2:
        return x.unsqueeze(1)
    return x if x.dim() == 3 else x.flatten(1, -2).transpose(1, 2)


# Layers without parameters.


class Dropout(nn.Dropout):
    """neon's dropout, which scales at inference instead of in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same out."""
        return super().forward(x) * (1 - self.p)


class Pooling(nn.Module):
    """Maximum, or mean over the positions inside the image, of windows."""

    def __init__(
        self,
        operation: str,
        kernel: Any,
        stride: Sequence[int] = (),
        padding: Sequence[int] = (),
        rounding: str = "",
    ) -> None:
        super().__init__()
        self.is_maximum, self.ceil = operation == "max", rounding == "ceil"
        self.windows = None  # the whole image
        if kernel != "all":
            self.windows = [*zip(kernel, stride, padding, strict=True)]
        for size, step, margin in self.windows or ():
            if 2 * margin > size:
                raise NotUnderstoodError(f"a padding of {margin} is over half of {size}")
            if self.ceil and step > size:
                raise NotUnderstoodError(f"with stride {step}, windows may be outside the image")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (N, C, D, H, W) in, the same with fewer positions out."""
        if self.windows is None:
            reduce = torch.amax if self.is_maximum else torch.mean
            return reduce(x, (-2, -1), keepdim=True)
        flat = x.dim() - 2 - len(self.windows)  # axes that a smaller window leaves alone
        kernel, stride, padding = zip(*[(1, 1, 0)] * flat, *self.windows, strict=True)
        if self.is_maximum:
            pool = F.max_pool3d if x.dim() == 5 else F.max_pool2d
            return pool(x, kernel, stride, padding, ceil_mode=self.ceil)
        mean = F.avg_pool3d if x.dim() == 5 else F.avg_pool2d
        return mean(x, kernel, stride, padding, self.ceil, count_include_pad=False)


class FeatureSoftmax(nn.Module):
    """Softmax over all features of an input, of all channels and positions, or of each step."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same out."""
        return x.softmax(-1) if x.dim() == 3 else x.flatten(1).softmax(1).view_as(x)


class Function(nn.Module):
    """A function without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(x)


def _sum_of_directions(x: Tensor) -> Tensor:
    ahead, back = x.chunk(2, -1)
    return ahead + back


def _function(function: str, **settings: Any) -> nn.Module:
    """An activation function."""
    return _FUNCTIONS[function](**settings)


def _softmax(axis: float) -> nn.Module:
    if axis != 0:
        raise NotUnderstoodError(f"it is a softmax over axis {axis:g}")
    return FeatureSoftmax()


_FUNCTIONS: Mapping[str, Callable[..., nn.Module]] = {
    "Identity": nn.Identity,
    "Rectlin": lambda slope: nn.LeakyReLU(slope) if slope else nn.ReLU(),
    "Rectlinclip": lambda slope, xcut: nn.Sequential(
        nn.LeakyReLU(slope), Function(partial(torch.clamp, max=xcut))
    ),
    "Explin": nn.ELU,
    "Tanh": nn.Tanh,
    "Logistic": nn.Sigmoid,
    "Softmax": _softmax,
    "PixelwiseSoftmax": lambda: nn.Softmax(1),
    "Normalizer": lambda divisor: Function(partial(torch.div, other=divisor)),
}


# From settings to modules.


def _convolution(
    of_images: type[nn.Module], of_volumes: type[nn.Module], kernel: list[int], **others: Any
) -> nn.Module:
    return (of_images if len(kernel) == 2 else of_volumes)(kernel_size=kernel, **others)


_CONTAINERS: Mapping[str, Callable[..., nn.Module]] = {
    "Sequential": nn.Sequential,
    "MergeSum": MergeSum,
    "MergeBroadcast": MergeBroadcast,
    "MergeMultistream": MergeMultistream,
    "SingleOutputTree": SingleOutputTree,
}
"""How to build the module for each of neon's containers, from its children and settings."""

_BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(("SkipNode", "BranchNode"), nn.Identity),
    **dict.fromkeys(
        ("Convolution", "Convolution_bias"), partial(_convolution, nn.Conv2d, nn.Conv3d)
    ),
    "Deconvolution": partial(_convolution, nn.ConvTranspose2d, nn.ConvTranspose3d),
    "Linear": partial(Linear, bias=False),
    "Bias": Bias,
    "BatchNorm": lambda features, **settings: BatchNorm(features, **settings),
    "LookupTable": lambda padding_idx, **sizes: LookupTable(**sizes),  # it matters in training
    **dict.fromkeys(("Recurrent", "BiRNN"), Recurrent),
    **dict.fromkeys(("LSTM", "BiLSTM"), LSTM),
    "GRU": GRU,
    "RecurrentSum": lambda: Function(partial(torch.sum, dim=1)),
    "RecurrentMean": lambda: Function(partial(torch.mean, dim=1)),
    "RecurrentLast": lambda: Function(partial(torch.select, dim=1, index=-1)),
    "BiSum": lambda: Function(_sum_of_directions),
    "Dropout": lambda keep, mode: (nn.Dropout if mode == "caffe" else Dropout)(1 - keep),
    "Pooling": Pooling,
    "LRN": nn.LocalResponseNorm,
    **dict.fromkeys(("Activation", "DataTransform"), _function),
}
"""How to build the module for each of neon's other classes, from its settings."""

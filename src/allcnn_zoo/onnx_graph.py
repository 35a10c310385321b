"""Networks as ONNX graphs, written node by node.

The architecture is a table and the preprocessing a dozen operations, so a hand-written graph is
small and deterministic, and does not depend on PyTorch's exporter.
"""

import dataclasses
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from torch import nn

from .architectures import CHANNELS, PIXELS, SIZE
from .errors import ExportError
from .model import AllCNN, fold_batch_norm, metadata_of
from .preprocessing import Preprocessor
from .storage import to_json
from .version import __version__
from .weights import Metadata

if TYPE_CHECKING:
    from onnx import ModelProto
else:
    ModelProto = Any  # for `typing.get_type_hints`, where the package is not installed

#: How the whitening matrix is stored.
Whitening: TypeAlias = Literal["float32", "float16"]
WHITENINGS: tuple[str, ...] = get_args(Whitening)

#: Names of the tensors that go in and come out, and the shape of an image.
INPUT, OUTPUT, SEEN = "images", "probabilities", "whitened"
BATCH, IMAGE = "batch", (CHANNELS, SIZE, SIZE)

_REPORTER = "openvino_telemetry"
_OPSET, _IR_VERSION = 17, 8  # both of 2022: every runtime in use reads them


def to_onnx(
    model: AllCNN, *, whitened: bool = False, whitening: Whitening = "float32"
) -> ModelProto:
    """A model, preprocessing included, as an ONNX graph; no file is touched.

    Input ``images``, uint8 (N, 3, 32, 32) RGB; output ``probabilities``, float32 (N, classes).
    Convolutions, poolings and ReLUs have the names that they have in the network (``conv1`` ...
    ``classifier``). Equal models give equal bytes.

    Args:
        model: A network with weights. Batch normalization is folded into the convolutions.
        whitened: Add a second output ``whitened``, float32 (N, 3, 32, 32): what the network sees.
        whitening: How the whitening matrix is stored. It is symmetric, so half of it is stored, and
            runtimes mirror it once, when they load the graph. ``"float32"`` is lossless;
            ``"float16"`` rounds all but the diagonal, in half the space.

    Raises:
        AllCNNZooError: The model has no described weights, or its preprocessing is not a
            `Preprocessor`; there is no such `whitening`; or the package onnx is missing.
    """
    if whitening not in WHITENINGS:
        raise ExportError(
            f"whitening={whitening!r:.20}: choose from {', '.join(map(repr, WHITENINGS))}"
        )
    metadata = metadata_of(model)
    preprocess = model.preprocess
    if type(preprocess) is not Preprocessor:  # a subclass may compute something else
        raise ExportError(
            f"an ONNX graph can contain only an allcnn_zoo.Preprocessor, and this model's"
            f" preprocessing is a {type(preprocess).__name__}; assign one to model.preprocess"
        )
    graph = _Graph()
    _add_network(graph, model, _add_preprocessing(graph, preprocess, whitening))
    helper, types = graph.onnx.helper, graph.onnx.TensorProto
    tensor = helper.make_tensor_value_info
    inputs = [tensor(INPUT, types.UINT8, [BATCH, *IMAGE])]
    outputs = [tensor(OUTPUT, types.FLOAT, [BATCH, len(metadata.classes)])]
    if whitened:
        outputs.append(tensor(SEEN, types.FLOAT, [BATCH, *IMAGE]))
    made: ModelProto = helper.make_model(
        helper.make_graph(graph.nodes, "allcnn_zoo", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="allcnn_zoo",
        producer_version=__version__,
    )
    helper.set_model_props(made, describe(metadata))
    return made


class _Graph:
    """An ONNX graph under construction; an operation and its output tensor share one name."""

    def __init__(self) -> None:
        self.onnx = import_package("onnx")
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Add a constant tensor, and return its name."""
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add an operation, and return its name, which is also that of the tensor it makes."""
        node = self.onnx.helper.make_node(operator, inputs, [name], name, **attributes)
        self.nodes.append(node)
        return name


def _add_preprocessing(graph: _Graph, preprocess: Preprocessor, storage: Whitening) -> str:
    """Add the function of `Preprocessor`, in a form that loses little in bfloat16.

    Whitening amplifies rounding errors of its input. Here the matrix multiplies integers up to 255,
    which bfloat16 represents exactly, and every operation that rounds comes after it.

    The image is centered at the integer nearest to its mean. The columns of the matrix are made to
    sum to zero, which cancels the difference between center and mean; the norm of the n values c is
    corrected for it: |c - mean(c)|^2 = |c|^2 - n mean(c)^2. Contrast and mean image, which come
    before the matrix in `Preprocessor`, come after it.
    """
    pixels = graph.add("Cast", INPUT, name="pixels", to=graph.onnx.TensorProto.FLOAT)
    rows = graph.add("Flatten", pixels, name="rows", axis=1)
    average = graph.add("ReduceMean", rows, name="row_mean", axes=[1], keepdims=1)
    center = graph.add("Round", average, name="center")
    centered = graph.add("Sub", rows, center, name="centered")

    length = graph.add("ReduceL2", centered, name="length", axes=[1], keepdims=1)
    squared_length = graph.add("Mul", length, length, name="squared_length")
    offset = graph.add("ReduceMean", centered, name="offset", axes=[1], keepdims=1)
    squared_offset = graph.add("Mul", offset, offset, name="squared_offset")
    count = graph.constant("count", np.float32(PIXELS))
    excess = graph.add("Mul", squared_offset, count, name="excess")
    squares = graph.add("Sub", squared_length, excess, name="squares")
    norm = graph.add("Sqrt", squares, name="norm")

    # Contrast normalization divides by the norm over the scale, unless that is almost zero.
    gcn = preprocess.fitted_with
    scale = graph.constant("gcn_scale", np.float32(gcn.gcn_scale))
    divisor = graph.add("Div", norm, scale, name="divisor")
    limit = graph.constant("gcn_min_divisor", np.float32(gcn.gcn_min_divisor))
    is_constant = graph.add("Less", divisor, limit, name="is_constant")
    one = graph.constant("one", np.float32(1))
    divisor = graph.add("Where", is_constant, one, divisor, name="safe_divisor")

    mixed = graph.add("MatMul", centered, _add_matrix(graph, preprocess, storage), name="mixed")
    scaled = graph.add("Div", mixed, divisor, name="scaled_rows")
    mean = preprocess.mean.cpu().double().numpy() @ preprocess.matrix.cpu().double().numpy()
    whitened_mean = graph.constant("whitening.whitened_mean", np.float32(mean))
    whitened = graph.add("Sub", scaled, whitened_mean, name="whitened_rows")
    shape = graph.constant("image_shape", np.array([0, *IMAGE]))
    return graph.add("Reshape", whitened, shape, name=SEEN)


def _add_matrix(graph: _Graph, preprocess: Preprocessor, storage: Whitening) -> str:
    """Add the symmetric matrix [[A, B], [B', C]] from half its numbers, with zero column sums.

    ``whitening.side`` is B; ``whitening.corners`` is A above the diagonal and C below it. Runtimes
    compute all of this once, when they load the graph.
    """
    matrix = preprocess.matrix.cpu().numpy()
    half = PIXELS // 2

    def stored(name: str, part: npt.NDArray[np.floating]) -> str:
        rounded = np.ascontiguousarray(part, storage)
        constant = graph.constant(f"whitening.{name}", rounded)
        return graph.add("Cast", constant, name=name, to=graph.onnx.TensorProto.FLOAT)

    triangles = np.triu(matrix[:half, :half], 1) + np.tril(matrix[half:, half:], -1)
    corners = stored("corners", triangles)
    identity = graph.add("EyeLike", corners, name="identity")

    def corner(name: str, upper: int, diagonal: npt.NDArray[np.float32]) -> str:
        triangle = graph.add("Trilu", corners, name=f"{name}_triangle", upper=upper)
        mirror = graph.add("Transpose", triangle, name=f"{name}_mirror", perm=[1, 0])
        others = graph.add("Add", triangle, mirror, name=f"{name}_off_diagonal")
        numbers = graph.constant(f"whitening.{name}_diagonal", diagonal)
        on_diagonal = graph.add("Mul", identity, numbers, name=f"{name}_on_diagonal")
        return graph.add("Add", others, on_diagonal, name=name)

    first = corner("first_corner", 1, matrix.diagonal()[:half])
    last = corner("last_corner", 0, matrix.diagonal()[half:])
    side = stored("side", matrix[:half, half:])
    other_side = graph.add("Transpose", side, name="other_side", perm=[1, 0])
    top = graph.add("Concat", first, side, name="top", axis=1)
    bottom = graph.add("Concat", other_side, last, name="bottom", axis=1)
    whole = graph.add("Concat", top, bottom, name="matrix", axis=0)
    column_means = graph.add("ReduceMean", whole, name="column_means", axes=[0], keepdims=1)
    return graph.add("Sub", whole, column_means, name="projected_matrix")


def _add_network(graph: _Graph, model: AllCNN, x: str) -> None:
    """Add the plain network, from whitened images to probabilities."""
    model = fold_batch_norm(model).cpu()
    layers = dict(model.features.named_children())
    layers |= {"classifier": model.classifier, "final_relu": model.final_activation}
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            parameters = [
                graph.constant(f"{name}.{which}", parameter.detach())
                for which, parameter in layer.named_parameters()
            ]
            x = graph.add("Conv", x, *parameters, name=name, **_window(layer))
        elif isinstance(layer, nn.MaxPool2d):
            x = graph.add("MaxPool", x, name=name, **_window(layer))
        elif isinstance(layer, nn.ReLU):
            x = graph.add("Relu", x, name=name)
    average = graph.add("GlobalAveragePool", x, name="average")
    logits = graph.add("Flatten", average, name="logits", axis=1)
    graph.add("Softmax", logits, name=OUTPUT, axis=1)


def _window(layer: nn.Conv2d | nn.MaxPool2d) -> dict[str, list[int]]:
    """The ONNX attributes of a convolution or pooling with a square window."""
    facts: tuple[Any, ...] = (layer.kernel_size, layer.stride, layer.padding)
    kernel, stride, padding = (np.broadcast_to(each, 2).tolist() for each in facts)
    return {"kernel_shape": kernel, "strides": stride, "pads": padding * 2}


def describe(metadata: Metadata) -> dict[str, str]:
    """The description to store in the model, as texts; structured values are JSON."""
    return {
        "tag": metadata.tag,
        "classes": json.dumps(metadata.classes),
        "preprocessing": metadata.preprocessing,
        "architecture": json.dumps(dataclasses.asdict(metadata.architecture), sort_keys=True),
        "provenance": to_json(metadata.provenance, sort_keys=True),
        "metrics": to_json(metadata.metrics, sort_keys=True),
        "allcnn_zoo_version": __version__,
    }


def import_package(package: str) -> Any:
    """Import a package of an extra, with its telemetry off.

    Raises:
        ExportError: It is not installed.
    """
    # When imported, onnxruntime and openvino open connections and write identifiers into the home
    # folder. The first reads this variable; the second works without its reporter.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    before = sys.modules.get(_REPORTER)
    sys.modules[_REPORTER] = None  # type: ignore[assignment]  # so that its import fails
    try:
        top = importlib.import_module(package.partition(".")[0])
        if not hasattr(top, "__version__"):  # a folder or a file of the user's
            place = top.__file__ or next(iter(top.__path__))
            raise ImportError(f"{place} is not the package, but has its name")  # noqa: TRY301
        module = importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: a library that it loads is damaged
        raise ExportError(
            f"{package} is needed: pip install 'allcnn-zoo[export]' ({error})"
        ) from error
    finally:
        if before is None:
            del sys.modules[_REPORTER]
        else:
            sys.modules[_REPORTER] = before
    return module

"""OpenVINO and ONNX Runtime, which are faster than PyTorch on many a CPU, where installed.

They run what `export` writes, with the preprocessing inside.
"""

import contextlib
import ctypes
import functools
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import AllCNNZooError, ExportError
from ..images import to_batch
from ..machine import has_fast_bfloat16
from ..model import AllCNN
from ..onnx_graph import INPUT, import_package, to_onnx
from ..self_test import sample_images
from .pytorch import Engine

if TYPE_CHECKING:
    from onnx import ModelProto

RUNTIME_PRECISIONS = {
    "openvino": ("float32", "bfloat16", "int8"),
    "onnxruntime": ("float32", "int8"),  # its bfloat16 convolutions do not exist on CPUs
}
_EXTRAS = {"openvino": "openvino", "onnxruntime": "export"}
_OPENVINO_NAMES = {"float32": "f32", "bfloat16": "bf16"}

_BATCH = 32

# The first and the last convolution are a hundredth of the work. Left as they are, they halve the
# number of labels that change.
_LEFT_ALONE = ["conv1", "classifier"]


def open_runtime(
    name: str,
    model: AllCNN,
    precision: str,
    threads: int,
    batch_size: int,
    calibration: npt.NDArray[np.uint8] | None,
) -> Engine:
    """The engine of this name, ``"openvino"`` or ``"onnxruntime"``.

    Raises:
        AllCNNZooError: It is not installed, or has no such precision.
    """
    runtime = import_runtime(name)
    known = RUNTIME_PRECISIONS[name]
    if precision not in known:
        raise AllCNNZooError(
            f"engine={name!r} has no {precision} on a CPU, only {', '.join(known)}"
        )
    graph, others = to_onnx(model), precision
    if precision == "int8":
        graph = quantize(graph, calibration)
        others = "bfloat16" if has_fast_bfloat16() else "float32"  # what int8 leaves alone
    content = graph.SerializeToString()
    if name == "onnxruntime":
        return Engine(name, precision, _session(runtime, content, threads))
    return Engine(name, precision, _OpenVINO(runtime, content, others, threads, batch_size))


def _as_array(images: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if isinstance(images, np.ndarray):
        return images
    return np.ascontiguousarray(images.numpy(force=True))


@functools.cache
def _core(openvino: Any) -> Any:
    """OpenVINO itself: one for all classifiers, and never destroyed.

    Each brings a plugin that replaces the stack on which its thread handles signals, and puts the
    one before back at its end. Of two that end as they began, the second puts back what the first
    has freed: the next signal, such as Ctrl-C, would be a segmentation fault.
    """
    core = openvino.Core()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))
    return core


class _OpenVINO:
    """A graph in OpenVINO, compiled when needed: for micro-batches of the usual size, and others.

    What is compiled for one size is faster, in int8 by a sixth.
    """

    def __init__(
        self, openvino: Any, graph: bytes, precision: str, threads: int, batch_size: int
    ) -> None:
        self.openvino, self.core = openvino, _core(openvino)
        self.graph, self.batch_size = graph, batch_size
        self.settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _OPENVINO_NAMES[precision],
        }
        self.compiled: dict[int | None, Any] = {}
        self.idle: dict[int | None, list[Any]] = {}  # a request serves one caller at a time
        _alive.add(self)

    def __call__(self, images: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        images = _as_array(images)
        size = len(images) if len(images) in (1, self.batch_size) else None
        if size not in self.compiled:
            self.compiled[size] = self._compile(size)
        idle = self.idle.setdefault(size, [])
        request = idle.pop() if idle else self.compiled[size].create_infer_request()
        # What infer(images) does besides takes as long as a tenth of one image.
        request.set_input_tensor(self.openvino.Tensor(images, shared_memory=True))
        request.infer()
        output: npt.NDArray[np.float32] = request.get_output_tensor().data.copy()
        idle.append(request)
        return output

    def _compile(self, size: int | None) -> Any:
        """The graph for micro-batches of this size, or of any."""
        network = self.core.read_model(self.graph)
        if size is not None:
            shape = network.inputs[0].partial_shape
            shape[0] = size
            network.reshape(shape)
        return self.core.compile_model(network, "CPU", self.settings)


def _session(onnxruntime: Any, graph: bytes, threads: int) -> Callable[[Any], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    _alive.add(session)
    return lambda images: session.run(None, {INPUT: _as_array(images)})[0]


def import_runtime(name: str) -> Any:
    """The package of the engine of this name.

    Raises:
        AllCNNZooError: It is not installed.
    """
    try:
        import_package("onnx")  # in which it gets the network
        return import_package(name)
    except ExportError as error:
        raise AllCNNZooError(
            f"engine={name!r} needs packages: pip install 'allcnn-zoo[{_EXTRAS[name]}]' ({error})"
        ) from error


# int8.


def shipped_calibration() -> npt.NDArray[np.uint8]:
    """128 training images of CIFAR-10 that come with the package, uint8 (128, 3, 32, 32)."""
    return sample_images()[0][:128]


def quantize(graph: "ModelProto", calibration: npt.NDArray[np.uint8] | None = None) -> "ModelProto":
    """The same graph, each inner convolution between a pair that quantizes and one that undoes it.

    Both runtimes recognize the pairs and compute in int8.

    Args:
        graph: What `to_onnx` made of a model.
        calibration: uint8 (N, 3, 32, 32); those that come with the package if None.

    Raises:
        AllCNNZooError: A package is missing, or there are no images.
    """
    images = to_batch(shipped_calibration() if calibration is None else calibration).numpy()
    tool: Any = import_package("onnxruntime.quantization")
    batches = ({INPUT: batch} for batch in np.array_split(images, -(-len(images) // _BATCH)))

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]  # no other class is accepted
        def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
            return next(batches, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        tool.quantize_static(
            graph,
            path,
            Reader(),
            quant_format=tool.QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_LEFT_ALONE,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            # What follows is the ReLU, which is then computed in the convolution itself.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
        )
        quantized: ModelProto = import_package("onnx").load(path)
    return quantized


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tool's advice to prepare the graph, which ours does not need."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# After a fork.

_alive: weakref.WeakSet[Any] = weakref.WeakSet()


def _after_fork() -> None:
    """Never destroy what was compiled before: runtimes would wait for threads that are lost."""
    for each in _alive:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
    _core.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

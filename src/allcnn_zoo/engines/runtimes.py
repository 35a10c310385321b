"""OpenVINO and ONNX Runtime, which are faster than PyTorch on many a CPU, where installed.

They run what `export` writes, with the preprocessing inside; for bfloat16 in two stages, of which
only the second is computed in it.
"""

import functools
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..architecture import AllCNN
from ..errors import AllCNNZooError
from ..onnx_graph import network_to_onnx, normalisation_to_onnx, to_onnx
from .engine import Engine
from .quantization import quantize

#: ONNX, and the precision in which it is computed.
Stage: TypeAlias = tuple[bytes, str]
Run: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

_PRECISIONS = {
    "openvino": ("float32", "bfloat16", "int8"),
    "onnxruntime": ("float32", "int8"),  # its bfloat16 convolutions do not exist on CPUs
}
_EXTRAS = {"openvino": "openvino", "onnxruntime": "export"}
_OPENVINO_NAMES = {"float32": "f32", "bfloat16": "bf16"}


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
    runtime = _import(name)
    if precision not in _PRECISIONS[name]:
        raise AllCNNZooError(
            f"engine={name!r} has no {precision} on a CPU, only {', '.join(_PRECISIONS[name])}"
        )
    stages = _stages(model, precision, calibration)
    if name == "onnxruntime":
        return RuntimeEngine(precision, [_session(runtime, graph, threads) for graph, _ in stages])
    return RuntimeEngine(
        precision, [_OpenVINOStage(runtime, *stage, threads, batch_size) for stage in stages]
    )


def _stages(
    model: AllCNN, precision: str, calibration: npt.NDArray[np.uint8] | None
) -> list[Stage]:
    if precision == "bfloat16":  # but not of the contrast normalisation, whose sums are long
        return [
            (normalisation_to_onnx(model).SerializeToString(), "float32"),
            (network_to_onnx(model).SerializeToString(), "bfloat16"),
        ]
    whole = to_onnx(model)
    if precision == "int8":
        whole = quantize(whole, calibration)
    return [(whole.SerializeToString(), "float32")]


class RuntimeEngine:
    """Stages of another runtime, one after another, from images to probabilities."""

    def __init__(self, precision: str, stages: Sequence[Run]) -> None:
        self.precision, self.stages = precision, stages

    def __call__(self, images: Tensor) -> npt.NDArray[np.float32]:
        """Probabilities (N, classes) of uint8 images (N, 3, 32, 32)."""
        first = np.ascontiguousarray(images.cpu().numpy())
        return functools.reduce(lambda values, stage: stage(values), self.stages, first)


class _OpenVINOStage:
    """A stage, compiled when first needed: for micro-batches of the usual size, and for others.

    What is compiled for one size is faster, in int8 by a sixth.
    """

    def __init__(
        self, openvino: Any, graph: bytes, precision: str, threads: int, batch_size: int
    ) -> None:
        self.openvino, self.core = openvino, openvino.Core()
        self.graph, self.batch_size = graph, batch_size
        self.settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _OPENVINO_NAMES[precision],
        }
        self.compiled: dict[int | None, Any] = {}
        self.mine = threading.local()  # a request serves one caller at a time

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        size = len(values) if len(values) in (1, self.batch_size) else None
        if not hasattr(self.mine, "requests"):
            self.mine.requests = {}
        requests: dict[int | None, Any] = self.mine.requests
        if size not in requests:
            if size not in self.compiled:
                self.compiled[size] = self._compile(size)
            requests[size] = self.compiled[size].create_infer_request()
        request = requests[size]
        # What infer(values) does besides takes as long as a tenth of one image.
        request.set_input_tensor(self.openvino.Tensor(values, shared_memory=True))
        request.infer()
        output: npt.NDArray[Any] = request.get_output_tensor().data.copy()
        return output

    def _compile(self, size: int | None) -> Any:
        """The stage for micro-batches of this size, or of any."""
        network = self.core.read_model(self.graph)
        if size is not None:
            shape = network.inputs[0].partial_shape
            shape[0] = size
            network.reshape(shape)
        return self.core.compile_model(network, "CPU", self.settings)


def _session(onnxruntime: Any, graph: bytes, threads: int) -> Run:
    """A stage in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (name,) = (put.name for put in session.get_inputs())

    def run(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        (output,) = session.run(None, {name: values})
        return output  # type: ignore[no-any-return]

    return run


def _import(name: str) -> Any:
    try:
        importlib.import_module("onnx")  # in which it gets the network
        return importlib.import_module(name)
    except ImportError as error:
        raise AllCNNZooError(
            f"engine={name!r} is not installed, or onnx is not:"
            f" pip install 'allcnn-zoo[{_EXTRAS[name]}]'"
        ) from error

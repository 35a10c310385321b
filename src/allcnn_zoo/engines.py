"""Engines that run the network for a classifier: PyTorch, OpenVINO or ONNX Runtime.

PyTorch runs on any device and is always installed. The two runtimes are faster on many CPUs; they
run the graph that `export` writes, preprocessing included.
"""

import contextlib
import copy
import ctypes
import dataclasses
import functools
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import AllCNNZooError, ExportError, check_name
from .images import to_batch
from .machine import PRECISIONS, has_fast_bfloat16, is_forked, usable_cores
from .machine import Precision as Precision
from .model import AllCNN
from .onnx_graph import INPUT, import_package, to_onnx
from .preprocessing import Preprocessor

if TYPE_CHECKING:
    from onnx import ModelProto

EngineName: TypeAlias = Literal["auto", "torch", "openvino", "onnxruntime"]
ENGINES: tuple[str, ...] = get_args(EngineName)

#: What each engine computes in.
ENGINE_PRECISIONS = {
    "torch": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16", "int8"),
    "onnxruntime": ("float32", "int8"),  # its bfloat16 convolutions do not exist on CPUs
}
_RUNTIMES = ("openvino", "onnxruntime")  # fastest first, at every batch size: see docs/speed.md


@dataclasses.dataclass
class Engine:
    """A network with its preprocessing and its softmax, ready to run.

    Attributes:
        name: One of `ENGINES`, never ``"auto"``.
        precision: What it computes in, never ``"auto"``.
        run: From a micro-batch of uint8 images (N, 3, 32, 32), a tensor or an array in C order and
            writeable, to float32 probabilities (N, classes).
    """

    name: str
    precision: str
    run: Callable[[Any], npt.NDArray[np.float32]]


def open_engine(
    model: AllCNN,
    name: str = "auto",
    *,
    precision: str = "float32",
    device: str | torch.device | None = None,
    threads: int | None = None,
    batch_size: int = 32,
    calibration: npt.NDArray[np.uint8] | None = None,
) -> Engine:
    """Open the engine that computes the probabilities of a model's classes.

    Takes the arguments of `Classifier`. The engine owns the model and may change the layout of its
    weights. It also accepts micro-batches of other sizes than `batch_size`.

    Raises:
        UnknownNameError: There is no such engine or precision.
        AllCNNZooError: The engine is not installed, or has no such precision or device.
    """
    check_name(name, ENGINES, "engine")
    check_name(precision, PRECISIONS, "precision")
    where = model.classifier.weight.device if device is None else device
    if name not in ("auto", "torch") and not str(where).startswith("cpu"):
        raise AllCNNZooError(f"engine={name!r} runs on the CPU only; leave out device={where!s}")
    device = usable_device(where)
    if precision == "auto":
        is_fast = name != "onnxruntime" and has_fast_bfloat16(device.type)
        precision = "bfloat16" if is_fast else "float32"
    if calibration is not None and precision != "int8":
        raise AllCNNZooError(f"calibration= is for precision='int8'; leave it out for {precision}")
    if name == "auto":
        name = _fastest(model, precision, device)
    if precision not in ENGINE_PRECISIONS[name]:
        able = [f"engine={each!r}" for each, some in ENGINE_PRECISIONS.items() if precision in some]
        raise AllCNNZooError(
            f"engine={name!r} computes in {' or '.join(ENGINE_PRECISIONS[name])}, not in"
            f" {precision}; {' and '.join(able)} do"
        )
    cores = usable_cores()

    def allowed_threads() -> int:
        return min(threads or torch.get_num_threads(), 1 if is_forked() else cores)

    if name == "torch":
        return _open_torch(model, precision, device, allowed_threads)
    return _open_runtime(name, model, precision, allowed_threads(), batch_size, calibration)


def _fastest(model: AllCNN, precision: str, device: torch.device) -> str:
    """The fastest engine that is installed and can run this model in this precision."""
    # A graph holds our own preprocessing only; PyTorch runs any.
    if device.type == "cpu" and type(model.preprocess) is Preprocessor:
        for name in _RUNTIMES:
            if precision in ENGINE_PRECISIONS[name]:
                with contextlib.suppress(AllCNNZooError):  # not installed, or not usable here
                    import_runtime(name)
                    return name
    return "torch"


def usable_device(name: str | torch.device) -> torch.device:
    """The device of this name, or an `AllCNNZooError` if PyTorch cannot compute there."""
    try:
        probe = torch.ones(1, device=name)
        probe.cpu()  # "meta" has shapes only
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:  # differs by build
        raise AllCNNZooError(f"cannot run on device {str(name)!r:.60}: {error}") from error
    return probe.device


# PyTorch.


def _open_torch(
    model: AllCNN, precision: str, device: torch.device, threads: Callable[[], int]
) -> Engine:
    """The model in PyTorch, channels last; a process that is forked later has other `threads`."""
    dtype: torch.dtype = getattr(torch, precision)
    preprocess = _preprocessing(model, device)
    first = model.classifier.weight
    if (first.device, first.dtype) != (device, dtype):
        model = copy.deepcopy(model).to(device, dtype)
    model.eval().requires_grad_(requires_grad=False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(images: Tensor | npt.NDArray[np.uint8]) -> Any:
        with (
            using_threads(threads()),
            torch.inference_mode(),
            torch.autocast(device.type, enabled=False),  # the precision is ours to choose,
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),  # a GPU's, too
        ):
            # Whitening stays in float32: it amplifies rounding, and costs little.
            whitened = preprocess(torch.as_tensor(images).to(device, non_blocking=True))
            logits = model(whitened.to(dtype, memory_format=torch.channels_last)).float()
            return logits.softmax(dim=1).cpu().numpy()

    return Engine("torch", precision, run)


def _preprocessing(model: AllCNN, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The model's preprocessing on a device."""
    preprocess = model.preprocess
    if model.classifier.weight.device != device:
        preprocess = copy.deepcopy(preprocess).to(device)
    if (
        type(preprocess) is not Preprocessor  # a subclass may compute something else
        or device.type != "cpu"
        or not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    ):
        return preprocess
    # PyTorch uses MKL for float32 products, which takes two to four times as long as oneDNN on
    # processors that Intel did not make.
    normalize = preprocess.normalize
    matrix = preprocess.matrix.to_mkldnn()  # symmetric, so it is its own transpose

    def whiten(images: Tensor) -> Tensor:
        whitened = torch.ops.aten.mkldnn_linear(normalize(images).to_mkldnn(), matrix)
        return whitened.to_dense().view(images.shape)  # type: ignore[no-any-return]

    return whiten


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Set PyTorch's number of threads inside the ``with`` block."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


# OpenVINO and ONNX Runtime.


def _open_runtime(
    name: str,
    model: AllCNN,
    precision: str,
    threads: int,
    batch_size: int,
    calibration: npt.NDArray[np.uint8] | None,
) -> Engine:
    """The model in OpenVINO or ONNX Runtime."""
    runtime = import_runtime(name)
    graph, others = to_onnx(model), precision
    if precision == "int8":
        graph = quantize(graph, calibration)
        others = "bfloat16" if has_fast_bfloat16() else "float32"  # what int8 leaves alone
    content = graph.SerializeToString()
    if name == "onnxruntime":
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        _alive.add(session)
        return Engine(
            name, precision, lambda images: session.run(None, {INPUT: _as_array(images)})[0]
        )
    return Engine(name, precision, _OpenVINO(runtime, content, others, threads, batch_size))


def _as_array(images: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if isinstance(images, np.ndarray):
        return images
    return np.ascontiguousarray(images.numpy(force=True))


@functools.cache
def _core(openvino: Any) -> Any:
    """The one OpenVINO core, which all classifiers share and which is never destroyed.

    A core's plugin installs a stack for signal handlers, and restores the previous one when it is
    destroyed. If two cores are destroyed in the order of their creation, the second restores a
    stack that the first has freed, and the next signal (Ctrl-C) is a segmentation fault.
    """
    core = openvino.Core()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))
    return core


class _OpenVINO:
    """Runs a graph in OpenVINO, compiled on first use: for one image, a full micro-batch, or any.

    A graph compiled for one size is faster, by a sixth in int8.
    """

    def __init__(
        self, openvino: Any, graph: bytes, precision: str, threads: int, batch_size: int
    ) -> None:
        self.openvino, self.core = openvino, _core(openvino)
        self.graph, self.batch_size = graph, batch_size
        self.settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
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
        # The rest of infer(images) would take a tenth of the time for one image.
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


def import_runtime(name: str) -> Any:
    """Import the package of an engine; an `AllCNNZooError` tells how to install it."""
    try:
        import_package("onnx")  # both runtimes get the network as an ONNX graph
        return import_package(name)
    except ExportError as error:
        extra = "export" if name == "onnxruntime" else name
        raise AllCNNZooError(
            f"engine={name!r} needs packages: pip install 'allcnn-zoo[{extra}]' ({error.__cause__})"
        ) from error


# int8.

# The first and last convolutions are 1 % of the work. Leaving them out halves the number of labels
# that change.
_LEFT_ALONE = ["conv1", "classifier"]


def quantize(graph: "ModelProto", calibration: npt.NDArray[np.uint8] | None = None) -> "ModelProto":
    """Quantize the inner convolutions of a graph to int8.

    Each gets nodes that quantize and dequantize, which both runtimes recognize and turn into int8
    arithmetic. The ranges of values are measured on `calibration`, uint8 images (N, 3, 32, 32), or
    on 128 training images of CIFAR-10.
    """
    from .cifar import sample_images  # with a reader of pickles and a hub, which int8 alone needs

    if calibration is None:
        calibration = sample_images().images[:128]
    images = to_batch(calibration).numpy()
    tool: Any = import_package("onnxruntime.quantization")
    batches = ({INPUT: batch} for batch in np.array_split(images, -(-len(images) // 32)))

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]  # no other class is accepted
        def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
            return next(batches, None)

    # Else the tool advises in the log to prepare the graph, which ours does not need.
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        # Given the graph itself, the tool names files of its own after this machine's address.
        source.write_bytes(graph.SerializeToString())
        tool.quantize_static(
            source,
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


# After a fork.

_alive: weakref.WeakSet[Any] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child, never destroy compiled graphs: runtimes would wait for lost threads."""
    for each in _alive:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
    _core.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""Every way to run the bundled All-CNN-C that inference.py compares, each in its best usual form.

A way is opened in a process of its own, with a fixed number of threads, and becomes a `Runner`.
Preprocessing is in the graph where the runtime has one. int8 covers the convolutions and is
calibrated on 512 training images; whitening stays in floating point, as int8 would spoil it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from allcnn_zoo import AllCNN, Classifier, allcnn_c, load
from allcnn_zoo.cifar import CIFAR10

WEIGHTS = "cifar10_best"
CALIBRATION_IMAGES = 512
LARGEST_PIECE = 32  # of a batch that OpenVINO's streams share

Images = np.ndarray  # uint8 (N, 3, 32, 32)
Whitened = np.ndarray  # float32 (N, 3, 32, 32)
Labels = np.ndarray  # int64 (N,)


@dataclasses.dataclass
class Runner:
    """The network, ready to run.

    Attributes:
        classify: From images to labels, preprocessing included.
        network: The network alone, from whitened images; None where it does not run alone.
        takes_streams: Whether `classify` cuts any number of images into batches by itself.
    """

    classify: Callable[[Images], Labels]
    network: Callable[[Whitened], object] | None = None
    takes_streams: bool = False


@dataclasses.dataclass(frozen=True)
class Way:
    """One row of the table: `open` takes the number of threads."""

    name: str
    precision: str
    open: Callable[[int], Runner]
    ours: bool = False
    streams: bool = True


# Ours: one line each, with the arguments of `Classifier`.


def allcnn_zoo(micro_batch: int = 32, **arguments: Any) -> Callable[[int], Runner]:
    """A classifier; for calls of fewer images than its micro-batches, one made for their number."""

    def open_(threads: int) -> Runner:
        model = load(WEIGHTS)

        @functools.cache
        def classifier(batch_size: int) -> Classifier:
            return Classifier(model, threads=threads, batch_size=batch_size, **arguments)

        def classify(images: Images) -> Labels:
            return classifier(min(len(images), micro_batch)).predict_proba(images).argmax(axis=1)

        return Runner(classify, takes_streams=True)

    return open_


# PyTorch.


def eager(layout: torch.memory_format, dtype: torch.dtype = torch.float32) -> Callable:
    """``model(model.preprocess(images)).softmax(1)``, and what two more lines can do for it."""

    def open_(_: int) -> Runner:
        model = _model().to(dtype, memory_format=layout)
        return _torch_runner(model, model, layout, dtype)

    return open_


def compiled(dtype: torch.dtype = torch.float32, **options: Any) -> Callable[[int], Runner]:
    """torch.compile, one graph for each size of batch; with options, frozen weights too."""

    def open_(_: int) -> Runner:
        import torch._inductor.config

        torch._inductor.config.freezing = bool(options)
        torch._dynamo.config.cache_size_limit = 64
        model = _model().to(dtype, memory_format=torch.channels_last)
        network = torch.compile(model, dynamic=False, **options)
        return _torch_runner(model, network, torch.channels_last, dtype)

    return open_


def _torch_runner(
    model: AllCNN, network: Callable, layout: torch.memory_format, dtype: torch.dtype
) -> Runner:
    def run(whitened: torch.Tensor) -> torch.Tensor:
        return network(whitened.to(dtype, memory_format=layout)).float()

    def classify(images: Images) -> Labels:
        with torch.no_grad():
            probabilities = run(model.preprocess(torch.from_numpy(images))).softmax(1)
            return probabilities.argmax(1).numpy()

    def alone(whitened: Whitened) -> torch.Tensor:
        with torch.no_grad():
            return run(torch.from_numpy(whitened))

    return Runner(classify, alone)


# ONNX Runtime.


def onnxruntime(quantized: bool = False) -> Callable[[int], Runner]:
    def open_(threads: int) -> Runner:
        whole = _quantized_onnx() if quantized else _onnx()
        run, alone = (_onnx_session(graph, threads) for graph in (whole, _network_of(whole)))
        return Runner(lambda images: run(images).argmax(axis=1), alone)

    return open_


def _onnx_session(graph: Any, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (entry,) = session.get_inputs()
    return lambda array: session.run(None, {entry.name: array})[0]


def _quantized_onnx() -> Any:
    import tempfile
    from pathlib import Path

    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(_calibration_batches())

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory() as folder:
        prepared, result = (str(Path(folder) / name) for name in ("prepared.onnx", "int8.onnx"))
        quant_pre_process(_onnx(), prepared)
        quantization.quantize_static(
            prepared,
            result,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(result)


# OpenVINO.


def openvino(hint: str, precision: str) -> Callable[[int], Runner]:
    """`hint` is LATENCY, one request at a time, or THROUGHPUT, a queue that its streams share."""

    def open_(threads: int) -> Runner:
        import openvino

        core = openvino.Core()
        whole = core.read_model(_onnx().SerializeToString())
        alone = core.read_model(_network_of(_onnx()).SerializeToString())
        if precision == "int8":
            whole = _quantized_openvino(whole, _calibration_batches())
            alone = _quantized_openvino(alone, map(_whiten, _calibration_batches()))
        settings = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        if precision != "int8":  # what is not int8 there is in the runtime's own choice
            settings["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[precision]
        # A graph of fixed size is faster than one for batches of any size.
        compile_ = functools.partial(_openvino_of_size, core, settings)
        kind = _one_request if hint == "LATENCY" else _many_requests
        run, run_alone = kind(compile_, whole), kind(compile_, alone)
        return Runner(
            lambda images: run(images).argmax(axis=1), run_alone, takes_streams=hint != "LATENCY"
        )

    return open_


def _openvino_of_size(core: Any, settings: dict[str, Any], model: Any, size: int) -> Any:
    model = model.clone()
    model.reshape([size, 3, 32, 32])
    return core.compile_model(model, "CPU", settings)


def _one_request(compile_: Callable, model: Any) -> Callable[[np.ndarray], np.ndarray]:
    @functools.cache
    def request(size: int) -> Any:
        return compile_(model, size).create_infer_request()

    def run(batch: np.ndarray) -> np.ndarray:
        return request(len(batch)).infer({0: batch}, share_inputs=True)[0]

    return run


def _many_requests(compile_: Callable, model: Any) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    def keep(request: Any, place: tuple[list, int]) -> None:
        results, number = place
        results[number] = request.get_output_tensor(0).data.copy()

    @functools.cache
    def queue(size: int) -> Any:
        requests = openvino.AsyncInferQueue(compile_(model, size))
        requests.set_callback(keep)
        return requests

    def run(batch: np.ndarray) -> np.ndarray:
        size = min(LARGEST_PIECE, -(-len(batch) // 2))
        pieces = [batch[start : start + size] for start in range(0, len(batch), size)]
        results = [None] * len(pieces)
        for number, piece in enumerate(pieces):
            queue(len(piece)).start_async({0: piece}, (results, number), share_inputs=True)
        for length in {len(piece) for piece in pieces}:
            queue(length).wait_all()
        return np.concatenate(results)

    return run


def _quantized_openvino(model: Any, batches: Iterator[np.ndarray]) -> Any:
    import nncf

    names = {node.name for node in _onnx().graph.node}
    operations = [operation.get_friendly_name() for operation in model.get_ordered_ops()]
    first = next(number for number, name in enumerate(operations) if name == "conv1")
    preprocessing = [name for name in operations[:first] if name in names]
    return nncf.quantize(
        model,
        nncf.Dataset([image[None] for batch in batches for image in batch]),
        subset_size=CALIBRATION_IMAGES,
        ignored_scope=nncf.IgnoredScope(names=preprocessing, validate=False),
    )


# What several need.


def _model() -> AllCNN:
    return allcnn_c(weights=WEIGHTS)


@functools.cache
def _onnx() -> Any:
    """Preprocessing and network as one ONNX graph, from ``images`` to ``probabilities``."""
    from allcnn_zoo.export import to_onnx

    return to_onnx(_model())


def _network_of(whole: Any) -> Any:
    """The part of the graph that begins with whitened images."""
    from onnx import shape_inference, utils

    shaped = shape_inference.infer_shapes(whole)
    return utils.Extractor(shaped).extract_model(["whitened"], ["probabilities"])


def _calibration_batches() -> Iterator[Images]:
    yield from np.split(CIFAR10().train.images[:CALIBRATION_IMAGES], 8)


def _whiten(images: Images) -> Whitened:
    return _model().preprocess(torch.from_numpy(images)).numpy()


_LAST, _FIRST = torch.channels_last, torch.contiguous_format
_TUNED = {"mode": "max-autotune"}

WAYS = (
    Way("PyTorch eager", "float32", eager(_FIRST)),  # the reference, so it comes first
    Way("PyTorch eager, channels last", "float32", eager(_LAST)),
    Way("PyTorch eager, channels last", "bfloat16", eager(_LAST, torch.bfloat16)),
    Way("torch.compile", "float32", compiled()),
    Way("torch.compile, max-autotune, frozen", "float32", compiled(**_TUNED)),
    Way("torch.compile, max-autotune, frozen", "bfloat16", compiled(torch.bfloat16, **_TUNED)),
    Way("ONNX Runtime", "float32", onnxruntime()),
    Way("ONNX Runtime", "int8", onnxruntime(quantized=True)),
    Way("OpenVINO, latency", "float32", openvino("LATENCY", "float32"), streams=False),
    Way("OpenVINO, latency", "bfloat16", openvino("LATENCY", "bfloat16"), streams=False),
    Way("OpenVINO, latency", "int8", openvino("LATENCY", "int8"), streams=False),
    Way("OpenVINO, throughput", "float32", openvino("THROUGHPUT", "float32")),
    Way("OpenVINO, throughput", "bfloat16", openvino("THROUGHPUT", "bfloat16")),
    Way("OpenVINO, throughput", "int8", openvino("THROUGHPUT", "int8")),
    Way("allcnn_zoo", "float32", allcnn_zoo(engine="torch", precision="float32"), ours=True),
    Way("allcnn_zoo", "bfloat16", allcnn_zoo(engine="torch", precision="bfloat16"), ours=True),
    *(
        Way(
            f"allcnn_zoo, engine {engine}",
            precision,
            allcnn_zoo(micro_batch, engine=engine, precision=precision),
            ours=True,
        )
        for engine, precision, micro_batch in (
            ("onnxruntime", "float32", 32),
            ("onnxruntime", "int8", 32),
            ("openvino", "float32", 128),
            ("openvino", "bfloat16", 128),
            ("openvino", "int8", 128),
        )
    ),
)

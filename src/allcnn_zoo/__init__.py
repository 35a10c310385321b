"""All-CNN-C and its family for CIFAR-10: networks, rescued weights, matching preprocessing.

    model = allcnn_zoo.allcnn_c(pretrained=True)
    probabilities = model(model.preprocess(images_uint8)).softmax(-1)

Public names load on first use (PEP 562), so importing the package is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

_NAMES = {
    "architectures": ("Architecture",),
    "cifar": ("CIFAR10", "CIFAR100"),
    "classifier": ("Classifier", "Prediction"),
    "errors": ("AllCNNZooError",),
    "evaluation": ("Evaluation", "evaluate"),
    "explanation": ("FeatureMap", "explain"),
    "export": ("export_model",),
    "from_neon": ("convert_neon", "rescue_neon"),
    "model": ("AllCNN", "fold_batch_norm"),
    "onnx_graph": ("to_onnx",),
    "preprocessing": ("Preprocessor",),
    "training": ("train",),
    "weights": ("Metadata", "Weights", "get_weights", "list_models", "list_weights"),
    "zoo": ("allcnn_a", "allcnn_b", "allcnn_c", "create_model", "download", "load"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = (
    "weights",
    "checkpoint",
    "errors",
    "explanation",
    "export",
    "hub",
    "huggingface",
    "neon",
    "training",
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "AllCNN",
    "AllCNNZooError",
    "Architecture",
    "Classifier",
    "Evaluation",
    "FeatureMap",
    "Metadata",
    "Prediction",
    "Preprocessor",
    "Weights",
    "allcnn_a",
    "allcnn_b",
    "allcnn_c",
    "convert_neon",
    "create_model",
    "download",
    "evaluate",
    "explain",
    "export_model",
    "fold_batch_norm",
    "get_weights",
    "list_models",
    "list_weights",
    "load",
    "rescue_neon",
    "to_onnx",
    "train",
]

if TYPE_CHECKING:
    from .architectures import Architecture
    from .cifar import CIFAR10, CIFAR100
    from .classifier import Classifier, Prediction
    from .errors import AllCNNZooError
    from .evaluation import Evaluation, evaluate
    from .explanation import FeatureMap, explain
    from .export import export_model
    from .from_neon import convert_neon, rescue_neon
    from .model import AllCNN, fold_batch_norm
    from .onnx_graph import to_onnx
    from .preprocessing import Preprocessor
    from .training import train
    from .weights import Metadata, Weights, get_weights, list_models, list_weights
    from .zoo import allcnn_a, allcnn_b, allcnn_c, create_model, download, load


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})

"""For torch.hub: ``torch.hub.load(checkout, "allcnn_c", source="local", pretrained=True)``.

It works from a checkout; only the package's dependencies must be installed.
"""

import functools as _functools
import sys as _sys
import warnings as _warnings
from pathlib import Path as _Path

dependencies = ["torch", "numpy", "requests", "platformdirs", "safetensors", "filelock"]

_SOURCE = str(_Path(__file__).resolve().parent / "src")
if _SOURCE not in _sys.path:
    _sys.path.insert(0, _SOURCE)

import allcnn_zoo as _allcnn_zoo  # noqa: E402
from allcnn_zoo import create_model  # noqa: E402

if not _Path(_allcnn_zoo.__file__).resolve().is_relative_to(_SOURCE):
    _warnings.warn(
        f"the models come from {_allcnn_zoo.__file__}, which this process imported before;"
        f" to use {_SOURCE}, start a new process",
        stacklevel=2,
    )


def _entry(name: str):  # what torch.hub lists, loads and describes
    @_functools.wraps(create_model)
    def build(pretrained=False, **options):
        return create_model(name, pretrained, **options)

    parameters = _allcnn_zoo.Architecture(name).count_parameters()
    figures = [
        f"{weights.tag} ({weights.metrics['top1']} % top-1 on {weights.dataset}"
        f"{'' if weights.measured_by_us else ', as published'})"
        for weights in _allcnn_zoo.list_weights(name)
    ]
    build.__name__ = name
    build.__doc__ = (
        f"The paper's {name}, {parameters:,} parameters.\n\n"
        f"Weights: {', '.join(figures) or 'none'}. Options are those of allcnn_zoo.create_model;\n"
        "model.preprocess takes uint8 images (N, 3, 32, 32), and the model returns logits."
    )
    return build


globals().update({_name: _entry(_name) for _name in _allcnn_zoo.list_models()})

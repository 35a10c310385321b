"""torch.hub's door: ``torch.hub.load(checkout, "allcnn_c", source="local", pretrained=True)``.

Works from a bare checkout: the package need not be installed, only what it depends on.
"""

import sys
from pathlib import Path

dependencies = ["torch", "numpy", "requests", "platformdirs", "safetensors", "filelock"]

_SOURCE = str(Path(__file__).resolve().parent / "src")
if _SOURCE not in sys.path:
    sys.path.insert(0, _SOURCE)

from allcnn_zoo import allcnn_a, allcnn_b, allcnn_c, create_model  # noqa: E402

__all__ = ["allcnn_a", "allcnn_b", "allcnn_c", "create_model"]

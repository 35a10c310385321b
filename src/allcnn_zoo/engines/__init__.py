"""What runs the network for a classifier: PyTorch itself, or a runtime that is faster."""

from .engine import PRECISIONS, Engine, Precision
from .opening import ENGINES, EngineName, open_engine, usable_device

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "EngineName",
    "Precision",
    "open_engine",
    "usable_device",
]

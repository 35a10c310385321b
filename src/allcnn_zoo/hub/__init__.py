"""Verified downloads that survive faults, and a cache that checks what it returns.

The hub knows nothing of models or data sets. It can be used on its own:

    from allcnn_zoo.hub import Cache, Resource

    weights = Resource("folder/file.bin", "https://example.org/folder/file.bin")
    Cache().fetch(weights).path

Read on in: `settings` (what is published, and how patient to be), `cache` (found again by digest),
`download` (source by source), `http` and `sources` (one source), `files` (whole or not at all).
"""

from .cache import Cache
from .download import CachedFile, download
from .settings import CACHE_VARIABLE, MIRRORS_VARIABLE, OFFLINE_VARIABLE, Policy, Resource

__all__ = [
    "CACHE_VARIABLE",
    "MIRRORS_VARIABLE",
    "OFFLINE_VARIABLE",
    "Cache",
    "CachedFile",
    "Policy",
    "Resource",
    "download",
]

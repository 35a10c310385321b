"""Verified downloads that survive faults, and a cache that checks what it returns.

The hub does not depend on models or data sets. It can be used on its own:

    from allcnn_zoo.hub import Cache, Resource

    weights = Resource("folder/file.bin", "https://example.org/folder/file.bin")
    Cache().fetch(weights).path

Modules: `settings` (published files, environment variables, timeouts), `cache` (files by digest),
`download` (all sources), `http` and `sources` (one source), `files` (atomic writing, locks).
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

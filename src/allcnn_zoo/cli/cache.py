"""``download`` and ``cache``: published weights, and what is kept on this machine."""

import dataclasses
from typing import Any

from .shared import Commands, Result, flag, option, table

commands = Commands()


@commands.add(
    "download",
    "download and convert published weights, for offline use",
    option("tags", "such as neon_e350", nargs="+", metavar="TAG"),
    flag("--trust-new", "accept a changed file and record its digest"),
)
def _download(tags: list[str], trust_new: bool) -> Result:
    from .. import zoo

    report = {tag: str(zoo.download(tag, trust_new=trust_new)) for tag in tags}
    return Result(report, [f"{tag}: {path}" for tag, path in report.items()])


@commands.add("cache path", "print the cache's folder")
def _path() -> Result:
    path = str(_cache().root)
    return Result({"path": path}, [path])


@commands.add("cache ls", "list the cached files")
def _ls() -> Result:
    cache = _cache()
    entries = cache.entries()
    rows = []
    for entry in entries:
        origin = f"made from {entry.source[:12]}" if entry.source else entry.url or "unknown"
        rows.append((entry.key, _size(entry.size), entry.date[:10], entry.sha256[:12], origin))
    lines = ["", *table(("key", "size", "date", "sha256", "from"), rows)] if rows else []
    total = _size(sum(entry.size for entry in entries))
    return Result(
        [_describe(entry) for entry in entries],
        [f"{cache.root}: {len(rows)} files, {total}", *lines],
    )


@commands.add("cache verify", "check every digest")
def _verify() -> Result:
    from ..errors import IntegrityError

    results = list(_cache().verify())
    damaged = [entry.key for entry, intact in results if not intact]
    error = IntegrityError(
        f"{len(damaged)} damaged: {', '.join(damaged)}. They are downloaded again on next use;"
        " `allcnn-zoo cache rm KEY` removes one now"
    )
    rows = [("ok" if intact else "DAMAGED", entry.key) for entry, intact in results]
    report = [{**_describe(entry), "intact": intact} for entry, intact in results]
    return Result(report, table(("state", "key"), rows), error if damaged else None)


@commands.add(
    "cache rm",
    "remove files and everything converted from them",
    option("keys", "weights, or a key of `cache ls`", nargs="+", metavar="TAG|KEY"),
    flag("--forget", "forget the digest too: the next download may differ"),
)
def _rm(keys: list[str], forget: bool) -> Result:
    from ..errors import CacheError
    from ..weights import list_weights

    cache, freed = _cache(), 0
    known = {name: each.key for each in reversed(list_weights()) for name in (each.tag, each.name)}
    for name in keys:
        key = known.get(name, name)
        if key is None:
            raise CacheError(f"{name} comes with the package and is not in the cache")
        freed += cache.remove(key, forget=forget)
    return _freed(freed)


@commands.add("cache prune", "remove damaged and abandoned files")
def _prune() -> Result:
    return _freed(_cache().prune())


def _freed(count: int) -> Result:
    return Result({"freed_bytes": count}, [f"freed {_size(count)}"])


def _cache() -> Any:
    from ..hub import Cache

    return Cache()


def _describe(entry: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "path": str(entry.path)}


def _size(count: int) -> str:
    from tqdm import tqdm

    return tqdm.format_sizeof(count, "B")

"""``download`` and ``cache``: published weights, and what is kept on this machine."""

import argparse
import dataclasses
from datetime import datetime, timezone
from typing import Any

from .shared import Commands, Result, add_command, add_group, table


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(
        commands, "download", "download and convert published weights, for offline use", _download
    )
    parser.add_argument("tags", nargs="+", metavar="TAG", help="such as neon_e350")
    parser.flag("--trust-new", "accept a changed file and record its digest")

    actions = add_group(commands, "cache", "list, verify or remove cached files")
    add_command(actions, "path", "print the cache's folder", _path)
    add_command(actions, "ls", "list the cached files", _ls)
    add_command(actions, "verify", "check every digest", _verify)
    parser = add_command(actions, "rm", "remove files and everything converted from them", _rm)
    parser.add_argument(
        "keys", nargs="+", metavar="TAG|KEY", help="weights, or a key of `cache ls`"
    )
    parser.flag("--forget", "forget the digest too: the next download may differ")
    add_command(actions, "prune", "remove damaged and abandoned files", _prune)


def _download(arguments: argparse.Namespace) -> Result:
    from .. import zoo

    paths = {tag: zoo.download(tag, trust_new=arguments.trust_new) for tag in arguments.tags}
    report = {tag: str(path) for tag, path in paths.items()}
    return Result(report, [f"{tag}: {path}" for tag, path in report.items()])


def _path(_: argparse.Namespace) -> Result:
    path = str(_cache().root)
    return Result({"path": path}, [path])


def _ls(_: argparse.Namespace) -> Result:
    cache = _cache()
    entries = cache.entries()
    total = _size(sum(entry.size for entry in entries))
    rows = []
    for entry in entries:
        origin = f"made from {entry.source[:12]}" if entry.source else entry.url or "unknown"
        rows.append((entry.key, _size(entry.size), _age(entry.date), entry.sha256[:12], origin))
    lines = ["", *table(("key", "size", "age", "sha256", "from"), rows)] if rows else []
    return Result(
        [_describe(entry) for entry in entries],
        [f"{cache.root}: {len(rows)} files, {total}", *lines],
    )


def _verify(_: argparse.Namespace) -> Result:
    from ..errors import IntegrityError

    results = list(_cache().verify())
    damaged = [entry.key for entry, intact in results if not intact]
    error = IntegrityError(
        f"{len(damaged)} damaged: {', '.join(damaged)}. They are downloaded again on next use;"
        " `allcnn-zoo cache rm KEY` removes one now"
    )
    rows = [("ok" if intact else "DAMAGED", entry.key) for entry, intact in results]
    return Result(
        [{**_describe(entry), "intact": intact} for entry, intact in results],
        table(("state", "key"), rows),
        error if damaged else None,
    )


def _rm(arguments: argparse.Namespace) -> Result:
    from ..errors import CacheError
    from ..weights import list_weights

    cache, freed = _cache(), 0
    keys = {name: each.key for each in reversed(list_weights()) for name in (each.tag, each.name)}
    for name in arguments.keys:
        key = keys.get(name, name)
        if key is None:
            raise CacheError(f"{name} comes with the package and is not in the cache")
        freed += cache.remove(key, forget=arguments.forget)
    return _freed(freed)


def _prune(_: argparse.Namespace) -> Result:
    return _freed(_cache().prune())


def _freed(count: int) -> Result:
    return Result({"freed_bytes": count}, [f"freed {_size(count)}"])


def _cache() -> Any:
    from ..hub import Cache

    return Cache()


def _describe(entry: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "path": str(entry.path)}


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _age(date: str) -> str:
    seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(date)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"

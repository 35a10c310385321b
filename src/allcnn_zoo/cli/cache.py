"""``download`` and ``cache``: published weights, and what is kept on this machine."""

import argparse
import dataclasses
from datetime import datetime, timezone
from typing import Any

from .shared import Commands, add_command, add_json_option, print_json, print_table, say


def register(commands: Commands) -> None:
    """Add these commands."""
    parser = add_command(
        commands, "download", "download and convert published weights, for offline use", _download
    )
    parser.add_argument("tags", nargs="+", metavar="TAG", help="such as neon_e350")
    parser.add_argument(
        "--trust-new",
        action="store_true",
        help="accept a changed file and record its digest",
    )
    add_json_option(parser)

    summary = "list, verify or remove cached files"
    cache = commands.add_parser("cache", help=summary, description=f"{summary.capitalize()}.")
    actions = cache.add_subparsers(metavar="ACTION", required=True)
    add_command(actions, "path", "print the cache's folder", _path)
    add_json_option(add_command(actions, "ls", "list the cached files", _ls))
    add_json_option(add_command(actions, "verify", "check every digest", _verify))
    parser = add_command(actions, "rm", "remove files and everything converted from them", _rm)
    parser.add_argument(
        "keys", nargs="+", metavar="TAG|KEY", help="weights, or a key of `cache ls`"
    )
    parser.add_argument(
        "--forget",
        action="store_true",
        help="forget the digest too: the next download may differ",
    )
    add_json_option(parser)
    add_json_option(add_command(actions, "prune", "remove damaged and abandoned files", _prune))


def _download(arguments: argparse.Namespace) -> None:
    from .. import zoo

    paths = {tag: zoo.download(tag, trust_new=arguments.trust_new) for tag in arguments.tags}
    if arguments.json:
        print_json({tag: str(path) for tag, path in paths.items()})
        return
    for tag, path in paths.items():
        say(f"{tag}: {path}")


def _path(_: argparse.Namespace) -> None:
    say(_cache().root)


def _ls(arguments: argparse.Namespace) -> None:
    cache = _cache()
    entries = cache.entries()
    if arguments.json:
        print_json([_describe(entry) for entry in entries])
        return
    rows = [
        (entry.key, _size(entry.size), _age(entry.date), entry.sha256[:12], _origin(entry))
        for entry in entries
    ]
    say(f"{cache.root}: {len(rows)} files, {_size(sum(entry.size for entry in entries))}")
    if rows:
        say()
        print_table(("key", "size", "age", "sha256", "from"), rows)


def _verify(arguments: argparse.Namespace) -> None:
    results = list(_cache().verify())
    damaged = [entry.key for entry, intact in results if not intact]
    if arguments.json:
        print_json([{**_describe(entry), "intact": intact} for entry, intact in results])
    else:
        rows = [("ok" if intact else "DAMAGED", entry.key) for entry, intact in results]
        print_table(("state", "key"), rows)
    if damaged:
        from ..errors import IntegrityError

        raise IntegrityError(
            f"{len(damaged)} damaged: {', '.join(damaged)}. They are downloaded again on next use;"
            " `allcnn-zoo cache rm KEY` removes one now"
        )


def _rm(arguments: argparse.Namespace) -> None:
    cache = _cache()
    freed = sum(cache.remove(_key(name), forget=arguments.forget) for name in arguments.keys)
    _report_freed(freed, arguments)


def _key(name: str) -> str:
    """The key of published weights in the cache; a key stays as it is."""
    from ..errors import CacheError
    from ..weights import list_weights

    for weights in list_weights():
        if name in (weights.tag, weights.name):
            if weights.key is None:
                raise CacheError(f"{name} comes with the package and is not in the cache")
            return weights.key
    return name


def _prune(arguments: argparse.Namespace) -> None:
    _report_freed(_cache().prune(), arguments)


def _report_freed(freed: int, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json({"freed_bytes": freed})
    else:
        say(f"freed {_size(freed)}")


def _cache() -> Any:
    from ..hub import Cache

    return Cache()


def _describe(entry: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "path": str(entry.path)}


def _origin(entry: Any) -> str:
    return f"made from {entry.source[:12]}" if entry.source else entry.url or "unknown"


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

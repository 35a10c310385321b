"""``cache`` and ``download``: what is kept on this machine, and preparing one without a network."""

import argparse
import dataclasses
import sys
from datetime import datetime, timezone
from typing import Any

from .shared import Commands, add_command, add_json_option, print_json, print_table


def register(commands: Commands) -> None:
    """Add this family's commands."""
    parser = add_command(
        commands, "download", "have published weights in the cache, converted", _download
    )
    parser.add_argument("tags", nargs="+", metavar="TAG", help="such as neon_e350")
    parser.add_argument(
        "--trust-new",
        action="store_true",
        help="accept and record another digest than the one seen first",
    )
    add_json_option(parser)

    cache = commands.add_parser(
        "cache", help="show and tend what is kept on this machine", description="The cache."
    )
    actions = cache.add_subparsers(metavar="ACTION", required=True)
    add_command(actions, "path", "print the cache's folder", _path)
    add_json_option(add_command(actions, "ls", "list what it holds", _ls))
    add_json_option(add_command(actions, "verify", "check every digest", _verify))
    parser = add_command(actions, "rm", "remove a file and all that was made from it", _rm)
    parser.add_argument("keys", nargs="+", metavar="KEY", help="as `cache ls` shows it")
    parser.add_argument(
        "--forget", action="store_true", help="forget its digest too: trust the next one anew"
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
        print(f"{tag}: {path}")


def _path(_: argparse.Namespace) -> None:
    print(_cache().root)


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
    print(f"{cache.root}: {len(rows)} files, {_size(sum(entry.size for entry in entries))}")
    if rows:
        print()
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

        sys.stdout.flush()
        raise IntegrityError(
            f"{len(damaged)} damaged: {', '.join(damaged)}. They are fetched anew when next used;"
            " `allcnn-zoo cache rm KEY` removes one now"
        )


def _rm(arguments: argparse.Namespace) -> None:
    cache = _cache()
    _report_freed(
        sum(cache.remove(key, forget=arguments.forget) for key in arguments.keys), arguments
    )


def _prune(arguments: argparse.Namespace) -> None:
    _report_freed(_cache().prune(), arguments)


def _report_freed(freed: int, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json({"freed_bytes": freed})
    else:
        print(f"freed {_size(freed)}")


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

"""Files: ``convert``, ``inspect``, ``export``, and published ones by ``download`` and ``cache``."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .shared import WEIGHTS, Commands, Result, destination, fields_of, flag, option, table

commands = Commands()


@commands.add(
    "convert",
    "convert a neon pickle to safetensors without executing it",
    option("source", "neon file of any network, usually *.p", metavar="IN"),
    destination(".safetensors"),
    flag("--keep-padding", "keep the six padding outputs of All-CNN-C"),
    option(
        "--dropout-mode",
        "how dropout scales, which files of neon 1.1 and older do not record",
        choices=("neon", "caffe"),
    ),
    flag("--states", "keep the optimizer's states, in a generic rescue even for All-CNN-C"),
)
def _convert(source: str, destination: str, states: bool, **options: Any) -> Result:
    from ..errors import NotAllCNNError
    from ..from_neon import convert_neon, rescue_neon

    reason = "--states was given"
    if not states:
        try:
            metadata = convert_neon(source, destination, **options)
        except NotAllCNNError as error:
            reason = str(error)
        else:
            facts, name = metadata.provenance, f": {metadata.tag}"
            return _written(destination, "weights of allcnn_zoo", facts, name)
    facts = {"reason": reason, **rescue_neon(source, destination, states=states)}
    note = "a generic rescue: all parameters of neon's network, not weights for this package"
    result = _written(destination, "rescued neon network", facts, "", note)
    hint = "`allcnn-zoo inspect` shows its layers; allcnn_zoo.neon.to_module rebuilds it"
    return result._replace(lines=[*result.lines, hint])


def _written(path: str, kind: str, facts: Mapping[str, Any], name: str, *notes: str) -> Result:
    size = Path(path).stat().st_size
    return Result(
        {"kind": kind, "file": path, "bytes": size, **facts},
        [f"wrote {path} ({size:,} bytes){name}", *notes, *_fact_lines(facts)],
    )


@commands.add(
    "inspect",
    "show what a pickle or weights file holds, without executing it",
    option("file", "any pickle or .safetensors file, or published weights", metavar="FILE|TAG"),
)
def _inspect(file: str) -> Result:
    from ..errors import UnsafePickleError
    from ..weights import published_names

    if file in published_names():
        from .. import zoo

        file = str(zoo.download(file))
    facts = facts_of(file)
    refusal = facts.get("refusal")
    error = UnsafePickleError(f"{file}: {refusal}") if refusal else None
    return Result({"file": file, **facts}, [file, *_inspection_lines(facts)], error)


def facts_of(path: str | Path) -> dict[str, Any]:
    """Describe any pickle or safetensors file as JSON values, executing nothing.

    All have a ``kind`` and ``bytes``. A pickle also has the facts of `neon.inspect_pickle`, a
    safetensors file its ``tensors`` and the content of its header.
    """
    from .. import neon
    from ..neon.files import SAFETENSORS, format_of

    path = Path(path)
    found = format_of(path)
    if found == SAFETENSORS or (found is None and path.suffix == ".safetensors"):
        return _facts_of_safetensors(path)
    return neon.inspect_pickle(path)


_LONG_NAMES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}  # of types


def _facts_of_safetensors(path: Path) -> dict[str, Any]:
    from .. import neon
    from ..storage import read_header

    description = neon.read_description(path)
    if description is not None:
        facts = {"kind": "rescued neon network", "bytes": path.stat().st_size}
        # A description may hold any other key, which must not pass for one of ours.
        ours = {*facts, "tensors", "content", "refusal"}
        return facts | {key: value for key, value in description.items() if key not in ours}
    tensors = []
    header = read_header(path)
    texts = header.pop("__metadata__", {})
    for name, tensor in header.items():
        kind, bits, rest = re.findall(r"(\D*)(\d*)(.*)", tensor["dtype"])[0]
        first, last = tensor["data_offsets"]
        row = {"name": name, "shape": tuple(tensor["shape"]), "bytes": last - first}
        row["dtype"] = _LONG_NAMES.get(kind, kind) + bits + rest
        tensors.append(row)
    facts = {"kind": "safetensors of another program", "bytes": path.stat().st_size}
    if "allcnn_zoo" in texts:
        from .. import checkpoint  # it needs PyTorch, which a look at other files does not

        facts["kind"] = "weights of allcnn_zoo"
        facts |= fields_of(checkpoint.read(path).metadata)
    elif texts:
        facts["metadata"] = texts
    return {**facts, "tensors": tensors}


def _inspection_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from _fact_lines(facts)
    if "tensors" in facts:
        rows = [
            (row["name"], _times(row["shape"]), row["dtype"], row["bytes"])
            for row in facts["tensors"]
        ]
        yield from ("", *table(("array", "shape", "dtype", "bytes"), rows))
    if "layers" in facts:
        yield from ("", *_layer_lines(facts))
    if "content" in facts:
        yield from ("", *_outline_lines(facts["content"]))


_SHOWN_OTHERWISE = {
    *("arrays", "content", "layers", "name", "neon_name"),
    *("opcode_counts", "settings", "tensors", "type"),
}


def _fact_lines(facts: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    """Show nested facts as an indented list, except those that a tree or a table shows."""
    for key, value in facts.items():
        if indent == "  " and key in _SHOWN_OTHERWISE:
            continue
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _fact_lines(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            yield f"{indent}{key}:"
            for number, entry in enumerate(value, 1):
                yield from _fact_lines({f"{number}": entry}, indent + "  ")
        elif value not in (None, [], (), {}, ""):
            yield f"{indent}{key}: {_listed(value)}"


def _listed(value: Any, separator: str = "; ") -> str:
    """A value, or those of a list of values or of lists, in one line."""
    if isinstance(value, (list, tuple)):
        return separator.join(_listed(inner, ", ") for inner in value)
    return str(value)


def _layer_lines(layer: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Show a layer, its settings and arrays, and the layers inside it."""
    name, kind = layer["name"].rpartition(".")[2], layer["type"]
    settings = ", ".join(
        f"{key} {_short(value)}" for key, value in (layer["settings"] or {}).items()
    )
    titled = name if name.endswith(kind.rpartition(".")[2]) else f"{name}: {kind}"
    notes = [titled, f"({settings})" if settings else "", layer.get("neon_name")]
    if layer.get("not_understood"):
        notes.append(f"NOT UNDERSTOOD: {layer['not_understood']}")
    yield indent + "  ".join(filter(None, notes))
    for array_name, array in layer["arrays"].items():
        shape, size = array["shape"], math.prod(array["shape"])
        yield f"{indent}    {array_name}  {_times(shape)}  {array['dtype']}  {size:,} values"
    for child in layer["layers"]:
        yield from _layer_lines(child, indent + "  ")


def _outline_lines(node: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Show the outline of a pickle that is not a neon model."""
    name = f"{node['name']}: " if node["name"] else ""
    yield f"{indent}{name}{node['is']}"
    for child in node.get("inside", ()):
        yield from _outline_lines(child, indent + "  ")
    if node.get("left_out"):
        yield f"{indent}  ... and {node['left_out']:,} more"


def _short(setting: Any) -> str:
    if isinstance(setting, dict):  # an activation function
        return " ".join(map(str, setting.values()))
    return _times(setting) if isinstance(setting, list) else str(setting)


def _times(shape: Any) -> str:
    return "x".join(map(str, shape)) or "one value"


@commands.add(
    "export",
    "write a model, preprocessing included, for other runtimes",
    destination(".onnx", ".pt2"),
    WEIGHTS,
    flag("--whitened", "add the whitened images as a second output"),
    option(
        "--whitening",
        "how .onnx stores the whitening matrix: exactly, or rounded to half the size",
        "float32",
        choices=("float32", "float16"),
    ),
)
def _export(weights: str, destination: str, **options: Any) -> Result:
    from .. import zoo
    from ..export import export_model

    exported = export_model(zoo.load(weights), destination, **options)
    lines = [
        f"wrote {exported.file} ({exported.bytes:,} bytes)",
        f"  weights       {exported.weight_bytes:>12,} bytes",
        f"  whitening     {exported.whitening_bytes:>12,} bytes",
        f"  all the rest  {exported.other_bytes:>12,} bytes",
        f"  checked: probabilities differ by at most {exported.largest_difference:.1e}",
    ]
    return Result(fields_of(exported), lines)


# Published files.


@commands.add(
    "download",
    "download and convert published weights, for offline use",
    option("tags", "tags of weights, for example neon_e350", nargs="+", metavar="TAG"),
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
        [_facts_of_entry(entry) for entry in entries],
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
    report = [{**_facts_of_entry(entry), "intact": intact} for entry, intact in results]
    lines = table(("state", "key"), rows) if rows else ["the cache is empty"]
    return Result(report, lines, error if damaged else None)


@commands.add(
    "cache rm",
    "remove files and everything converted from them",
    option("keys", "tag of weights, or key from `cache ls`", nargs="+", metavar="TAG|KEY"),
    flag("--forget", "also forget the digest, so the next download may differ"),
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


def _facts_of_entry(entry: Any) -> dict[str, Any]:
    return {**fields_of(entry), "path": str(entry.path)}


def _size(count: int) -> str:
    from tqdm import tqdm

    return tqdm.format_sizeof(count, "B")

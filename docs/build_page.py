"""Builds the page that runs the model in a browser: one HTML file that needs no server.

python docs/build_page.py [WEIGHTS]    # after `npm ci` in docs/page; writes build/page/index.html

The network and the whitening are allcnn_zoo's own ONNX export; the sources are in docs/page.
"""

import argparse
import base64
import gzip
import hashlib
import html
import json
import string
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import set_external_data

import allcnn_zoo
from allcnn_zoo.export import to_onnx
from allcnn_zoo.storage import write_atomically

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "docs" / "page"
MODULES = SOURCES / "node_modules"
RUNTIME = MODULES / "onnxruntime-web"
EXAMPLES = ROOT / "examples" / "images"
PAGE = ROOT / "build" / "page" / "index.html"

_LEVELS = 2**17  # either side of zero; with 2**15, probabilities can be off by 0.0012
_SMALL = 1024  # values of a tensor that stays in the graph as it is


def main() -> None:
    """Write the page and say how large its parts are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?", default="cifar10_best")
    tag = parser.parse_args().weights
    graph = to_onnx(allcnn_zoo.load(tag), whitened=True)
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    layout, tensors = lift_tensors(graph)
    data = {
        "runtime": (RUNTIME / "dist" / "ort-wasm-simd-threaded.wasm").read_bytes(),
        "graph": graph.SerializeToString(deterministic=True),
        "tensors": tensors,
    }
    blocks = {name: _base64(gzip.compress(content, mtime=0)) for name, content in data.items()}
    facts = {"classes": json.loads(properties["classes"]), "tensors": layout}
    page = string.Template((SOURCES / "page.html").read_text()).substitute(
        describe(properties, allcnn_zoo.download(tag)),
        style=(SOURCES / "style.css").read_text(),
        examples="\n".join(map(example, sorted(EXAMPLES.glob("*.png")))),
        facts=json.dumps(facts, separators=(",", ":")),
        script=bundle(),
        **blocks,
    )
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(PAGE, page.encode())
    for name, block in blocks.items():
        print(f"{name:8} {len(block) / 1e6:5.1f} MB")
    print(f"{'page':8} {len(page.encode()) / 1e6:5.1f} MB  {PAGE.relative_to(ROOT)}")


def lift_tensors(graph: onnx.ModelProto) -> tuple[list[dict[str, Any]], bytes]:
    """Take the large float32 tensors out of a graph, which then looks for them in a file.

    Each is stored as multiples of a step, whole numbers of three bytes with the sign in the lowest
    bit: first all low bytes, then all middle, then all high ones, which is what gzip shrinks best.

    Returns:
        For each tensor how to restore it, and their bytes one behind the other.
    """
    layout: list[dict[str, Any]] = []
    packed, offset = bytearray(), 0
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALL:
            continue
        step = float(np.abs(values).max()) / _LEVELS
        levels = np.round(values.ravel() / step).astype("<i4")
        unsigned = (levels << 1) ^ (levels >> 31)
        packed += unsigned.view(np.uint8).reshape(-1, 4)[:, :3].T.tobytes()
        layout.append({"count": values.size, "step": step})
        tensor.raw_data = values.tobytes()
        set_external_data(tensor, "tensors", offset=offset, length=values.nbytes)
        tensor.ClearField("raw_data")
        offset += values.nbytes
    return layout, bytes(packed)


def describe(properties: dict[str, str], weights: Path) -> dict[str, str]:
    """What the page says of the weights, from what travels with them."""
    metrics, provenance = (json.loads(properties[key]) for key in ("metrics", "provenance"))
    *classes, last = json.loads(properties["classes"])
    return {
        "tag": html.escape(properties["tag"]),
        "version": properties["allcnn_zoo_version"],
        "classes": html.escape(f"{', '.join(classes)} and {last}"),
        "accuracy": f"{100 * metrics['test']['accuracy']:.2f} %",
        "epochs": str(provenance["recipe"]["epochs"]),
        "images": f"{provenance['training_images']:,}",
        "digest": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "runtime_version": json.loads((RUNTIME / "package.json").read_text())["version"],
    }


def example(path: Path) -> str:
    """A button with one of the example images."""
    picture = f'<img src="data:image/png;base64,{_base64(path.read_bytes())}" alt="{path.stem}">'
    return f'<li><button type="button" name="{path.stem}">{picture}</button></li>'


def bundle() -> str:
    """The page's modules and the runtime's as one script."""
    command = [MODULES / ".bin" / "esbuild", "main.js", "--bundle", "--minify", "--format=esm"]
    done = subprocess.run(command, cwd=SOURCES, check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


if __name__ == "__main__":
    main()

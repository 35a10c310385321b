"""Builds the page that runs the model in a browser: one HTML file that needs no server.

python docs/build_page.py [WEIGHTS]    # after `npm ci` in docs/page; writes build/page/index.html

The network and the whitening are allcnn_zoo's own ONNX export; the sources are in docs/page.
"""

import argparse
import base64
import gzip
import html
import json
import string
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import set_external_data

import allcnn_zoo
from allcnn_zoo.model import metadata_of
from allcnn_zoo.onnx_graph import to_onnx
from allcnn_zoo.storage import write_atomically
from allcnn_zoo.weights import Metadata

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "docs" / "page"
MODULES = SOURCES / "node_modules"
RUNTIME = MODULES / "onnxruntime-web"
EXAMPLES = ROOT / "examples" / "images"
PAGE = ROOT / "build" / "page" / "index.html"

_LEVELS = 2**20  # either side of zero; with 2**17, probabilities can be off by 0.00026
_SMALL = 1024  # values of a tensor that stays in the graph as it is


def main() -> None:
    """Write the page and print how large its parts are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?", default="cifar10_best", help="a tag or a file")
    source = parser.parse_args().weights
    model = allcnn_zoo.load(source)
    weights = metadata_of(model)
    graph = to_onnx(model, whitened=True)
    layout, tensors = lift_tensors(graph)
    blocks = {
        "worker": bundle("worker.js").encode(),
        "runtime": (RUNTIME / "dist" / "ort-wasm-simd-threaded.wasm").read_bytes(),
        "graph": graph.SerializeToString(deterministic=True),
        "tensors": tensors,
    }
    texts = {
        **describe(weights),
        "runtime_version": json.loads((RUNTIME / "package.json").read_text())["version"],
    }
    facts = {"classes": weights.classes, "tensors": layout}
    page = render(texts, facts, blocks, bundle("main.js"))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(PAGE, page)
    for name, content in blocks.items():
        print(f"{name:8} {len(_block(content)) / 1e6:5.1f} MB")
    print(f"{'page':8} {len(page) / 1e6:5.1f} MB  {PAGE.relative_to(ROOT)}")


def render(
    texts: Mapping[str, str], facts: Mapping[str, Any], blocks: Mapping[str, bytes], script: str
) -> bytes:
    """The page's HTML. Texts and facts may hold anything: none of it becomes markup.

    Args:
        texts: What the footer states.
        facts: JSON values for the page's script.
        blocks: Data for the page's script, by the name of its element.
        script: JavaScript from `bundle`.
    """
    page = string.Template((SOURCES / "page.html").read_text()).substitute(
        {name: html.escape(text) for name, text in texts.items()},
        style=(SOURCES / "style.css").read_text(),
        examples="\n".join(map(example, sorted(EXAMPLES.glob("*.png")))),
        # A script ends at the first "</script", and "<!--" changes how its end is found.
        facts=json.dumps(facts, separators=(",", ":")).replace("<", r"\u003c"),
        script=script,
        **{name: _block(content) for name, content in blocks.items()},
    )
    return page.encode(errors="replace")


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


def describe(weights: Metadata) -> dict[str, str]:
    """What the page states about a set of weights."""
    *classes, last = weights.classes
    training = ""
    match (weights.metrics, weights.provenance):
        case (
            {"test": {"accuracy": float(accuracy)}},
            {"recipe": {"epochs": int(epochs)}, "training_images": int(images)},
        ):
            training = (
                f": {100 * accuracy:.2f} % top-1 on the test images, {epochs} epochs on"
                f" {images:,} training images"
            )
    return {
        "tag": weights.tag,
        "version": allcnn_zoo.__version__,
        "count": str(len(weights.classes)),
        "classes": f"{', '.join(classes)} and {last}" if classes else last,
        "training": training,
        "digest": weights.digest or "not recorded",
    }


def example(path: Path) -> str:
    """A button with one of the example images."""
    name = html.escape(path.stem)
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return (
        f'<li><button type="button" name="{name}"><img src="{source}" alt="{name}"></button></li>'
    )


def bundle(entry: str) -> str:
    """One of the page's scripts with all that it imports."""
    command = [str(MODULES / ".bin" / "esbuild"), entry, "--bundle", "--minify", "--format=iife"]
    # The runtime would look for its parts next to itself; here they are handed to it.
    command += ["--log-override:empty-import-meta=silent"]
    return subprocess.check_output(command, cwd=SOURCES, text=True)  # noqa: S603


def _block(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


if __name__ == "__main__":
    main()

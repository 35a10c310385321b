"""Nothing that is embedded in the page becomes markup or script."""

import dataclasses
import importlib.util
import json
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import allcnn_zoo

from .conftest import ROOT

BLOCKS = dict.fromkeys(("worker", "runtime", "graph", "tensors"), b"data")
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "--></code><img src=x onerror=alert(1)>",
    "\u2028alert(1)\u2029",
    "$script ${facts}",
    '"&quot;&lt;',
    "</SCRIPT\x0c><![CDATA[<plaintext>",
    "' onfocus=alert(1) autofocus '",
    r"\u003c/script>\n",
]


@pytest.fixture(scope="module")
def builder() -> Any:
    pytest.importorskip("onnx")
    spec = importlib.util.spec_from_file_location("build_page", ROOT / "docs" / "build_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Outline(HTMLParser):
    """A page's elements with their attributes, its comments, and what its block of facts holds."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.markup: list[Any] = []
        self.facts = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.markup.append((tag, attrs))

    def handle_comment(self, data: str) -> None:
        self.markup.append(data)

    def handle_data(self, data: str) -> None:
        if self.markup[-1:] == [("script", [("type", "application/json"), ("id", "facts")])]:
            self.facts += data


def _render(builder: Any, names: list[str], tag: str, epochs: object) -> Outline:
    # Not an allcnn_zoo.Metadata, which refuses some of these names.
    weights = dataclasses.make_dataclass(
        "W", ["tag", "classes", "metrics", "provenance", "digest"]
    )(
        tag,
        tuple(names),
        {"test": {"accuracy": 0.5}},
        {"recipe": {"epochs": epochs}, "training_images": 50_000},
        tag,
    )
    texts = {**builder.describe(weights), "runtime_version": tag}
    facts = {"classes": weights.classes, "tensors": []}
    return Outline(builder.render(texts, facts, BLOCKS, "start()"))


@given(st.lists(st.text(), min_size=1), st.text(), st.integers() | st.text())
@example(HOSTILE, HOSTILE[0], HOSTILE[0])
@example(["\ud800"], "\udfff", None)
def test_names_and_figures_stay_text(
    builder: Any, names: list[str], tag: str, epochs: object
) -> None:
    harmless, hostile = _render(builder, ["a"], "b", 1), _render(builder, names, tag, epochs)
    assert hostile.markup == harmless.markup
    assert json.loads(hostile.facts)["classes"] == names
    assert not {"<", "\u2028", "\u2029"} & set(hostile.facts)


@pytest.mark.parametrize(
    ("tag", "images"), [("cifar10_best", "49,000"), ("allcnn_c.cifar10_plain", "50,000")]
)
def test_it_states_what_the_weights_are(builder: Any, tag: str, images: str) -> None:
    texts = builder.describe(allcnn_zoo.load(tag).weights)
    assert texts["tag"] == tag.rpartition(".")[2]
    assert texts["classes"].startswith("airplane, automobile")
    assert texts["classes"].endswith("ship and truck")
    assert "top-1" in texts["training"]
    assert f"{images} training images" in texts["training"]


def test_hostile_names_run_nothing_in_a_browser(builder: Any, chromium: Any, tmp_path: Any) -> None:
    texts = dict.fromkeys(
        ("tag", "version", "count", "classes", "training", "digest", "runtime_version"),
        "".join(HOSTILE),
    )
    (tmp_path / "page.html").write_bytes(
        builder.render(texts, {"classes": HOSTILE}, BLOCKS, "window.ours = true")
    )
    page = chromium.new_page()
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("window.ours && JSON.parse(facts.textContent).classes") == HOSTILE
    assert "".join(HOSTILE[:3]) in page.inner_text("footer")
    page.close()

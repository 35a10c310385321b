"""The built page, opened from its file in a real Chromium and a real Firefox."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from .firefox import Firefox

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "build" / "page" / "index.html"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
FIREFOXES = ("firefox-esr", "firefox")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
)
PATIENCE = 120_000  # milliseconds: the machine may do other work meanwhile

READY = """async (patience) => {
    const answer = document.querySelector("#answer");
    for (const start = Date.now(); answer.textContent.startsWith("Unpacking"); ) {
        if (Date.now() - start > patience) throw Error("the page does not start");
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return answer.textContent;
}"""

# Not Playwright's own waiting: the page's security policy forbids what that does.
OUTCOME = """async ([name, patience]) => {
    const answer = document.querySelector("#answer");
    for (const start = Date.now(); window.allcnn?.name !== name; ) {
        if (answer.className === "error") return { refusal: answer.textContent };
        if (Date.now() - start > patience) throw Error(`no result for ${name}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const { crop, whitened, probabilities, classes } = window.allcnn;
    const [planes, seen, values] = [crop, whitened, probabilities].map((each) => Array.from(each));
    return { crop: planes, whitened: seen, probabilities: values, classes };
}"""
FORGET = "() => { delete window.allcnn; document.querySelector('#answer').className = ''; }"
TEXTS = "(all) => Array.from(document.querySelectorAll(all), (each) => each.textContent)"


class Browser(Protocol):
    """What Playwright's pages and our Firefox have in common."""

    def goto(self, url: str) -> Any: ...
    def evaluate(self, expression: str, arg: Any = None) -> Any: ...
    def set_input_files(self, selector: str, files: Path) -> Any: ...


class Visit:
    """One visit to the page."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        assert self.open(PAGE) == "Ready. Choose a picture."

    def open(self, page: Path) -> str:
        """What the page answers once it has started, or failed to."""
        self.browser.goto(page.as_uri())
        answer: str = self.browser.evaluate(READY, PATIENCE)
        return answer

    def choose(self, path: Path) -> dict[str, Any]:
        """The figures behind what is shown of a picture."""
        self.give(path)
        return self.result(path.name)

    def refusal(self, path: Path) -> str:
        """The message for a file that is no picture for the page."""
        self.give(path)
        text: str = self.browser.evaluate(OUTCOME, [path.name, PATIENCE])["refusal"]
        assert self.browser.evaluate("() => document.querySelector('#results').hidden")
        return text

    def give(self, path: Path) -> None:
        self.browser.evaluate(FORGET)
        self.browser.set_input_files("#file", path)

    def result(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = self.browser.evaluate(OUTCOME, [name, PATIENCE])
        assert "refusal" not in result, result["refusal"]
        for key, dtype in (("crop", np.uint8), ("whitened", np.float32)):
            result[key] = np.array(result[key], dtype).reshape(1, 3, 32, 32)
        result["probabilities"] = np.array(result["probabilities"], np.float32)
        return result

    def texts(self, selector: str) -> list[str]:
        texts: list[str] = self.browser.evaluate(TEXTS, selector)
        return texts

    def answer(self) -> str:
        return self.texts("#answer")[0]


def _installed(names: tuple[str, ...]) -> str:
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no {names[0]} here")
    return path


@pytest.fixture(scope="package")
def built_page() -> Path:
    if not PAGE.exists():
        pytest.skip("the page is not built: make page")
    return PAGE


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """A browser of Playwright's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make test-page")
    path = _installed(CHROMIUMS)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def tab(built_page: Path, chromium: Any) -> Any:
    """A page of Playwright's."""
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    # While somebody listens no dialog opens. A listener that comes just before a key press can
    # come too late, as the two reach the page on different ways.
    page.on("filechooser", lambda _: None)
    return page


@pytest.fixture(scope="package")
def in_chromium(tab: Any) -> Visit:
    return Visit(tab)


@pytest.fixture(scope="package")
def in_firefox(built_page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    profile = tmp_path_factory.mktemp("profile")
    with contextlib.closing(Firefox(_installed(FIREFOXES), profile, PATIENCE)) as browser:
        yield Visit(browser)


@pytest.fixture(scope="package", params=["chromium", "firefox"])
def visit(request: pytest.FixtureRequest) -> Visit:
    visit: Visit = request.getfixturevalue(f"in_{request.param}")
    return visit

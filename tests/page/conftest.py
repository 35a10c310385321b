"""The built page, opened from its file in a real Chromium."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "build" / "page" / "index.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
)
PATIENCE = 120_000  # milliseconds: the machine may do other work meanwhile

# Not wait_for_function: the page's own security policy forbids what that does.
RESULT = """async ([name, patience]) => {
    for (const start = Date.now(); window.allcnn?.name !== name; ) {
        if (Date.now() - start > patience) throw Error(`no result for ${name}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const plain = (value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
    const { allcnn } = window;
    delete window.allcnn;
    return Object.fromEntries(Object.entries(allcnn).map(([key, value]) => [key, plain(value)]));
}"""


class Visit:
    """One visit to the page, and every request that it made."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.requests.append(request.url))
        # While somebody listens no dialog opens. A listener that comes just before a key press can
        # come too late, as the two reach the page on different ways.
        page.on("filechooser", lambda _: None)
        self.open()

    def open(self) -> None:
        self.page.goto(PAGE.as_uri())
        self.page.wait_for_selector("#answer:has-text('Ready')")

    def choose(self, path: Path) -> dict[str, Any]:
        self.page.set_input_files("#file", path)
        return self.result(path.name)

    def drop(self, path: Path) -> dict[str, Any]:
        content = base64.b64encode(path.read_bytes()).decode()
        self.page.evaluate(
            """([content, name]) => {
                const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([bytes], name));
                const options = { dataTransfer, bubbles: true, cancelable: true };
                const event = new DragEvent("drop", options);
                document.querySelector("#drop").dispatchEvent(event);
                if (!event.defaultPrevented) throw Error("the browser would leave the page");
            }""",
            [content, path.name],
        )
        return self.result(path.name)

    def result(self, name: str) -> dict[str, Any]:
        """The figures behind what is shown, once the picture of this name is."""
        result: dict[str, Any] = self.page.evaluate(RESULT, [name, PATIENCE])
        result["crop"] = np.array(result["crop"], np.uint8).reshape(1, 3, 32, 32)
        result["whitened"] = np.array(result["whitened"], np.float32).reshape(1, 3, 32, 32)
        result["probabilities"] = np.array(result["probabilities"], np.float32)
        return result

    def answer(self) -> str:
        text: str = self.page.get_by_role("status").inner_text()
        return text

    def refusal(self, path: Path) -> str:
        """What the page says of a file that is not a picture for it."""
        self.page.set_input_files("#file", path)
        self.page.wait_for_selector("#answer.error")
        assert self.page.locator("#results").is_hidden()
        return self.answer()


@pytest.fixture(scope="package")
def visit() -> Iterator[Visit]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make test-page")
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        pytest.skip("no Chromium here")
    if not PAGE.exists():
        pytest.skip("the page is not built: make page")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path, args=FLAGS.split())
        yield Visit(browser.new_page())
        browser.close()

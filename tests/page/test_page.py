"""The page agrees with the library, in both browsers, and can make no request."""

import base64
import functools
import http.server
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from allcnn_zoo import Classifier
from allcnn_zoo.images import to_batch

from ..conftest import EXAMPLES
from .conftest import PAGE, PATIENCE, Visit
from .pictures import PICTURES, rgb, write

FROG, SHIP = EXAMPLES / "frog.png", EXAMPLES / "ship.png"


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.from_pretrained("cifar10_best")


@functools.cache
def crop_of(path: Path) -> torch.Tensor:
    return to_batch(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.mark.parametrize("name", [*(p.name for p in sorted(EXAMPLES.glob("*.png"))), *PICTURES])
def test_agrees_with_the_library(
    name: str, visit: Visit, classifier: Classifier, folder: Path
) -> None:
    path = write(name, folder) if name in PICTURES else EXAMPLES / name
    page = visit.choose(path)
    # JPEG leaves a decoder some freedom; every other picture here has one right answer.
    freedom = 2 if path.suffix == ".jpg" else 0
    np.testing.assert_allclose(page["crop"], crop_of(path).numpy(), rtol=0, atol=freedom)
    crop = torch.from_numpy(page["crop"])
    whitened = classifier.model.preprocess(crop).numpy()
    np.testing.assert_allclose(page["whitened"], whitened, rtol=0, atol=1e-3)
    expected = classifier.predict_proba(crop)[0]
    np.testing.assert_allclose(page["probabilities"], expected, rtol=0, atol=1e-3)
    assert page["classes"] == list(classifier.classes)
    best = [page["classes"][i] for i in np.argsort(-page["probabilities"])[:5]]
    assert best[0] in visit.answer()
    assert visit.texts("#top .label") == best


DROP = """([content, name]) => {
    const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
    document.querySelector("#drop").dispatchEvent(event);
    if (!event.defaultPrevented) throw Error("the browser would leave the page");
}"""


def test_the_last_of_several_pictures_is_the_one_shown(visit: Visit) -> None:
    visit.give(FROG)
    content = base64.b64encode(SHIP.read_bytes()).decode()
    visit.browser.evaluate(DROP, [content, SHIP.name])
    visit.result(SHIP.name)
    assert "ship" in visit.answer()
    label = "() => document.querySelector('#picture').getAttribute('aria-label')"
    assert "ship.png" in visit.browser.evaluate(label)


# Watches for how long the page cannot do anything else, until a picture is shown. What takes less
# than 50 ms nobody feels.
BLOCKED = """([name, patience]) => {
    const start = Date.now();
    let [last, blocked] = [start, 0];
    window.watch = new Promise((resolve, reject) => {
        setTimeout(function tick() {
            const now = Date.now();
            blocked += Math.max(0, now - last - 50);
            last = now;
            if (window.allcnn?.name === name) resolve([blocked, now - start]);
            else if (now - start > patience) reject(Error("no result"));
            else setTimeout(tick, 10);
        }, 10);
    });
}"""


def test_a_photo_of_20_megapixels_leaves_the_page_responsive(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    rgb(684, 456).resize((5472, 3648)).save(path)
    visit.browser.evaluate(BLOCKED, [path.name, PATIENCE])
    visit.give(path)
    blocked, whole = visit.browser.evaluate("() => window.watch")
    assert blocked < whole / 2


def _encoded(kind: str, image: Image.Image | None = None) -> bytes:
    file = io.BytesIO()
    (image or rgb(200, 150)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "not supported"),
        ("text.png", b"hello", "not supported"),
        ("page.html", b"<h1>hello</h1>", "not supported"),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9"/>', "not supported"),
        ("scan.tiff", _encoded("tiff"), "not supported"),
        ("flipped.png", FROG.read_bytes().replace(b"IDAT", b"IDAU"), "damaged"),
        ("huge.png", _encoded("png", Image.new("1", (12_000, 9_000))), "108 megapixels"),
    ],
)
def test_a_file_that_cannot_be_shown_gets_a_message_and_the_page_goes_on(
    name: str, content: bytes, message: str, visit: Visit, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in visit.refusal(tmp_path / name)
    visit.choose(FROG)
    assert "frog" in visit.answer()


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "avif"])
def test_a_truncated_file_is_refused(kind: str, visit: Visit, tmp_path: Path) -> None:
    content = _encoded(kind)
    for length in (60, len(content) // 2, len(content) - 30):
        path = tmp_path / f"{length}.{kind}"
        path.write_bytes(content[:length])
        assert "damaged" in visit.refusal(path)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp"])
def test_what_follows_the_end_of_a_picture_is_ignored(
    kind: str, visit: Visit, tmp_path: Path
) -> None:
    path = tmp_path / f"with_video.{kind}"  # phones append short videos to photos
    path.write_bytes(_encoded(kind) + bytes(100))
    page = visit.choose(path)
    np.testing.assert_allclose(page["crop"], to_batch(path).numpy(), rtol=0, atol=2)


def test_of_an_animation_the_first_frame_counts(visit: Visit, tmp_path: Path) -> None:
    first, second = (Image.open(path).quantize() for path in (FROG, SHIP))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second], duration=50)
    page = visit.choose(tmp_path / "moving.gif")
    assert np.array_equal(page["crop"], to_batch(tmp_path / "moving.gif").numpy())


def test_a_network_that_cannot_start_is_reported(
    built_page: Path, chromium: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(built_page.read_text().replace('id="graph">', 'id="graph">AAAA', 1))
    page = chromium.new_page()
    page.goto(broken.as_uri())
    page.wait_for_selector("#answer.error")
    assert page.inner_text("#answer").startswith("The network cannot start in this browser")
    page.close()


@pytest.mark.parametrize("script", ["delete window.Worker", "window.Promise = null"])
def test_an_old_browser_gets_a_message(script: str, built_page: Path, chromium: Any) -> None:
    page = chromium.new_page()
    page.add_init_script(script)
    page.goto(PAGE.as_uri())
    page.wait_for_selector("#answer.error")
    assert "Current versions of Chrome" in page.inner_text("#answer")
    page.close()


def test_without_scripts_the_page_names_what_it_needs(built_page: Path, chromium: Any) -> None:
    page = chromium.new_page(java_script_enabled=False)
    page.goto(PAGE.as_uri())
    assert "needs JavaScript" in page.inner_text("main")
    page.close()


def test_the_keyboard_is_enough(in_chromium: Visit, tab: Any) -> None:
    in_chromium.open(PAGE)
    tab.keyboard.press("Tab")
    for key, picture in (("Enter", SHIP), ("Space", FROG)):
        with tab.expect_file_chooser() as chooser:
            tab.keyboard.press(key)
        chooser.value.set_files(picture)
        in_chromium.result(picture.name)
    tab.keyboard.press("Tab")
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    in_chromium.result("airplane.png")
    assert "An airplane" in in_chromium.answer()


def test_the_answer_is_announced(in_chromium: Visit, tab: Any) -> None:
    in_chromium.choose(FROG)
    status = tab.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite"
    assert status.inner_text().startswith("A frog, ")


# What a script in the page, or in its worker, could try.
REQUESTS = """async (url) => {
    const attempt = `fetch("${url}").catch(() => 0).finally(() => postMessage(0))`;
    const worker = new Worker(URL.createObjectURL(new Blob([attempt])));
    await new Promise((resolve) => { worker.onmessage = resolve; });
    await fetch(url).catch(() => 0);
    navigator.sendBeacon(url, "data");
    const image = new Image();
    await new Promise((resolve) => { image.onload = image.onerror = resolve; image.src = url; });
}"""


def test_no_request_can_be_made(visit: Visit) -> None:
    seen: list[str] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            seen.append("a connection")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        visit.browser.evaluate(REQUESTS, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    assert seen == []

"""The page says what the library says, to everybody, and asks nothing of anybody."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allcnn_zoo import Classifier
from allcnn_zoo.images import to_batch

from ..conftest import EXAMPLES
from .conftest import ROOT, Visit
from .pictures import PICTURES, write

FROG, SHIP = EXAMPLES / "frog.png", EXAMPLES / "ship.png"
AXE = ROOT / "docs" / "page" / "node_modules" / "axe-core" / "axe.min.js"
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.from_pretrained("cifar10_best")


@pytest.mark.parametrize("name", [*(p.name for p in sorted(EXAMPLES.glob("*.png"))), *PICTURES])
def test_it_says_what_the_library_says(
    name: str, visit: Visit, classifier: Classifier, tmp_path: Path
) -> None:
    path = write(name, tmp_path) if name in PICTURES else EXAMPLES / name
    page = visit.choose(path)
    # JPEG leaves a decoder some freedom; every other format has one right answer.
    freedom = 2 if path.suffix == ".jpg" else 0
    np.testing.assert_allclose(page["crop"], to_batch(path).numpy(), rtol=0, atol=freedom)
    crop = torch.from_numpy(page["crop"])
    whitened = classifier.model.preprocess(crop).numpy()
    np.testing.assert_allclose(page["whitened"], whitened, rtol=0, atol=1e-3)
    expected = classifier.predict_proba(crop)[0]
    np.testing.assert_allclose(page["probabilities"], expected, rtol=0, atol=1e-3)
    prediction = classifier(crop)[0]
    assert page["classes"] == list(classifier.classes)
    assert prediction.label in visit.answer()
    shown = visit.page.locator("#top .label").all_inner_texts()
    assert shown == [page["classes"][i] for i in np.argsort(-page["probabilities"])[:5]]


def test_a_picture_can_be_dropped(visit: Visit) -> None:
    visit.drop(SHIP)
    assert "ship" in visit.answer()


def test_the_last_of_several_pictures_is_the_one_shown(visit: Visit) -> None:
    visit.page.set_input_files("#file", FROG)
    visit.drop(SHIP)
    assert "ship" in visit.answer()
    assert "ship.png" in str(visit.page.locator("#picture").get_attribute("aria-label"))


def _png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size, and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [body, b"IDAT" + zlib.compress(b""), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "not a picture"),
        ("text.png", b"hello", "not a picture"),
        ("page.html", b"<h1>hello</h1>", "not a picture"),
        ("broken.png", FROG.read_bytes()[:40], "damaged|not a picture"),
        ("huge.png", _png_header(60_000, 60_000), "3600 megapixels|not a picture"),
    ],
)
def test_what_it_cannot_show_gets_a_message_and_the_page_goes_on(
    name: str, content: bytes, message: str, visit: Visit, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    refusal = visit.refusal(tmp_path / name)
    assert any(part in refusal for part in message.split("|")), refusal
    visit.choose(FROG)
    assert "frog" in visit.answer()


def test_an_animation_is_judged_by_its_first_picture(visit: Visit, tmp_path: Path) -> None:
    first, second = (Image.open(path).quantize() for path in (FROG, SHIP))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second], duration=50)
    page = visit.choose(tmp_path / "moving.gif")
    assert np.array_equal(page["crop"], to_batch(tmp_path / "moving.gif").numpy())


def test_the_keyboard_is_enough(visit: Visit) -> None:
    visit.open()
    keyboard = visit.page.keyboard
    keyboard.press("Tab")
    for key, picture in (("Enter", SHIP), ("Space", FROG)):
        with visit.page.expect_file_chooser() as chooser:
            keyboard.press(key)
        chooser.value.set_files(picture)
        visit.result(picture.name)
    keyboard.press("Tab")
    assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keyboard.press("Enter")
    visit.result("airplane.png")
    assert "An airplane" in visit.answer()


def test_the_answer_is_announced(visit: Visit) -> None:
    visit.choose(FROG)
    status = visit.page.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite"
    assert status.inner_text().startswith("A frog, ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_fits_the_screen_and_is_accessible(visit: Visit, viewport: dict, scheme: str) -> None:
    visit.page.set_viewport_size(viewport)
    visit.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    visit.choose(FROG)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert visit.page.evaluate("document.getAnimations().length") == 0
    if not AXE.exists():
        pytest.skip("no axe-core: npm ci in docs/page")
    visit.page.evaluate(AXE.read_text())
    found = visit.page.evaluate("axe.run()")["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in found] == []


def test_it_asked_nothing_of_anybody(visit: Visit) -> None:
    visit.choose(FROG)
    assert visit.requests
    assert {url.partition(":")[0] for url in visit.requests} <= {"file", "data", "blob"}

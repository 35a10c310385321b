"""The page and the site suit keyboards, screen readers, small screens, and eyes of all kinds."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..conftest import EXAMPLES
from .conftest import ROOT, Visit

FROG = EXAMPLES / "frog.png"
AXE = ROOT / "docs" / "page" / "node_modules" / "axe-core" / "axe.min.js"
SITE_PAGES = ["index", "models/allcnn_c.cifar10_best", "speed", "try-it"]
DESKTOP, PHONE, SMALL = 1280, 390, 320  # widths of screens

# How far the last column of the first wide table can be scrolled, and where the first one stays.
SCROLLED = """() => {
    const place = document.querySelector(".md-typeset__scrollwrap[tabindex='0']");
    place.scrollLeft = 1000;
    const left = (each) => each.getBoundingClientRect().left;
    return [place.scrollLeft, left(place.querySelector("td")) - left(place)];
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():
        pytest.skip("no axe-core: npm ci in docs/page")
    return AXE.read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="no mkdocs-material: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def violations(page: Any, axe: str) -> list[tuple[str, str, str]]:
    page.evaluate(axe)
    return [
        (violation["id"], node["html"], node["failureSummary"])
        for violation in page.evaluate("axe.run()")["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE, SMALL])
def test_the_page_is_accessible(
    width: int, scheme: str, in_chromium: Visit, tab: Any, axe: str
) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    in_chromium.choose(FROG)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.getAnimations().length") == 0
    assert violations(tab, axe) == []


def test_certainty_fits_in_a_line(in_chromium: Visit, tab: Any) -> None:
    tab.set_viewport_size({"width": SMALL, "height": 800})
    in_chromium.choose(FROG)
    one_line = "() => document.querySelector('.percent').offsetHeight"
    height = tab.evaluate(one_line)
    tab.evaluate("() => document.querySelector('.percent').textContent = '100.0\\u00a0%'")
    assert tab.evaluate(one_line) == height
    assert tab.evaluate("document.documentElement.scrollWidth") <= SMALL


def test_forced_colors_leave_button_and_bars_visible(in_chromium: Visit, tab: Any) -> None:
    in_chromium.choose(FROG)
    tab.emulate_media(forced_colors="active")
    border = "(each) => getComputedStyle(document.querySelector(each)).borderTopColor"
    background = "() => getComputedStyle(document.body).backgroundColor"
    for each in ("#choose", "#top .bar"):
        assert tab.evaluate(border, each) != tab.evaluate(background)
    tab.emulate_media(forced_colors="none")


@pytest.mark.parametrize("name", SITE_PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_the_site_is_accessible(
    name: str, width: int, scheme: str, site: Path, chromium: Any, axe: str
) -> None:
    size = {"width": width, "height": 800}
    page = chromium.new_page(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_selector(".md-header")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page, axe) == []
    page.close()


def test_wide_tables_scroll_by_keyboard_beneath_their_first_column(
    site: Path, chromium: Any
) -> None:
    page = chromium.new_page(viewport={"width": PHONE, "height": 800})
    page.goto((site / "speed.html").as_uri())
    page.wait_for_selector(".md-typeset__scrollwrap[tabindex='0'][role=region][aria-label]")
    scrolled, first = page.evaluate(SCROLLED)
    assert scrolled > 0
    assert first == pytest.approx(0, abs=1)
    page.close()

"""Measures the built page in Chromium, and draws the picture of it that the docs show.

python docs/measure_page.py    # after `make page`; ALLCNN_ZOO_DATA names the folder of CIFAR-10
"""

import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from allcnn_zoo import CIFAR10, Classifier

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "build" / "page" / "index.html"
RESULTS = ROOT / "benchmarks" / "results" / "page.json"
PICTURE = ROOT / "docs" / "pictures" / "try_it.png"
SHOWN = "frog"
IMAGES = 1000


def main() -> None:
    """Write the figures and the picture."""
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 880, "height": 1010})
        begun = time.perf_counter()
        page.goto(PAGE.as_uri())
        page.wait_for_selector("#answer:has-text('Ready')")
        ready = time.perf_counter() - begun
        images = CIFAR10().test.images[:IMAGES]
        with tempfile.TemporaryDirectory() as folder:
            seen = [look(page, image, Path(folder) / "image.png") for image in images]
        page.click(f"#examples button[name={SHOWN}]")
        page.wait_for_selector(f"#answer:has-text('{SHOWN}')")
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(500)  # until the bars have grown
        page.screenshot(path=PICTURE, animations="disabled")
        version = browser.version
        browser.close()
    Image.open(PICTURE).convert("RGB").quantize(256).save(PICTURE, optimize=True)
    classifier = Classifier.from_pretrained("cifar10_best", engine="torch")
    found = np.array([probabilities for probabilities, _ in seen])
    results = {
        "page_bytes": PAGE.stat().st_size,
        "ready_seconds": round(ready, 2),
        "network_milliseconds": round(statistics.median(time for _, time in seen), 1),
        "largest_difference": float(np.abs(found - classifier.predict_proba(images)).max()),
        "images": len(images),
        "browser": f"Chromium {version.partition('.')[0]}",
        "machine": f"{platform.system()} {platform.machine()}",
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(RESULTS.read_text(), end="")


def look(page: Page, image: np.ndarray, path: Path) -> tuple[list[float], float]:
    """Probabilities of an image (3, 32, 32), and the milliseconds that the network took."""
    Image.fromarray(image.transpose(1, 2, 0)).save(path)
    page.evaluate("delete window.allcnn")
    page.set_input_files("input[type=file]", path)
    probabilities, milliseconds = page.evaluate(
        """async () => {
            while (!window.allcnn) await new Promise((resolve) => setTimeout(resolve, 1));
            return [Array.from(window.allcnn.probabilities), window.allcnn.milliseconds.network];
        }"""
    )
    return probabilities, milliseconds


if __name__ == "__main__":
    main()

"""Measures the built page in Chromium, and draws the picture of it that the docs show.

python docs/measure_page.py    # after `make page`
"""

import json
import platform
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from allcnn_zoo import Classifier

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "build" / "page" / "index.html"
RESULTS = ROOT / "benchmarks" / "results" / "page.json"
PICTURE = ROOT / "docs" / "pictures" / "try_it.png"
EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))
SHOWN = "frog"


def main() -> None:
    """Write the figures and the picture."""
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 880, "height": 1010})
        begun = time.perf_counter()
        page.goto(PAGE.as_uri())
        page.wait_for_selector("#answer:has-text('Ready')")
        ready = time.perf_counter() - begun
        seen = [look(page, path.stem) for path in EXAMPLES]
        look(page, SHOWN)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=PICTURE, animations="disabled")
        version = browser.version
        browser.close()
    Image.open(PICTURE).convert("RGB").quantize(256).save(PICTURE, optimize=True)
    expected = Classifier.from_pretrained("cifar10_best", engine="torch")(EXAMPLES, top_k=10)
    differences = [
        abs(probability - dict(prediction.top)[label])
        for prediction, (probabilities, _) in zip(expected, seen, strict=True)
        for label, probability in probabilities.items()
    ]
    results = {
        "page_bytes": PAGE.stat().st_size,
        "ready_seconds": round(ready, 2),
        "network_milliseconds": round(statistics.median(time for _, time in seen), 1),
        "largest_difference": float(np.max(differences)),
        "images": len(EXAMPLES),
        "browser": f"Chromium {version.partition('.')[0]}",
        "machine": f"{platform.system()} {platform.machine()}",
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(RESULTS.read_text(), end="")


def look(page: Page, name: str) -> tuple[dict[str, float], float]:
    """Probabilities of one of the page's examples, and the milliseconds that the network took."""
    page.evaluate("delete window.allcnn")
    page.click(f"#examples button[name={name}]")
    result = page.evaluate(
        """async () => {
            while (!window.allcnn) await new Promise((resolve) => setTimeout(resolve, 10));
            const { classes, probabilities, milliseconds } = window.allcnn;
            return [classes, Array.from(probabilities), milliseconds.network];
        }"""
    )
    classes, probabilities, milliseconds = result
    return dict(zip(classes, probabilities, strict=True)), milliseconds


if __name__ == "__main__":
    main()

"""Writes every figure in README and docs that comes from a results file.

python docs/generate.py            # write
python docs/generate.py --check    # fail if something is out of date
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cards import card, results_of
from draw_architecture import layers, purpose
from markdown_tables import table
from speed_tables import fastest_table, speed_tables

from allcnn_zoo.weights import CATALOGUE

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def weights_table() -> str:
    """The README's table of weights."""
    rows = [
        [
            f"[`{weights.tag}`](docs/models/{weights.tag}.md)",
            f"{weights.metrics['top1']} %",
            "in the package" if weights.bundled else "neon's, from S3",
            weights.recipe,
        ]
        for weights in CATALOGUE
    ]
    return table(["tag", "top-1", "where", "how trained"], rows)


ELSEWHERE = [  # top-1 on CIFAR-10's test images, All-CNN-C, one view
    ["Springenberg et al. 2014, no augmentation", "90.92 %", "the paper, table 3"],
    ["Springenberg et al. 2014, flips and shifts", "92.75 %", "the paper, table 3"],
    ["Nervana's published weights, no augmentation", "89.5 %", "their ModelZoo readme"],
    ["a Keras re-implementation, augmented", "90.88 %", "its readme"],
    ["a Caffe re-implementation, GCN + ZCA", "90.25 %", "its readme"],
]


def training_table() -> str:
    """The training page's table: our runs beside what others report."""
    rows = []
    for weights in CATALOGUE:
        if weights.bundled:
            results = results_of(weights)
            how = f"`--recipe {results['recipe']['name']} --epochs {results['recipe']['epochs']}"
            minutes = f"{results['training_seconds'] / 60:.0f} minutes on a shared machine of"
            cores = f"{results['machine']['cores']} cores"
            name = f"[`{weights.tag}`](models/{weights.tag}.md), {how} --seed {results['seed']}`"
            rows.append([name, f"{weights.metrics['top1']} %", f"{minutes} {cores}"])
    return table(["", "top-1", ""], rows + ELSEWHERE)


def seeds_table() -> str:
    """The training page's table of runs that differ in their seeds only."""
    rows = []
    for report in (measured(path.stem) for path in sorted(RESULTS.glob("seeds_*.json"))):
        for run in report["runs"]:
            epochs, seconds = run["goal_epochs"], run["goal_wall_seconds"]
            judges = "test images" if run["judged_on"] == "test" else "held out"
            rows.append(
                [
                    f"`{report['recipe']}`, {run['epochs']} epochs",
                    str(run["seed"]),
                    f"{run['accuracy']:.2%}, {judges}",
                    f"{epochs} epochs, {seconds / 60:.0f} minutes" if epochs else "not reached",
                ]
            )
        spread = f"{report['mean']:.2%} ± {100 * report['standard_deviation']:.2f}"
        rows.append([f"`{report['recipe']}`", "mean", spread, ""])
    goal = f"{100 * report['goal']:.1f} % reached after"
    return table(["recipe", "seed", "top-1", goal], rows)


def steps_table() -> str:
    """The runs that led to `best`, each judged once on the test images."""
    rows = [
        [
            step["what"],
            f"{step['accuracy']:.2%}",
            f"{step['flip_averaged']:.2%}",
            f"{step['training_seconds'] / 60:.0f}",
            f"`{step['commit']}`",
        ]
        for step in json.loads((RESULTS / "training" / "steps.json").read_text())
    ]
    return table(["run", "top-1", "averaged with the mirror image", "minutes", "commit"], rows)


def costs_table() -> str:
    """The README's table of what safety costs, from the benchmarks' results."""
    load, convert = measured("cached_load"), measured("convert")
    beside, built = list(load["ratio"].values())[::-1]
    rows = [
        [
            "cached weights, digest checked",
            "building the network and loading them",
            f"{beside:.2f}",
        ],
        ["the same", "loading them into a network that is there already", f"{built:.1f}"],
        [
            "converting neon's file",
            "`pickle.load` and `save_file`",
            f"{convert['time_ratio']['wall']:.1f}",
        ],
    ]
    return table(["what", "beside", "time, as a ratio"], rows)


def faithful_table() -> str:
    """How far outputs are from neon's."""
    found = measured("faithful")
    full, whitening = found["full_width"], found["whitening"]
    small, others = found["small_files"], found["other_networks"]
    versions = sorted({each["neon"] for each in small})
    kinds = "Python 2 and 3, biases, batch normalisation, Caffe's dropout"
    rows = [
        [
            f"predictions of All-CNN-C, full width, on {full['images']:,} test images",
            f"{full['equal_predictions']:,} equal",
        ],
        [
            f"its softmax, all {full['outputs']} outputs, from pixels, worst image",
            f"{full['worst']:.1e} (median {full['median']:.1e})",
        ],
        [
            f"softmax of {len(small)} small files (neon {versions[0]} to {versions[-1]}, {kinds})",
            f"{max(each['worst'] for each in small):.1e}",
        ],
        [
            f"every layer of {len(others)} files of other networks, relative",
            f"{max(each['worst_relative'] for each in others):.1e}",
        ],
        [
            f"whitened images, values up to {whitening['largest_value']:.1f}",
            f"{whitening['worst']:.1e}",
        ],
    ]
    return table(["", "distance from neon, at worst"], rows)


def networks_table() -> str:
    """The faithful page's list of files."""
    found = measured("faithful")
    small = [
        [f"All-CNN-C, {each['variant']}", each["neon"], each["python"], each["worst"]]
        for each in found["small_files"]
    ]
    others = [
        [each["network"], "2.3.0", each["python"], each["worst_relative"]]
        for each in found["other_networks"]
    ]
    rows = [[*map(str, row[:3]), f"{row[3]:.1e}"] for row in small + others]
    return table(["network", "neon", "Python", "worst"], rows)


def modules_table() -> str:
    """The architecture page's table: each module and its purpose, the lowest layer first."""
    modules = [module for layer in layers() for module in layer]
    return table(["module", "purpose"], [[f"`{name}`", purpose(name)] for name in modules])


def page_table() -> str:
    """Size, speed and exactness of the page that runs the model in a browser."""
    page = measured("page")
    rows = [
        ["the page, all in one file", f"{page['page_bytes'] / 1e6:.1f} MB"],
        ["until the network is ready", f"{page['ready_seconds']:.1f} s"],
        ["one image, whitening included", f"{page['network_milliseconds']:.0f} ms"],
        [
            f"largest difference of a probability, {page['images']} test images",
            f"{page['largest_difference']:.5f}",
        ],
    ]
    return table(["what", f"{page['browser']}, {page['machine']}"], rows)


def measured(name: str) -> dict[str, Any]:
    """What a benchmark found."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def exports_table() -> str:
    """The export page's table: sizes, and agreement with the model."""
    results = measured("export_sizes")
    rows = [
        [
            f"`{row['format']}`, `{row['whitening']}`",
            *(f"{row[size] / 1e6:.2f}" for size in ("bytes", "weight_bytes", "whitening_bytes")),
            row["runtime"],
            f"{row['largest_difference']:.1e}",
            str(row["other_labels"]),
            f"{row['accuracy']:.2%}",
        ]
        for row in results["rows"]
    ]
    header = ["file", "MB", "weights", "whitening", "run by", "largest difference"]
    text = table([*header, "other labels", "top-1"], rows)
    model = results["rows"][0]["accuracy_of_model"]
    return (
        f"{text}\n\n`{results['weights']}` on CIFAR-10's {results['images']:,} test images."
        " *Largest difference*: between any probability and the model's own. *Other labels*: images"
        f" on which they name another class. The model itself has {model:.2%} top-1."
    )


def documents() -> Iterator[tuple[Path, str]]:
    """Each generated file with its content."""
    docs = ROOT / "docs"
    for weights in CATALOGUE:
        yield docs / "models" / f"{weights.tag}.md", card(weights)
    readme = {
        "weights": weights_table(),
        "faithful": faithful_table(),
        "speed": fastest_table(),
    }
    yield fill(ROOT / "README.md", readme)
    history = {
        "goals": speed_tables()["goals"],
        "training": training_table(),
        "steps": steps_table(),
        "seeds": seeds_table(),
        "costs": costs_table(),
    }
    yield fill(docs / "benchmarks.md", history)
    yield fill(docs / "faithful.md", {"faithful": faithful_table(), "files": networks_table()})
    yield fill(docs / "speed.md", speed_tables())
    yield fill(docs / "export.md", {"export_sizes": exports_table()})
    yield fill(docs / "architecture.md", {"modules": modules_table()})
    yield fill(docs / "try-it.md", {"page": page_table()})


def fill(path: Path, contents: dict[str, str]) -> tuple[Path, str]:
    """The file with each of the contents between the two markers of its name."""
    text = path.read_text()
    for name, content in contents.items():
        text = filled(text, name, content)
    return path, text


def filled(text: str, name: str, content: str) -> str:
    """The text with `content` between two markers."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    block = f"{opening}\n\n{content}\n\n{closing}"
    return re.sub(f"{opening}.*?{closing}", lambda _: block, text, flags=re.DOTALL)


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [(path, text) for path, text in documents() if not _has(path, text)]
    for path, text in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is out of date: python docs/generate.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return int(check and bool(stale))


def _has(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())

"""Every table of README and docs that comes from a results file; generate.py puts them there."""

import hashlib
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import allcnn_zoo
from allcnn_zoo import Metadata, Weights, checkpoint
from allcnn_zoo.architectures import CIFAR10_PAPER_ERRORS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHOWN, SHOWN_OF = "cifar10_best", "allcnn_c"  # the weights of examples and pictures
LARGE = ("labels 128", "labels 512")

Report = dict[str, Any]
Row = dict[str, Any]


NONE = "–"
NUMBER = re.compile(r"[+−]?[\d,]+(?:\.(\d+))?(?: \S+)?")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. Columns of numbers are aligned at their right ends."""
    rules = ["---:" if _aligns(cells) else "---" for cells in zip(*rows, strict=True)]
    lines = [header, rules or ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _aligns(cells: tuple[str, ...]) -> bool:
    """Whether all are numbers with as many decimals, if they are anything."""
    found = [NUMBER.fullmatch(cell) for cell in cells if cell not in ("", NONE)]
    decimals = {match and len(match[1] or "") for match in found}
    return len(decimals) == 1 and None not in decimals


def percent(share: float, digits: int = 2) -> str:
    """A share as ``93.90 %``."""
    return f"{100 * share:.{digits}f} %"


def measured(name: str) -> Report:
    """What a benchmark found."""
    found: Report = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def circumstances(report: Report) -> str:
    """What a report says of the machine, the day, its load and the software."""
    machine = report["machine"]
    if isinstance(machine, str):  # a machine of which only the kind is known
        return machine
    facts = [machine["cpu"], machine.get("instructions"), f"{machine['cores']} cores"]
    facts += [machine.get("memory"), machine.get("system")]
    if "threads" in report:
        facts.append(f"{report['threads']} threads each")
    parts = [", ".join(filter(None, facts))]
    if "versions" in report:
        parts.append(", ".join(f"{name} {each}" for name, each in report["versions"].items()))
    if "load_before" in report:
        parts.append(f"load before the measurement {report['load_before']:.1f}")
    if "date" in report:
        parts.append(report["date"][:10])
    return "; ".join(parts) + "."


# Weights.


def measured_path(weights: Weights) -> Path:
    """Where benchmarks/weights.py puts what it measured."""
    return RESULTS / "weights" / f"{weights.name}.json"


def measured_of(weights: Weights) -> Report | None:
    """What benchmarks/weights.py measured of exactly these bytes, if it did."""
    path = measured_path(weights)
    report: Report = json.loads(path.read_text()) if path.exists() else {}
    content = allcnn_zoo.download(weights).read_bytes()
    return report if report.get("sha256") == hashlib.sha256(content).hexdigest() else None


def header_of(weights: Weights) -> Metadata:
    """What the file of bundled weights says of itself."""
    return checkpoint.read_metadata(allcnn_zoo.download(weights))


def caption() -> str:
    """What the picture of the examples shows, with the mistakes in it."""
    predictions = measured("examples")["predictions"]
    wrong = [
        f"the {name}, taken for a {prediction['label']}"
        for name, prediction in predictions.items()
        if prediction["label"] != name
    ]
    share = percent(measured(f"weights/{SHOWN_OF}.{SHOWN}")["accuracy"])
    mistakes = f"Wrong: {' and '.join(wrong)}." if wrong else "All ten are right."
    return (
        f"*Ten CIFAR-10 test images, the same images whitened, and the predictions of `{SHOWN}`."
        f" {mistakes} Of the 10,000 test images, it gets {share} right.*"
    )


def first_prediction() -> str:
    """The README's first lines of code, with what they print."""
    text = measured("examples")["predictions"]["frog"]["text"]
    return (
        "```python\nfrom allcnn_zoo import Classifier\n\n"
        f'classifier = Classifier.from_pretrained("{SHOWN}")\n'
        f'print(classifier("examples/images/frog.png"))\n# {text}\n```'
    )


def weights_table(folder: str) -> str:
    """Available weights; `folder` holds their cards."""
    rows = []
    for weights in sorted(
        allcnn_zoo.list_weights(), key=lambda each: each.architecture != SHOWN_OF
    ):
        ours = weights.measured_by_us
        top1 = f"{weights.metrics['top1']:.2f}" if ours else f"{weights.metrics['top1']}"
        rows.append(
            [
                f"[`{short_name(weights)}`]({folder}/{weights.name}.md)",
                f"{top1}&nbsp;%",
                "yes" if ours else "**no**",
                weights.architecture,
                weights.dataset,
                f"{weights.size / 1e6:.1f}&nbsp;MB" if weights.bundled else "no",
            ]
        )
    return table(["weights", "top-1", "measured by us", "network", "data", "in the package"], rows)


def paper_table() -> str:
    """The paper's table and ours: test error in percent without augmentation."""
    rows = []
    for name in allcnn_zoo.list_models():
        paper = CIFAR10_PAPER_ERRORS[name]
        ours = trained_as_in_the_paper(name)
        if ours is None:
            rows.append([f"`{name}`", f"{paper:.2f}", "not trained yet", "", ""])
            continue
        error = 100 - ours.metrics["top1"]
        card = f"[`{short_name(ours)}`](models/{ours.name}.md)"
        rows.append(
            [
                f"`{name}`",
                f"{paper:.2f}",
                f"{error:.2f}",
                f"{error - paper:+.2f}".replace("-", "−"),
                card,
            ]
        )
    return table(["network", "paper, error %", "ours, error %", "difference", "weights"], rows)


def order_table() -> str:
    """For each of A, B and C the four variants in the order of their errors."""
    rows = []
    for model in "abc":
        names = allcnn_zoo.list_models(f"*_{model}")
        found = {name: trained_as_in_the_paper(name) for name in names}
        ours = {name: 100 - each.metrics["top1"] for name, each in found.items() if each}
        paper = {name: CIFAR10_PAPER_ERRORS[name] for name in names}
        mine = _order(ours) if len(ours) == len(names) else "not complete yet"
        rows.append([model.upper(), _order(paper), mine])
    return table(["", "paper, best first", "ours, best first"], rows)


def _order(errors: dict[str, float]) -> str:
    names = sorted(errors, key=lambda name: errors[name])
    return ", ".join(f"{name.rpartition('_')[0]}&nbsp;{errors[name]:.2f}" for name in names)


def trained_as_in_the_paper(network: str) -> Weights | None:
    """Our best weights of a network that were trained on CIFAR-10 without augmentation."""
    found = [
        weights
        for weights in allcnn_zoo.list_weights(network)
        if weights.measured_by_us and weights.paper_top1 is not None
    ]
    return max(found, key=lambda weights: float(weights.metrics["top1"]), default=None)


def short_name(weights: Weights) -> str:
    """The shortest name that `get_weights` knows: the tag, where only one network has it."""
    tags = [each.tag for each in allcnn_zoo.list_weights()]
    return weights.tag if tags.count(weights.tag) == 1 else weights.name


ELSEWHERE = [  # top-1 on CIFAR-10's test images, All-CNN-C, one view
    ["Springenberg et al. 2014, no augmentation", "90.92 %", "the paper, table 3"],
    ["Springenberg et al. 2014, flips and shifts", "92.75 %", "the paper, table 3"],
    ["Nervana's published weights, no augmentation", "89.5 %", "their ModelZoo readme"],
    ["a Keras re-implementation, augmented", "90.88 %", "its readme"],
    ["a Caffe re-implementation, GCN + ZCA", "90.25 %", "its readme"],
]


def training_table() -> str:
    """Our weights of All-CNN-C, and what others report."""
    rows = [
        [
            f"[`{short_name(weights)}`](models/{weights.name}.md)",
            f"{weights.metrics['top1']:.2f} %",
            weights.recipe,
        ]
        for weights in allcnn_zoo.list_weights("allcnn_c")
        if weights.measured_by_us and weights.dataset == "CIFAR-10"
    ]
    return table(["weights", "top-1", "how, or by whom"], rows + ELSEWHERE)


def steps_table() -> str:
    """The runs that led to `best`, each judged once on the test images."""
    rows = [
        [
            step["what"],
            percent(step["accuracy"]),
            percent(step["flip_averaged"]),
            f"{step['training_seconds'] / 60:.0f}",
            f"`{step['commit']}`",
        ]
        for step in measured("training/steps")
    ]
    return table(["run", "top-1", "averaged with the mirror image", "minutes", "commit"], rows)


def trials_table() -> str:
    """Short runs on held-out images, from which `plain` got its numbers for most networks."""
    rows = [
        [
            f"`{run['model']}`",
            "{:g} and {:g}".format(*run["dropout"]),
            f"{run['kernel_lr']:g}",
            str(run["batch_size"]),
            "average of the weights" if run["average"] else "",
            percent(run["held_out"]),
        ]
        for run in measured("training/plain_trials")["runs"]
    ]
    return table(["network", "dropout", "learning rate", "batch", "also", "held out"], rows)


def seeds_table() -> str:
    """Runs that differ in their seeds only."""
    rows = []
    for report in (measured(path.stem) for path in sorted(RESULTS.glob("seeds_*.json"))):
        for run in report["runs"]:
            epochs, seconds = run["goal_epochs"], run["goal_wall_seconds"]
            judges = "test images" if run["judged_on"] == "test" else "held out"
            rows.append(
                [
                    f"`{report['recipe']}`, {run['epochs']} epochs",
                    str(run["seed"]),
                    f"{percent(run['accuracy'])}, {judges}",
                    f"{epochs} epochs, {seconds / 60:.0f} minutes" if epochs else "not reached",
                    "{cpu}, {cores} cores".format(**run["machine"]),
                ]
            )
        spread = f"{percent(report['mean'])} ± {100 * report['standard_deviation']:.2f}"
        rows.append([f"`{report['recipe']}`", "mean", spread, "", ""])
    goal = f"{percent(report['goal'], 1)} reached after"
    return table(["recipe", "seed", "top-1", goal, "machine"], rows)


def costs_table() -> str:
    """What checking and converting cost."""
    load, convert = measured("cached_load"), measured("convert")
    built, ready = list(load["ratio"].values())[::-1]
    rows = [
        ["loading cached weights, digest checked", "building the network and loading", built],
        ["the same", "loading into a network that is already built", ready],
        ["converting neon's file", "`pickle.load` and `save_file`", convert["time_ratio"]["wall"]],
    ]
    text = table(
        ["operation", "compared with", "time, as a ratio"],
        [[what, other, f"{ratio:.2f}"] for what, other, ratio in rows],
    )
    return "\n\n".join([text, *(circumstances(each) for each in (load,) if "machine" in each)])


# neon, the browser page, exported files.


def faithful_table() -> str:
    """Largest differences from neon's own outputs."""
    found = measured("faithful")
    full, whitening = found["full_width"], found["whitening"]
    small, others = found["small_files"], found["other_networks"]
    versions = sorted({each["neon"] for each in small})
    kinds = "Python 2 and 3, biases, batch normalization, Caffe's dropout"
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
    return table(["", "largest difference from neon"], rows)


def networks_table() -> str:
    """The neon files that were compared, one by one."""
    found = measured("faithful")
    rows = [
        [f"All-CNN-C, {each['variant']}", each["neon"], str(each["python"]), f"{each['worst']:.1e}"]
        for each in found["small_files"]
    ]
    rows += [
        [each["network"], "2.3.0", str(each["python"]), f"{each['worst_relative']:.1e}"]
        for each in found["other_networks"]
    ]
    return table(["network", "neon", "Python", "largest difference"], rows)


def page_table() -> str:
    """Size, speed and exactness of the page that runs the model in a browser."""
    page = measured("page")
    rows = [
        ["the page, all in one file", f"{page['page_bytes'] / 1e6:.1f} MB"],
        ["until the network is ready", f"{page['ready_seconds']:.1f} s"],
        ["one image, whitening included", f"{page['network_milliseconds']:.0f} ms"],
        [
            f"largest difference of a probability, {page['images']:,} test images",
            f"{page['largest_difference']:.5f}",
        ],
    ]
    return table(["", f"{page['browser']}, {page['machine']}"], rows)


def exports_table() -> str:
    """Sizes of exported files, and their agreement with the model."""
    results = measured("export_sizes")
    rows = [
        [
            f"`{row['format']}`, `{row['whitening']}`",
            *(f"{row[size] / 1e6:.2f}" for size in ("bytes", "weight_bytes", "whitening_bytes")),
            row["runtime"],
            f"{row['largest_difference']:.1e}",
            str(row["other_labels"]),
            percent(row["accuracy"]),
        ]
        for row in results["rows"]
    ]
    header = ["file", "MB", "weights", "whitening", "run by", "largest difference"]
    text = table([*header, "other labels", "top-1"], rows)
    model = percent(results["rows"][0]["accuracy_of_model"])
    return (
        f"{text}\n\n`{results['weights']}` on CIFAR-10's {results['images']:,} test images."
        " *Largest difference*: between any probability and the model's own. *Other labels*: images"
        f" that get another label. The model itself has {model} top-1."
        f" {circumstances(results)}"
    )


# Speed.


def fastest_table() -> str:
    """The fastest of ours and of the others in each precision."""
    report = measured("inference")
    rows = []
    for precision in ("float32", "bfloat16", "int8"):
        for ours in (True, False):
            found = _methods(report, ours=ours, precision=precision)
            if found:
                best = max(found, key=lambda row: speed_of(row, LARGE[0]))
                speeds = [f"{speed_of(best, kind):,.0f}" for kind in LARGE]
                rows.append([precision, _name(best), *speeds, _share(best, "accuracy")])
    text = table(["precision", "fastest", "batch 128, images/s", "batch 512", "top-1"], rows)
    return f"{text}\n\n{circumstances(report)}"


def speed_tables() -> dict[str, str]:
    """Each part of the page on speed by the name of its markers, and the targets."""
    parts: dict[str, str] = {}
    targets: list[list[str]] = []
    for name, sections, targets_of in (
        ("inference", _inference_sections, _inference_targets),
        ("training_step", _training_sections, _training_targets),
        ("start_up", _start_up_sections, _start_up_targets),
    ):
        report = measured(name)
        for part, header, rows in sections(report):
            parts[part] = f"{table(header, rows)}\n\n{circumstances(report)}"
        targets += [
            [target, found, "met" if met else "missed"] for target, found, met in targets_of(report)
        ]
    parts["inference"] += "\n\n![Images per second of each method](pictures/speed.svg)"
    parts["targets"] = table(["target", "measured", "result"], targets)
    return parts


def _inference_sections(report: Report) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    rows = [row for row in report["rows"] if row["seconds"]]
    sizes = [str(size) for size in report["sizes"]]
    header = ["", "precision", *sizes, "stream", "spread", "top-1", "unchanged"]
    yield "inference", header, [_inference_cells(row, sizes) for row in rows]
    alone = [row for row in rows if f"network {sizes[0]}" in row["seconds"]]
    yield (
        "network",
        ["", "precision", *sizes],
        [[_name(row), row["precision"], *_speeds(row, "network", sizes)] for row in alone],
    )
    cells = [
        [f"{int(count):,}", f"{found['images_per_second']:,.0f}", _megabytes(found["growth"])]
        for count, found in report.get("flatness", {"sizes": {}})["sizes"].items()
    ]
    yield "flatness", ["images in one call", "images/s", "memory grew by"], cells


def _inference_cells(row: Row, sizes: list[str]) -> list[str]:
    seconds, stream = row["seconds"], row["stream"]["seconds"]
    spread = max(_spread(seconds[f"labels {size}"]) for size in sizes)
    return [
        _name(row),
        row["precision"],
        *_speeds(row, "labels", sizes),
        f"{1 / statistics.median(stream):,.0f}" if stream else NONE,
        percent(spread, 0),
        _share(row, "accuracy"),
        _share(row, "unchanged"),
    ]


def _share(row: Row, name: str) -> str:
    """Of the images of the stream; not every method took it."""
    return percent(row[name]) if name in row else NONE


def _speeds(row: Row, kind: str, sizes: list[str]) -> list[str]:
    return [f"{speed_of(row, f'{kind} {size}'):,.0f}" for size in sizes]


def speed_of(row: Row, kind: str) -> float:
    """Images per second for ``"labels 128"`` and the like."""
    return int(kind.split()[1]) / statistics.median(row["seconds"][kind])


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def _name(row: Row) -> str:
    return f"**{row['name']}**" if row["ours"] else str(row["name"])


def _methods(report: Report, *, ours: bool, precision: str | None = None) -> list[Row]:
    return [
        row
        for row in report["rows"]
        if row["ours"] == ours and row["seconds"] and precision in (None, row["precision"])
    ]


def _lead(mine: list[Row], theirs: list[Row], kinds: list[str]) -> float:
    """How many times as fast as the fastest of theirs, where it is least."""
    return min(
        max(speed_of(row, kind) for row in mine) / max(speed_of(row, kind) for row in theirs)
        for kind in kinds
    )


def _inference_targets(report: Report) -> Iterator[tuple[str, str, bool]]:
    kinds = [f"labels {size}" for size in report["sizes"]]
    reference = report["rows"][0]

    def lost(row: Row) -> float:
        """Percentage points, as nearly as these can be counted."""
        return round(100 * (reference["accuracy"] - row["accuracy"]), 6)

    for precision in ("float32", "bfloat16"):
        mine, theirs = (_methods(report, ours=ours, precision=precision) for ours in (True, False))
        lead = _lead(mine, theirs, kinds)
        yield f"{precision}: 1.0 × the fastest other, at every size", f"{lead:.2f} ×", lead >= 1
    loss, kept = max(map(lost, mine)), min(row["unchanged"] for row in mine)
    yield "bfloat16: at most 0.1 points lost", f"{loss:.2f}".replace("-", "−"), loss <= 0.1
    yield "bfloat16: 99.5 % of the labels unchanged", percent(kept), kept >= 0.995
    good = [row for row in _methods(report, ours=True) if lost(row) <= 0.3]
    lead = _lead(good, theirs, list(LARGE))
    target = "fastest mode: 1.5 × the fastest other bfloat16 from 128 on, 0.3 points lost at most"
    yield target, f"{lead:.2f} ×", lead >= 1.5
    lead = _lead(_methods(report, ours=True, precision="float32"), [reference], [LARGE[-1]])
    yield "float32: 2 × PyTorch eager, at 512", f"{lead:.2f} ×", lead >= 2
    if "flatness" in report:
        found = list(report["flatness"]["sizes"].values())
        speeds = [each["images_per_second"] for each in found]
        spread = max(speeds) / min(speeds) - 1
        yield "as fast for 100,000 images as for 128, to 10 %", percent(spread, 0), spread <= 0.1
        growth = max(each["growth"] for each in found)
        yield "memory grows by less than 200 MB", _megabytes(growth), growth < 200e6


def _training_sections(report: Report) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    header = ["", "precision", "batch", "forward, ms", "backward", "iteration", "per image"]
    rows = [
        [
            f"**{row['name']}**" if row["precision"] == "bfloat16" else row["name"],
            row["precision"],
            f"{row['batch']:,}",
            *(f"{1e3 * statistics.median(row['seconds'][phase]):,.0f}" for phase in row["seconds"]),
            f"{1e3 * _per_image(row):.2f}",
            percent(_of_matmul(report, row), 0),
        ]
        for row in report["rows"]
    ]
    yield "step", [*header, "of matmul"], rows


def _per_image(row: Row) -> float:
    return statistics.median(row["seconds"]["iteration"]) / int(row["batch"])


def _of_matmul(report: Report, row: Row) -> float:
    flops = report["flop"]["iteration"] / _per_image(row)
    return float(flops / report["matmul_flops"][row["precision"]])


def _training_targets(report: Report) -> Iterator[tuple[str, str, bool]]:
    eager, *ours = report["rows"]
    lead = _per_image(eager) / _per_image(ours[0])
    yield "training: 2.8 × PyTorch eager, at 128", f"{lead:.2f} ×", lead >= 2.8
    share = _of_matmul(report, ours[0])
    yield "training: 80 % of the bfloat16 matrix product, at 128", percent(share, 0), share >= 0.8
    times = [_per_image(row) for row in ours]
    spread = max(times) / min(times) - 1
    target = "training: from 128 to 1,024 the same per image, to 10 %"
    yield target, percent(spread, 0), spread <= 0.1
    data = statistics.median(report["data_seconds"]) / int(ours[0]["batch"])
    share = data / (data + _per_image(ours[0]))
    yield "training: the data take less than 10 % of the time", percent(share, 0), share < 0.1


_LIMITS = {  # milliseconds
    "import allcnn_zoo": 60,
    "allcnn-zoo --help": 150,
    "allcnn_c(pretrained=True)": 80,
    "allcnn_c(weights='cifar10_best')": 80,
    "first model.preprocess": 150,
}


def _start_up_sections(report: Report) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    rows = [[f"`{name}`", f"{1e3 * value:,.0f}"] for name, value in report["seconds"].items()]
    yield "start_up", ["", f"ms, median of&nbsp;{report['runs']}"], rows


def _start_up_targets(report: Report) -> Iterator[tuple[str, str, bool]]:
    for name, limit in _LIMITS.items():
        taken = 1e3 * report["seconds"][name]
        yield f"`{name}`: under {limit} ms", f"{taken:.0f} ms", taken < limit
    light = not report["import_brings_torch"]
    yield "`import allcnn_zoo` does not import PyTorch", str(light).lower(), light


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"

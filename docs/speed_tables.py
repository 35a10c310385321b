"""The tables of speed.md, from the results of the benchmarks; generate.py puts them there."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markdown_tables import table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
PICTURE = Path(__file__).parent / "pictures" / "speed.svg"  # draw_speed.py's
LARGE = ("labels 128", "labels 512")
PARTS = ("goals", "inference", "network", "flatness", "step", "start_up")

Report = dict[str, Any]
Row = dict[str, Any]


def speed_tables() -> dict[str, str]:
    """Each part of the page by the name of its markers; what is not measured yet says so."""
    parts = dict.fromkeys(PARTS, "Not measured yet.")
    goals: list[list[str]] = []
    for file, write in _WRITERS.items():
        path = RESULTS / file
        if not path.exists():
            continue
        report = json.loads(path.read_text())
        for name, header, rows in write(report):
            parts[name] = f"{table(header, rows)}\n\n{_circumstances(report)}"
        goals += [[goal, found, "met" if met else "missed"] for goal, found, met in _goals(report)]
    if PICTURE.exists():
        parts["inference"] += f"\n\n![Images per second of each way](pictures/{PICTURE.name})"
    if goals:
        parts["goals"] = table(["goal", "measured", ""], goals)
    return parts


def fastest_table() -> str:
    """The README's table: the fastest of ours and of the others in each precision."""
    path = RESULTS / "inference.json"
    if not path.exists():
        return "Not measured yet."
    report = json.loads(path.read_text())
    rows = []
    for precision in ("float32", "bfloat16", "int8"):
        for ours in (True, False):
            found = _ways(report, ours=ours, precision=precision)
            if found:
                best = max(found, key=lambda row: speed_of(row, LARGE[0]))
                speeds = [f"{speed_of(best, kind):.0f}" for kind in LARGE]
                rows.append([precision, _name(best), *speeds, _share(best, "accuracy")])
    return table(["precision", "fastest", "batch 128, images/s", "batch 512", "top-1"], rows)


def _circumstances(report: Report) -> str:
    machine, versions = report["machine"], report["versions"]
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    threads = f", {report['threads']} threads for each" if "threads" in report else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores{threads}; {software}."
        f" Load before the measurement: {report['load_before']:.1f}."
    )


def _goals(report: Report) -> Iterator[tuple[str, str, bool]]:
    """Each goal that this report decides: what it is, what was measured, whether it is met."""
    if "data_seconds" in report:
        yield from _training_goals(report)
    elif "rows" in report:
        yield from _inference_goals(report)
    else:
        yield from _start_up_goals(report)


# Inference.


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
    if "flatness" in report:
        flat = report["flatness"]
        cells = [
            [f"{int(count):,}", f"{found['images_per_second']:.0f}", _megabytes(found["growth"])]
            for count, found in flat["sizes"].items()
        ]
        yield "flatness", ["images in one call", "images/s", "memory grew by"], cells


def _inference_cells(row: Row, sizes: list[str]) -> list[str]:
    seconds, stream = row["seconds"], row["stream"]["seconds"]
    spread = max(_spread(seconds[f"labels {size}"]) for size in sizes)
    return [
        _name(row),
        row["precision"],
        *_speeds(row, "labels", sizes),
        f"{1 / statistics.median(stream):.0f}" if stream else "-",
        f"{spread:.0%}",
        _share(row, "accuracy"),
        _share(row, "unchanged"),
    ]


def _share(row: Row, name: str) -> str:
    """In per cent, of those that took the stream."""
    return f"{row[name]:.2%}" if name in row else "-"


def _speeds(row: Row, kind: str, sizes: list[str]) -> list[str]:
    return [f"{speed_of(row, f'{kind} {size}'):.0f}" for size in sizes]


def speed_of(row: Row, kind: str) -> float:
    """Images per second for ``"labels 128"`` and the like."""
    return int(kind.split()[1]) / statistics.median(row["seconds"][kind])


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def _name(row: Row) -> str:
    return f"**{row['name']}**" if row["ours"] else str(row["name"])


def _ways(report: Report, *, ours: bool, precision: str | None = None) -> list[Row]:
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


def _inference_goals(report: Report) -> Iterator[tuple[str, str, bool]]:
    kinds = [f"labels {size}" for size in report["sizes"]]
    large = [kind for kind in LARGE if kind in kinds]
    mine, theirs = (_ways(report, ours=ours, precision="float32") for ours in (True, False))
    if mine and theirs:
        lead = _lead(mine, theirs, kinds)
        yield "float32: 1.0 x the fastest other, at every size", f"{lead:.2f} x", lead >= 1
        if large:
            lead = _lead(mine, theirs[:1], large[-1:])
            yield "float32: 2 x PyTorch eager, at 512", f"{lead:.2f} x", lead >= 2
    theirs, reference = _ways(report, ours=False, precision="bfloat16"), report["rows"][0]
    if theirs:
        yield from _bfloat16_goals(report, theirs, reference, kinds)
    if "flatness" in report:
        found = list(report["flatness"]["sizes"].values())
        speeds = [each["images_per_second"] for each in found]
        spread = max(speeds) / min(speeds) - 1
        yield "as fast for 100,000 images as for 128, to 10 %", f"{spread:.0%}", spread <= 0.1
        growth = max(each["growth"] for each in found)
        yield "memory grows by less than 200 MB", _megabytes(growth), growth < 200e6


def _bfloat16_goals(
    report: Report, theirs: list[Row], reference: Row, kinds: list[str]
) -> Iterator[tuple[str, str, bool]]:
    """Ours beside the fastest other bfloat16, where the accuracy lets us."""

    def lost(row: Row) -> float:
        """Percentage points, as nearly as these can be counted."""
        return round(100 * (reference["accuracy"] - row["accuracy"]), 6)

    same = _ways(report, ours=True, precision="bfloat16")
    if same:
        lead, loss = _lead(same, theirs, kinds), max(map(lost, same))
        kept = min(row["unchanged"] for row in same)
        yield "bfloat16: 1.0 x the fastest other, at every size", f"{lead:.2f} x", lead >= 1
        yield "bfloat16: at most 0.1 points lost", f"{loss:.2f}", loss <= 0.1
        yield "bfloat16: 99.5 % of the labels unchanged", f"{kept:.2%}", kept >= 0.995
    good = [row for row in _ways(report, ours=True) if lost(row) <= 0.3]
    large = [kind for kind in LARGE if kind in kinds]
    if good and large:
        lead = _lead(good, theirs, large)
        goal = "fastest mode: 1.5 x the fastest other bfloat16 from 128 on, 0.3 points lost at most"
        yield goal, f"{lead:.2f} x", lead >= 1.5


# Training.


def _training_sections(report: Report) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    header = ["", "precision", "batch", "forward, ms", "backward", "iteration", "per image"]
    rows = [
        [
            f"**{row['name']}**" if row["precision"] == "bfloat16" else row["name"],
            row["precision"],
            str(row["batch"]),
            *(f"{1e3 * statistics.median(row['seconds'][phase]):.0f}" for phase in row["seconds"]),
            f"{1e3 * _per_image(row):.2f}",
            f"{_of_matmul(report, row):.0%}",
        ]
        for row in report["rows"]
    ]
    yield "step", [*header, "of matmul"], rows


def _per_image(row: Row) -> float:
    return statistics.median(row["seconds"]["iteration"]) / int(row["batch"])


def _of_matmul(report: Report, row: Row) -> float:
    flops = report["flop"]["iteration"] / _per_image(row)
    return float(flops / report["matmul_flops"][row["precision"]])


def _training_goals(report: Report) -> Iterator[tuple[str, str, bool]]:
    theirs, *ours = report["rows"]
    first = ours[0]
    lead = _per_image(theirs) / _per_image(first)
    yield "training: 2.8 x PyTorch eager, at 128", f"{lead:.2f} x", lead >= 2.8
    share = _of_matmul(report, first)
    yield "training: 80 % of the bfloat16 matrix product, at 128", f"{share:.0%}", share >= 0.8
    times = [_per_image(row) for row in ours]
    spread = max(times) / min(times) - 1
    yield "training: from 128 to 1,024 the same per image, to 10 %", f"{spread:.0%}", spread <= 0.1
    data = statistics.median(report["data_seconds"]) / int(first["batch"])
    share = data / (data + _per_image(first))
    yield "training: the data take less than 10 % of the time", f"{share:.0%}", share < 0.1


# Start-up.

_LIMITS = {  # milliseconds
    "import allcnn_zoo": 60,
    "allcnn-zoo --help": 150,
    "allcnn_c(pretrained=True)": 80,
    "allcnn_c(weights='cifar10_best')": 80,
    "first model.preprocess": 150,
}


def _start_up_sections(report: Report) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    rows = [[f"`{name}`", f"{1e3 * value:.0f}"] for name, value in report["seconds"].items()]
    yield "start_up", ["", f"ms, median of {report['runs']}"], rows


def _start_up_goals(report: Report) -> Iterator[tuple[str, str, bool]]:
    for name, limit in _LIMITS.items():
        taken = 1e3 * report["seconds"][name]
        yield f"`{name}`: under {limit} ms", f"{taken:.0f} ms", taken < limit
    brings = report["import_brings_torch"]
    yield "`import allcnn_zoo` brings no PyTorch", "it does" if brings else "none", not brings


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


_WRITERS = {
    "inference.json": _inference_sections,
    "training_step.json": _training_sections,
    "start_up.json": _start_up_sections,
}

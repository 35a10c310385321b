"""What a recipe reaches with several seeds, and when, from the directories of its runs.

    python benchmarks/seeds.py plain runs/plain_0 runs/plain_1 runs/plain_2

Writes results/seeds_plain.json. Runs that held images out are judged by these, others by the test
images, at which each of them looked once, at its end.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import measuring

from allcnn_zoo.training import time_to_accuracy

GOAL = 0.895  # what the published weights have


def summarise(run: Path) -> dict[str, Any]:
    """One run in a few numbers."""
    results = json.loads((run / "results.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    judges = "held_out" if results["held_out_images"] else "test"
    accuracy = results[judges]["accuracy"]
    if judges == "held_out":
        reached = time_to_accuracy(lines, GOAL)
    else:
        whole = (len(lines), results["wall_seconds"])
        reached = whole if accuracy >= GOAL else None
    return {
        "seed": results["seed"],
        "judged_on": judges,
        "accuracy": accuracy,
        "epochs": results["recipe"]["epochs"],
        "training_images": results["training_images"],
        "wall_seconds": results["wall_seconds"],
        "goal_epochs": reached and reached[0],
        "goal_wall_seconds": reached and reached[1],
        "commit": results["commit"],
        "machine": results["machine"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    runs = sorted(map(summarise, arguments.runs), key=lambda run: run["seed"])
    accuracies = [run["accuracy"] for run in runs]
    report = {
        "recipe": arguments.recipe,
        "goal": GOAL,
        "mean": statistics.fmean(accuracies),
        "standard_deviation": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "runs": runs,
    }
    measuring.write_json(measuring.RESULTS / f"seeds_{arguments.recipe}.json", report)
    print(f"{report['mean']:.2%} over {len(runs)} seeds")


if __name__ == "__main__":
    main()

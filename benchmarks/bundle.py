"""Put trained weights into the package: stored as float16, and measured as stored.

    python benchmarks/bundle.py run/weights.safetensors ...   # add or replace
    python benchmarks/bundle.py --check                       # measure all that is there again

The test images are those of CIFAR-10 or CIFAR-100 in the folder that ALLCNN_ZOO_DATA names, or
--data. A file that is measured again must give the very figures in its header.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from allcnn_zoo import Classifier, checkpoint, list_weights, load
from allcnn_zoo.cifar import DATASETS
from allcnn_zoo.evaluation import summarize
from allcnn_zoo.weights import ASSETS, Metadata


def measure(path: Path, dataset: str, data: str | None) -> dict[str, Any]:
    """The figures of a weights file on the test images, also averaged with the mirror images."""
    test = DATASETS[dataset.lower().replace("-", "")](data).test
    classifier = Classifier(load(path), engine="torch")
    straight = classifier.predict_proba(test.images, progress=True)
    mirrored = classifier.predict_proba(np.ascontiguousarray(test.images[..., ::-1]), progress=True)
    figures = summarize(straight, test.labels, classifier.classes, seconds=0).to_json()
    del figures["seconds"]
    averaged = float(((straight + mirrored).argmax(1) == test.labels).mean())
    return {**figures, "flip_averaged_accuracy": averaged}


def bundle(source: Path, data: str | None) -> Path:
    """Store, measure what was stored, and store it with the figures."""
    tensors, metadata, preprocess = checkpoint.read(source)
    recipe = metadata.provenance["recipe"]
    dataset = recipe.get("dataset", "cifar10").replace("cifar", "CIFAR-")
    facts = {"dataset": dataset, "command": _command(metadata)} | dict(metadata.provenance)
    metadata = dataclasses.replace(metadata, provenance=facts, metrics={})
    path = ASSETS / f"{metadata.architecture.name}.{metadata.tag}.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / path.name
        checkpoint.save(stored, tensors, metadata, preprocess=preprocess, dtype="float16")
        figures = measure(stored, dataset, data)
    metadata = dataclasses.replace(metadata, metrics={"test": figures})
    checkpoint.save(path, tensors, metadata, preprocess=preprocess, dtype="float16")
    print(f"{path.name}: {figures['accuracy']:.2%}, {recipe['epochs']} epochs")
    return path


def _command(metadata: Metadata) -> str:
    """The command that trains such weights, for runs that did not record theirs."""
    provenance, model = metadata.provenance, metadata.architecture.name
    named = "" if model == "allcnn_c" else f" --model {model}"
    recipe, seed = provenance["recipe"]["name"], provenance["seed"]
    return f"allcnn-zoo train --recipe {recipe}{named} --seed {seed} --test"


def main() -> int:
    """Bundle, or check; returns the number of files that are not what they claim."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--data")
    arguments = parser.parse_args()
    for file in arguments.files:
        bundle(file, arguments.data)
    wrong = 0
    for record in (record for record in list_weights() if arguments.check and record.bundled):
        path = ASSETS / str(record.bundled)
        claimed = checkpoint.read_metadata(path).metrics["test"]["accuracy"]
        found = measure(path, record.dataset, arguments.data)["accuracy"]
        wrong += found != claimed
        print(f"{path.name}: {found:.2%}, {'as' if found == claimed else 'NOT as'} claimed")
    return wrong


if __name__ == "__main__":
    sys.exit(main())

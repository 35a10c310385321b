"""How far our outputs are from neon's own, on genuine files that neon trained and saved.

    python benchmarks/faithful.py --json benchmarks/results/faithful.json

Needs two folders, named by variables: ALLCNN_ZOO_TEST_SHARED, genuine neon files with neon's own
outputs (see CONTRIBUTING), and ALLCNN_ZOO_DATA, CIFAR-10.
"""

import argparse
import json
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from allcnn_zoo import CIFAR10, Preprocessor, neon
from allcnn_zoo.from_neon import read_neon
from allcnn_zoo.model import build

BATCH = 250
DECADES = (-9.0, -4.0)  # of the histogram
BINS = 50

Floats = npt.NDArray[np.float32]


def softmax(path: Path, whitened: Floats) -> Floats:
    """Our softmax, over all outputs, of a neon file of All-CNN-C."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what had to be assumed of old files
        model = build(*read_neon(path, keep_padding=True))
    with torch.inference_mode():
        return model(torch.from_numpy(whitened)).softmax(1).numpy()


def full_width(folder: Path) -> dict[str, Any]:
    """From the pixels of the 10,000 test images to the softmax, our whitening included."""
    reference = np.load(folder / "s3_reference.npz")
    split = CIFAR10().test
    rows = {name: row for row, name in enumerate(split.filenames)}
    images = split.images[[rows[name] for name in reference["filenames"].tolist()]]
    path = folder / "s3" / "cifar10_allcnn" / "cifar10_allcnn_e350.p"
    model = build(*read_neon(path, keep_padding=True))
    with torch.inference_mode():
        found = np.concatenate(
            [
                model(model.preprocess(torch.from_numpy(images[start : start + BATCH])))
                .softmax(1)
                .numpy()
                for start in range(0, len(images), BATCH)
            ]
        )
    expected = reference["softmax"]
    worst = np.abs(found - expected).max(axis=1)
    counts, edges = np.histogram(np.log10(worst), BINS, DECADES)
    return {
        "images": len(images),
        "outputs": expected.shape[1],
        "equal_predictions": int((found.argmax(1) == expected.argmax(1)).sum()),
        "worst": float(worst.max()),
        "median": float(np.median(worst)),
        "histogram": {"decades": [float(edge) for edge in edges], "images": counts.tolist()},
    }


def whitening(folder: Path) -> dict[str, float]:
    """Our whitened images compared with neon's."""
    sample = np.load(folder / "whitened64.npz")
    with torch.inference_mode():
        found = Preprocessor.shipped()(torch.from_numpy(sample["images"])).numpy()
    return {
        "images": len(found),
        "worst": float(np.abs(found - sample["whitened"]).max()),
        "largest_value": float(np.abs(sample["whitened"]).max()),
    }


def small_files(folder: Path) -> Iterator[dict[str, Any]]:
    """Each of the other files of All-CNN-C: what kind it is, and how far off on 16 images."""
    whitened = np.load(folder / "allcnn" / "input16.npz")["whitened"]
    for path in sorted((folder / "allcnn").glob("*_tiny_*.p")):
        expected = np.load(path.with_name(f"{path.stem}_ref.npz"))["softmax"]
        *_, version, variant = path.stem.split("_")
        yield {
            "neon": version.removeprefix("v"),
            "python": 3 if "_py3_" in path.name else 2,
            "variant": variant,
            "images": len(expected),
            "worst": float(np.abs(softmax(path, whitened) - expected).max()),
        }


def other_networks(folder: Path) -> Iterator[dict[str, Any]]:
    """Each network of another kind, rebuilt: the worst layer, relative to its largest output."""
    for path in sorted(folder.glob("generic*/*.p")):
        reference = np.load(folder / "generic" / f"{path.stem}_ref.npz")
        outputs = outputs_of_layers(path, torch.from_numpy(reference["input"]))
        names = [*sorted(name for name in reference if name.startswith("layer_")), "output"]
        errors = [
            np.abs(output.reshape(reference[name].shape) - reference[name]).max()
            / np.abs(reference[name]).max()
            for name, output in zip(names, outputs, strict=True)
        ]
        yield {
            "network": path.stem,
            "python": 2 if "py2" in path.parent.name else 3,
            "layers": len(errors) - 1,
            "worst_relative": float(max(errors)),
        }


@torch.inference_mode()
def outputs_of_layers(path: Path, inputs: torch.Tensor) -> list[npt.NDArray[Any]]:
    """What each outermost layer of the rebuilt network gives, and then the whole."""
    network = neon.to_module(path)
    outputs: list[npt.NDArray[Any]] = []

    def keep(_layer: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        outputs.append(output.numpy())

    for layer in network.get_submodule("layers").children():
        layer.register_forward_hook(keep)
    outputs.append(network(inputs).numpy())
    return outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    folder = Path(os.environ["ALLCNN_ZOO_TEST_SHARED"]) / "neon"
    result = {
        "full_width": full_width(folder),
        "whitening": whitening(folder),
        "small_files": list(small_files(folder)),
        "other_networks": list(other_networks(folder)),
        "neon_misclassification": json.loads((folder / "s3_reference.json").read_text())[
            "misclassification"
        ],
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

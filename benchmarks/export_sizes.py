"""How large exported files are, and how well they agree with the model on CIFAR-10's test images.

    python benchmarks/export_sizes.py        # CIFAR-10 from ALLCNN_ZOO_DATA

Every file is made by `export_model` and run by the runtime that it is for, 100 images at a time,
compared with `Classifier.predict_proba` on the same images.
"""

import argparse
import importlib.metadata
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch

import allcnn_zoo
from allcnn_zoo.machine import describe_machine

RESULT = Path(__file__).parent / "results" / "export_sizes.json"
BATCH = 100

Run = Callable[[np.ndarray], np.ndarray]


def onnxruntime_run(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def openvino_run(precision: str) -> Callable[[Path], Run]:
    def open_file(path: Path) -> Run:
        model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        return lambda images: model({"images": images})["probabilities"]

    return open_file


def torch_run(path: Path) -> Run:
    program = torch.export.load(path).module()
    return lambda images: program(torch.from_numpy(images))[0].numpy()


WAYS: list[tuple[str, str, str, Callable[[Path], Run]]] = [
    (".onnx", "float32", "onnxruntime", onnxruntime_run),
    (".onnx", "float32", "OpenVINO, `f32`", openvino_run("f32")),
    (".onnx", "float32", "OpenVINO, `bf16`", openvino_run("bf16")),
    (".onnx", "float16", "onnxruntime", onnxruntime_run),
    (".pt2", "float32", "torch", torch_run),
]


def compare(result: np.ndarray, expected: np.ndarray, labels: np.ndarray) -> dict[str, float | int]:
    """Agreement of probabilities with those of the model."""
    found, wanted = result.argmax(1), expected.argmax(1)
    return {
        "largest_difference": float(np.abs(result - expected).max()),
        "mean_largest_difference": float(np.abs(result - expected).max(1).mean()),
        "other_labels": int((found != wanted).sum()),
        "accuracy": float((found == labels).mean()),
        "accuracy_of_model": float((wanted == labels).mean()),
    }


@torch.inference_mode()
def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="cifar10_best")
    arguments = parser.parse_args()

    test = allcnn_zoo.CIFAR10().test
    classifier = allcnn_zoo.Classifier.from_pretrained(
        arguments.weights, batch_size=BATCH, engine="torch"
    )
    expected = classifier.predict_proba(test.images)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, whitening, runtime, open_file in WAYS:
            path = Path(folder) / f"{whitening}{suffix}"
            exported = allcnn_zoo.export_model(classifier.model, path, whitening=whitening)
            run = open_file(path)
            parts = range(0, len(test.images), BATCH)
            result = np.concatenate([run(test.images[i : i + BATCH]) for i in parts])
            sizes = {
                "bytes": exported.bytes,
                "weight_bytes": exported.weight_bytes,
                "whitening_bytes": exported.whitening_bytes,
                "other_bytes": exported.other_bytes,
            }
            agreement = compare(result, expected, test.labels)
            rows.append({"format": suffix, "whitening": whitening, "runtime": runtime})
            rows[-1] |= sizes | agreement
            print(rows[-1], flush=True)
    packages = ("torch", "onnx", "onnxruntime", "openvino")
    report = {
        "weights": arguments.weights,
        "images": len(test.images),
        "rows": rows,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": describe_machine(),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Writes pickles as Python 2 and neon wrote them, so that the tests need no files from outside."""

import io
import pickle
import struct
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

Variant = Literal["plain", "bias", "early_bias", "batch_norm"]


class _Raw(bytes):
    """Array data: a Python 2 string that is never shared."""


class _Token:
    """A name or a dtype; the same object is written once and then fetched from the memo."""

    def __init__(self, code: bytes) -> None:
        self.code = code


_RECONSTRUCT = _Token(b"cnumpy.core.multiarray\n_reconstruct\n")
_NDARRAY = _Token(b"cnumpy\nndarray\n")
_DTYPE = _Token(b"cnumpy\ndtype\n")


class _Python2Pickler(pickle._Pickler):
    """Protocol 2 in the dialect of Python 2.7 and numpy 1.13: text is bytes, flags are numbers."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.dtypes: dict[str, _Token] = {}

    def save_text(self, text: str) -> None:
        self.save_raw(text.encode("latin-1"))
        self.memoize(text)

    def save_raw(self, raw: bytes) -> None:
        if len(raw) < 256:
            self.write(b"U" + bytes([len(raw)]) + raw)
        else:
            self.write(b"T" + struct.pack("<i", len(raw)) + raw)

    def save_token(self, token: _Token) -> None:
        self.write(token.code)
        self.memoize(token)

    def save_array(self, array: np.ndarray) -> None:
        self.save(_RECONSTRUCT)
        self.save((_NDARRAY, (0,), "b"))
        self.write(pickle.REDUCE)
        self.memoize(array)
        self.write(pickle.MARK + b"K\x01")
        self.save(array.shape)
        self.save_dtype(array.dtype)
        self.write(pickle.NEWFALSE)
        self.save_raw(array.tobytes())
        self.write(pickle.TUPLE + pickle.BUILD)

    def save_dtype(self, dtype: np.dtype) -> None:
        known = self.dtypes.get(dtype.str)
        if known is not None:
            self.write(self.get(self.memo[id(known)][0]))
            return
        self.save(_DTYPE)
        self.save((dtype.str[1:], 0, 1))
        self.write(pickle.REDUCE)
        self.dtypes[dtype.str] = _Token(b"")
        self.memoize(self.dtypes[dtype.str])
        self.save((3, dtype.str[0], None, None, None, -1, -1, 0))
        self.write(pickle.BUILD)

    dispatch[str] = save_text
    dispatch[_Token] = save_token
    dispatch[np.ndarray] = save_array


def python2_pickle(tree: Any) -> bytes:
    """Protocol 2 as Python 2.7 with numpy 1.13 writes it."""
    file = io.BytesIO()
    _Python2Pickler(file).dump(tree)
    return file.getvalue()


def python3_pickle(tree: Any, protocol: int = 2) -> bytes:
    """As Python 3 with numpy 1 writes it."""
    return pickle.dumps(tree, protocol).replace(b"cnumpy._core.", b"cnumpy.core.")


def neon_file(
    variant: Variant = "plain",
    *,
    widths: tuple[int, int] = (2, 3),
    outputs: int = 16,
    compat_mode: str = "neon",
    version: str = "2.3.0",
) -> dict[str, Any]:
    """The tree of a whole model file, as neon 1.2.2 and later save it, with random weights."""
    return {
        "neon_version": version,
        "backend": {
            "type": "NervanaGPU",
            "compat_mode": compat_mode,
            "rng_seed": None,
            "rng_state": (
                ("MT19937", np.arange(624, dtype=np.uint32), 7, 0, 0.0),
                np.zeros((2048, 1), np.uint32),
            ),
        },
        "cost": component("layers.layer.GeneralizedCost", costfunc=component("transforms.cost.X")),
        "optimizer": component("optimizers.optimizer.GradientDescentMomentum", momentum_coef=0.9),
        "model": {
            "type": "neon.layers.container.Sequential",
            "container": True,
            "config": {"name": "Sequential_0", "layers": allcnn_layers(variant, widths, outputs)},
        },
        "epoch_index": 350,
        "train_input_shape": (3, 32, 32),
    }


def network_file(
    *layers: dict[str, Any], container: str = "Sequential", **options: Any
) -> dict[str, Any]:
    """The tree of a model file of any network, in neon's native mode unless told otherwise."""
    return {
        "neon_version": "2.3.0",
        "backend": {"type": "NervanaCPU", "compat_mode": options.pop("compat_mode", "neon")},
        "model": layer_container(container, *layers, **options),
        "epoch_index": 1,
    }


def layer_container(kind: str, *layers: dict[str, Any], **config: Any) -> dict[str, Any]:
    """The record of a container of layers."""
    return {
        "type": f"neon.layers.container.{kind}",
        "container": True,
        "config": {**config, "layers": list(layers)},
    }


def early_neon_file(
    variant: Variant = "plain", *, widths: tuple[int, int] = (2, 3), outputs: int = 16
) -> dict[str, Any]:
    """The tree of a model file of neon 1.1.5: parameters without a network."""
    variant = "early_bias" if variant == "bias" else variant
    return early_file_of(neon_file(variant, widths=widths, outputs=outputs))


def early_file_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The parameters alone of a file with its network, as neon 1.1.5 would have saved them."""
    records: list[dict[str, Any]] = []
    for layer in tree["model"]["config"]["layers"]:
        kind, params = layer["type"].rpartition(".")[2], layer.get("params", {})
        if kind == "BatchNorm":
            params = [params[name] for name in ("beta", "gamma", "gmean", "gvar")]
            records.append({"params": params, "states": layer["states"]})
        for name, values in params.items() if isinstance(params, dict) else ():
            of_kind = "ConvolutionLayer" if name == "W" and kind != "Bias" else "BiasLayer"
            states = [np.zeros_like(values)]
            records.append({"params": {"W": values, "name": of_kind}, "states": states})
    return {"layer_params_states": records, "epoch_index": tree["epoch_index"]}


def allcnn_layers(
    variant: Variant = "plain", widths: tuple[int, int] = (2, 3), outputs: int = 16
) -> list[dict[str, Any]]:
    """The layer records of All-CNN-C."""
    random = np.random.default_rng(0)
    first, second = widths
    plan = [(3, first, 1), (3, first, 1), (3, first, 2), (3, second, 1), (3, second, 1)]
    plan += [(3, second, 2), (3, second, 1), (1, second, 1), (1, outputs, 1)]
    layers = []
    channels = 3
    for place, (size, width, stride) in enumerate(plan):
        if place in (0, 3, 6):
            layers.append(layer_record("Dropout", **({"keep": 0.8} if place == 0 else {})))
        layers += _convolution(random, variant, place, (channels, size, width), stride)
        layers.append(
            layer_record("Activation", transform=component("transforms.activation.Rectlin"))
        )
        channels = width
    layers.append(layer_record("Pooling", fshape=8, op="avg"))
    layers.append(layer_record("Activation", transform=component("transforms.activation.Softmax")))
    return layers


def _convolution(
    random: np.random.Generator,
    variant: Variant,
    place: int,
    shape: tuple[int, int, int],
    stride: int,
) -> list[dict[str, Any]]:
    channels, size, width = shape

    def values(*extents: int) -> np.ndarray:
        return random.normal(0.1, 0.5, extents).astype(np.float32)

    config = {"fshape": (size, size, width), "name": f"Convolution_{place}"}
    config |= {"padding": 1} if size == 3 else {}
    config |= {"strides": stride} if stride != 1 else {}
    params = {"W": values(channels * size * size, width)}
    if variant == "bias":
        params["weight_bias"] = values(width, 1)
        return [
            layer_record("Convolution_bias", params, **config, bias=component("initializers.X"))
        ]
    layers = [layer_record("Convolution", params, **config)]
    if variant == "early_bias":
        layers.append(layer_record("Bias", {"W": values(width, 1)}))
    if variant == "batch_norm" and place < 8:
        moments = {name: values(width, 1) for name in ("beta", "gamma", "gmean")}
        layers.append(layer_record("BatchNorm", {**moments, "gvar": values(width, 1) ** 2}))
    return layers


def component(name: str, /, **config: Any) -> dict[str, Any]:
    """The record of an object, such as an activation function."""
    return {"type": f"neon.{name}", "config": config}


def layer_record(
    kind: str, params: dict[str, np.ndarray] | None = None, /, **config: Any
) -> dict[str, Any]:
    """The record of a layer, with zero optimizer states for its parameters."""
    record = component(f"layers.layer.{kind}", **config)
    if params:
        record |= {"params": params, "states": [np.zeros_like(a) for a in params.values()]}
    return record


def allcnn_file(state: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The tree of a file with these weights: a trained All-CNN-C's `state_dict`.

    Where neon's dropout multiplies by its keep probability, the weights after it are divided by it.
    Biases are left out if all are zero.
    """
    arrays = {name: np.asarray(tensor, np.float32) for name, tensor in state.items()}
    names = [name.removesuffix(".weight") for name in arrays if name.endswith(".weight")]
    widths = len(arrays["features.conv1.weight"]), len(arrays["features.conv4.weight"])
    has_biases = any(arrays[f"{name}.bias"].any() for name in names)
    tree = neon_file(
        "bias" if has_biases else "plain",
        widths=widths,
        outputs=len(arrays["classifier.weight"]),
        **options,
    )
    keep = 1.0
    remaining = iter(names)
    for layer in tree["model"]["config"]["layers"]:
        if layer["type"].endswith("Dropout") and tree["backend"]["compat_mode"] == "neon":
            keep = layer["config"].get("keep", 0.5)
        if "params" in layer:
            name = next(remaining)
            kernel = arrays[f"{name}.weight"] / np.float32(keep)
            layer["params"]["W"] = np.ascontiguousarray(
                kernel.transpose(1, 2, 3, 0).reshape(-1, len(kernel))
            )
            if has_biases:
                layer["params"]["weight_bias"] = arrays[f"{name}.bias"].reshape(-1, 1)
            keep = 1.0
    return tree

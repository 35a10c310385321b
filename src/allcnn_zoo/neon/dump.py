"""From an All-CNN-C of ours to a model file as neon 2.3.0 itself wrote it under Python 2.7.

The file has the dialect of Python 2's cPickle and numpy 1.13, down to the order of keys and what is
remembered for sharing, so that whatever reads neon's files reads it.
"""

import os
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..errors import NeonError
from ..storage import write_atomically
from .convert import PLACES, DropoutMode, Place
from .unpickle import Array

if TYPE_CHECKING:
    from torch import nn

    from ..model import AllCNN

Weights: TypeAlias = dict[str, npt.NDArray[np.float32]]
Record: TypeAlias = dict[str, Any]

_VERSION = "2.3.0"
_DROPOUTS = ("dropout0", "dropout1", "dropout2")


def dump(model: "AllCNN", path: str | os.PathLike[str]) -> None:
    """Write an All-CNN-C as a neon 2.3.0 model file, ready for neon to load and train on.

    `convert_allcnn` gives back the very same weights, bit by bit. neon's native dropout multiplies
    by the keep probability at inference, so the weights after a dropout are divided by it; where
    no float32 gives the weight back exactly, the whole file uses Caffe's mode, in which nothing
    happens at inference. Biases are written only if one is not zero. The optimizer is that of the
    published training, its velocities are zero.

    Args:
        model: All-CNN-C of any widths and number of outputs, with neon's padding, a final ReLU and
            no batch normalisation (see `fold_batch_norm`), on any device.
        path: The file to write, completely or not at all.

    Raises:
        NeonError: neon's All-CNN-C differs from this network, or the weights are not finite.
        OSError: The file cannot be written.
    """
    weights = _weights(model)
    dropouts = (cast("nn.Dropout", model.features.get_submodule(name)) for name in _DROPOUTS)
    keeps = [1.0 - dropout.p for dropout in dropouts]
    provenance: Mapping[str, Any] = getattr(model.weights, "provenance", {})
    epoch = provenance.get("epoch")
    if type(epoch) is not int or not 0 <= epoch < 1 << 31:  # metadata may say anything
        epoch = 0
    tree = _model_file(weights, keeps, epoch)
    write_atomically(os.fspath(path), _Python2Pickler().pickle(tree))


def _weights(model: "AllCNN") -> Weights:
    architecture = model.architecture
    state = model.state_dict()
    expected = {f"{place.name}.{part}" for place in PLACES for part in ("weight", "bias")}
    for differs, what in (
        (architecture.name != "allcnn_c", f"this is {architecture.name}"),
        (architecture.last_padding != 1, "the last 3x3 convolution is not padded"),
        (not architecture.final_relu, "no ReLU follows the last convolution"),
        (state.keys() != expected, "it has batch normalisation; apply fold_batch_norm first"),
    ):
        if differs:
            raise NeonError(f"not the All-CNN-C that neon has: {what}")
    weights: Weights = {name: value.detach().cpu().float().numpy() for name, value in state.items()}
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise NeonError(f"{name} has values that are not finite")
    return weights


# Dropout.


def _unfold(weights: Weights, keeps: list[float]) -> tuple[Weights, DropoutMode]:
    """Weights that come back exactly when neon's dropout factors are folded in, and their mode."""
    dropped = [f"{place.name}.weight" for place in PLACES if place.keep is not None]
    divided = {}
    for name, keep in zip(dropped, keeps, strict=True):
        quotient = _exact_quotient(weights[name], keep)
        if quotient is None:
            return weights, "caffe"
        divided[name] = quotient
    return weights | divided, "neon"


def _exact_quotient(values: npt.NDArray[np.float32], keep: float) -> npt.NDArray[np.float32] | None:
    """Values that, times `keep`, round to the given ones; None if there are none.

    Rounding errs by half a unit in the last place, so the nearest float32 to the true quotient or
    one of its neighbours is such a value, if there is any.
    """
    with np.errstate(over="ignore"):
        nearest = (values.astype(np.float64) / keep).astype(np.float32)
        quotient, found = nearest, np.zeros(values.shape, bool)
        for direction in (None, np.float32(np.inf), np.float32(-np.inf)):
            candidate = nearest if direction is None else np.nextafter(nearest, direction)
            product = (candidate.astype(np.float64) * keep).astype(np.float32)
            fits = (product.view(np.uint32) == values.view(np.uint32)) & ~found
            quotient, found = np.where(fits, candidate, quotient), found | fits
    return quotient if found.all() else None


# The tree that neon saves, each dict in the order in which Python 2 kept it.


class _Fresh(str):
    """Text that neon makes anew each time it saves, so that no later mention refers back to it."""

    __slots__ = ()


def _model_file(weights: Weights, keeps: list[float], epoch: int) -> Record:
    weights, mode = _unfold(weights, keeps)
    random = np.random.MT19937(0).state["state"]
    return {
        "neon_version": _VERSION,
        "optimizer": _record(
            "optimizers.optimizer.GradientDescentMomentum",
            wdecay=0.001,
            learning_rate=0.05,
            momentum_coef=0.9,
            name="GradientDescentMomentum_0",
            schedule=_record(
                "optimizers.optimizer.Schedule", step_config=[200, 250, 300], change=0.1
            ),
        ),
        "train_input_shape": (3, 32, 32),
        "cost": _record(
            "layers.layer.GeneralizedCost",
            name="GeneralizedCost_0",
            costfunc=_record("transforms.cost.CrossEntropyMulti"),
        ),
        "model": {
            "config": {"layers": _layers(weights, keeps), "name": "Sequential_0"},
            "container": True,
            "type": _Fresh("neon.layers.container.Sequential"),
        },
        "epoch_index": epoch,
        "backend": {
            "rng_state": ("MT19937", random["key"].astype(np.uint32), int(random["pos"]), 0, 0.0),
            "compat_mode": mode,
            "type": "NervanaCPU",
            "rng_seed": 0,
        },
    }


def _layers(weights: Weights, keeps: list[float]) -> list[Record]:
    layers = []
    remaining = iter(enumerate(keeps))
    has_biases = any(weights[f"{place.name}.bias"].view(np.uint32).any() for place in PLACES)
    for index, place in enumerate(PLACES):
        if place.keep is not None:
            number, keep = next(remaining)
            stated = {} if keep == 0.5 else {"keep": keep}  # neon leaves out its default
            layers.append(_record("layers.layer.Dropout", name=f"Dropout_{number}", **stated))
        weight, bias = (weights[f"{place.name}.{part}"] for part in ("weight", "bias"))
        layers.append(_convolution(place, index, weight, bias if has_biases else None))
        name = f"{layers[-1]['config']['name']}_Rectlin"
        layers.append(_activation(name, "Rectlin"))
    layers.append(_record("layers.layer.Pooling", fshape=8, name="Pooling_0", op="avg"))
    layers.append(_activation(f"Activation_{len(PLACES)}", "Softmax"))
    return layers


def _convolution(
    place: Place, index: int, kernel: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None
) -> Record:
    kind = "Convolution" if bias is None else "Convolution_bias"
    weight = np.ascontiguousarray(kernel.transpose(1, 2, 3, 0)).reshape(-1, len(kernel))
    config: Record = {
        "padding": place.padding,
        "strides": place.stride,
        "init": _record("initializers.initializer.Gaussian", scale=0.05),
        "fshape": (place.size, place.size, len(kernel)),
        "bias": _record("initializers.initializer.Constant"),
        "name": f"{kind}_{index}",
    }
    params: dict[str, Array] = {"W": weight}
    states: list[Any] = [np.zeros_like(weight)]
    if bias is None:
        del config["bias"]
    else:
        params["weight_bias"] = bias.reshape(-1, 1)
        states = [states, [np.zeros_like(params["weight_bias"])]]
    if place.padding == 0:
        del config["padding"]
    if place.stride == 1:
        del config["strides"]
    elif bias is not None:  # one key more made Python 2's dict grow, which changed its order
        config = {
            key: config[key] for key in ("name", "bias", "padding", "strides", "init", "fshape")
        }
    return {
        "states": states,
        **_record(f"layers.layer.{kind}", **config),
        "params": params,
    }


def _activation(name: str, function: str) -> Record:
    transform = _record(f"transforms.activation.{function}", name=f"{function}_0")
    return _record("layers.layer.Activation", name=name, transform=transform)


def _record(kind: str, /, **config: Any) -> Record:
    return {"config": config, "type": _Fresh(f"neon.{kind}")}


# The pickle.


class _Python2Pickler:
    """Protocol 2 as Python 2.7's cPickle writes it, with numpy 1.13's arrays.

    cPickle remembers, for later references, only what somebody else still holds on to. For what
    neon saves that means: text of more than one letter, unless made anew; containers, unless
    empty; tuples of settings, but not those around arrays; and arrays.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = [b"\x80\x02"]
        self._memo: dict[str, int] = {}
        self._remembered = 0

    def pickle(self, tree: Record) -> bytes:
        self._write(tree)
        return b"".join([*self._parts, b"."])

    def _emit(self, *parts: bytes) -> None:
        self._parts.extend(parts)

    def _remember(self, key: str | None = None) -> None:
        self._remembered += 1  # cPickle counts from one
        if key is not None:
            self._memo[key] = self._remembered
        self._emit(_numbered(b"q", b"r", self._remembered))

    def _write_once(self, key: str, code: bytes) -> None:
        """Write something that has a name of its own, or refer back to it."""
        if key in self._memo:
            self._emit(_numbered(b"h", b"j", self._memo[key]))
        else:
            self._emit(code)
            self._remember(key)

    def _write_name(self, module: str, name: str) -> None:
        self._write_once(f"{module}.{name}", f"c{module}\n{name}\n".encode())

    def _write(self, value: Any) -> None:
        match value:
            case None | bool():
                self._emit({None: b"N", True: b"\x88", False: b"\x89"}[value])
            case int():
                self._emit(_integer(value))
            case float():
                self._emit(b"G", struct.pack(">d", value))
            case str():
                self._write_text(value)
            case tuple():
                self._write_tuple(value)
            case list():
                self._write_list(value)
            case dict():
                self._write_dict(value)
            case np.ndarray():
                self._write_array(value)

    def _write_text(self, text: str) -> None:
        code = _bytes(text.encode("ascii"))
        if isinstance(text, _Fresh) or len(text) == 1:
            self._emit(code)
        else:
            self._write_once(text, code)

    def _write_tuple(self, items: tuple[Any, ...]) -> None:
        if len(items) == 3:  # a shape among the settings
            for item in items:
                self._write(item)
            self._emit(b"\x87")
            self._remember()
        else:
            self._emit(b"(")
            for item in items:
                self._write(item)
            self._emit(b"t")

    def _write_list(self, items: list[Any]) -> None:
        self._emit(b"]")
        self._remember()
        if len(items) > 1:
            self._emit(b"(")
        for item in items:
            self._write(item)
        self._emit(b"a" if len(items) == 1 else b"e")

    def _write_dict(self, items: Record) -> None:
        self._emit(b"}")
        if not items:
            return
        self._remember()
        if len(items) > 1:
            self._emit(b"(")
        for key, value in items.items():
            self._write(key)
            self._write(value)
        self._emit(b"s" if len(items) == 1 else b"u")

    def _write_array(self, array: Array) -> None:
        self._write_name("numpy.core.multiarray", "_reconstruct")
        self._write_name("numpy", "ndarray")
        self._emit(_integer(0), b"\x85", _bytes(b"b"), b"\x87R")
        self._remember()
        shape = b"".join(map(_integer, array.shape))
        self._emit(b"(", _integer(1), shape, b"\x85" if array.ndim == 1 else b"\x86")
        self._write_dtype(array.dtype)
        self._emit(b"\x89", _bytes(array.astype(array.dtype.newbyteorder("<")).tobytes()), b"tb")

    def _write_dtype(self, dtype: np.dtype[Any]) -> None:
        code = f"{dtype.kind}{dtype.itemsize}"
        if f"dtype {code}" in self._memo:
            self._write_once(f"dtype {code}", b"")
            return
        self._write_name("numpy", "dtype")
        self._emit(_bytes(code.encode()), _integer(0), _integer(1), b"\x87R")
        self._remember(f"dtype {code}")
        self._emit(b"(", _integer(3), _bytes(b"<"), b"NNN", _integer(-1) * 2, _integer(0), b"tb")


def _numbered(short: bytes, long: bytes, index: int) -> bytes:
    return short + bytes([index]) if index < 256 else long + struct.pack("<I", index)


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return b"K" + struct.pack("<B", value)
    if 0 <= value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    return b"J" + struct.pack("<i", value)


def _bytes(data: bytes) -> bytes:
    if len(data) < 1 << 8:
        return b"U" + struct.pack("<B", len(data)) + data
    return b"T" + struct.pack("<i", len(data)) + data

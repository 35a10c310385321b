"""The front door: networks and weights by name."""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from . import checkpoint, hub, huggingface
from .architectures import STAGES, Architecture
from .errors import ArchitectureError, HubError, UnknownNameError, check_name
from .model import AllCNN
from .weights import ASSETS, CATALOGUE, CONVERTER_VERSION, Weights, get_weights, list_weights

_SAFETENSORS_SUFFIX = ".safetensors"


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    weights: str | Weights | None = None,
    num_classes: int = 10,
    progress: bool = True,
    widths: tuple[int, int] | None = None,
    last_padding: int | None = None,
    final_relu: bool | None = None,
) -> AllCNN:
    """Any of the networks by name, with or without weights.

    Args:
        name: A network (``"allcnn_c"``), or a network and a tag (``"allcnn_c.neon_e350"``).
        pretrained: Load weights: those of the tag if `name` has one, else the preferred ones, or,
            if these cannot be had, those in the package, with a warning. Without it, and without
            `weights`, the network is fresh, whatever its tag.
        weights: Exactly these weights, by tag or record; implies `pretrained`.
        num_classes: Outputs. With weights and a number other than theirs, the trunk is kept, the
            last convolution starts afresh, and a warning says so.
        progress: Show a bar while downloading, if standard error is a terminal.
        widths: Channels of the two stages; like the next two, what `Architecture` has or what the
            weights were trained with if None.
        last_padding: 1 as in neon, 0 as in the paper.
        final_relu: Whether a ReLU follows the last convolution.

    Returns:
        The network: in eval mode with weights, in training mode without.

    Raises:
        UnknownNameError: There is no such network, or there are no such weights.
        ArchitectureError: The arguments do not make a network, or not the one of the weights.
        HubError: The weights cannot be had; the message says what was tried and what to do.
    """
    model_name, _, tag = name.partition(".")
    check_name(model_name, STAGES, "network")
    record = _insisted_on(model_name, tag, weights)
    asked: dict[str, Any] = {
        "widths": widths,
        "last_padding": last_padding,
        "final_relu": final_relu,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    architecture = Architecture(model_name, num_classes, **asked)
    if weights is None and not pretrained:
        return AllCNN(architecture)
    if record is not None:
        model = _load_published(record, progress=progress)
    else:
        model = _load_preferred(model_name, progress=progress)
    for key, value in asked.items():
        if getattr(model.architecture, key) != value:
            raise ArchitectureError(
                f"{key}={value!r} does not go with weights that were trained with"
                f" {key}={getattr(model.architecture, key)!r}; leave it out"
            )
    return _with_outputs(model, num_classes)


def allcnn_a(
    pretrained: bool = False,
    *,
    weights: str | Weights | None = None,
    num_classes: int = 10,
    progress: bool = True,
) -> AllCNN:
    """All-CNN-A, 1,254,250 parameters: 5x5 kernels. Arguments and errors: see `create_model`."""
    return create_model(
        "allcnn_a", pretrained, weights=weights, num_classes=num_classes, progress=progress
    )


def allcnn_b(
    pretrained: bool = False,
    *,
    weights: str | Weights | None = None,
    num_classes: int = 10,
    progress: bool = True,
) -> AllCNN:
    """All-CNN-B, 1,300,618 parameters: 5x5 and 1x1 kernels. See `create_model`."""
    return create_model(
        "allcnn_b", pretrained, weights=weights, num_classes=num_classes, progress=progress
    )


def allcnn_c(
    pretrained: bool = False,
    *,
    weights: str | Weights | None = None,
    num_classes: int = 10,
    progress: bool = True,
) -> AllCNN:
    """All-CNN-C, 1,369,738 parameters: 3x3 kernels throughout. See `create_model`.

    With ``pretrained=True``, the weights that Nervana trained with neon for 350 epochs: 89.5 %
    top-1 on CIFAR-10 without augmentation, downloaded once, converted without being executed, and
    cached. ``model.preprocess`` is the preprocessing that they need.
    """
    return create_model(
        "allcnn_c", pretrained, weights=weights, num_classes=num_classes, progress=progress
    )


def load(source: str | Path, *, progress: bool = True) -> AllCNN:
    """A network with its weights, from a file or by name, in eval mode.

    Args:
        source: A weights file of ours, a folder that `huggingface.save_pretrained` wrote, a neon
            ``.p`` file, a published tag (``"neon_e350"``), a network's name for its preferred
            weights, or a repository on the Hugging Face Hub (``"hf://owner/name"``,
            ``"hf://owner/name@revision"``). A name goes before a file of that name; write
            ``./name`` for the file.
        progress: Show a bar while downloading, if standard error is a terminal.

    Raises:
        UnknownNameError: `source` is neither a file nor a name.
        CheckpointError: A safetensors file is missing, damaged or of another kind.
        NeonError: A pickle is not neon's, is of another network, or is not safe.
        HubError: Published weights, or those of a repository, cannot be had.
    """
    if isinstance(source, str) and source.startswith(huggingface.SCHEME):
        repo, _, revision = source.removeprefix(huggingface.SCHEME).partition("@")
        return checkpoint.load(huggingface.download(repo, revision=revision or None))
    names = {name for weights in CATALOGUE for name in (weights.tag, weights.name)}
    if isinstance(source, str) and source in STAGES:
        return create_model(source, pretrained=True, progress=progress)
    if isinstance(source, str) and source in names:
        return _load_published(get_weights(source), progress=progress)
    path = Path(source)
    if path.suffix == _SAFETENSORS_SUFFIX:
        return checkpoint.load(path)
    # Unlike Path's, this says no where nobody may look.
    if os.path.isfile(path / huggingface.WEIGHTS_FILE):  # noqa: PTH113
        return huggingface.from_pretrained(path)
    if _is_missing(path):
        check_name(str(source), [*names, *STAGES], "file, network or published set of weights")
    return checkpoint.build(*_read_neon(path))


def _is_missing(path: Path) -> bool:
    """Whether nothing is there. Where nobody may look, something may be: reading says the rest."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def download(
    weights: str | Weights,
    *,
    cache: hub.Cache | None = None,
    progress: bool = True,
    trust_new: bool = False,
) -> Path:
    """Have published weights at hand: downloaded, verified, converted, cached.

    Args:
        weights: Tag, full name or record; ``dataclasses.replace(record, sha256=...)`` pins one.
        cache: Where to keep them and how to fetch them, such as
            ``hub.Cache(session=a_requests_session)``; by the environment's variables if None.
        progress: Show a bar, if standard error is a terminal.
        trust_new: Accept another digest than the one recorded on first use.

    Returns:
        The weights file: in the cache, or in the package for weights that come with it.

    Raises:
        UnknownNameError: There are no such weights.
        HubError: They cannot be had; the message says what was tried and what to do. Or the
            record's digest is not one.
    """
    record = get_weights(weights) if isinstance(weights, str) else weights
    if record.bundled is not None:
        return ASSETS / record.bundled
    assert record.url is not None
    assert record.key is not None
    resource = hub.Resource(record.key, record.url, record.sha256, record.size)
    try:
        return (cache or hub.Cache()).derive(
            resource,
            f"{record.tag}-converted-v{CONVERTER_VERSION}{_SAFETENSORS_SUFFIX}",
            _convert_published,
            progress=progress,
            trust_new=trust_new,
        )
    except HubError as error:
        raise type(error)(
            f"{error}\nIf you have the file, `allcnn-zoo convert FILE.p OUT.safetensors` and"
            " allcnn_zoo.load('OUT.safetensors') need no network."
        ) from error


def _insisted_on(model_name: str, tag: str, weights: str | Weights | None) -> Weights | None:
    """The weights that the caller names, by tag in the network's name or by argument, if any."""
    record = get_weights(weights) if isinstance(weights, str) else weights
    tagged = get_weights(f"{model_name}.{tag}") if tag else None
    if record is None:
        return tagged
    if tagged not in (None, record):
        raise UnknownNameError(
            f"{model_name}.{tag} is not weights={record.name!r}; give one of them"
        )
    if record.architecture != model_name:
        raise UnknownNameError(f"{record.name} does not fit {model_name}")
    return record


def _published_for(model_name: str) -> list[Weights]:
    published = list_weights(model_name)
    if not published:
        having = sorted({weights.architecture for weights in CATALOGUE})
        raise UnknownNameError(
            f"no weights have been published for {model_name}, only for {', '.join(having)};"
            " leave out pretrained=True for a fresh network"
        )
    return published


def _load_published(record: Weights, *, progress: bool) -> AllCNN:
    """Exactly these weights: from the package, or from the cache, a mirror or the publisher."""
    model = checkpoint.load(download(record, progress=progress))
    assert isinstance(model.weights, checkpoint.Metadata)
    model.weights = dataclasses.replace(model.weights, tag=record.tag)
    return model


# The reader of neon's files is large, and weights in the package or in the cache do not need it.


def _read_neon(path: Path) -> tuple[dict[str, Tensor], checkpoint.Metadata]:
    from .from_neon import read_neon

    return read_neon(path)


def _convert_published(source: hub.CachedFile, destination: Path) -> None:
    from .from_neon import convert_neon

    convert_neon(source.path, destination, source_url=source.url)


def _load_preferred(model_name: str, *, progress: bool) -> AllCNN:
    """The preferred weights, or, if they cannot be had, those in the package, loudly."""
    preferred, *others = _published_for(model_name)
    try:
        return _load_published(preferred, progress=progress)
    except HubError as error:
        substitute = next((record for record in others if record.bundled is not None), None)
        if substitute is None:
            raise
        warnings.warn(
            f"{preferred.name} cannot be had, so these are {substitute.name}, which come with the"
            f" package. To insist on the former, write weights={preferred.tag!r}; to have the"
            f" latter without this warning, weights={substitute.tag!r}. The reason: {error}",
            stacklevel=4,
        )
        return _load_published(substitute, progress=progress)


def _with_outputs(model: AllCNN, num_classes: int) -> AllCNN:
    trained = model.architecture.num_classes
    if num_classes != trained:
        model.reset_classifier(num_classes)
        warnings.warn(
            f"the weights have {trained} outputs, you asked for num_classes={num_classes}: the"
            " trunk is pretrained, the last convolution is random and has to be trained",
            stacklevel=3,
        )
    return model

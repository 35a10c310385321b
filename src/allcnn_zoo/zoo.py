"""Networks and weights by name: create, load, download."""

import dataclasses
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checkpoint
from .architectures import STAGES, Architecture
from .errors import (
    ArchitectureError,
    CheckpointError,
    HubError,
    UnknownNameError,
    check_name,
    printable,
)
from .model import AllCNN, build
from .model import load as load_file
from .storage import expanded
from .weights import ASSETS, Weights, converted_name, get_weights, list_weights, published_names

if TYPE_CHECKING:
    from .hub import Cache, CachedFile
else:
    Cache = Any  # for `typing.get_type_hints`, without the hub, which bundled weights do not need

_SAFETENSORS_SUFFIX = ".safetensors"
_PREFERRED = "DEFAULT"  # torchvision's word for it
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters, so that no drive is meant


def create_model(
    name: str,
    pretrained: bool | str = False,
    *,
    weights: str | Weights | None = None,
    num_classes: int | None = None,
    progress: bool = True,
    widths: tuple[int, int] | None = None,
    last_padding: int | None = None,
    final_relu: bool | None = None,
) -> AllCNN:
    """Create a network by name, with or without weights.

    Args:
        name: A network (``"allcnn_c"``), or a network and a tag (``"allcnn_c.neon_e350"``).
        pretrained: Load weights: those of the tag if `name` has one, else the preferred ones, or,
            if these are unavailable, bundled ones, with a warning. A tag is short for
            ``weights=tag``. Without it, and without `weights`, the network is fresh.
        weights: Exactly these weights, by tag or record; ``"DEFAULT"`` is ``pretrained=True``.
        num_classes: Outputs; 10 or those of the weights if None, and 0 for averaged features. With
            weights and another number, the trunk is kept, the last convolution starts afresh, and
            a warning says so.
        progress: Show a bar while downloading, if standard error is a terminal.
        widths: Channels of the two stages. If this or one of the next two is None, the weights
            decide, or the defaults of `Architecture`.
        last_padding: 1 as in neon, 0 as in the paper.
        final_relu: Whether a ReLU follows the last convolution.

    Returns:
        The network: in eval mode with weights, in training mode without.

    Raises:
        UnknownNameError: There is no such network, or there are no such weights.
        ArchitectureError: The arguments do not define a network, or do not fit the weights.
        HubError: The weights are unavailable; the message says what was tried and what to do.
    """
    model_name, _, tag = name.partition(".")
    check_name(model_name, STAGES, "network")
    if isinstance(pretrained, str):
        if weights not in (None, pretrained):
            raise UnknownNameError(f"pretrained={pretrained!r} is not weights={weights!r:.80}")
        weights = pretrained
    if weights == _PREFERRED:
        pretrained, weights = True, None
    record = _chosen(model_name, tag, weights)
    options = {"widths": widths, "last_padding": last_padding, "final_relu": final_relu}
    asked: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    architecture = Architecture(model_name, 10 if num_classes is None else num_classes, **asked)
    if weights is None and not pretrained:
        return AllCNN(architecture)
    model = _load_published(record, progress) if record else _load_preferred(model_name, progress)
    for key, value in asked.items():
        if getattr(model.architecture, key) != value:
            raise ArchitectureError(
                f"{key}={value!r} does not go with weights that were trained with"
                f" {key}={getattr(model.architecture, key)!r}; leave it out"
            )
    trained = model.num_classes
    if num_classes not in (None, trained):
        model.reset_classifier(num_classes)
    if num_classes not in (None, 0, trained):
        warnings.warn(
            f"the weights have {trained} outputs, you asked for num_classes={num_classes}: the"
            " trunk is pretrained, the last convolution is random and has to be trained",
            stacklevel=2,
        )
    return model


def allcnn_a(
    pretrained: bool | str = False,
    *,
    weights: str | Weights | None = None,
    num_classes: int | None = None,
    progress: bool = True,
) -> AllCNN:
    """All-CNN-A, 1,254,250 parameters: 5x5 kernels. Arguments and errors: see `create_model`."""
    return create_model(
        "allcnn_a", pretrained, weights=weights, num_classes=num_classes, progress=progress
    )


def allcnn_b(
    pretrained: bool | str = False,
    *,
    weights: str | Weights | None = None,
    num_classes: int | None = None,
    progress: bool = True,
) -> AllCNN:
    """All-CNN-B, 1,300,618 parameters: 5x5 and 1x1 kernels. See `create_model`."""
    return create_model(
        "allcnn_b", pretrained, weights=weights, num_classes=num_classes, progress=progress
    )


def allcnn_c(
    pretrained: bool | str = False,
    *,
    weights: str | Weights | None = None,
    num_classes: int | None = None,
    progress: bool = True,
) -> AllCNN:
    """All-CNN-C, 1,369,738 parameters: 3x3 kernels throughout. See `create_model`.

    With ``pretrained=True``, the weights that Nervana trained with neon for 350 epochs: 89.5 %
    top-1 on CIFAR-10 by Nervana's account, not measured by us. They are downloaded once, converted
    without being executed, tested on arrival, and cached; ``model.preprocess`` is the preprocessing
    that the test found.
    """
    return create_model(
        "allcnn_c", pretrained, weights=weights, num_classes=num_classes, progress=progress
    )


def load(source: str | Path | Weights, *, progress: bool = True) -> AllCNN:
    """A network with its weights, from a file, an address or by name, in eval mode.

    Args:
        source: A weights file of ours; a neon ``.p`` file; the ``https://``, ``http://`` or
            ``file://`` address of either; a published tag (``"neon_e350"``) or record; a network's
            name for its preferred weights; a folder that `huggingface.save_pretrained` wrote, or a
            repository on the Hugging Face Hub (``"hf://owner/name"``, ``"hf://owner/name@revision"``).
            A name goes before a file of that name; write ``./name`` for the file.
        progress: Show a bar while downloading, if standard error is a terminal.

    Raises:
        UnknownNameError: `source` is one word, and neither a file nor a name.
        CheckpointError: A safetensors file is missing, damaged or of another kind.
        NeonError: A pickle is missing, not neon's, of another network, or not safe.
        HubError: Published weights, or those of an address or repository, are unavailable.
    """
    if isinstance(source, Weights):
        return _load_published(source, progress)
    if not isinstance(source, str | os.PathLike):
        raise UnknownNameError(
            "load takes a file, an address, a name or a record of weights, not a"
            f" {type(source).__name__}"
        )
    if source in STAGES:
        return create_model(str(source), pretrained=True, progress=progress)
    names = published_names()
    if source in names:
        return _load_published(get_weights(str(source)), progress)
    from . import huggingface  # with the hub

    if isinstance(source, str) and source.startswith(huggingface.SCHEME):
        return huggingface.from_pretrained(source)
    if _SCHEME.match(str(source)):
        return load_file(_download(Weights("weights", "", str(source)), progress=progress))
    path = expanded(source)
    if path.suffix.lower() == _SAFETENSORS_SUFFIX:
        return load_file(path)
    # Unlike Path's, this is False, not an error, in a folder without permission.
    if os.path.isfile(path / huggingface.WEIGHTS_FILE):  # noqa: PTH113
        return huggingface.from_pretrained(path)
    if path.name == str(source) and not os.path.lexists(path):
        check_name(path.name, [*names, *STAGES], "file, network or published set of weights")
    from .from_neon import read_neon  # large, and not needed for weights of ours

    return build(*read_neon(path))


def download(
    weights: str | Weights,
    *,
    cache: Cache | None = None,
    progress: bool = True,
    trust_new: bool = False,
) -> Path:
    """Download published weights in advance: verified, converted, self-tested, cached.

    Args:
        weights: Tag, full name or record; ``dataclasses.replace(record, sha256=...)`` pins one.
        cache: Where to keep them and how to fetch them, for example
            ``hub.Cache(session=a_requests_session)``; set by environment variables if None.
        progress: Show a bar, if standard error is a terminal.
        trust_new: Accept another digest than the one recorded on first use.

    Returns:
        The weights file: in the cache, or in the package for weights that come with it.

    Raises:
        UnknownNameError: There are no such weights.
        HubError: They are unavailable; the message says what was tried and what to do. Or the
            record's address or digest is not one.
    """
    record = weights if isinstance(weights, Weights) else get_weights(weights)
    return _download(record, cache, progress=progress, trust_new=trust_new)


def _download(record: Weights, cache: Cache | None = None, **options: bool) -> Path:
    """The weights file of a record: bundled, or in the cache, converted if it is neon's."""
    if record.bundled is not None:
        return ASSETS / record.bundled
    if record.url is None:
        raise UnknownNameError(f"{record.name} has neither url= nor bundled=; give one of them")
    from . import hub

    # An address may be a local path, and so a `Path`.
    resource = hub.Resource(record.key, str(record.url), record.sha256, record.size)
    cache = cache or hub.Cache()
    if resource.name.lower().endswith(_SAFETENSORS_SUFFIX):
        # A file of another kind does not enter the cache.
        return cache.fetch(resource, check=checkpoint.read, **options).path

    def convert(source: "CachedFile", destination: Path) -> None:
        from .from_neon import convert_neon  # as above

        convert_neon(source.path, destination, source_url=source.url)

    try:
        return cache.derive(resource, converted_name(record.tag), convert, **options)
    except HubError as error:
        raise type(error)(
            f"{error}\nIf you have the file, `allcnn-zoo convert FILE.p OUT.safetensors` and"
            " allcnn_zoo.load('OUT.safetensors') need no network."
        ) from error


def _chosen(model_name: str, tag: str, weights: str | Weights | None) -> Weights | None:
    """The weights that the caller names, by tag in the network's name or by argument, if any."""
    if not isinstance(weights, Weights | None):  # several networks may have a tag
        name = f"{model_name}.{weights}"
        weights = get_weights(name if name in published_names() else weights)
    tagged = get_weights(f"{model_name}.{tag}") if tag else None
    if weights is None:
        return tagged
    if tagged not in (None, weights):
        raise UnknownNameError(
            f"{model_name}.{tag} is not weights={weights.name!r}; give one of them"
        )
    if weights.architecture != model_name:
        raise UnknownNameError(f"{weights.name} does not fit {model_name}")
    return weights


def _load_published(record: Weights, progress: bool, *, retry_failed: bool = True) -> AllCNN:
    """Exactly these weights: from the package, or from the cache, a mirror or the publisher."""
    path = _download(record, progress=progress, retry_failed=retry_failed)
    # Its digest was checked when it was published or first arrived.
    content = checkpoint.read(path, check_digest=False)
    if content.metadata.architecture.name != record.architecture:
        raise CheckpointError(
            f"{printable(path)} holds weights of {content.metadata.architecture.name}, not of"
            f" {record.architecture} as in the record of {record.name}"
        )
    metadata = dataclasses.replace(content.metadata, tag=record.tag)
    return build(content.tensors, metadata, content.preprocess)


def _load_preferred(model_name: str, progress: bool) -> AllCNN:
    """The preferred weights, or, if they are unavailable, those in the package, with a warning."""
    preferred, *bundled = list_weights(model_name)
    try:
        return _load_published(preferred, progress, retry_failed=False)
    except HubError:
        if not bundled:
            raise
    warnings.warn(
        f"{preferred.tag} is unavailable; loaded {bundled[0].tag} from the package instead."
        f" To avoid this warning, pass weights={bundled[0].tag!r}.\n"
        f"`allcnn-zoo download {preferred.tag}` tries again and shows the reasons.",
        stacklevel=4,
    )
    return _load_published(bundled[0], progress)

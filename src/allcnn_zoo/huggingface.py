"""Networks as Hugging Face repositories, in a local folder or on the Hub.

    model.safetensors   the weights file that `model.save` writes: the only one that is read back
    config.json         network, classes and preprocessing, for other programs
    README.md           the model card

Folders need no further package. The Hub needs huggingface_hub (``allcnn-zoo[huggingface]``), which
keeps its own cache and the token. Pickles are never read.
"""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .cifar import dataset_of
from .errors import CheckpointError, HubError, OfflineError, printable
from .hub import OFFLINE_VARIABLE
from .hub.settings import offline
from .model import AllCNN
from .model import load as load_file
from .storage import expanded, to_json, write_atomically
from .version import __version__
from .weights import PAPER, Metadata

#: The beginning of a repository's name where other weights could be meant, too.
SCHEME = "hf://"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"

_LIBRARY = "allcnn_zoo"
_TASK = "image-classification"
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_json = functools.partial(to_json, ensure_ascii=False)

_CARD = """---
{front_matter}
---

# {architecture.name}, {tag}

From {paper}: {parameters:,} parameters, {architecture.num_classes} classes ({classes}).

```python
import allcnn_zoo  # pip install 'allcnn-zoo[huggingface]'

print(allcnn_zoo.Classifier.from_pretrained("hf://{repo}")("cat.png"))

model = allcnn_zoo.load("hf://{repo}")
probabilities = model(model.preprocess(images)).softmax(-1)  # images: uint8 (N, 3, 32, 32)
```

The images must go through the preprocessing `{preprocessing}`: contrast normalization and ZCA
whitening, which the library applies.

## Metrics

{metrics}

## Provenance

```json
{provenance}
```
"""


def save_pretrained(
    model: AllCNN,
    directory: str | Path,
    *,
    metadata: Metadata | None = None,
    licence: str | None = None,
) -> None:
    """Write a network as a repository in Hugging Face's format, in a local folder.

    An existing model card is kept, because somebody may have edited it.

    Args:
        model: The plain network.
        directory: Where to write; created if missing.
        metadata: The description of the weights; ``model.weights`` by default.
        licence: The Hub's identifier of the weights' license, for example ``"apache-2.0"``.

    Raises:
        CheckpointError: The weights have no description, or it does not fit them.
        OSError: A file cannot be written.
    """
    files = _files(model, metadata, licence, repo="OWNER/NAME")
    directory = expanded(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name != CARD_FILE or not (directory / name).exists():
            write_atomically(directory / name, content)


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> AllCNN:
    """Load a network with its weights, in eval mode, from a folder or from the Hub.

    A download is kept in huggingface_hub's cache. With ``ALLCNN_ZOO_OFFLINE`` or its own
    ``HF_HUB_OFFLINE``, only that cache is used.

    Args:
        source: A folder that `save_pretrained` wrote, or a repository: ``"owner/name"``,
            ``"hf://owner/name"`` or ``"hf://owner/name@revision"``.
        revision: Branch, tag or commit; the main branch by default.
        token: For private repositories; the one that ``hf auth login`` stored by default.
        cache_dir: Where to keep downloads; huggingface_hub's cache by default.

    Raises:
        CheckpointError: The folder or its weights file is missing, or the file is damaged.
        HubError: The weights are unavailable on the Hub; the message says what to do.
    """
    folder = expanded(source)
    if os.path.isdir(folder):  # noqa: PTH112 - Path's raises an error for names that are too long
        return load_file(folder / WEIGHTS_FILE)
    repo, _, at = str(source).removeprefix(SCHEME).partition("@")
    if isinstance(source, Path) or not _REPOSITORY.fullmatch(repo):
        raise CheckpointError(
            f"{printable(source)}: no such folder, and not the name of a repository (owner/name)"
        )
    with _explained(f"{repo} is not a folder, and unavailable on the Hugging Face Hub") as hub:
        path = hub.hf_hub_download(
            repo,
            WEIGHTS_FILE,
            revision=revision or at or None,
            token=token,
            cache_dir=cache_dir,
            local_files_only=offline(),
            library_name=_LIBRARY,
            library_version=__version__,
        )
    return load_file(path)


def push_to_hub(
    model: AllCNN,
    repo: str,
    *,
    metadata: Metadata | None = None,
    licence: str | None = None,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload with allcnn_zoo",
) -> str:
    """Upload to the Hub, in one commit, what `save_pretrained` writes.

    Args:
        model: The plain network.
        repo: Where to upload, ``"owner/name"``; created if missing. Its model card is kept.
        metadata: The description of the weights; ``model.weights`` by default.
        licence: The Hub's identifier of the weights' license, for example ``"apache-2.0"``.
        private: Whether a new repository is private.
        token: A token with write access; the one that ``hf auth login`` stored by default.
        message: The commit message.

    Returns:
        The commit's URL.

    Raises:
        CheckpointError: The weights have no description, or it does not fit them.
        HubError: The Hub cannot be reached, or refuses; the message says what to do.
    """
    files = _files(model, metadata, licence, repo=repo)
    with _explained(f"cannot push to {repo} on the Hugging Face Hub") as hub:
        if offline():
            raise hub.errors.OfflineModeIsEnabled("a push needs the network")
        api = hub.HfApi(token=token, library_name=_LIBRARY, library_version=__version__)
        api.create_repo(repo, private=private, exist_ok=True)
        if api.file_exists(repo, CARD_FILE):
            del files[CARD_FILE]
        operations = [hub.CommitOperationAdd(*file) for file in files.items()]
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)


def _files(
    model: AllCNN, metadata: Metadata | None, licence: str | None, *, repo: str
) -> dict[str, bytes]:
    """Validate everything, and build the content of each file."""
    described = metadata or model.weights
    if described is None:
        raise CheckpointError(
            "there is no description of these weights; pass"
            " metadata=Metadata(tag, model.architecture, classes)"
        )
    return {
        WEIGHTS_FILE: model.to_bytes(described),
        CONFIG_FILE: _json(_config(described), indent=2).encode() + b"\n",
        # Unlike the JSON of the weights, UTF-8 has no halves of characters: they stay escaped.
        CARD_FILE: _card(described, licence, repo).encode("utf-8", "backslashreplace"),
    }


def _config(metadata: Metadata) -> dict[str, Any]:
    """The header of the weights, under the keys that the Hub's programs know."""
    return {
        "library_name": _LIBRARY,
        "library_version": __version__,
        "architectures": [AllCNN.__name__],
        "architecture": dataclasses.asdict(metadata.architecture),
        "num_classes": metadata.architecture.num_classes,
        "id2label": dict(enumerate(metadata.classes)),
        "label2id": {name: index for index, name in enumerate(metadata.classes)},
        "preprocessing": {"name": metadata.preprocessing, "input": "uint8 RGB (N, 3, 32, 32)"},
        "tag": metadata.tag,
    }


def _card(metadata: Metadata, licence: str | None, repo: str) -> str:
    rows = [
        f"| {images.replace('_', ' ')} | {name.replace('_', ' ')} | {value:.6g} |"
        for images, measured in metadata.metrics.items()
        if isinstance(measured, Mapping)
        for name, value in measured.items()
        if isinstance(value, (int, float))
    ]
    table = ["| images | metric | value |", "| --- | --- | --- |", *rows]
    return _CARD.format(
        # JSON is YAML, and escapes any character that a name may contain.
        front_matter="\n".join(
            f"{key}: {_json(value)}" for key, value in _front_matter(metadata, licence).items()
        ),
        tag=metadata.tag,
        architecture=metadata.architecture,
        parameters=metadata.architecture.count_parameters(),
        paper=PAPER,
        classes=", ".join(metadata.classes),
        repo=repo,
        preprocessing=metadata.preprocessing,
        metrics="\n".join(table) if rows else "None have been recorded.",
        provenance=_json(metadata.provenance, indent=2),
    )


def _front_matter(metadata: Metadata, licence: str | None) -> dict[str, Any]:
    """The fields of the card's header; data set and accuracy only if they are known."""
    fields: dict[str, Any] = {"library_name": _LIBRARY, "pipeline_tag": _TASK}
    fields["tags"] = ["all-cnn", "pytorch", "zca-whitening"]
    if licence is not None:
        fields["license"] = licence
    if dataset := dataset_of(metadata.classes):
        fields["datasets"] = [dataset.name]
        match metadata.metrics:
            case {"test": {"accuracy": float(accuracy)}}:
                metrics = [{"type": "accuracy", "name": "top-1 accuracy", "value": accuracy}]
                source = {"type": dataset.name, "name": dataset.title, "split": "test"}
                result = {"task": {"type": _TASK}, "dataset": source, "metrics": metrics}
                fields["metrics"] = ["accuracy"]
                fields["model-index"] = [{"name": metadata.tag, "results": [result]}]
    return fields


@contextlib.contextmanager
def _explained(what: str) -> Iterator[Any]:
    """Provide huggingface_hub, and turn its errors into a `HubError` with a hint."""
    try:
        import huggingface_hub.constants  # a mere folder of this name has no such module
    except ImportError as error:
        raise HubError(
            f"{what} without huggingface_hub: pip install 'allcnn-zoo[huggingface]'"
        ) from error
    try:
        yield huggingface_hub
    except Exception as error:  # noqa: BLE001 - which may quote anything that a server says
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()), 400)
        if offline() or huggingface_hub.constants.HF_HUB_OFFLINE:
            raise OfflineError(
                f"{what}: {OFFLINE_VARIABLE} or HF_HUB_OFFLINE forbids the network; unset it"
                f" ({reason})"
            ) from None
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403, 404):
            reason += "; private repositories and every push need token=... or `hf auth login`"
        raise HubError(f"{what}: {reason}") from None

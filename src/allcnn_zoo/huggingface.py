"""Networks as repositories in Hugging Face's format, in a local folder or on their Hub.

    model.safetensors   our weights file, byte for byte: the only one that is read back
    config.json         the same header for programs that look for one
    README.md           the model card

Folders need nothing; the Hub needs huggingface_hub (``allcnn-zoo[huggingface]``), which keeps the
token and a cache of its own. No pickle is ever read.
"""

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .architectures import CIFAR10_CLASSES
from .errors import CheckpointError, HubError, OfflineError
from .hub import OFFLINE_VARIABLE
from .hub.settings import offline
from .model import AllCNN
from .model import load as load_file
from .storage import to_json, write_atomically
from .version import __version__
from .weights import PAPER, Metadata

#: What a repository's name begins with where other weights could be meant, too.
SCHEME = "hf://"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"

_LIBRARY = "allcnn_zoo"
_DATASET = {"type": "cifar10", "name": "CIFAR-10", "split": "test"}

_CARD = """---
{front_matter}
---

# {name}

{architecture}, {parameters:,} parameters, from {paper}. It tells apart {count} classes:
{classes}.

## Use

```sh
pip install 'allcnn-zoo[huggingface]'
```

```python
import allcnn_zoo

classifier = allcnn_zoo.Classifier.from_pretrained("hf://{repo}")
print(classifier("cat.png"))

model = allcnn_zoo.load("hf://{repo}")
probabilities = model(model.preprocess(images)).softmax(-1)  # images: uint8 (N, 3, 32, 32)
```

The images must go through the preprocessing `{preprocessing}`, contrast normalisation and ZCA
whitening, which the library brings along. `{weights_file}` can be read by any safetensors reader.

## Figures

{figures}

## Where the weights come from

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
    """Write a network as a repository in Hugging Face's format; no network, no huggingface_hub.

    A model card that is there already may be somebody's prose, so it stays.

    Args:
        model: The plain network.
        directory: Where to; made if it is missing.
        metadata: What the weights are; ``model.weights`` by default.
        licence: The Hub's identifier of the weights' licence, such as ``"apache-2.0"``.

    Raises:
        CheckpointError: The weights are not described, or are not those that are described.
        OSError: A file cannot be written.
    """
    files = _files(model, metadata, licence, repo="OWNER/NAME")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / CARD_FILE).exists():
        del files[CARD_FILE]
    for name, content in files.items():
        write_atomically(directory / name, content)


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> AllCNN:
    """A network with its weights, in eval mode, from a folder or from the Hub.

    Args:
        source: A folder that `save_pretrained` wrote, or else a repository, ``"owner/name"`` or
            ``"hf://owner/name"``.
        revision: Branch, tag or commit; the main branch by default.
        token: For private repositories; the one that ``hf auth login`` stored by default.
        cache_dir: Where to keep what is downloaded; huggingface_hub's cache by default.

    Raises:
        CheckpointError: The weights file is missing in the folder, damaged or of another kind.
        HubError: The weights cannot be had from the Hub; the message says what to do.
    """
    if isinstance(source, Path) or Path(source).is_dir():
        return load_file(Path(source) / WEIGHTS_FILE)
    repo = source.removeprefix(SCHEME)
    path = download(repo, revision=revision, token=token, cache_dir=cache_dir)
    return load_file(path)


def download(
    repo: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The weights file of a repository on the Hub, downloaded once and then from the cache.

    With ``ALLCNN_ZOO_OFFLINE`` or huggingface_hub's own ``HF_HUB_OFFLINE``, only the cache is
    looked at. Arguments and errors: see `from_pretrained`.
    """
    with _explained(f"{repo} cannot be had from the Hugging Face Hub") as huggingface_hub:
        path = huggingface_hub.hf_hub_download(
            repo,
            WEIGHTS_FILE,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=offline(),
            library_name=_LIBRARY,
            library_version=__version__,
        )
    return Path(path)


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
    """Put what `save_pretrained` writes on the Hub, in one commit.

    Args:
        model: The plain network.
        repo: Where to, ``"owner/name"``; made if it is missing. A model card that is there stays.
        metadata: What the weights are; ``model.weights`` by default.
        licence: The Hub's identifier of the weights' licence, such as ``"apache-2.0"``.
        private: Whether a repository that is made here is private.
        token: One with write access; the one that ``hf auth login`` stored by default.
        message: The commit's.

    Returns:
        The commit's URL.

    Raises:
        CheckpointError: The weights are not described, or are not those that are described.
        HubError: The Hub cannot be reached, or refuses; the message says what to do.
    """
    files = _files(model, metadata, licence, repo=repo)
    with _explained(f"cannot push to {repo} on the Hugging Face Hub") as huggingface_hub:
        if offline():
            raise huggingface_hub.errors.OfflineModeIsEnabled("it is needed for this")
        api = huggingface_hub.HfApi(token=token, library_name=_LIBRARY, library_version=__version__)
        api.create_repo(repo, private=private, exist_ok=True)
        if api.file_exists(repo, CARD_FILE):
            del files[CARD_FILE]
        commit = api.create_commit(
            repo,
            [huggingface_hub.CommitOperationAdd(*file) for file in files.items()],
            commit_message=message,
        )
    return str(commit.commit_url)


def _files(
    model: AllCNN, metadata: Metadata | None, licence: str | None, *, repo: str
) -> dict[str, bytes]:
    """Each file of the repository with its content, once everything has proved right."""
    described = metadata or model.weights
    if not isinstance(described, Metadata):
        raise CheckpointError(
            "this network carries no description of its weights; pass metadata=Metadata(...)"
        )
    return {
        WEIGHTS_FILE: model.to_bytes(described),
        CONFIG_FILE: (_json(_config(described), indent=2) + "\n").encode(),
        CARD_FILE: _card(described, licence, repo).encode(),
    }


def _config(metadata: Metadata) -> dict[str, Any]:
    """What the header of the weights says, under the names that the Hub's programs know."""
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
    architecture = metadata.architecture
    # JSON is YAML, and quotes whatever a name may contain.
    front_matter = [f"{key}: {_json(value)}" for key, value in _front_matter(metadata, licence)]
    return _CARD.format(
        front_matter="\n".join(front_matter),
        name=f"{architecture.name}, {metadata.tag}",
        architecture=architecture.name,
        parameters=architecture.count_parameters(),
        paper=PAPER,
        count=architecture.num_classes,
        classes=", ".join(metadata.classes),
        repo=repo,
        preprocessing=metadata.preprocessing,
        weights_file=WEIGHTS_FILE,
        figures=_figures(metadata.metrics),
        provenance=_json(metadata.provenance, indent=2),
    )


def _front_matter(metadata: Metadata, licence: str | None) -> Iterator[tuple[str, Any]]:
    """The card's header, as the Hub reads it. Datasets and figures are named where known."""
    yield "library_name", _LIBRARY
    yield "pipeline_tag", "image-classification"
    yield "tags", ["all-cnn", "pytorch", "zca-whitening"]
    if licence is not None:
        yield "license", licence
    if metadata.classes != CIFAR10_CLASSES:
        return
    yield "datasets", [_DATASET["type"]]
    match metadata.metrics:
        case {"test": {"accuracy": float(accuracy)}}:
            task = {"type": "image-classification"}
            metrics = [{"type": "accuracy", "name": "top-1 accuracy", "value": accuracy}]
            results = [{"task": task, "dataset": _DATASET, "metrics": metrics}]
            yield "metrics", ["accuracy"]
            yield "model-index", [{"name": metadata.tag, "results": results}]


def _figures(metrics: Mapping[str, Any]) -> str:
    """A table of the single numbers that were measured, by set of images."""
    rows = [
        f"| {images.replace('_', ' ')} | {name.replace('_', ' ')} | {value:.6g} |"
        for images, measured in metrics.items()
        if isinstance(measured, Mapping)
        for name, value in measured.items()
        if isinstance(value, (int, float))
    ]
    if not rows:
        return "None have been recorded."
    return "\n".join(["| images | figure | value |", "| --- | --- | --- |", *rows])


def _json(value: Any, indent: int | None = None) -> str:
    return to_json(value, indent=indent, ensure_ascii=False)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[Any]:
    """The package huggingface_hub; whatever it raises is one of our errors that says what to do."""
    try:
        huggingface_hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(
            f"{what} without huggingface_hub: pip install 'allcnn-zoo[huggingface]'"
        ) from error
    try:
        yield huggingface_hub
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        is_name = not isinstance(error, huggingface_hub.errors.HFValidationError)
        if is_name and (offline() or huggingface_hub.constants.HF_HUB_OFFLINE):
            raise OfflineError(
                f"{what}: {OFFLINE_VARIABLE} or HF_HUB_OFFLINE forbids the network; unset it"
                f" ({reason})"
            ) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = (
            "; a private or gated repository, and every push, need token=... or `hf auth login`"
            if status in (401, 403, 404)
            else ""
        )
        raise HubError(f"{what}: {reason}{hint}") from error

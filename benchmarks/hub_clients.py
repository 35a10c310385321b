"""One download library, ready to be called: ``hub_clients.py CLIENT``.

Prints the library's version. Then, for each line of JSON on standard input, forks a child that
fetches one file, prints the child's process number, and lets it write its outcome, the path that
came back or the error, to a file. Every library is called the way its documentation suggests, and
told the digest if it takes one.
"""

import importlib
import importlib.metadata
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit

MODULES = {"torch_hub": "torch", "allcnn_zoo": "allcnn_zoo.hub.http"}
"""What to import for a client, where it is not simply called like it."""


def allcnn_zoo(url: str, digest: str | None, folder: Path) -> Path:
    from allcnn_zoo.hub import Cache, Resource

    resource = Resource(urlsplit(url).path.lstrip("/"), url, digest)
    return Cache(folder, mirrors=()).fetch(resource).path


def torch_hub(url: str, digest: str | None, folder: Path) -> Path:
    import torch

    cached = folder / "file.bin"  # what load_state_dict_from_url does before it loads
    if not cached.exists():
        torch.hub.download_url_to_file(url, str(cached), hash_prefix=digest)
    return cached


def huggingface_hub(url: str, digest: str | None, folder: Path) -> Path:
    import huggingface_hub

    address = urlsplit(url)
    endpoint = f"{address.scheme}://{address.netloc}"
    return Path(
        huggingface_hub.hf_hub_download(
            "org/repo", "file.bin", cache_dir=folder, endpoint=endpoint, token=False
        )
    )


def pooch(url: str, digest: str | None, folder: Path) -> Path:
    import pooch

    known_hash = digest and f"sha256:{digest}"
    return Path(pooch.retrieve(url, known_hash, fname="file.bin", path=folder))


def keras(url: str, digest: str | None, folder: Path) -> Path:
    import keras

    return Path(keras.utils.get_file("file.bin", url, file_hash=digest, cache_dir=folder))


def fetch(client: str, url: str, digest: str, folder: str, outcome: str) -> None:
    """Call the library and write down what came of it."""
    try:
        path = globals()[client](url, digest or None, Path(folder))
        report = {"path": str(path)}
    except Exception as error:  # noqa: BLE001 - whatever a user would see is the result
        report = {"error": type(error).__name__, "message": str(error)}
    unfinished = Path(f"{outcome}.new")
    unfinished.write_text(json.dumps(report))
    unfinished.rename(outcome)


def main(client: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    warnings.simplefilter("ignore")
    module = MODULES.get(client, client)
    importlib.import_module(module)
    print(importlib.metadata.version(module.partition(".")[0]), flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # some print their progress there
            fetch(client, **json.loads(line))
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""Our own weights files come through the hub like any other: every fault is survived or refused."""

import dataclasses
import gzip

import pytest

import allcnn_zoo
from allcnn_zoo import AllCNN, AllCNNZooError, Architecture, load

from .faulty_server import (
    PORTAL,
    Behaviour,
    Request,
    Wire,
    garbage,
    reset_at_once,
    resuming_in_steps_of,
    status,
    whole,
    zipped,
)


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("lab") / "pets.safetensors"
    model = AllCNN(Architecture("base_b", 2, widths=(4, 6)))
    model.save(path, classes=["cat", "dog"], tag="pets")
    return path.read_bytes()


def cut(content: bytes) -> Behaviour:
    def answer(_: Request, wire: Wire) -> None:
        wire.head("200 OK", Content_Length=len(content))
        wire.send(content[: len(content) // 2])

    return answer


SURVIVED = {
    "no fault": lambda body: [whole(body)],
    "reset before the answer": lambda body: [reset_at_once, whole(body)],
    "garbage instead of HTTP": lambda body: [garbage, whole(body)],
    "truncated body": lambda body: [cut(body), whole(body)],
    "a byte range at a time": lambda body: [resuming_in_steps_of(3_000, body)],
    "gzip content-encoding": lambda body: [zipped(body)],
    "500": lambda body: [status("500 Internal Server Error"), whole(body)],
    "503": lambda body: [status("503 Service Unavailable"), whole(body)],
}
REFUSED = {
    "403": lambda body: [status("403 Forbidden")],
    "a portal's page": lambda body: [whole(PORTAL)],
    "half a file": lambda body: [whole(body[: len(body) // 2])],
    "a file in gzip": lambda body: [whole(gzip.compress(body))],
    "another safetensors file": lambda body: [whole(b"\x02\0\0\0\0\0\0\0{}")],
    "weights that are not numbers": lambda body: [whole(body[:-4] + b"\0\0\xc0\x7f")],
}


def every_way(url: str):
    """An address, and a record of it."""
    yield lambda: load(url)
    yield lambda: load(allcnn_zoo.Weights("pets", "base_b", url=url))


@pytest.mark.parametrize("fault", SURVIVED)
def test_faults_on_the_way_are_survived(server, content, fault: str) -> None:
    for number, _ in enumerate(every_way("")):
        url = server.script(f"/{number}/pets.safetensors", *SURVIVED[fault](content))
        way = list(every_way(url))[number]
        assert way().weights.tag == "pets"
        asked = len(server.requests)
        assert way().weights.tag == "pets"
        assert len(server.requests) == asked, "the second time nothing is requested"


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_weights_file_is_refused_and_forgotten(server, content, fault: str) -> None:
    path = "/pets.safetensors"
    url = server.script(path, *REFUSED[fault](content))
    record = dataclasses.replace(allcnn_zoo.Weights("pets", "base_b"), url=url)
    with pytest.raises(AllCNNZooError, match="pets"):
        load(record)
    server.script(path, whole(content))
    assert load(record).weights.classes == ("cat", "dog")

"""Our own weights files come through the hub like any other: every fault is survived or refused."""

import gzip

import pytest

from allcnn_zoo import AllCNN, AllCNNZooError, Architecture, Weights, load

from .conftest import PATH
from .faulty_server import PORTAL, status, whole, zipped


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("lab") / "pets.safetensors"
    model = AllCNN(Architecture("base_b", 2, widths=(4, 6)))
    model.save(path, classes=["cat", "dog"], tag="pets")
    return path.read_bytes()


@pytest.mark.parametrize("as_record", [False, True], ids=["address", "record"])
def test_faults_on_the_way_are_survived(as_record, server, content) -> None:
    url = server.script("/pets.safetensors", whole(content, most=1_000), zipped(content))
    source = Weights("pets", "base_b", url=url) if as_record else url
    assert load(source).weights.tag == "pets"
    assert len(server.requests) == 2
    assert load(source).weights.tag == "pets"
    assert len(server.requests) == 2, "the second time nothing is requested"


REFUSED = {
    "403": lambda body: status("403 Forbidden"),
    "a portal's page": lambda body: whole(PORTAL),
    "nothing": lambda body: whole(b""),
    "half a file": lambda body: whole(body[: len(body) // 2]),
    "a file in gzip": lambda body: whole(gzip.compress(body)),
    "another safetensors file": lambda body: whole(b"\x02\0\0\0\0\0\0\0{}"),
    "weights that are not numbers": lambda body: whole(body[:-4] + b"\0\0\xc0\x7f"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_weights_file_is_refused_and_forgotten(fault, server, content) -> None:
    path = PATH.replace("bin", "safetensors")
    url = server.script(path, REFUSED[fault](content), whole(content))
    with pytest.raises(AllCNNZooError, match=r"file\.safetensors"):
        load(url)
    assert load(url).weights.classes == ("cat", "dog")

"""What the reader reads, it reads as Python's own pickle would."""

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allcnn_zoo.neon import read_pickle

from .trees import arrays, same, trees
from .writer import neon_file, python2_pickle, python3_pickle


@given(trees, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_what_python_3_writes_reads_back_equal(tree: object, protocol: int) -> None:
    assert same(read_pickle(pickle.dumps(tree, protocol)), tree)


@given(trees, st.integers(0, 4))  # in protocol 5 it takes b"" for the data of an empty array
def test_pythons_slower_pickler_makes_no_difference(tree: object, protocol: int) -> None:
    assert same(read_pickle(pickle._dumps(tree, protocol)), tree)


@given(st.data(), arrays, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_arrays_of_any_order_keep_their_values_and_are_read_only(
    data: st.DataObject, array: np.ndarray, protocol: int
) -> None:
    permuted = array.transpose(data.draw(st.permutations(range(array.ndim))))
    found = read_pickle(pickle.dumps(permuted, protocol))
    assert same(found, permuted)
    assert not found.flags.writeable


def test_a_neon_file_reads_the_same_from_python_2_and_3() -> None:
    tree = neon_file("batch_norm")
    assert same(read_pickle(python2_pickle(tree)), tree)
    assert same(read_pickle(python3_pickle(tree)), tree)


@pytest.mark.parametrize(
    ("stream", "value"),
    [
        (b"\x80\x02U\x04na\xefv.", "na\xefv"),  # strings of Python 2 are text in Latin-1
        (b"S'it\\'s \\xe9\\n\\\\'\np0\n.", "it's \xe9\n\\"),
        (b"S'" + b"long " * 1000 + b"'\n.", "long " * 1000),
        (b"cneon.layers.recurrent\nGRU\n.", "neon.layers.recurrent.GRU"),  # classes of neon's too
        (b"Vneon.layers.x\nVY\n\x93.", "neon.layers.x.Y"),
        (b"ccollections\nOrderedDict\n((lp0\n(lp1\nS'a'\naI1\naatR.", {"a": 1}),
    ],
)
def test_what_only_python_2_or_neon_writes_is_read(stream: bytes, value: object) -> None:
    assert read_pickle(stream) == value


def test_python_2_array_in_protocol_0_of_any_length() -> None:
    values = np.arange(1000, dtype="<f4")
    escaped = "".join(f"\\x{byte:02x}" for byte in values.tobytes()).encode()
    stream = (
        b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\ntp3\nRp4\n"
        b"(I1\n(I1000\ntcnumpy\ndtype\np5\n(S'f4'\nI0\nI1\ntRp6\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'" + escaped + b"'\ntb."
    )
    assert same(read_pickle(stream), values)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_scalars_become_plain_numbers_and_large_arrays_read_back(protocol: int) -> None:
    values = [np.float32(0.5), np.int64(-3), np.float64(1e300), np.bool_(1)]
    found = read_pickle(pickle.dumps(values, protocol))
    assert same(found, [value.item() for value in values])
    array = np.random.default_rng(0).integers(0, 256, (300, 2000), dtype=np.uint8)
    found = read_pickle(pickle.dumps(array, protocol))
    assert same(found, array)
    assert not found.flags.writeable


def test_a_plainly_stored_array_is_a_view_on_the_file() -> None:
    data = python2_pickle(np.arange(1000.0))
    array = read_pickle(data)
    assert isinstance(array, np.ndarray)
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "thing",
    ["text", (3, 3, 96), [14, [29], []], {"pad_h": 1, "deep": {}}, np.arange(9), b"", [{}] * 200],
    ids=["text", "tuple", "list", "dict", "array", "bytes", "long list"],
)
def test_what_is_in_several_places_is_one_object_as_for_python(
    thing: object, protocol: int
) -> None:
    # As in neon's VGG, whose two optimizers have one schedule, and C3D, whose layers one padding.
    tree = {"first": thing, "second": [thing, thing]}
    found = read_pickle(pickle.dumps(tree, protocol))
    assert same(found, tree)
    if isinstance(thing, list | dict | np.ndarray):
        assert found["first"] is found["second"][0] is found["second"][1]


def test_what_is_in_two_places_may_grow_in_either() -> None:
    for data in (b"(]Naq\x00h\x00Nal.", b"(}K\x01Nsq\x00h\x00K\x02Nsl.", b"(]q\x00h\x00l."):
        assert read_pickle(data) == pickle.loads(data)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_ordered_dicts_are_dicts(protocol: int) -> None:
    tree = collections.OrderedDict(z=1, a=collections.OrderedDict(), m=np.zeros((0, 3)))
    found = read_pickle(pickle.dumps(tree, protocol))
    assert same(found, {"z": 1, "a": {}, "m": np.zeros((0, 3))})
    assert list(found) == ["z", "a", "m"]

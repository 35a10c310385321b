"""The attacks fail for what is wrong with them: without it, the same pickles are read."""

import numpy as np

from allcnn_zoo.neon import read_pickle_bytes

from .assemble import ENCODE, PROTO, array, integer, shape, string, text


def test_the_parts_make_sound_pickles() -> None:
    for whole in (array(), array(shape=shape(2)), array(data=string(bytes(8)))):
        found = read_pickle_bytes(PROTO + whole + b".")
        assert isinstance(found, np.ndarray)
        assert found.tolist() == [0, 0]
    written_by_python_3 = ENCODE + text("\0" * 8) + text("latin1") + b"\x86R"
    assert isinstance(read_pickle_bytes(array(data=written_by_python_3) + b"."), np.ndarray)
    assert read_pickle_bytes(b"(" + integer(-5) + string(b"a") + text("b") + b"l.") == [
        -5,
        "a",
        "b",
    ]

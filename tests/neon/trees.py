"""Comparing trees that contain arrays, and generating them."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def same(one: Any, other: Any) -> bool:
    """Equality of trees: same types, same keys, same dtypes, same values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)  # which tells 0.0 from -0.0, and takes nan for nan


integers = st.integers(-(2**63), 2**64 - 1)
scalars = (
    st.none()
    | st.booleans()
    | integers
    | st.floats()
    | st.text(max_size=200)
    | st.text("a\xe9", min_size=2000, max_size=2001)
    | st.binary(max_size=2000)
)
arrays = hnp.arrays(
    st.sampled_from(["?", "i1", "<i2", ">i4", "<i8", "u1", "<u4", ">u8", "<f2", "<f4", ">f8"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
trees = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=20) | integers, inner, max_size=5)
    ),
    max_leaves=20,
)

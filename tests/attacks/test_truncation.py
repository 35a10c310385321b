"""Files that end too early or too late."""

import pickle

import pytest

from tests.neon.writer import early_neon_file, python2_pickle, python3_pickle

from .assemble import refused

SMALL = early_neon_file(widths=(1, 1), outputs=2)
SMALL["layer_params_states"] = SMALL["layer_params_states"][-2:]
FILES = {
    "Python 2": python2_pickle(SMALL),
    "Python 3": python3_pickle(SMALL),
    "protocol 0": python3_pickle(SMALL, 0),
    "protocol 4": python3_pickle(SMALL, 4),
    "protocol 5": python3_pickle(SMALL, 5),
}


@pytest.mark.parametrize("file", FILES)
def test_every_truncation_is_refused(file: str) -> None:
    data = FILES[file]
    for end in range(len(data)):
        refused(data[:end])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("extra", [b"\n", b"\0", b".", b"N.", b"\x80\x02N.", b"PK\x03\x04"])
def test_trailing_bytes_are_refused(file: str, extra: bytes) -> None:
    refused(FILES[file] + extra, f"{len(extra)} bytes follow the end of the pickle")


def test_a_second_pickle_is_refused() -> None:
    one = pickle.dumps([1], 2)
    refused(one + one, "a neon file is one pickle and nothing else")
    refused(b"\x80\x02]" + one, "a second pickle begins inside the first")
    refused(b"N\x80\x02.", "a second pickle begins inside the first")


@pytest.mark.parametrize("protocol", [6, 7, 128, 255])
def test_unknown_protocols_are_refused(protocol: int) -> None:
    refused(bytes([0x80, protocol]) + b"N.", f"pickle protocol {protocol} does not exist")


@pytest.mark.parametrize("code", [0x00, 0x0A, 0x20, 0x41, 0x7E, 0x7F, 0x99, 0xFF])
def test_bytes_that_are_no_opcodes_are_refused(code: int) -> None:
    refused(b"N" + bytes([code]) + b".", f"byte 1: 0x{code:02x} is no pickle opcode")

"""Files that end too early or too late."""

import pytest

from tests.neon.writer import early_neon_file, python2_pickle, python3_pickle

from .assemble import refused

SMALL = early_neon_file(widths=(1, 1), outputs=2)
SMALL["layer_params_states"] = SMALL["layer_params_states"][-2:]
FILES = {
    "Python 2": python2_pickle(SMALL),
    **{f"protocol {protocol}": python3_pickle(SMALL, protocol) for protocol in (0, 2, 4, 5)},
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_files_that_are_cut_off_or_go_on_are_refused(data: bytes) -> None:
    for end in range(len(data)):
        refused(data[:end])
    for extra in (b"\n", b"\0", b".", b"N.", b"\x80\x02N.", b"PK\x03\x04", data):
        reason = f"{len(extra)} bytes follow the end of the pickle; a neon file is one pickle"
        refused(data + extra, reason)


def test_bytes_that_are_no_pickle_of_any_protocol_are_refused() -> None:
    for second in (b"\x80\x02]\x80\x02].", b"N\x80\x02."):
        refused(second, "a second pickle begins inside the first")
    for protocol in (6, 7, 128, 255):
        refused(bytes([0x80, protocol]) + b"N.", f"pickle protocol {protocol} does not exist")
    for code in (0x00, 0x0A, 0x20, 0x41, 0x7E, 0x7F, 0x99, 0xFF):
        refused(b"N" + bytes([code]) + b".", f"byte 1: 0x{code:02x} is not a pickle opcode")
    refused(b"\x80\x04\x95" + bytes([2, *bytes(7)]) + b"\x8c\x01aN.", "a frame ends inside SHORT_")

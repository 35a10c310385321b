"""Coverage-guided fuzzing of everything that touches the bytes of a pickle.

    pip install atheris
    PYTHONPATH=src python tests/fuzz/fuzz_reader.py -max_len=12000 -rss_limit_mb=1024 \
        -timeout=5 -max_total_time=3600 WORK tests/fuzz/corpus

New inputs that reach new code go to the folder WORK. A crash is any exception outside NeonError,
any import, opened file, socket or process, a run of five seconds, or a gibibyte of memory.
"""

import sys

import atheris

with atheris.instrument_imports(include=["allcnn_zoo"]):
    from allcnn_zoo import neon
    from allcnn_zoo.errors import NeonError

FORBIDDEN = ("import", "open", "exec", "compile", "socket", "subprocess", "os.", "ctypes", "pickle")


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Any of these while a pickle is read means that the pickle got its way."""
    if reading and event.startswith(FORBIDDEN):
        raise SystemError(f"reading caused the audit event {event} {arguments!r:.200}")


def test_one_input(data: bytes) -> None:
    """Inspect, read and rescue one input."""
    global reading
    reading = True
    try:
        neon.inspect_pickle(data)
        tree = neon.read_pickle(data)
        neon.rescue(neon.parse_model(tree), states=True)
    except NeonError:
        pass
    finally:
        reading = False


reading = False

if __name__ == "__main__":
    sys.addaudithook(refuse)
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()

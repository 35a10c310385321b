"""Reading a file imports, opens, connects and starts nothing: the interpreter itself says so."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

from tests.neon.writer import neon_file, python2_pickle, python3_pickle

from .assemble import array
from .test_code_execution import BY_OPCODE, MISUSES, NAMES

# Audit events are raised by the interpreter itself, before it does what they tell.
SCRIPT = """
import json, sys
import numpy
del sys.modules["pickle"]  # numpy's, and pickletools'
from allcnn_zoo import neon
assert "torch" not in sys.modules
from allcnn_zoo.errors import NeonError
from allcnn_zoo.from_neon import candidates

def attempt(source):
    try:
        neon.inspect_pickle(source)
        neon.rescue(neon.read_model(source), states=True)
        candidates(source)
    except NeonError:
        pass

pickles = [bytes.fromhex(line) for line in json.load(open(sys.argv[1]))]
events = []
sys.addaudithook(lambda event, arguments: events.append((event, str(arguments[:1]))))
for data in pickles:
    attempt(data)
memory = sorted({event for event, _ in events})
modules = set(sys.modules)
attempt(sys.argv[2])
opened = sorted({argument for event, argument in events if event == "open"})
print(json.dumps([memory, opened, sorted(set(sys.modules) - modules)]))
"""


def test_no_import_file_socket_or_process(tmp_path: Path) -> None:
    attacks = [
        python2_pickle(neon_file("batch_norm")),
        python3_pickle(neon_file("bias")),
        python3_pickle(neon_file(widths=(10, 20)), 0),
        python3_pickle(neon_file(), 5),
        array() + b".",
        *(attack + b"." for attack in (BY_OPCODE | MISUSES).values()),
        *(f"c{name.rpartition('.')[0]}\n{name.rpartition('.')[2]}\n.".encode() for name in NAMES),
        pickle.dumps(subprocess.Popen, 4),
    ]
    pickles, model = tmp_path / "pickles.json", tmp_path / "model.p"
    pickles.write_text(json.dumps([data.hex() for data in attacks]))
    model.write_bytes(attacks[0])
    command = [sys.executable, "-c", SCRIPT, pickles, model]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    in_memory, opened, modules = json.loads(done.stdout)
    assert in_memory == []
    assert opened == [f"('{model}',)"]
    assert modules == []

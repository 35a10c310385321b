"""Reading a file imports, opens, connects and starts nothing: the interpreter itself says so."""

import ast
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
from allcnn_zoo import neon
from allcnn_zoo.from_neon import candidates
from allcnn_zoo.errors import NeonError

def attempt(data):
    try:
        neon.rescue(neon.read_model_bytes(data), states=True)
        candidates(data)
    except NeonError:
        pass
    neon.survey_bytes(data)

with open(sys.argv[1]) as file:
    pickles = [bytes.fromhex(line) for line in json.load(file)]
modules = set(sys.modules)

events = []
sys.addaudithook(lambda event, arguments: events.append(event))
for data in pickles:
    attempt(data)
seen = sorted(set(events))
with open(sys.argv[2], "w") as file:
    json.dump([seen, sorted(set(sys.modules) - modules)], file)
assert "open" in events  # the hook works
"""


def test_no_import_file_socket_or_process(tmp_path: Path) -> None:
    attacks = [
        python2_pickle(neon_file("batch_norm")),
        python3_pickle(neon_file("bias")),
        python3_pickle(neon_file(widths=(10, 20)), 0),
        python3_pickle(neon_file(), 5),
        array() + b".",
        *BY_OPCODE.values(),
        *MISUSES.values(),
        *(f"c{name.rpartition('.')[0]}\n{name.rpartition('.')[2]}\n.".encode() for name in NAMES),
        pickle.dumps(subprocess.Popen, 4),
    ]
    source, result = tmp_path / "pickles.json", tmp_path / "events.json"
    source.write_text(json.dumps([data.hex() for data in attacks]))
    subprocess.run([sys.executable, "-c", SCRIPT, source, result], check=True)
    events, modules = json.loads(result.read_text())
    assert set(events) <= {"builtins.id"}  # what is shared is known by its identity
    assert modules == []


def test_reading_a_file_opens_that_file_once_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.p"
    path.write_bytes(python2_pickle(neon_file()))
    script = """
import sys
from allcnn_zoo import neon
from allcnn_zoo.from_neon import candidates
neon.read_model(sys.argv[1])
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
neon.read_model(sys.argv[1])
assert set(opened) == {sys.argv[1]}, opened
"""
    subprocess.run([sys.executable, "-c", script, path], check=True)


def test_nothing_in_the_room_imports_a_pickle_reader_or_needs_torch_to_read() -> None:
    source = Path(__file__).parents[2] / "src" / "allcnn_zoo" / "neon"
    imported = set()
    for path in source.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
    assert imported
    assert not imported & {"pickle", "cPickle", "pickletools", "dill", "marshal"}
    check = "import sys, allcnn_zoo.neon; assert not {'torch', 'pickle'} & sys.modules.keys()"
    # numpy imports pickle itself, so what counts is that we add nothing to what it imports.
    check = check.replace("import sys, ", "import sys, numpy; del sys.modules['pickle']; import ")
    subprocess.run([sys.executable, "-c", check], check=True)

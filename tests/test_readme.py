"""The README does not lie: its Python runs, its commands exist, its pictures are there."""

import re
from pathlib import Path

import pytest
import torch

from allcnn_zoo.cli import main

from .neon.writer import neon_file, python2_pickle

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"^allcnn-zoo (\w+)", README, re.MULTILINE)))
KEY = "cifar10_allcnn/cifar10_allcnn_e350.p"


@pytest.mark.filterwarnings("ignore:the weights have 10 outputs")
def test_its_python_runs_from_top_to_bottom(tmp_path, monkeypatch) -> None:
    (tmp_path / KEY).parent.mkdir(parents=True)
    (tmp_path / KEY).write_bytes(python2_pickle(neon_file()))
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    names = {"images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_exist(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_its_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()

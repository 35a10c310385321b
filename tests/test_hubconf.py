"""torch.hub's door, from a bare checkout that was never installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from allcnn_zoo import list_models

CHECKOUT = Path(__file__).parents[1]

# Finders of editable installs and .pth files would make the package importable behind our back.
PROLOGUE = """
import sys, warnings
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.path = [p for p in sys.path if not p.rstrip("/").endswith("/src")]
try:
    import allcnn_zoo
    raise SystemExit("the package is importable without the checkout")
except ImportError:
    pass
import torch
"""


def test_load_list_and_help_work_on_a_bare_checkout(tmp_path, mirror) -> None:
    code = f"""
model = torch.hub.load({str(CHECKOUT)!r}, "allcnn_c", source="local", pretrained=True)
print(model.weights.tag, model(torch.zeros(1, 3, 32, 32)).shape[1], model.training)
for name in ("allcnn_a", "allcnn_b"):
    loaded = torch.hub.load({str(CHECKOUT)!r}, name, source="local", pretrained=True)
    assert loaded.weights.architecture.name == name
trusted = dict(skip_validation=True, trust_repo=True)
print(torch.hub.list("owner/allcnn-zoo:main", **trusted))
print(torch.hub.help("owner/allcnn-zoo:main", "allcnn_c", **trusted))
for other in ("second", "same"):
    with warnings.catch_warnings(record=True) as caught:
        torch.hub.load(other, "allcnn_a", source="local")
    print(other, *(each.message for each in caught))
sys.modules["allcnn_zoo"].__file__ = "second/src-old/allcnn_zoo/__init__.py"
with warnings.catch_warnings(record=True) as caught:
    torch.hub.load("second", "allcnn_a", source="local")
print(*(each.message for each in caught))
"""
    (tmp_path / "second").mkdir()
    (tmp_path / "same").symlink_to(CHECKOUT)
    shutil.copy(CHECKOUT / "hubconf.py", tmp_path / "second")
    downloaded = tmp_path / "hub" / "owner_allcnn-zoo_main"  # where torch.hub keeps a repository
    downloaded.parent.mkdir()
    downloaded.symlink_to(CHECKOUT)
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TORCH_HOME": str(tmp_path), "ALLCNN_ZOO_MIRRORS": str(mirror)},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "neon_e350 10 False" in out
    assert str(sorted([*list_models(), "create_model"])) in out
    assert "The paper's allcnn_c, 1,369,738 parameters" in out
    assert "cifar10_best (94.0 % top-1 on CIFAR-10)" in out
    assert f"the models come from {CHECKOUT / 'src'}" in out
    assert out.count(f"to use {tmp_path / 'second' / 'src'}, start a new process") == 2
    assert "\nsame\n" in out  # a link to the first: no warning


def test_torch_hub_names_each_missing_package_before_it_is_needed() -> None:
    """All that the package requires but what images and bars need, and what requests brings."""
    text = (CHECKOUT / "pyproject.toml").read_text()
    required = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
    listed = re.search(r"^dependencies = .*$", (CHECKOUT / "hubconf.py").read_text(), re.MULTILINE)
    names = set(re.findall(r'^ *"(\w+)', required, re.MULTILINE)) - {"pillow", "tqdm", "urllib3"}
    assert set(re.findall(r'"(\w+)"', listed[0])) == names
    assert "torch" in names

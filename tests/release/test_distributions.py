"""What is published: a wheel and an sdist that hold what they should and work elsewhere."""

import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from ..conftest import EXAMPLES, ROOT

NOT_PUBLISHED = {".ci/run", ".gitattributes"}


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "build", *arguments, ROOT)


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build("--outdir", folder)
    return folder


@pytest.fixture(scope="session")
def wheel(published) -> Path:
    (wheel,) = published.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def tracked() -> set[str]:
    """Every file of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    return set(run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines())


def test_the_index_would_take_them(published) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *published.iterdir())


def test_the_wheel_holds_the_package_and_nothing_else(wheel, tracked) -> None:
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert names == package
    assert {"allcnn_zoo/py.typed", "allcnn_zoo/assets/allcnn_c.cifar10_best.safetensors"} <= names


def test_the_sdist_holds_all_that_the_tests_need(published, tracked) -> None:
    (sdist,) = published.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
    assert names - {"PKG-INFO"} == tracked - NOT_PUBLISHED


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = (Path(__file__).parent / "lowest.txt").read_text().splitlines()
    pinned = versions([line for line in lowest if not line.startswith("#")])
    extras = project["optional-dependencies"]
    named = [
        each for extra in ("plots", "export", "openvino", "huggingface") for each in extras[extra]
    ]
    allowed = versions([*project["dependencies"], *named])
    assert pinned == {**allowed, "pyparsing": pinned["pyparsing"]}  # of matplotlib's


def versions(requirements: list[str]) -> dict[str, Version]:
    """The one version that each requirement names."""
    parsed = (Requirement(line.partition("#")[0]) for line in requirements)
    return {
        each.name: Version(next(iter(each.specifier)).version) for each in parsed if each.specifier
    }


def test_the_tree_and_the_sdist_give_the_same_wheel(wheel, tmp_path) -> None:
    build("--wheel", "--outdir", tmp_path)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment that has the wheel, and otherwise our dependencies.

    clean_install.sh does the same with dependencies from the index; that takes minutes.
    """
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A line of a .pth file is a folder whose own .pth files do not count: no editable install.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


def test_the_readmes_first_prediction_works_outside_the_checkout(installed, tmp_path) -> None:
    code, expected = re.search(
        r"```python\n(.*?\n# (frog .*?)\n)```", (ROOT / "README.md").read_text(), re.DOTALL
    ).groups()
    shutil.copytree(EXAMPLES, tmp_path / "examples" / "images")
    program = f"import allcnn_zoo\nprint(allcnn_zoo.__file__)\n{code}"
    where, printed = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()
    assert where.startswith(str(installed.parent))
    assert printed == expected


def test_the_description_on_the_index_has_no_link_that_leads_nowhere(wheel) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        description = file.read(name).decode()
    assert "](https://arxiv.org" in description
    assert not re.search(r"\]\((?!https?:)", description)


def test_a_repository_makes_the_readmes_links_absolute(monkeypatch) -> None:
    interface = "hatchling.metadata.plugin.interface"  # of the isolated build only
    monkeypatch.setitem(sys.modules, interface, SimpleNamespace(MetadataHookInterface=object))
    absolute = runpy.run_path(str(ROOT / "hatch_build.py"))["absolute"]
    text = "![a](docs/a.png) [b](docs/b.md#c) [d](https://e.org)"
    assert absolute(text, "https://host/repo") == (
        "![a](https://host/repo/raw/main/docs/a.png)"
        " [b](https://host/repo/blob/main/docs/b.md#c) [d](https://e.org)"
    )
    assert absolute(text, None) == " b [d](https://e.org)"


def test_the_command_is_there(installed, tmp_path) -> None:
    printed = run(installed / "allcnn-zoo", "predict", EXAMPLES / "cat.png", cwd=tmp_path)
    assert "cat" in printed.splitlines()[-1]

"""What mkdocs adds to the pages in this folder: the reference, and files that live elsewhere.

The reference has no pages of its own in the repository. They are made from the package's public
names whenever the site is built, so a new name cannot be forgotten.
"""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import allcnn_zoo

ROOT = Path(__file__).parents[1]
PACKAGE = allcnn_zoo.__name__
BROWSER_PAGE = ROOT / "build" / "page"  # there if it was built

# Where pages find what lies outside their folder.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "CITATION.cff",
    "CONTRIBUTING.md": "contributing.md",
    "examples/finetune.py": "examples/finetune.py",
}

MODULE = """# {name}

::: {name}
    options:
      members: {members}
      show_root_heading: false
      show_root_toc_entry: false
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder where the navigation names the folder."""
    cards = sorted(path.stem for path in (ROOT / "docs" / "models").glob("*.md"))
    pages = {
        "models/": [{name: f"models/{name}.md"} for name in cards],
        "reference/": [{name: f"reference/{name}.md"} for name, _ in reference()],
    }
    config.nav = [
        {title: pages.get(str(target), target) for title, target in entry.items()}
        for entry in config.nav or []
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference, the files from elsewhere, and the page for the browser."""
    for name, text in reference():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    copies = {uri: ROOT / path for path, uri in ELSEWHERE.items()}
    for path in sorted(BROWSER_PAGE.glob("**/*")):
        copies[f"page/{path.relative_to(BROWSER_PAGE).as_posix()}"] = path
    for uri, path in copies.items():
        if path.is_file():
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links into and out of this folder, which work in the repository, work in the site."""
    up = "../" * page.file.src_uri.count("/")

    def lead(link: re.Match[str]) -> str:
        return f"]({up}{ELSEWHERE[link[1]]})" if link[1] in ELSEWHERE else link[0]

    markdown = re.sub(r"\]\((?:\.\./)+([^)#]+)\)", lead, markdown)
    from_above = page.file.src_uri in ELSEWHERE.values()
    return markdown.replace("](docs/", "](") if from_above else markdown


def reference() -> Iterator[tuple[str, str]]:
    """Name and text of each page of the reference."""
    yield PACKAGE, _names_by_room()
    for name in allcnn_zoo._MODULES:
        yield f"{PACKAGE}.{name}", _module(f"{PACKAGE}.{name}")


def _names_by_room() -> str:
    """The names that people type, room by room, the front door first."""
    homes = {name: allcnn_zoo._HOMES[name] for name in allcnn_zoo.__all__}
    rooms = sorted(
        set(homes.values()), key=lambda room: (room != "zoo", room != "classifier", room)
    )
    parts = [f"# {PACKAGE}\n\nWhat `import {PACKAGE}` offers, by where it lives.\n"]
    for room in rooms:
        summary = (importlib.import_module(f"{PACKAGE}.{room}").__doc__ or "").partition("\n\n")[0]
        parts.append(f"## {room}\n\n{summary}\n")
        parts += [f"::: {PACKAGE}.{name}\n" for name, home in homes.items() if home == room]
    return "\n".join(parts)


def _module(name: str) -> str:
    """A public module: what it says of itself, then the names it lists, or else all in it."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    members = "null" if listed is None else "false"  # mkdocstrings' words for all and none
    parts = [MODULE.format(name=name, members=members)]
    parts += [f"::: {_address(module, each)}\n" for each in listed or ()]
    return "\n".join(parts)


def _address(module: ModuleType, name: str) -> str:
    """Where a name is defined: a function may share its name with the file that it is in."""
    value = getattr(module, name)
    home = value.__module__ if isinstance(value, type | FunctionType) else module.__name__
    return f"{home}.{name}"

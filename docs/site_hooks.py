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

FIRST = ("classifier", "zoo")  # of the reference's pages

MODULE = """# {name}

::: {name}
    options:
      members: false
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
        {
            group: [
                {title: pages.get(str(target), target) for title, target in entry.items()}
                for entry in entries
            ]
            for group, entries in section.items()
        }
        for section in config.nav or []
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


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """An empty corner of a table is no header, and lines break where they may."""
    content = re.sub(r"<th( [^>]*)?></th>", "<td></td>", content)
    content = re.sub(r"(<tr>\s*<td)(?=>[^<]{60})", r'\1 class="long"', content)
    parts = re.split(r"(<pre.*?</pre>|<[^>]+>)", content, flags=re.DOTALL)
    parts[::2] = map(_unbroken, parts[::2])
    return "".join(parts)


def _unbroken(text: str) -> str:
    """Text between tags: names, options and numbers with their units stay in one line."""
    text = re.sub(r"(?<=\d) (?=(?:%|×|ms|s|MB)(?!\w))", "\u00a0", text)
    text = re.sub(
        r"(?<!\S)--\w[\w-]*|\b(?:CIFAR-\d+|All-CNN-C)\b", r'<span class="whole">\g<0></span>', text
    )
    return re.sub(r"(?<=\w\.)(?=(?:cifar|neon)\w)|(?<=\w\()(?=\w+=)", "<wbr>", text)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """A name for the dialog to which the theme gives none."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def reference() -> Iterator[tuple[str, str]]:
    """Name and text of each page of the reference: one for each module with public names."""
    homes: dict[str, list[str]] = {module: [] for module in allcnn_zoo._MODULES}
    for name in allcnn_zoo.__all__:
        homes.setdefault(allcnn_zoo._HOMES[name], []).append(name)
    for name in sorted(homes, key=lambda name: (name not in FIRST, name)):
        yield f"{PACKAGE}.{name}", _page(name, homes[name])


def _page(name: str, exported: list[str]) -> str:
    """A module: its docstring, the names that the package exports, then others that it lists."""
    module = importlib.import_module(f"{PACKAGE}.{name}")
    parts = [MODULE.format(name=module.__name__)]
    parts += [f"::: {PACKAGE}.{each}\n" for each in exported]
    if name in allcnn_zoo._MODULES:
        listed = getattr(module, "__all__", None) or [
            each
            for each, value in vars(module).items()
            if not each.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        parts += [f"::: {_address(module, each)}\n" for each in listed if each not in exported]
    return "\n".join(parts)


def _address(module: ModuleType, name: str) -> str:
    """Where a name is defined: a function may share its name with the file that it is in."""
    value = getattr(module, name)
    home = value.__module__ if isinstance(value, type | FunctionType) else module.__name__
    return f"{home}.{name}"

"""Makes the index's description of the package from README.md, whose links are relative.

With a `Repository` among the project's URLs, links and pictures lead there. Without one they would
lead nowhere, so their texts stay and they go.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """Sets the `readme` field."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling whenever it builds or describes the package."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = absolute(text, metadata.get("urls", {}).get("Repository"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(markdown: str, repository: str | None) -> str:
    """The text without relative links and pictures."""

    def replaced(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        if repository is None:
            return "" if mark else text
        return f"{mark}[{text}]({repository}/{'raw' if mark else 'blob'}/main/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", replaced, markdown)

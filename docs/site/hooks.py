"""Build steps of the site: pages from other folders of the repository, and the generated reference."""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]  # this checkout, whatever is installed
import reference  # noqa: E402

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def pages_from_elsewhere() -> dict[str, str]:
    """Return the files outside docs/ that the site shows: path in the repository -> path in the site."""
    pages = {
        "archives/README.md": "reference/archive-format.md",
        "CHANGELOG.md": "changelog.md",
        "CONTRIBUTING.md": "contributing.md",
        "SECURITY.md": "security.md",
        "experiments/README.md": "experiments/index.md",
    }
    for readme in sorted(ROOT.glob("experiments/*/README.md")):
        pages[f"experiments/{readme.parent.name}/README.md"] = f"experiments/{readme.parent.name}/index.md"
    for result in sorted([*ROOT.glob("experiments/*/results/*.md"), *ROOT.glob("experiments/*/results/*.png")]):
        path = result.relative_to(ROOT).as_posix()
        pages[path] = path
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the decisions and the experiments to the navigation."""
    sections: dict[str, list[Any]] = {title: entry for each in config.nav or [] for title, entry in each.items()}
    sections["Decisions"] += [f"decisions/{path.name}" for path in sorted(ROOT.glob("docs/decisions/0*.md"))]
    for page in pages_from_elsewhere().values():
        if page.startswith("experiments/") and page.endswith("/index.md") and page != "experiments/index.md":
            sections["Experiments"].append({page.split("/")[1]: page})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere, the generated ones, and the style sheet."""
    for source, page in pages_from_elsewhere().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for page, content in reference.pages().items():
        files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / "docs" / "site" / "site.css")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Make links that lead out of docs/ lead to pages of the site; a link to any other file becomes plain text."""
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: _relinked(link, page), part) for part in parts[::2]]
    return "".join(parts)


def _relinked(link: re.Match[str], page: Page) -> str:
    image, text, target = link.groups()
    path, mark, anchor = target.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return link.group()
    moved = pages_from_elsewhere()
    source = {place: origin for origin, place in moved.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    inside = there.removeprefix("docs/") if there.startswith("docs/") else moved.get(there)
    if inside is None:
        return text if (ROOT / there).exists() else link.group()
    relative = posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".")
    return f"{image}[{text}]({relative}{mark}{anchor})"

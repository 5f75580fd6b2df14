"""Links of pages that leave docs/: to the project's own pages, and to files that go beside them."""

import os
import pathlib
import posixpath
import re
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]

# {file of the repository: page of the site}; README's first screen is the home page.
PROJECT = {
    "README.md": "index.md",
    "BUILD.md": "project/build.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "findings/README.md": "project/findings.md",
    "tfgrad/gradients/README.md": "project/gradients.md",
    "tfgrad/gradients/intercepts/README.md": "project/intercepts.md",
}

_FILES = "files/"
_FENCED = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")


def page_of(path: str) -> str:
    """The address in the site of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return PROJECT.get(path, file_of(path))


def file_of(path: str) -> str:
    """The address in the site of a copy of a file that is no page."""
    return f"{_FILES}{path}"


def moved(text: str, path: str, page: str, built: bool = False) -> tuple[str, set[str]]:
    """A page's text with its links as they are in the site, and the files that they need there.

    Args:
        text: The text of a page, as Markdown.
        path: Where it is in the repository, such as "docs/saliency.md".
        page: Where it is in the site, such as "saliency.md".
        built: Whether links lead to pages as they are built, such as "saliency.html".

    Returns:
        The text, and the paths of linked files that are neither pages nor in docs/.

    Raises:
        FileNotFoundError: A link leads to no file.
    """
    files: set[str] = set()

    def there(link: re.Match[str]) -> str:
        target = link[1]
        if re.match(r"\w+:", target):
            return target
        found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not (ROOT / found).exists():
            raise FileNotFoundError(f"{path}: the link to {target} leads to no file")
        place = page_of(found)
        if place.startswith(_FILES):
            files.add(found)
        if built and place.endswith(".md"):
            place = place.removesuffix(".md") + ".html"
        return os.path.relpath(place, posixpath.dirname(page) or ".")

    return _outside_code(text, lambda prose: _LINK.sub(there, prose)), files


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts: list[str] = []
    end = 0
    for block in _FENCED.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])

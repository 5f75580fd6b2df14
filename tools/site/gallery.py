"""The page with every picture of docs/, each with a link to a page that shows it."""

import pathlib
import posixpath
import re
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).parents[2]
_SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.png)\)")


def page(texts: Mapping[str, str]) -> str:
    """The gallery, in the order of folders and names.

    Args:
        texts: {page of the site: its text}; what they say below a picture becomes its caption.
    """
    shown: dict[str, tuple[str, str]] = {}
    for address, text in texts.items():
        for caption, link in _SHOWN.findall(text):
            file = posixpath.normpath(posixpath.join(posixpath.dirname(address), link))
            shown.setdefault(file, (" ".join(caption.split()), address))
    files = sorted(str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.png"))
    cards = []
    for file in sorted(files, key=lambda name: (posixpath.dirname(name), name)):
        caption, address = shown.get(file, (posixpath.basename(file), ""))
        picture = f"[![{caption}]({file})]({address})" if address else f"![{caption}]({file})"
        cards.append(f"-   {picture}\n\n    {caption}")
    return (
        "---\nhide:\n  - navigation\n  - toc\n---\n\n# Gallery\n\n"
        "Every picture of these pages; a click leads to the page that explains it.\n\n"
        '<div class="grid cards" markdown>\n\n' + "\n\n".join(cards) + "\n\n</div>\n"
    )

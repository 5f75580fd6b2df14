"""Names of the library in running text, as links to where they are documented."""

import collections
import functools
import posixpath
import re

from . import commands, items, reference

# There the same names are those of other packages, or of other versions.
UNLINKED = {"come_from.md", "project/changelog.md"}

_CODE = re.compile(
    r"<a\b.*?</a>|<pre\b.*?</pre>|<h\d\b.*?</h\d>"  # stay as they are
    r"|<code>(?:([\w.]+)(?:\([^<]*\))?"  # a name, or a call
    r"|(tfgrad [a-z-]+)(?: [^<]*)?)</code>",  # or a command
    flags=re.DOTALL,
)


@functools.cache
def addresses() -> dict[str, str]:
    """{name: address in the site}: by full paths, and by names that are one thing alone.

    Names of one lower-case word, such as `get`, are also words of the text or arguments: they have
    their full paths only.
    """
    pages = {item.path: item.page for item in items.all_items()}
    found: dict[str, str] = dict(commands.addresses())
    short = collections.defaultdict(set)
    for module in reference.modules():
        found[module] = f"api/{module}.html"
        for name in reference.public_names(module):
            path = f"{module}.{name}"
            page = pages.get(path, f"api/{module}.md").removesuffix(".md")
            found[path] = f"{page}.html#{path}"
            short[name.rpartition(".")[2]].add(path)
    for name, paths in short.items():
        # tfgrad itself exports some names of its packages again.
        inner = sorted(paths - {f"tfgrad.{name}"}) or sorted(paths)
        if len(inner) == 1 and (name[0].isupper() or "_" in name.strip("_")):
            found.setdefault(name, found[inner[0]])
    # Names of the registry, but that of the control, which is a word of many tables.
    for item in items.all_items():
        if item.kind is items.METHODS and item.name not in ("random", "smooth"):
            found.setdefault(item.name, found[item.path])
    return found


def linked(html: str, place: str, known: dict[str, str]) -> str:
    """A page with its names as links; code blocks, headings and links stay as they are.

    Args:
        html: The content of a page.
        place: Its address in the site, such as "methods/fullgrad.html".
        known: The result of `addresses`.
    """

    def link(found: re.Match[str]) -> str:
        address = known.get(found[1] or found[2] or "")
        if address is None or address.split("#")[0] == place:
            return found[0]
        there = posixpath.relpath(address, posixpath.dirname(place) or ".")
        return f'<a href="{there}">{found[0]}</a>'

    return _CODE.sub(link, html)

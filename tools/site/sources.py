"""The sources of the site beside docs/: what is generated when it is built, and the navigation."""

import pathlib
import re
from typing import Any

from apps import __main__ as program

from . import commands, gallery, items, links, notebook_pages, reference

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
HOME = pathlib.Path(__file__).with_name("home.md")

# The guides in the order of the three paths; pages that are not named here are in the last list.
GUIDES = {
    "Explain": ["saliency.md", "ask.md", "decomposition.md", "faithfulness.md", "fooling.md"],
    "Train": ["your_own_images.md", "penalties.md", "transfer.md", "density.md"],
    "Serve": [
        "report.md",
        "portable.md",
        "serving_elsewhere.md",
        "in_the_browser.md",
        "over_a_cluster.md",
    ],
}
COMING = "come_from.md"
NOTEBOOKS = "notebooks.md"


def generated() -> dict[str, str | pathlib.Path]:
    """{place in the site: text of a page, or the file to copy}, over what docs/ has itself."""
    pages: dict[str, str] = {}
    files: set[str] = set()
    paths = {f"docs/{name}": name for name in hand_written()}
    paths |= {path: page for path, page in links.PROJECT.items() if path != "README.md"}
    for path, page in paths.items():
        pages[page], needed = links.moved((ROOT / path).read_text(), path, page)
        files |= needed
    executed, needed = notebook_pages.pages()
    files |= needed
    pages["index.md"], needed = links.moved(_home(), "README.md", "index.md")
    pages |= items.pages() | reference.pages() | commands.pages()
    pages["gallery.md"] = gallery.page(pages)
    pages |= executed
    copies = {links.page_of(path): ROOT / path for path in sorted(files | needed)}
    return {**pages, **{page: path for page, path in copies.items() if path.is_file()}}


def hand_written() -> list[str]:
    """The pages of docs/, as paths below it."""
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def navigation() -> list[dict[str, Any]]:
    """The navigation, in the form of MkDocs: every page that there is has a place in it."""
    pages = hand_written()
    results = [page for page in pages if page.startswith("results/")]
    named = {page for group in GUIDES.values() for page in group}
    others = [page for page in pages if page not in {*results, *named, COMING, NOTEBOOKS}]
    guides: dict[str, list[Any]] = {part: [*pages] for part, pages in GUIDES.items()}
    guides["Explain"].append(_listed(items.METHODS))
    guides["Train"].append(_listed(items.PENALTIES))
    api = [{name: f"api/{name}.md"} for name in reference.modules()]
    found: dict[str, Any] = {
        "Home": "index.md",
        **guides,
        "Commands": _commands(),
        "Notebooks": [NOTEBOOKS, *notebook_pages.titles()],
        "More guides": others,
        "Results": results,
        "Gallery": "gallery.md",
        "Coming from": COMING,
        "API": ["api/index.md", *api],
        "Project": [page for path, page in links.PROJECT.items() if path != "README.md"],
    }
    return [{title: content} for title, content in found.items() if content]


def _listed(kind: items.Kind) -> dict[str, Any]:
    pages = [{one.class_name: one.page} for one in items.all_items() if one.kind is kind]
    return {kind.title: [f"{kind.folder}/index.md", *pages]}


def _commands() -> list[Any]:
    listed = f"{commands.FOLDER}/index.md"
    return [listed, *({name: commands.page_of(name)} for name in program.commands())]


def _home() -> str:
    """home.md with the sections of the README that it names."""
    readme = (ROOT / "README.md").read_text()

    def section(name: re.Match[str]) -> str:
        pattern = rf"^## {re.escape(name[1])}\n(.*?)(?=^## )"
        found = re.search(pattern, readme, flags=re.DOTALL | re.MULTILINE)
        if not found:
            raise ValueError(f"{HOME.name}: README.md has no section {name[1]!r}")
        return found[1].strip()

    def opening(_: re.Match[str]) -> str:
        return readme.split("\n", 1)[1].split("\n## ", 1)[0].strip()

    text = re.sub(r"^\{\{ README \}\}$", opening, HOME.read_text(), flags=re.MULTILINE)
    return re.sub(r"^\{\{ README: (.*?) \}\}$", section, text, flags=re.MULTILINE)

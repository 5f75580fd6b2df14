"""One page for each notebook, with its outputs, and the notebook itself with the site's links."""

import html
import posixpath
from collections.abc import Iterator

from tools import notebooks

from . import links

FOLDER = "notebooks"


def pages() -> tuple[dict[str, str], set[str]]:
    """({place in the site: text} of pages and notebooks, paths of files that they link to)."""
    found: dict[str, str] = {}
    needed: set[str] = set()
    for name in notebooks.names():
        path, page = f"{FOLDER}/{name}.ipynb", links.page_of(f"{FOLDER}/{name}.ipynb")
        file = links.file_of(path)
        notebook = notebooks.read(name)
        parts = []
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                text, files = links.moved(cell.source, path, page)
                parts.append(text)
                needed |= files
                cell.source = links.moved(cell.source, path, file, built=True)[0]
            else:
                parts += [f"```python\n{cell.source}\n```", *map(_output, cell.outputs)]
        there = posixpath.relpath(file, posixpath.dirname(page))
        parts.insert(1, f"[The notebook itself]({there}), to be run with Jupyter.")
        found[page] = "\n\n".join(parts) + "\n"
        found[file] = notebooks.written(notebook)
    return found, needed


def titles() -> Iterator[dict[str, str]]:
    """{title: page} of each notebook, in the order of their names."""
    for name in notebooks.names():
        title = notebooks.read(name).cells[0].source.split("\n")[0].lstrip("# ")
        yield {title: links.page_of(f"{FOLDER}/{name}.ipynb")}


def _output(output: notebooks.NotebookNode) -> str:
    """An output of a cell, in the richest form that a page can show."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "text/html" in data:
        return f'<div class="output">\n{data["text/html"]}\n</div>'
    if "image/png" in data:
        png = "".join(data["image/png"].split())
        source = f"data:image/png;base64,{png}"
        return f'<p class="output"><img alt="Figure made by the code above" src="{source}"></p>'
    if "text/markdown" in data:
        return str(data["text/markdown"])
    return f'<pre class="output"><code>{html.escape(data["text/plain"], quote=False)}</code></pre>'

"""What the site's builder calls: it adds the generated pages, and sets the navigation.

`mkdocs.yml` names this file under `hooks`.
"""

import importlib
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from mkdocs.structure.files import File  # noqa: E402

# This file is no part of a package where the builder loads it.
sources = importlib.import_module("tools.site.sources")
names = importlib.import_module("tools.site.names")


def on_files(files: Any, config: Any) -> Any:
    """Add what `sources.generated` has, in the place of files of the same name."""
    for place, content in sources.generated().items():
        if (known := files.get_file_from_path(place)) is not None:
            files.remove(known)
        if isinstance(content, pathlib.Path):
            files.append(File.generated(config, place, abs_src_path=str(content)))
        else:
            files.append(File.generated(config, place, content=content))
    config.nav = sources.navigation()
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Link the names of the library."""
    if page.file.src_uri in names.UNLINKED:
        return html
    return names.linked(html, page.file.dest_uri, names.addresses())

"""Pages on the public names of each package, from their docstrings."""

import importlib
import inspect
import pkgutil
import types

import tfgrad

from . import items

# What the packages above share; contributors read ARCHITECTURE.md.
INTERNAL = {"internal", "gradients", "training"}
# Public, but in a module of a package.
DEEPER = ("tfgrad.export.web", "tfgrad.models.output_meaning")
# Names that pages use, and that a package does not export itself.
MORE = {
    "tfgrad.penalties": ["fooling.corner"],
    "tfgrad.saliency": ["options.MethodOptions", "placed_method.Placed"],
}


def modules() -> list[str]:
    """Names of the public packages and modules, tfgrad itself first."""
    inside = sorted(
        f"tfgrad.{found.name}"
        for found in pkgutil.iter_modules(tfgrad.__path__)
        if not found.name.startswith("_") and found.name not in INTERNAL
    )
    return sorted(["tfgrad", *inside, *DEEPER])


def public_names(module: str) -> list[str]:
    """What a package exports; of a module without `__all__`, what it defines."""
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(found).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module
        ]
    return [
        name
        for name in [*names, *MORE.get(module, [])]
        if not isinstance(getattr(found, name, None), types.ModuleType)
    ]


def pages() -> dict[str, str]:
    """{page: its text} of every public module, and a list of them."""
    found = {f"api/{module}.md": _page(module) for module in modules()}
    rows = "\n".join(
        f"| [`{module}`]({module}.md) | {_first_line(importlib.import_module(module))} |"
        for module in modules()
    )
    found["api/index.md"] = (
        "# API reference\n\nEvery public name, from its docstring. Import `tfgrad`, and use the "
        "names below it.\n\n| package | purpose |\n|---|---|\n" + rows + "\n"
    )
    return found


def _page(module: str) -> str:
    parts = [f"# {module}", _directive(module, "members: false", "show_root_toc_entry: false")]
    linked = {one.path: one for one in items.all_items()}
    names = public_names(module)
    if not names:
        return "\n\n".join(parts) + "\n"
    pages = [linked[f"{module}.{name}"] for name in names if f"{module}.{name}" in linked]
    if pages:
        rows = "\n".join(
            f"| [`{one.class_name}`](../{one.page}) | {_cell(one.summary)} |" for one in pages
        )
        parts += [f"## {pages[0].kind.title}", f"| class | value |\n|---|---|\n{rows}"]
    for name in names:
        if f"{module}.{name}" in linked:
            continue
        # A name below a module of the package is no attribute, and no constant.
        value = getattr(importlib.import_module(module), name, len)
        options = ["show_if_no_docstring: true"] * (not callable(value))
        parts.append(_directive(f"{module}.{name}", "show_root_heading: true", *options))
    return "\n\n".join(parts) + "\n"


def _directive(path: str, *options: str) -> str:
    """What mkdocstrings replaces by the documentation of a name."""
    return "\n".join([f"::: {path}", "    options:", *(f"      {option}" for option in options)])


def _first_line(thing: object) -> str:
    return _cell((inspect.getdoc(thing) or "").split("\n")[0])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

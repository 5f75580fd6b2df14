"""One page for each penalty and each saliency method: facts of the code beside written advice.

`advice.toml` has what the code does not say of each: when to use it, when not, what it costs, and
a picture. Formula, options, defaults and source are those of the class and its docstring.
"""

import dataclasses
import functools
import inspect
import pathlib
import re
import tomllib
from typing import Any

import tfgrad

ROOT = pathlib.Path(__file__).parents[2]
ADVICE = pathlib.Path(__file__).with_name("advice.toml")
NETWORK = "network"
REQUIRED = {"when", "when_not", "cost"}


@dataclasses.dataclass(frozen=True)
class Kind:
    """Penalties, or saliency methods.

    Args:
        folder: Folder of the pages, and the table of `advice.toml`.
        title: Title of their list.
        guide: The page that describes all of them.
        introduction: Text above the list.
        module: The package that exports the classes.
    """

    folder: str
    title: str
    guide: str
    introduction: str
    module: str


METHODS = Kind(
    "methods",
    "Saliency methods",
    "saliency.md",
    "Every method has the same interface: `method = tfgrad.saliency.FullGrad(network)`, then "
    "`method(x)` or `method.explain(x)`. The pictures explain the logit of the flower in a small "
    "network that tells two photographs apart. Of the four crops, the lower left one shows the "
    "flower, and the network itself predicts the temple of the others. They are made by "
    "`python -m tools.site.pictures`.",
    "tfgrad.saliency",
)
PENALTIES = Kind(
    "penalties",
    "Penalties",
    "penalties.md",
    "Every penalty is an entry of the list that `tfgrad.PenalizedModel(network, [...])` takes. "
    "`tfgrad.penalties.advise(network)` tells which of them fit a network.",
    "tfgrad.penalties",
)


@dataclasses.dataclass(frozen=True)
class Item:
    """A penalty or a method.

    Args:
        kind: Which of the two.
        name: Its name in lists: of a method that of the registry, of a penalty that of the class.
        cls: The class.
        advice: Its entry of `advice.toml`.
    """

    kind: Kind
    name: str
    cls: type
    advice: dict[str, Any]

    @property
    def class_name(self) -> str:
        """The name of the class."""
        return self.cls.__name__

    @property
    def path(self) -> str:
        """Where it is imported from."""
        return f"{self.kind.module}.{self.class_name}"

    @property
    def page(self) -> str:
        """Its page in the site."""
        return f"{self.kind.folder}/{self.name}.md"

    @property
    def summary(self) -> str:
        """The first line of the docstring: what it computes."""
        return (inspect.getdoc(self.cls) or "").split("\n")[0]

    @property
    def picture(self) -> tuple[str, str] | None:
        """(file below docs/, caption), if there is one."""
        if self.kind is METHODS:
            return f"methods/{self.name}.png", (
                f"Four crops of two photographs, and the map by {self.class_name} of the logit of "
                "the flower"
            )
        if "picture" not in self.advice:
            return None
        return self.advice["picture"], self.advice["caption"]


@functools.cache
def all_items() -> tuple[Item, ...]:
    """Every method and every penalty of the library.

    Raises:
        ValueError: `advice.toml` lacks one of them, or has one that does not exist.
    """
    advice = tomllib.loads(ADVICE.read_text())
    found = [
        *(_item(METHODS, name, cls, advice) for name, cls in tfgrad.saliency.METHODS.items()),
        _item(METHODS, "smooth", tfgrad.saliency.Smooth, advice),
        *(_item(PENALTIES, cls.__name__, cls, advice) for cls in penalties()),
    ]
    known = {(item.kind.folder, item.name) for item in found}
    written = {(folder, name) for folder, table in advice.items() for name in table}
    if written != known:
        raise ValueError(f"{ADVICE.name}: got entries {written - known}; expected a class for each")
    return tuple(found)


def penalties() -> list[type]:
    """The exported subclasses of `Penalty`."""
    exported = [getattr(tfgrad.penalties, name) for name in tfgrad.penalties.__all__]
    base = tfgrad.penalties.Penalty
    return [
        cls
        for cls in exported
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base
    ]


def pages() -> dict[str, str]:
    """{page: its text} of every item, and one list for each kind."""
    found = {item.page: _page(item) for item in all_items()}
    return found | {f"{kind.folder}/index.md": _list(kind) for kind in (METHODS, PENALTIES)}


def _item(kind: Kind, name: str, cls: type, advice: dict[str, Any]) -> Item:
    entry = advice.get(kind.folder, {}).get(name)
    if entry is None or not entry.keys() >= REQUIRED:
        raise ValueError(
            f"{ADVICE.name}: got no entry [{kind.folder}.{name}] with {sorted(REQUIRED)}; "
            "expected one for every penalty and every saliency method; try to write it."
        )
    return Item(kind, name, cls, entry)


def _page(item: Item) -> str:
    parts = [f"# {item.class_name}"]
    if item.kind is METHODS and item.name != "smooth":
        parts.append(f'Registered as `"{item.name}"`: `tfgrad.saliency.get("{item.name}")`.')
    if item.picture:
        file, caption = item.picture
        parts.append(f"![{caption}](../{file})\n\n*{caption}.*")
    parts += [f"**Use it** {_linked(item, item.advice['when'])}"]
    parts += [f"**Do not use it** {_linked(item, item.advice['when_not'])}", _code(item)]
    parts += ["## Cost", _linked(item, item.advice["cost"])]
    if measured := _measured(item.advice.get("measured", [])):
        parts.append(measured)
    parts += ["## Options", _options(item), "## Reference"]
    block = "\n".join(
        f"      {option}"
        for option in ("heading_level: 3", "show_root_heading: true", "members: false")
    )
    parts.append(f"::: {item.path}\n    options:\n{block}")
    parts.append(f"See also [the guide](../{item.kind.guide}).")
    return "\n\n".join(parts) + "\n"


def _linked(item: Item, text: str) -> str:
    """The text with names of other penalties and methods as links to their pages."""
    for other in all_items():
        if other != item:
            link = f"[`{other.class_name}`](../{other.page})"
            text = re.sub(rf"(?<!\[)`{other.class_name}`", link, text)
    return text


def _code(item: Item) -> str:
    """How it is used: of a penalty as `advice.toml` or the docstring says it."""
    if item.kind is METHODS:
        inner = f"tfgrad.saliency.GradCAM({NETWORK})" if item.name == "smooth" else NETWORK
        code = f"method = {item.path}({inner})\nmaps = method(x)\nmethod.explain(x).plot()"
    else:
        found = re.search(r"```python\n(.*?)```", inspect.getdoc(item.cls) or "", flags=re.DOTALL)
        code = item.advice["code"] if found is None else found[1]
    return f"```python\n{code.strip()}\n```"


def _options(item: Item) -> str:
    """A table of the arguments and their defaults; those that all methods share are one row."""
    rows = []
    for one in list(inspect.signature(item.cls).parameters.values()):
        if one.kind is one.VAR_KEYWORD:
            shared = "`chunk_size`, `outputs`, `channels`, `target`, `inputs`, `at`"
            rows.append(f"| {shared} | `None` | options of every method |")
        else:
            default = "required" if one.default is one.empty else f"`{one.default!r}`"
            rows.append(
                f"| `{one.name}` | {default} | {'by name only' * (one.kind is one.KEYWORD_ONLY)} |"
            )
    return "\n".join(["| argument | default | remark |", "|---|---|---|", *rows])


def _measured(labels: list[str]) -> str:
    """The rows of the tables of docs/results/cost.md that have one of the labels."""
    found: list[str] = []
    header = ""
    for line in (ROOT / "docs/results/cost.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = ""
        elif not header:
            header = line
        elif set(cells[:2]) & set(labels):
            if header not in found:
                found += ["", header, re.sub(r"[^|]+", "---", header)]
            found.append(line)
    if labels and not found:
        raise ValueError(f"docs/results/cost.md: got no row {labels}; expected one")
    if not found:
        return ""
    return (
        "\n".join(found)
        + "\n\nFrom [costs](../results/cost.md), which says how they were measured."
    )


def _list(kind: Kind) -> str:
    rows = []
    for item in all_items():
        if item.kind is kind:
            summary = item.summary.replace("|", "\\|")
            picture = f"![{item.class_name}]({item.name}.png){{ width=160 }}"
            cells = [f"[`{item.class_name}`]({item.name}.md)", summary]
            rows.append(" | ".join(["", *cells, *[picture] * (kind is METHODS), ""]).strip())
    titles = ["class", "what it computes", *["the flower"] * (kind is METHODS)]
    head = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    table = "\n".join([*head, *rows])
    guide = f"[The guide](../{kind.guide}) compares them."
    return f"# {kind.title}\n\n{kind.introduction} {guide}\n\n{table}\n"

"""What the documentation site is made of; `make test-site` builds it."""

import html
import pathlib
import posixpath
import re
import subprocess
import sys
import urllib.parse

import nbformat
import pytest

import tfgrad
from apps import __main__ as program
from apps import shell_completion
from tools import notebooks
from tools.site import commands, gallery, items, links, names, reference, sources

ROOT = pathlib.Path(__file__).parent.parent
LARGEST, LARGEST_TOGETHER = 100_000, 2_000_000  # bytes of the pictures of methods


@pytest.fixture(scope="module")
def pages():
    return sources.generated()


def places(entries):
    """The pages of a navigation, in its order."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from places([value] if isinstance(value, str) else value)


def links_of(notebook):
    """The targets of the links in a notebook's text, without anchors."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return re.findall(r"\]\(([^)#\s]+)", "\n".join(texts))


def test_every_penalty_and_method_has_a_page(pages):
    classes = {item.cls for item in items.all_items()}
    exported = vars(tfgrad.penalties).values()
    penalties = {
        cls
        for cls in exported
        if isinstance(cls, type) and issubclass(cls, tfgrad.penalties.Penalty)
    }
    assert classes >= {*tfgrad.saliency.METHODS.values(), *penalties} - {tfgrad.penalties.Penalty}
    for item in items.all_items():
        page = pages[item.page]
        assert f"::: {item.path}\n" in page and item.advice["when"].split("`")[0] in page


@pytest.mark.parametrize("kind", [items.METHODS, items.PENALTIES])
def test_a_new_one_without_advice_fails(kind, tmp_path, monkeypatch):
    name = next(one.name for one in items.all_items() if one.kind is kind)
    text = items.ADVICE.read_text().replace(f"[{kind.folder}.{name}]", f"[{kind.folder}.gone]")
    (tmp_path / "advice.toml").write_text(text)
    monkeypatch.setattr(items, "ADVICE", tmp_path / "advice.toml")
    with pytest.raises(ValueError, match=rf"no entry \[{kind.folder}.{name}\]"):
        items.all_items.__wrapped__()


def test_pictures_are_there_and_small():
    named = {ROOT / "docs" / one.picture[0] for one in items.all_items() if one.picture}
    methods = [path.stat().st_size for path in (ROOT / "docs/methods").glob("*.png")]
    assert len(methods) == len(tfgrad.saliency.METHODS) + 1 < len(named)
    assert all(path.exists() for path in named)
    assert max(methods) < LARGEST and sum(methods) < LARGEST_TOGETHER


@pytest.mark.filterwarnings("ignore:.*:tfgrad.errors.SecondOrderWarning")
def test_the_code_of_a_page_runs(pages):
    student = tfgrad.models.vgg(4, (8, 8, 1), classes=10, width=0.05, activation="softplus")
    teacher = tfgrad.models.vgg(4, (8, 8, 1), classes=10, width=0.05)
    given = {"tfgrad": tfgrad, "network": student, "student": student, "teacher": teacher}
    for item in items.all_items():
        (code,) = re.findall(r"```python\n(.*?)```", pages[item.page], flags=re.DOTALL)
        lines = [line for line in code.splitlines(keepends=True) if "compile" not in line]
        made = {**given}
        exec("".join(line for line in lines if "fit(" not in line and "(x)" not in line), made)
        found = [made["method"]] if "method" in made else made["model"].penalties
        assert any(isinstance(one, item.cls) for one in found), item.name


def test_a_page_says_what_the_code_has(pages):
    page = pages["penalties/ScoreMatching.md"]
    assert "| `stability` | `0.0001` |" in page and "| `every` | `1` | by name only |" in page
    assert re.search(r"\| score matching \| [\d.]+ \| [\d.]+ \|", page)
    assert 'tfgrad.saliency.get("gradcam")' in pages["methods/gradcam.md"]
    assert "| `model` | required |" in pages["methods/gradcam.md"]


def test_every_command_has_a_page_with_its_flags(pages):
    for name, manual in program.manual_pages().items():
        page = pages[f"commands/{name}.md"]
        assert f"[`tfgrad {name}`]({name}.md)" in pages["commands/index.md"]
        assert manual.split("\n")[0].split("apps.")[0] in page
        assert "```bash\ntfgrad " in page and f"\ntfgrad {name}" in page
        assert "apps." not in page and "## What it writes\n" in page, name
        rows = dict(re.findall(r"^\| `--(?:\[no\])?(\w+)`\{ #flag-\1 \} \| (.*)$", page, re.M))
        flags = {flag.name: flag for flag in shell_completion.flags_of(name)}
        assert set(rows) == set(flags)
        for flag in flags.values():
            assert set(re.findall(r"\(#flag-(\w+)\)", page)) <= set(flags)
            values = getattr(flag.parser, "enum_values", None) or ()
            assert all(f"`{value}`" in rows[flag.name] for value in values), flag.name
        codes = re.findall(r"^\| (\d+) \| \S", page.partition("## Exit codes")[2], re.M)
        assert codes == re.findall(r"(?<=[ ,\n])(\d+)(?= )", manual.partition("Exit codes:")[2])


def test_a_page_of_a_command_says_what_the_code_has(pages):
    page = pages["commands/train.md"]
    assert "```bash\ntfgrad train --gradient_norm=0.1 --work_dir=runs/digits\n" in page
    assert "| `--epochs`{ #flag-epochs } | <code>10</code> | Passes over the training set." in page
    assert "| `--[no]resume`{ #flag-resume } | on | Resume the run in [`--work_dir`]" in page
    assert (
        "`--seed`{ #flag-seed } | <code>0</code> " in page
        and "in the range [0, 4294967295]" in page
    )
    assert "One of `relu`, `softplus`. |" in page and "| 70 | a loss that is not finite |" in page
    assert "(../report.md)" in page
    assert "\n-   `tables.md`: a table for each test," in pages["commands/evaluate.md"]
    assert "| 130 |" not in pages["commands/index.md"] and "130" in pages["commands/index.md"]


def test_the_reference_has_every_public_name(pages):
    for module in ("tfgrad", *(f"tfgrad.{name}" for name in tfgrad.__all__ if name.islower())):
        if f"api/{module}.md" not in pages:
            continue
        text = pages[f"api/{module}.md"]
        for name in reference.public_names(module):
            assert f"::: {module}.{name}\n" in text or f"[`{name}`]" in text, name
    assert {"tfgrad.saliency", "tfgrad.second_order", "tfgrad.errors"} <= set(reference.modules())
    assert "DerivativeError" not in reference.public_names("tfgrad.errors")
    assert "SecondOrderError" in reference.public_names("tfgrad.errors")


def test_every_page_has_one_place_in_the_navigation(pages):
    found = list(places(sources.navigation()))
    assert len(found) == len(set(found))
    assert set(found) == {name for name in pages if name.endswith(".md")}


def test_links_out_of_docs_lead_to_pages_and_files():
    text = "[a](../README.md#two) [b](../examples/servers/kserve_explainer.py) [c](https://x.y)"
    code = "\n```python\nf[x](missing.md)\n```\n"
    moved, files = links.moved(text + code, "docs/ask.md", "ask.md")
    assert moved == (
        "[a](index.md#two) [b](files/examples/servers/kserve_explainer.py) [c](https://x.y)" + code
    )
    assert files == {"examples/servers/kserve_explainer.py"}
    with pytest.raises(FileNotFoundError, match=r"docs/ask\.md: the link to gone\.md"):
        links.moved("[a](gone.md)", "docs/ask.md", "ask.md")


def test_links_between_pages_lead_somewhere(pages):
    docs = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.*")}
    found = set()
    for name, text in pages.items():
        if not name.endswith(".md"):
            continue
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", prose):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            assert target.startswith("http") or place in docs | set(pages), (name, target)
            found.add(place)
    assert {item.page for item in items.all_items()} <= found


def test_every_notebook_has_a_page_with_its_outputs(pages):
    for name in notebooks.names():
        page, notebook = pages[f"notebooks/{name}.md"], notebooks.read(name)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert f"```python\n{cell.source}\n```" in page
        shown = sum(len(cell.get("outputs", [])) for cell in notebook.cells)
        rendered = [
            output["data"]["text/markdown"]
            for cell in notebook.cells
            for output in cell.get("outputs", [])
            if "text/markdown" in output.get("data", {})
        ]
        assert page.count('class="output"') + len(rendered) == shown >= 1
        assert all(text in page for text in rendered)
        assert f"(../files/notebooks/{name}.ipynb)" in page
        assert f"(notebooks/{name}.md)" in pages["notebooks.md"]
    assert "(../transfer.md)" in pages["notebooks/distil_with_jacobians.md"]


def test_links_of_the_notebooks_themselves_lead_to_pages(pages):
    found = set()
    for name in notebooks.names():
        place = f"files/notebooks/{name}.ipynb"
        for link in links_of(nbformat.reads(pages[place], as_version=4)):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
            assert link.startswith("https://") or there.replace(".html", ".md") in pages
            found.add(there)
    assert {"transfer.html", "project/contributing.html"} <= found


def test_names_become_links():
    known = names.addresses()
    assert known["FullGrad"] == "methods/fullgrad.html#tfgrad.saliency.FullGrad"
    assert known["make_safe"] == "api/tfgrad.second_order.html#tfgrad.second_order.make_safe"
    assert known["full_gradients"].startswith("api/tfgrad.decomposition.html#")
    assert "get" not in known and "tfgrad.saliency.get" in known  # also a name in tfgrad.models
    assert "Share" not in known and "NAMES" not in known  # of two packages
    code = "<code>GradCAM</code>"
    text = f"{code} <pre>{code}</pre> <h2>{code}</h2> <a>{code}</a> <code>Nothing</code>"
    made = names.linked(text, "api/tfgrad.saliency.html", known)
    assert known["fullgrad"] == known["FullGrad"] and "random" not in known
    call = "<code>GradCAM(network, layer=None)</code>"
    assert names.linked(call, "ask.html", known).endswith(f'GradCAM">{call}</a>')
    ours = "<code>tfgrad map-dataset --help</code>"
    assert names.linked(ours, "ask.html", known) == (
        f'<a href="commands/map-dataset.html">{ours}</a>'
    )
    link = '<a href="../methods/gradcam.html#tfgrad.saliency.GradCAM">'
    assert made == text.replace(code, f"{link}{code}</a>", 1)
    assert names.linked(text, "methods/gradcam.html", known) == text


def test_the_home_page_contains_the_readme(pages):
    assert "tfgrad explain --model=digits" in pages["index.md"] and "{{" not in pages["index.md"]
    assert "(saliency.md#serving)" in pages["index.md"]


def test_the_gallery_shows_every_picture(pages):
    files = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.png")}
    assert set(re.findall(r"\]\((\S+?\.png)\)", pages["gallery.md"])) == files
    text = gallery.page({"results/one.md": "![Two\nlines](../quickstart.png)"})
    assert "[![Two lines](quickstart.png)](results/one.md)" in text


@pytest.mark.site
@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing(tmp_path):
    command = [sys.executable, "-m", "properdocs", "build", "--config-file", "mkdocs.yml"]
    command += ["--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not re.findall(r"^WARNING +-.*", done.stderr, flags=re.MULTILINE)
    for page in commands.addresses().values():
        assert re.search(r'<td><code id="flag-\w+">--', (tmp_path / page).read_text()), page
    for item in items.all_items():
        page = (tmp_path / item.page).with_suffix(".html").read_text()
        assert f'id="{item.path}"' in page and (item.picture is None or "<img" in page)
    loads = r"<(?:script|img|link)[^>]*(?:src|href)=\"((?!data:)\w+:[^\"]*)\""
    for path in tmp_path.rglob("*.html"):
        assert not re.findall(loads, path.read_text()), path
    for path in tmp_path.rglob("*.html"):
        written = re.sub(r"<(pre|script)\b.*?</\1>", "", path.read_text(), flags=re.DOTALL)
        for link in re.findall(r'<(?:a|img)\b[^>]*\b(?:href|src)="([^":#?]+)["#?]', written):
            there = path.parent / urllib.parse.unquote(html.unescape(link))
            assert there.exists() or path.name == "404.html", (path, link)
    for path in (tmp_path / "files").rglob("*.ipynb"):
        for link in links_of(nbformat.read(path, as_version=4)):
            assert link.startswith("https://") or (path.parent / link).exists(), (path, link)
    for address in names.addresses().values():
        page, _, anchor = address.partition("#")
        assert not anchor or f'id="{anchor}"' in (tmp_path / page).read_text(), address

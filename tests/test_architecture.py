"""What import contracts do not check: ARCHITECTURE.md, private names, names of modules."""

import ast
import importlib
import pathlib
import pkgutil
import re
import tomllib

import pytest

import tfgrad

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / "tfgrad").rglob("*.py"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_table_of_architecture_is_the_contract():
    (layers,) = [
        contract["layers"]
        for contract in CONTRACTS["contracts"]
        if contract.get("containers") == ["tfgrad"]
    ]
    checked = {
        (name, len(layers) - i) for i, layer in enumerate(layers) for name in layer.split(" | ")
    }
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)(?:\.py|/)`", text, flags=re.MULTILINE)
    assert {(name, int(layer)) for layer, name in rows} == checked - {("_version", 1)}


def test_every_file_that_architecture_names_exists():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    missing = [
        name
        for name in named
        if not any(path.as_posix().endswith(f"/{name}") for path in FILES)
        and not any(list((ROOT / folder).rglob(name)) for folder in ("apps", "tests"))
        and not (ROOT / name).exists()
    ]
    assert named and not missing


def _private_names(path):
    """Private attributes that a file reads and does not set or define itself, as text."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    own = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    own |= {n.target.id for n in nodes if isinstance(n, ast.AnnAssign) and hasattr(n.target, "id")}
    own |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            if node.attr not in own:
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.match(r"keras\.src\b", node.value):
                yield node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras.src"):
            yield node.module


def test_private_names_of_keras_stand_in_one_module():
    keras_private = ROOT / "tfgrad" / "internal" / "keras_private.py"
    theirs = set(_private_names(keras_private))
    assert {"_flatten_layers", "_inbound_nodes", "keras.src.ops."} <= theirs
    elsewhere = {
        f"{module_of(path)}: {name}"
        for path in FILES
        if path != keras_private
        for name in _private_names(path)
        if name in theirs or name.startswith("keras.src")
    }
    assert not elsewhere


def packages():
    found = pkgutil.walk_packages(tfgrad.__path__, "tfgrad.")
    return [tfgrad, *(importlib.import_module(info.name) for info in found if info.ispkg)]


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_no_module_is_named_like_what_its_package_exports(package):
    modules = {info.name for info in pkgutil.iter_modules(package.__path__)}
    exported = {
        name
        for name in getattr(package, "__all__", ())
        if not isinstance(getattr(package, name), type(ast))
    }
    assert not modules & exported


def test_a_package_is_a_face():
    """`__init__` files import, export and say what there is, and define next to nothing."""
    allowed = {"tfgrad.models": {"get"}, "tfgrad.saliency": {"get"}}
    for path in FILES:
        if path.name == "__init__.py":
            defined = {
                node.name
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
            }
            assert defined <= allowed.get(module_of(path), set()), path

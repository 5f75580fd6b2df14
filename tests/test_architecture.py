"""The arrows between rooms go down, and ARCHITECTURE.md shows them as they are."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent

# A room may import rooms on lower floors, and what is listed as its own private part.
FLOORS = {
    0: ["errors", "_version"],
    1: [
        "arguments",
        "targets",
        "losses",
        "layers",
        "draws",
        "distribution",
        "data",
        "figures",
        "calls",
        "images",
    ],
    2: ["second_order", "intercepts", "models"],
    3: ["biases", "classifiers", "heads"],
    4: ["probe"],
    5: ["teaching", "decomposition"],
    6: ["penalties", "saliency", "sampling", "fooling"],
    7: ["training", "callbacks"],
    8: ["evaluation", "loading"],
    9: ["export"],
}
PRIVATE = {
    "_batches": "data",
    "_tfds": "data",
    "_operations": "second_order",
    "_batch_axis": "intercepts",
    "_rules": "intercepts",
    "_structure": "intercepts",
    "_tangents": "intercepts",
    "_signatures": "export",
    "_warmup": "export",
    "_saved_model": "loading",
    "_step": "training",
    "_drawing": "figures",
    "_lines": "figures",
    "_forward_pass": "probe",
    "_half_precision": "probe",
    "_starts": "sampling",
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}


def room_of(path):
    parts = path.relative_to(ROOT / "tfgrad").with_suffix("").parts
    return parts[0]


def imports(path):
    """Every module a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "tfgrad":
                yield from (f"tfgrad.{alias.name}" for alias in node.names)
            else:
                yield node.module


def files():
    return [
        p
        for p in (ROOT / "tfgrad").rglob("*.py")
        if p.name != "__init__.py" or p.parent.name != "tfgrad"
    ]


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in files()}
    assert rooms - set(PRIVATE) == set(FLOOR), "place the room in FLOORS and in ARCHITECTURE.md"


def test_arrows_go_down():
    wrong = []
    for path in files():
        room = room_of(path)
        owner = PRIVATE.get(room, room)
        for module in imports(path):
            if not module.startswith("tfgrad."):
                continue
            target = module.split(".")[1]
            if PRIVATE.get(target, target) == owner:
                continue
            if target in PRIVATE or FLOOR[target] >= FLOOR[owner]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_the_library_knows_no_flags_no_apps_and_one_place_for_pictures():
    wrong = []
    for path in files():
        for module in imports(path):
            top = module.split(".")[0]
            if top in ("absl", "apps") or (
                top == "matplotlib" and path.stem not in ("figures", "_drawing")
            ):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_tapes_on_inputs_are_opened_in_the_probe_only():
    opened = {
        room_of(path)
        for path in files()
        if any(
            isinstance(node, ast.Attribute) and node.attr == "GradientTape"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    # training's tape is on the weights; second_order's only inspects a graph; those of _tangents
    # transpose one call's backward pass into a Jacobian-vector product.
    assert opened <= {"_forward_pass", "training", "second_order", "_operations", "_tangents"}


def test_the_picture_is_true():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    drawn = {
        (int(floor), room)
        for floor, room in re.findall(r"^\| (\d) \| `(\w+)(?:\.py|/)`", text, flags=re.MULTILINE)
    }
    assert drawn == {(floor, room) for room, floor in FLOOR.items() if room != "_version"}

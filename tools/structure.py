"""Measure the structure of the project: modules, import cycles, sizes of files, repeated lines.

    make structure                                  # this checkout
    python tools/structure.py --root=OTHER_CHECKOUT # for a comparison

Import cycles are read from the import graph (grimp), repeated lines from pylint's `symilar`
(four equal lines or more; imports, comments and signatures do not count). `make lint` checks the
import contracts.
"""

import argparse
import graphlib
import pathlib
import re
import statistics
import subprocess
import sys

import grimp

PACKAGES = ("tfgrad", "apps")
REPEATED_LINES = 4


def main() -> None:
    """Print the figures of one checkout."""
    parser = argparse.ArgumentParser(description="Measure the structure of a checkout.")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path.cwd())
    root = parser.parse_args().root.resolve()
    sys.path.insert(0, str(root))
    flat = [p for p in (root / "tfgrad").glob("*.py") if p.name != "__init__.py"]
    packages = [p for p in (root / "tfgrad").iterdir() if (p / "__init__.py").exists()]
    print(f"tfgrad: {len(flat)} modules and {len(packages)} packages at the top")
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    print(f"import cycles: {'; '.join(cycles(graph)) or 'none'}")
    for name in (*PACKAGES, "tests"):
        sizes = {p: len(p.read_text().splitlines()) for p in (root / name).rglob("*.py")}
        sizes = {p: n for p, n in sizes.items() if n}
        largest = max(sizes, key=sizes.__getitem__)
        print(
            f"{name}: {len(sizes)} files, median {statistics.median(sizes.values()):.0f} lines, "
            f"largest {sizes[largest]} ({largest.relative_to(root)})"
        )
    for names in (PACKAGES, (*PACKAGES, "tests")):
        print(f"repeated lines in {', '.join(names)}: {repeated(root, names)}")


def cycles(graph: grimp.ImportGraph) -> list[str]:
    """One line for each import cycle, each with an import of its own."""
    imports = {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
    found = []
    while True:
        try:
            graphlib.TopologicalSorter(imports).prepare()
        except graphlib.CycleError as error:
            chain = error.args[1]
            found.append(" <- ".join(chain))
            imports[chain[1]].discard(chain[0])
        else:
            return found


def repeated(root: pathlib.Path, names: tuple[str, ...]) -> str:
    """How many lines stand in another file, too, as `symilar` counts them."""
    files = [str(p) for name in names for p in sorted((root / name).rglob("*.py"))]
    options = ["--ignore-comments", "--ignore-imports", "--ignore-signatures"]
    options.append(f"--duplicates={REPEATED_LINES}")
    command = [sys.executable, "-c", "from pylint import run_symilar; run_symilar()"]
    found = subprocess.run([*command, *options, *files], capture_output=True, text=True, check=True)
    total = re.search(r"TOTAL lines=(\d+) duplicates=(\d+) percent=([\d.]+)", found.stdout)
    if total is None:
        raise RuntimeError(f"symilar: got {found.stdout[-200:]!r}; expected a line of totals.")
    lines, duplicates, percent = total.groups()
    return f"{duplicates} of {lines} ({percent} %)"


if __name__ == "__main__":
    main()

"""`tools.notebooks`: what it keeps of a notebook, and what it does not write."""

import nbformat
import pytest

from tools import notebooks

STARTED = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1.0  2 cudart_stub.cc:31] Could not find cuda drivers on your machine.\n"
)


def made(*sources, **metadata):
    cells = [nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def marked(notebook):
    notebook.metadata["sources"] = notebooks.digest(notebook)
    return notebook


def test_what_changes_from_run_to_run_is_left_out():
    notebook = made(
        "print(1)", "x", widgets={"a": 1}, language_info={"name": "python", "version": "3.11.2"}
    )
    first, second = notebook.cells
    first.metadata = {"execution": {"iopub.execute_input": "2026-01-01"}, "collapsed": True}
    first.execution_count = 4
    first.outputs = [stream("1"), stream(STARTED, "stderr"), stream("2\n"), stream("hm", "stderr")]
    data = {"text/plain": "x"}
    second.outputs = [nbformat.v4.new_output("display_data", data, metadata={"isolated": True})]
    kept = notebooks.stripped(notebook, outputs=True)
    nbformat.validate(kept)
    assert set(kept.metadata) == {"kernelspec", "language_info"}
    assert kept.metadata.language_info == {"name": "python"}
    assert kept.cells[0].metadata == {} and kept.cells[0].execution_count == 4
    assert [(o.name, o.text) for o in kept.cells[0].outputs] == [
        ("stdout", "12\n"),
        ("stderr", "hm"),
    ]
    assert kept.cells[1].outputs[0].data == data and kept.cells[1].outputs[0].metadata == {}
    assert all(cell.outputs == [] for cell in notebooks.stripped(notebook).cells)
    assert len(first.outputs) == 4  # the argument stays


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (stream("a <b at 0x7f3c5d6e7f80>"), "shows '0x7f3c5d6e7f80'"),
        (stream("in /home/me/x.py"), "shows '/home/me"),
        (stream("hm", "stderr"), "writes to standard error"),
        (nbformat.v4.new_output("error", ename="E", evalue="v", traceback=[]), "E: v"),
        (stream("1" * notebooks.LIMIT_BYTES), "bytes; at most"),
    ],
    ids=["address", "path", "stderr", "error", "size"],
)
def test_what_is_not_kept(output, message):
    notebook = marked(made("1"))
    assert notebooks.problems(notebook) == []
    notebook.cells[0].outputs = [output]
    (problem,) = notebooks.problems(notebook)
    assert message in problem


def test_pictures_and_addresses_of_the_web_are_no_paths():
    notebook = marked(made("1"))
    page = {"text/html": '<img src="data:image/png;base64,AA/home/BB+/tmp/aa==">'}
    notebook.cells[0].outputs = [
        nbformat.v4.new_output("display_data", page),
        stream("https://example.org/home/page and runs/tmp/x and 3/usr/4"),
    ]
    assert notebooks.problems(notebook) == []


def test_cells_that_were_changed_afterwards_are_found():
    notebook = marked(made("1", "2"))
    notebook.cells[1].source = "3"
    (problem,) = notebooks.problems(notebook)
    assert "changed after they were executed" in problem


@pytest.mark.long
def test_one_is_written_and_one_that_fails_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    good = made("import pathlib\nprint(pathlib.Path('new').write_text('four'))", "assert 2 > 1")
    for name, notebook in {"good": good, "bad": made("print(1)", "1 / 0")}.items():
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    before = (tmp_path / "bad.ipynb").read_bytes()
    assert notebooks.main(["bad", "notebooks/good.ipynb"]) == 1
    written, said = notebooks.read("good"), capsys.readouterr()
    assert written.cells[0].outputs[0].text == "4\n" and notebooks.problems(written) == []
    assert [cell.execution_count for cell in written.cells] == [1, 2]
    assert (tmp_path / "bad.ipynb").read_bytes() == before
    assert "ZeroDivisionError" in said.err and "\x1b" not in said.err and "good: " in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.ipynb", "good.ipynb"]
    with pytest.raises(SystemExit) as stopped:
        notebooks.main(["goood"])
    assert stopped.value.code == 2 and "expected some of bad, good" in capsys.readouterr().err

"""`python -m apps.report`: its page, its PDF and its numbers, which are those of apps.evaluate."""

import html.parser
import json
import os

import keras
import numpy as np
import pytest

import tfgrad
from apps.common import training_record
from apps.evaluate import __main__ as evaluate
from apps.report import __main__ as report
from apps.report import html_page, pdf_pages, sections
from tests.helpers.app_run import in_process
from tfgrad import data, figures
from tfgrad.evaluation import Measurement
from tfgrad.figures.result_pages import HtmlTable
from tfgrad.internal import files

COUNT = 24
FEW = (
    f"--count={COUNT}",
    "--batch_size=16",
    "--noise_sigmas=0,0.3",
    "--repeats=2",
    "--epsilons=0,0.1",
    "--attack_steps=2",
    "--seed=3",
)
SMALL = (*FEW, "--images=4", "--shown=2", "--methods=input_gradient")
HOSTILE = "<script>alert(1)</script> & 'more' | \"x\""


def network(activation="softplus", classes=10):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation=activation)(inputs)
    logits = keras.layers.Dense(classes)(keras.layers.Flatten()(x))
    return keras.Model(inputs, logits, name="small")


class Tags(html.parser.HTMLParser):
    """The tags of a page, and that each is closed."""

    VOID = ("meta", "img")

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A run whose images are normalised, and what apps.evaluate measures of it."""
    path = tmp_path_factory.mktemp("report")
    (path / "run").mkdir()
    model = tfgrad.PenalizedModel(network(), [tfgrad.penalties.GradientNorm(0.25)])
    network().save(path / "run" / "network.keras")
    model.save(path / "run" / "model.keras")
    levels = [{"sigma": 0.5, "accuracy": 0.75, "deviation": 0.01}]
    results = {"normalize": [[0.25], [0.5]], "test": {"val_accuracy": 0.875}, "noise": levels}
    files.write_json(str(path / "run" / "results.json"), results)
    asked = {"epochs": 7, "dataset": HOSTILE, "augment": False, "work_dir": "elsewhere"}
    files.write_json(str(path / "run" / "run.json"), {"flags": asked})
    network().save(path / "bare.keras")
    network(classes=3).save(path / "three.keras")
    with in_process(evaluate) as run:
        named = f"--models=run={path}/run"
        assert run(named, *FEW, "--tests=noise,adversarial", f"--out={path}/tested") == 0
    return path


@pytest.fixture(scope="module")
def app(directory):
    with in_process(report) as run:
        yield run


@pytest.fixture(scope="module")
def made(app, directory):
    """The report on the run."""
    out = directory / "made"
    assert app(f"--model={directory}/run", *SMALL, f"--title={HOSTILE}", f"--out={out}") == 0
    return out


@pytest.mark.long
def test_the_page_is_self_contained_and_its_texts_are_escaped(made):
    assert set(os.listdir(made)) == {"report.html", "report.pdf", "report.json"}
    page = (made / "report.html").read_text()
    tags = Tags(page)
    assert not tags.of("script") and not tags.of("link") and not tags.of("iframe")
    assert "&lt;script&gt;alert(1)" in page and "alert(1)</script>" not in page
    assert all(image["src"].startswith("data:image/png;base64,") for image in tags.of("img"))
    assert all(image["alt"] for image in tags.of("img")) and len(tags.of("img")) == 5
    for loads in ("http:", "https:", "url(", "@import"):
        assert loads not in page
    assert any("default-src 'none'" in meta.get("content", "") for meta in tags.of("meta"))
    assert any(meta.get("name") == "viewport" for meta in tags.of("meta"))
    assert "prefers-color-scheme: dark" in page and "@media print" in page
    targets = {anchor["href"].removeprefix("#") for anchor in tags.of("a")}
    assert targets == {part["id"] for part in tags.of("section")} and len(targets) == 8


def test_the_page_says_what_the_network_is_and_how_it_was_measured(made):
    page = (made / "report.html").read_text()
    assert "GradientNorm(weight=0.25" in page and "87.50%" in page
    assert f"each of {COUNT} images of &#x27;digits&#x27;" in page
    assert "the first 4 images of &#x27;digits&#x27;" in page
    assert "1 Conv2D, 1 Flatten, 1 Dense" in page
    assert "trained without score matching" in page
    assert "elsewhere" not in page


def test_the_numbers_are_those_of_evaluate(made, directory):
    found = json.loads((made / "report.json").read_text())
    tested = json.loads((directory / "tested" / "results.json").read_text())["tests"]
    parts = found["sections"]
    assert parts["noise"]["measurement"] == tested["noise"]["run"]
    for attack, measurement in parts["adversarial"]["attacks"].items():
        assert measurement == tested["adversarial"][f"run, {attack}"]
    assert len(parts["adversarial"]["attacks"]) == 2
    clean = parts["noise"]["measurement"]["values"][0]
    assert parts["accuracy"]["accuracy"] == pytest.approx(clean)
    assert parts["adversarial"]["attacks"]["FGSM"]["values"][0] == pytest.approx(clean)
    test = data.load("digits", f"test[:{COUNT}]")
    logits = network()((test.images - 0.25) / 0.5).numpy()
    assert parts["accuracy"]["accuracy"] == np.mean(logits.argmax(1) == test.labels)
    assert parts["network"]["parameters"] == network().count_params()
    assert parts["network"]["training"] == {"dataset": HOSTILE, "epochs": 7}
    assert 0 <= parts["decomposition"]["largest"] < 1e-5
    assert set(parts["faithfulness"]["comparison"]["methods"]) == {"input_gradient", "random"}
    wrong = parts["maps"]["wrong"]
    assert len(wrong) == 2 and wrong[0]["probability"] >= wrong[1]["probability"]
    assert all(one["label"] != one["predicted"] for one in wrong)
    assert found["flags"]["seed"] == 3 and "tensorflow" in found["versions"]


def test_the_pdf_has_pages(made):
    content = (made / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF") and content.count(b"/Type /Page ") == 4


def test_what_cannot_be_measured_is_said(app, directory, capsys, monkeypatch):
    """A softmax file that nothing is known of, whose decomposition and attacks fail."""
    from tfgrad.errors import ModelError

    def refused(*arguments, **options):
        raise ModelError("network: got <one> that has none of it")

    monkeypatch.setattr(tfgrad, "full_gradients", refused)
    monkeypatch.setattr(tfgrad.evaluation, "adversarial_robustness", refused)
    monkeypatch.setattr(tfgrad.evaluation, "compare", refused)
    out = directory / "second"
    arguments = (*FEW, "--images=4", "--shown=2", "--methods=guided_backprop,random")
    assert app(f"--model={directory}/bare.keras", *arguments, f"--out={out}") == 0
    page, found = (out / "report.html").read_text(), json.loads((out / "report.json").read_text())
    Tags(page)
    for key in ("decomposition", "adversarial", "faithfulness"):
        assert found["sections"][key] == {"failed": "network: got <one> that has none of it"}
    assert page.count("got &lt;one&gt; that has none of it") == 3
    assert "none recorded" in page and "nothing tells how it was trained" in page
    assert "No maps by guided_backprop: " in page and list(found["sections"]["maps"]["failed"]) == [
        "guided_backprop"
    ]
    assert "under FGSM" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 64, "--model: got none; expected a run, a file or a name"),
        (("--model={}/bare.keras", "--methods=gradcat"), 64, "got 'gradcat'; did you mean"),
        (("--model={}/bare.keras", "--methods="), 64, "--methods: got none; expected one or more"),
        (("--model={}/bare.keras", "--epsilons=x"), 64, "--epsilons: got x; expected one or more"),
        (("--model={}/none.keras",), 65, "none.keras' cannot be loaded"),
        (("--model={}/three.keras",), 65, "which returns (None, 3); expected logits (None, 10)"),
    ],
)
def test_what_is_refused(app, directory, capsys, arguments, code, message):
    asked = [one.format(directory) for one in arguments]
    assert app(*asked, f"--count={COUNT}", f"--out={directory}/never") == code
    assert message in capsys.readouterr().err
    assert not (directory / "never").exists()


def test_records_of_trainings(directory):
    of_run = training_record.of(str(directory / "run"))
    assert of_run.accuracy == 0.875 and of_run.noise.curve() == {0.5: (0.75, 0.01)}
    assert not of_run.matches_scores and len(of_run.penalties) == 1
    same = training_record.of(str(directory / "run" / "network.keras"))
    assert same.settings == of_run.settings
    digits = training_record.of("digits")
    assert repr(digits.penalties[0]).startswith("GradientNorm(weight=0.03")
    assert digits.accuracy is None and digits.noise is None
    assert training_record.of("MobileNetV2").penalties is None
    matched = training_record.TrainingRecord({}, [tfgrad.penalties.ScoreMatching(1.0)], {})
    assert matched.matches_scores


def test_tables_of_markdown():
    measured = Measurement("n", "s", "higher", (0.5, 0.25), (0.1, 0.0), along="x|y", points=(1, 2))
    table = sections.from_markdown(Measurement.markdown({"a|b": measured}))
    assert table.headings == ["x|y →", "1", "2"] and table.rows == [["a|b", "0.5 ± 0.1", "0.25"]]
    bold = sections.from_markdown("| m | v |\n|---|---|\n| a | **1** ± 2 |\n\n- a note\n- b")
    assert bold == HtmlTable(["m", "v"], [["a", "1 ± 2"]], ["a note", "b"], frozenset({(0, 1)}))


def test_a_wide_table_is_turned():
    table = HtmlTable(
        ["σ →", "1", "2"], [["a", "x", "y"], ["b", "z", "w"]], [], frozenset({(1, 2)})
    )
    found = sections.turned(table)
    assert found.headings == ["σ →", "a", "b"]
    assert found.rows == [["1", "x", "z"], ["2", "y", "w"]] and found.strong == {(1, 2)}


@pytest.mark.slow
def test_long_texts_and_tables_fit_the_pages():
    figure = figures.curves(None, {"a": {0: (1, 0), 1: (2, 0)}}, x_label="x", y_label="y")
    wide = HtmlTable([f"heading {i}" for i in range(12)], [["1.23 ± 0.45"] * 12] * 80)
    blocks = ["word " * 300, "x" * 400, wide, sections.Picture(figure, HOSTILE), HOSTILE]
    part = sections.Section("key", HOSTILE, "how", blocks, {})
    written = sections.Report(HOSTILE, [("what", HOSTILE)], [part])
    pages = pdf_pages._Pages()
    pdf_pages._section(pages, part)
    for page in pages.figures:
        inside = page.bbox
        renderer = page.canvas.get_renderer()
        for text in page.texts:
            box = text.get_window_extent(renderer)
            assert box.x0 >= inside.x0 and box.x1 <= inside.x1 and box.y0 >= inside.y0
    assert len(pages.figures) >= 2
    Tags(html_page.page(written))

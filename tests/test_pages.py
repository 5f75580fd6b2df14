"""Every Python block of every page runs as it stands, after the blocks above it."""

import ast
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import sklearn.datasets

from tests.helpers import tiny_application
from tests.helpers.image_folders import write_folder
from tests.helpers.variants import with_slow
from tfgrad import loading, saliency
from tfgrad.evaluation.comparison.compare import TESTS
from tfgrad.loading import applications

ROOT = pathlib.Path(__file__).parent.parent
PHOTOGRAPH = pathlib.Path(sklearn.datasets.__file__).parent / "images/flower.jpg"
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tfgrad/**/*.md"))
    if "```python" in path.read_text()
)

# Each of the others trains for a quarter of a minute; what they name is checked without running.
QUICK = ["README.md", "docs/fooling.md", "docs/saliency.md"]


def text(page):
    return (ROOT / page).read_text()


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", text(page), flags=re.DOTALL | re.MULTILINE)


def run(page):
    """The names that a page's blocks define, in a process that has started TensorFlow."""
    namespace = {}
    for code in blocks(page):
        # Logical devices are made before TensorFlow starts; test_strategies_run has them.
        exec(compile(code.replace('"mirrored"', '"one_device"'), page, "exec"), namespace)
    return namespace


def prepare_readme(directory, monkeypatch):
    """A photograph, and a small network in place of the one that Keras would download."""
    shutil.copy(PHOTOGRAPH, directory / "cat.jpg")
    small = loading.pretrained("MobileNet", None, (32, 32))
    monkeypatch.setattr(loading, "pretrained", lambda name: small)


def check_readme(names, directory, printed):
    first, second = blocks("README.md")[:2]
    assert all(sum(bool(line.strip()) for line in b.splitlines()) <= 12 for b in (first, second))
    assert names["result"].maps.shape == (1, 32, 32) and "MobileNet" in printed
    assert (directory / "explained.png").read_bytes().startswith(b"\x89PNG")
    assert names["path"].endswith("1")
    assert (directory / "saved_models/digits/1/saved_model.pb").exists()


def check_ask(names, directory, printed):
    for name in ("full", "ratio", "left", "boxed", "full_of_words"):
        assert np.max(names[name].completeness_error()) < 1e-5, name
    np.testing.assert_allclose(names["why"], names["difference"], atol=1e-6)
    np.testing.assert_allclose(names["likeness"]["score"][0], 1, atol=1e-5)
    assert (names["likeness"]["convergence_gap"] < 0.01).numpy().all()
    advert, whole, words = names["advert"], names["whole"], names["by_words"]
    start = {key: 0 * one for key, one in names["batch"].items()}
    start["table"] = start["table"] + [[0.5, 0, 0]]
    change = np.subtract(advert(names["batch"]), advert(start))[:, 0]
    total = sum(np.reshape(one, (2, -1)).sum(1) for one in whole["saliency"].values())
    assert (abs(total - change) <= whole["convergence_gap"] + 1e-5).numpy().all()
    assert (whole["convergence_gap"] < 0.01 * abs(change)).numpy().all()
    assert (words["convergence_gap"] < 0.02 * abs(words["score"])).numpy().all()
    assert not words["saliency"].numpy()[names["asked"] == 0].any() and names["accuracy"] > 0.8
    changes = names["changes"]
    pairs = zip(changes["input × gradient"].values, changes["random"].values, strict=True)
    assert all(2 * ours < control for ours, control in pairs) and "| random |" in printed
    assert 5 * names["errors"]["and slopes"] < names["errors"]["values"]
    assert names["outside"]["masked"] < 0.75 * names["outside"]["plain"]
    pictures = ("regions", "advert", "ask_words", "slopes")
    assert {path.name for path in directory.iterdir()} == {
        *(f"{name}.png" for name in pictures),
        "ask_words.html",
    }


def check_density(names, directory, printed):
    assert (directory / "pixels.png").exists() and "| random |" in printed


def check_faithfulness(names, directory, printed):
    assert not names["table"].failures and "| random |" in printed
    assert {path.name for path in directory.iterdir()} == {"faithfulness.png", "faithfulness.csv"}
    named = set(re.findall(r"^\| `(\w+)`", text("docs/faithfulness.md"), flags=re.MULTILINE))
    assert named == {*TESTS, "remove_and_retrain", "label_randomisation"}


def check_fooling(names, directory, printed):
    assert (directory / "fooled.keras").exists()


def check_in_the_browser(names, directory, printed):
    assert {"index.html", "model.json", "fullgrad.onnx"} <= set(os.listdir(names["folder"]))


def check_portable(names, directory, printed):
    assert np.asarray(names["saliency"]).shape == (1, 8, 8) and names["score"].shape == (1,)
    assert {"fullgrad.onnx", "model.tflite"} <= set(os.listdir(names["path"]))


def check_penalties(names, directory, printed):
    assert (directory / "runs/mine/state").is_dir() and names["done"] == 0
    assert (directory / "saved_models/mine/1/saved_model.pb").exists()
    assert os.listdir(directory / "saved_models/epochs") == ["2"]
    assert len(os.listdir(directory / "runs/maps")) == 4
    assert "ScoreMatching              with care" in printed
    assert "epoch 2/2" in printed and "examples/s, 0:00 left" in printed


def check_report(names, directory, printed):
    assert "| intended use | tests |" in printed and "GradientNorm(weight=0.03" in printed
    assert names["path"].endswith("1")


def check_saliency(names, directory, printed):
    assert names["maps"].shape == (2, 8, 8)
    methods = set(re.findall(r"^\| `(\w+)`", text("docs/saliency.md"), flags=re.MULTILINE))
    methods |= {"smoothgrad_squared", "layercam", "scorecam"}  # second and third in their rows
    assert methods == set(saliency.METHODS)


def check_serving_elsewhere(names, directory, printed):
    whole = saliency.FullGrad(names["network"]).explain(names["images"])
    scale = np.abs(whole["saliency"]).max()
    assert scale > 0
    for found in (names["explained"], names["found"]):
        np.testing.assert_allclose(found["saliency"], whole["saliency"], atol=1e-5 * scale)
    assert names["maps"].shape == (1, 8, 8) and np.any(names["maps"])


def check_transfer(names, directory, printed):
    assert names["network"].output_shape == (None, 5) and "learns from" in printed


def prepare_your_own_images(directory, monkeypatch):
    """A folder of photographs, and small features in place of those that Keras would download."""
    write_folder(directory / "photos", {"cat": 8, "dog": 8}, size=(40, 30), suffix=".jpg")
    monkeypatch.setattr(applications, "built", tiny_application.built)


def check_your_own_images(names, directory, printed):
    assert names["start"].class_names == ("cat", "dog") and names["result"].maps.shape[0] == 3
    assert (directory / "explained.png").read_bytes().startswith(b"\x89PNG")
    assert names["answer"]["saliency"].shape == (1, 224, 224)
    assert {*names["robustness"].curve()} == {0, 0.1}
    assert names["photographs"].numpy().max() <= 1


PREPARATIONS = {
    "README.md": prepare_readme,
    "docs/your_own_images.md": prepare_your_own_images,
}
CHECKS = {
    "README.md": check_readme,
    "docs/ask.md": check_ask,
    "docs/density.md": check_density,
    "docs/faithfulness.md": check_faithfulness,
    "docs/fooling.md": check_fooling,
    "docs/in_the_browser.md": check_in_the_browser,
    "docs/penalties.md": check_penalties,
    "docs/portable.md": check_portable,
    "docs/report.md": check_report,
    "docs/saliency.md": check_saliency,
    "docs/serving_elsewhere.md": check_serving_elsewhere,
    "docs/transfer.md": check_transfer,
    "docs/your_own_images.md": check_your_own_images,
}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*:tfgrad.errors.SecondOrderWarning")
@pytest.mark.parametrize("page", with_slow(QUICK, [page for page in PAGES if page not in QUICK]))
def test_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if page in PREPARATIONS:
        PREPARATIONS[page](tmp_path, monkeypatch)
    names = run(page)
    CHECKS[page](names, tmp_path, capsys.readouterr().out)


def unknown_names(code):
    """What code takes of tfgrad that is not there: attributes and keyword arguments."""
    tree, namespace, found = ast.parse(code), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), "imports", "exec"), namespace)

    def value_of(node):
        if isinstance(node, ast.Name):
            known = namespace.get(node.id)
            return known if "tfgrad" in getattr(known, "__name__", "") or callable(known) else None
        if isinstance(node, ast.Attribute) and inspect.ismodule(owner := value_of(node.value)):
            if not hasattr(owner, node.attr):
                found.add(ast.unparse(node))
            return getattr(owner, node.attr, None)
        return None

    for node in ast.walk(tree):
        value_of(node)
        if isinstance(node, ast.Call) and (called := value_of(node.func)):
            accepted = inspect.signature(called).parameters
            if all(p.kind != p.VAR_KEYWORD for p in accepted.values()):
                found |= {k.arg for k in node.keywords if k.arg and k.arg not in accepted}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_uses_exists(page):
    """Also of the pages that only `make test-all` runs."""
    assert unknown_names("\n".join(blocks(page))) == set()


def test_a_name_or_a_keyword_that_does_not_exist_is_found():
    code = "import tfgrad\nfrom tfgrad import saliency as s\n"
    assert unknown_names(code + "s.FullGrad(network, part='signed')(tfgrad.losses)") == set()
    assert unknown_names(code + "s.Gone(tfgrad.full_gradients(n, x, how=1))") == {"s.Gone", "how"}


def test_every_page_with_code_is_known():
    assert set(PAGES) == set(CHECKS)


def test_code_is_marked_as_python():
    """A block in another language is no Python, which would not be run."""
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for language, code in re.findall(
            r"^```(\w*)\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE
        ):
            assert language in ("python", "text") or "tfgrad." not in code or "python -m" in code, (
                path
            )


KERAS_CACHE = """
import keras, sys
keras.utils.set_random_seed(1)
keras.applications.MobileNetV2(weights=None).save(sys.argv[1])
"""


@pytest.mark.slow
def test_the_first_screen_as_it_stands(tmp_path):
    """The commands and the block of the README, with random weights in Keras's own place."""
    shutil.copy(PHOTOGRAPH, tmp_path / "cat.jpg")
    file = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    (tmp_path / "keras/models").mkdir(parents=True)
    environment = {**os.environ, "KERAS_HOME": str(tmp_path / "keras"), "PYTHONPATH": str(ROOT)}

    def started(*command):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    started(sys.executable, "-c", KERAS_CACHE, str(tmp_path / "keras/models" / file))
    commands = re.findall(r"^tfgrad (explain [^#\n]+)", text("README.md"), flags=re.MULTILINE)[:2]
    for command in commands:
        assert "explained" in started(sys.executable, "-m", "apps", *command.split())
    assert (tmp_path / "runs/explained/explanations.png").exists()
    assert "MobileNetV2" in started(sys.executable, "-c", blocks("README.md")[0])
    assert (tmp_path / "explained.png").exists()


@pytest.mark.slow
def test_strategies_run(tmp_path):
    """The block that needs a process of its own, as it stands."""
    (code,) = (code for code in blocks("docs/penalties.md") if '"mirrored"' in code)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

"""The model card beside an exported model: its content, its escapes, and its requests."""

import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from apps import export as export_command
from apps.common import training_record
from tests.helpers.app_run import in_process
from tfgrad import export, loading
from tfgrad.errors import ArgumentError
from tfgrad.export import model_card
from tfgrad.internal import files

HOSTILE = "<b>x</b> | `a` *b* [c](d)\n# e & f"


def network(shape=(6, 6, 1)):
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(2, 3, activation="softplus")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)), name="small")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A penalised model, exported with facts, and its card."""
    model = tfgrad.PenalizedModel(network(), [tfgrad.penalties.GradientNorm(0.25)])
    directory = tmp_path_factory.mktemp("cards") / "digits of <x>"
    card = {"data": HOSTILE, "test accuracy": 0.98125, "used": ["a", 2], "noise": {"σ = 1": 0.5}}
    path = export.save(
        model,
        directory,
        ["fullgrad", "input_gradient"],
        ["zero", "one", HOSTILE],
        image_range=(-1, 1),
        card=card,
        training={"epoch": 7},
    )
    with open(os.path.join(path, model_card.NAME), encoding="utf-8") as file:
        return path, file.read()


def test_the_card_says_what_is_served(exported):
    text = exported[1]
    assert text.startswith("# digits of &lt;x&gt;\n")
    assert f"tfgrad {tfgrad.__version__}" in text and f"keras {keras.__version__}" in text
    assert "| pixels | -1 (black) to 1 (white) |" in text
    assert r"| penalties in training | GradientNorm(weight=0.25, name='gradient\_norm'" in text
    assert "| training: epoch | 7 |" in text
    assert "| classes (3) | zero, one, &lt;b&gt;" in text
    plain = text.replace("\\", "")
    assert "| `serving_default` | `image` float32 [B, 6, 6, 1] | `logits` float32 [B, 3]" in plain
    assert "`target` int32 [B]" in plain and "| `input_gradient` | of='logit'," in plain
    assert "`fullgrad`: each answer has its `completeness_error`" in text


def test_facts_are_tables_and_escaped(exported):
    text = exported[1]
    assert "| test accuracy | 0.98125 |" in text and "| used | a, 2 |" in text
    assert "## noise\n\n| | |\n|---|---|\n| σ = 1 | 0.5 |" in text
    shown = r"&lt;b&gt;x&lt;/b&gt; \| \`a\` \*b\* \[c\](d) # e &amp; f"
    assert f"| data | {shown} |" in text
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert not re.search(r"<(?!br>)", prose)
    for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(counts) == 1


def run(text):
    """The names of a card's request in Python, which runs as it stands."""
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert "saliency" in printed.getvalue()
    return names


def test_its_requests_run(exported, monkeypatch):
    path, text = exported
    names = run(text)
    zeros = names["served"].signatures["serving_default"](image=np.zeros((1, 6, 6, 1), "float32"))
    assert names["answer"]["class"].numpy() == np.argmax(zeros["logits"])
    monkeypatch.chdir(path)
    (command,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert "/v1/models/digits%20of%20%3Cx%3E:predict" in command
    photograph = tf.io.encode_jpeg(np.full((6, 6, 1), 100, "uint8")).numpy()
    with open(os.path.join(path, "photograph.jpg"), "wb") as file:
        file.write(photograph)
    shell = command.split("\\\n    | curl")[0]
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    os.remove(os.path.join(path, "photograph.jpg"))
    body = json.loads(done.stdout)
    asked = body["inputs"]
    assert asked["target"] == [-1] and body["signature_name"] == "encoded"
    decoded = [base64.b64decode(one["b64"]) for one in asked["image_bytes"]]
    assert decoded == [photograph]
    encoded = names["served"].signatures["encoded"]
    answer = encoded(image_bytes=tf.constant(decoded), target=tf.constant(asked["target"]))
    assert answer["class"].numpy() == np.argmax(answer["logits"])


def test_the_directory_is_loaded_as_before(exported):
    served = loading.load_served(exported[0])
    assert "fullgrad" in served.signatures
    assert os.path.dirname(os.path.join(exported[0], model_card.NAME)) == exported[0]


def test_the_card_of_any_model(tmp_path, monkeypatch):
    """Inputs by name, without encoded images: the request has them as JSON."""
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    both = keras.layers.Concatenate()(list(inputs.values()))
    model = keras.Model(inputs, keras.layers.Dense(2)(both))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second one is another version
        path = export.save(model, "two é", ["input_gradient"], card={"penalties": "unknown"})
    with open(os.path.join(path, model_card.NAME), encoding="utf-8") as file:
        text = file.read()
    assert 'tf.saved_model.load("two é/2")' in text
    assert run(text)["answer"]["class"].shape == (1,)
    assert "| penalties | unknown |" in text and "penalties in training" not in text
    (command,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    shell = command.split("\\\n    | curl")[0].replace("python -c", f"{sys.executable} -c")
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    body = json.loads(done.stdout)
    assert body["signature_name"] == "input_gradient"
    assert {key: np.shape(value) for key, value in body["inputs"].items()} == {
        "a": (1, 3),
        "b": (1, 2),
        "target": (1,),
    }
    assert body["inputs"]["target"] == [-1]


def test_a_regression_predicts_no_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = export.save(
        network(), tmp_path / "sizes", ["input_gradient"], outputs="regression", image_range=(0, 1)
    )
    with open(os.path.join(path, model_card.NAME), encoding="utf-8") as file:
        text = file.read()
    assert 'tf.saved_model.load("sizes/1")' in text
    assert "target=tf.constant([0]),  # the first output" in text and '"target": [0]}' in text
    run(text)


@pytest.mark.long
def test_the_command_fills_the_card_from_the_record(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    network().save(run / "network.keras")
    tfgrad.PenalizedModel(network(), [tfgrad.penalties.GradientNorm(0.5)]).save(run / "model.keras")
    levels = [{"sigma": 0.5, "accuracy": 0.75, "deviation": 0.01}]
    files.write_json(
        str(run / "results.json"),
        {
            "normalize": None,
            "classes": ["a", "b", "c"],
            "test": {"val_accuracy": 0.875},
            "noise": levels,
        },
    )
    files.write_json(str(run / "run.json"), {"flags": {"dataset": "digits", "epochs": 3}})
    assert list(training_record.of(str(run)).facts())[:2] == ["dataset", "epochs"]
    own = {"network": "MobileNetV2", "width": 1.0, "activation": "relu", "frozen": True}
    (run / "other").mkdir()
    files.write_json(str(run / "other/run.json"), {"flags": own})
    told = training_record.of(str(run / "other")).settings  # whose width is that of other networks
    assert told == {"network": "MobileNetV2", "frozen": True}
    with in_process(export_command) as app:
        asked = ("--methods=input_gradient", f"--to={tmp_path}/served")
        assert app(f"--work_dir={run}", *asked) == 0
    text = (tmp_path / "served" / "1" / model_card.NAME).read_text(encoding="utf-8")
    assert "| dataset | digits |" in text and "| epochs | 3 |" in text
    assert "| test accuracy at the end of training | 87.50% |" in text
    assert "| σ = 0.5 | 75.00% ± 1.00% |" in text
    assert r"| penalties | GradientNorm(weight=0.5" in text


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (["data"], "card: got a list; expected {name: text, number, list or table}"),
        ({"a": object}, "card: got 'a': <class 'object'>; expected a name with a text"),
        ({3: "a"}, "card: got 3: 'a'; expected a name with a text"),
        ({"a": {"b": {"c": 1}}}, "card: got 'a': {'b': {'c': 1}}; expected a name"),
    ],
)
def test_what_is_refused(card, message, tmp_path):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        export.save(network(), tmp_path, card=card)
    assert not os.listdir(tmp_path)

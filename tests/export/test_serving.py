"""What a client gets of an exported model: every method, encoded images, warm-up, the command."""

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.serving_cases import (
    METHODS,
    build,
    close,
    encoded,
    floats,
    requests_of,
    signatures,
    targets,
)
from tfgrad import export, images, saliency

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZES = (1, 7, 64)
EXTRAS = {
    "input_gradient": {"gradient"},
    "integrated_gradients": {"convergence_gap"},
    "guided_backprop": {"gradient"},
    "fullgrad": {"completeness_error"},
}

CLIENT = """
import sys
import numpy as np
import tensorflow as tf
path, questions, answers = sys.argv[1:]
loaded = tf.saved_model.load(path)
assert not {"tfgrad", "keras"} & {m.partition(".")[0] for m in sys.modules} - KERAS
given, out = np.load(questions), {}
for name, signature in loaded.signatures.items():
    for size in (1, 7, 64):
        asked = {"image": tf.constant(given["image"][:size])}
        if name == "encoded":
            asked = {"image_bytes": tf.constant(given["image_bytes"][:size].tolist())}
        if name != "serving_default":
            asked["target"] = tf.constant(given["target"][:size])
        for key, value in signature(**asked).items():
            out[f"{name}/{size}/{key}"] = value.numpy()
np.savez(answers, **out)
""".replace("KERAS", repr({"keras"}))  # TensorFlow may import Keras for itself


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, its directory with every method, and what another process gets from it."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    network = build()
    path = export.save(network, folder / "small", METHODS, image_range=(0, 1))
    questions, answers = folder / "questions.npz", folder / "answers.npz"
    files = np.array(encoded(), dtype=object).astype("S")  # zero bytes at an end would be lost
    assert files.tolist() == encoded()
    np.savez(questions, image=floats(), target=targets(), image_bytes=files)
    command = [sys.executable, "-c", CLIENT, path, str(questions), str(answers)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(answers) as file:
        return network, path, dict(file)


@pytest.fixture(scope="module")
def served(exported):
    return signatures(exported[1])[1]


@pytest.mark.long
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", METHODS)
def test_a_fresh_process_gets_the_live_methods_numbers(exported, name):
    network, _, answers = exported
    method = saliency.get(name)(network)
    whole = method.explain(tf.constant(floats()), tf.constant(targets()))
    assert {"saliency", "score", "class"} | EXTRAS.get(name, set()) == set(whole.keys())
    for size in SIZES:
        live = {key: value[:size] for key, value in whole.items()}
        if name == "fullgrad":  # the rounding of its remainder depends on the size of the batch
            live = method.explain(tf.constant(floats(size)), tf.constant(targets(size)))
        for key, expected in live.items():
            # A remainder of terms that cancel is as exact as the terms are.
            scale = np.abs(live["score"]).max() if expected.shape.rank == 1 else None
            close(answers[f"{name}/{size}/{key}"], expected, scale)
            assert expected.shape[0] == size


def test_encoded_images_give_what_decoding_by_hand_gives(exported, served):
    _, _, answers = exported
    by_hand = np.stack([images.decode(content, (8, 9)).numpy() for content in encoded()])
    for size in SIZES:
        image, target = tf.constant(by_hand[:size]), tf.constant(targets(size))
        expected = served[METHODS[0]](image=image, target=target)
        expected |= served["serving_default"](image=image)
        for key in ("logits", "probabilities", "class", "score", "saliency"):
            got = answers[f"encoded/{size}/{key}"]
            np.testing.assert_allclose(got, expected[key], rtol=1e-5, atol=1e-5)
    keys = {key.split("/")[2] for key in answers if key.startswith("encoded/")}
    assert keys == {"logits", "probabilities", "class", "score", "saliency"}


def test_every_signature_has_named_inputs_and_outputs_with_the_batch_first(served):
    assert set(served) == {"serving_default", "encoded", *METHODS}
    for name, signature in served.items():
        inputs = signature.structured_input_signature[1]
        expected = {
            "serving_default": {"image": (tf.float32, [None, 8, 9, 3])},
            "encoded": {"image_bytes": (tf.string, [None]), "target": (tf.int32, [None])},
        }.get(name, {"image": (tf.float32, [None, 8, 9, 3]), "target": (tf.int32, [None])})
        assert {k: (s.dtype, s.shape.as_list()) for k, s in inputs.items()} == expected
        outputs = signature.structured_outputs
        assert all(spec.shape.rank and spec.shape[0] is None for spec in outputs.values())
        if name != "serving_default":
            assert outputs["saliency"].shape.as_list() == [None, 8, 9]
            assert outputs["class"].dtype == tf.int32
            assert {"saliency", "score", "class"} | EXTRAS.get(name, set()) <= set(outputs)


def test_metadata_tells_the_methods_options(exported):
    with open(os.path.join(exported[1], export.METADATA), encoding="utf-8") as file:
        metadata = json.load(file)
    assert list(metadata["methods"]) == METHODS
    assert metadata["methods"]["integrated_gradients"] == {"baseline": 0.0, "steps": 50}
    assert metadata["image_range"] == [0, 1]
    assert metadata["preprocess"] is None
    assert metadata["left_out"] == {}


@pytest.mark.slow
def test_warm_up_requests_replay(exported, served):
    parsed = requests_of(exported[1])
    assert [name for _, name, _ in parsed] == ["serving_default", *METHODS, "encoded"]
    for model, name, inputs in parsed:
        assert model == "small"
        outputs = served[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert all(value.shape[0] == 1 for value in outputs.values())
        if "target" in inputs:
            assert inputs["target"].tolist() == [-1]


@pytest.mark.long
@pytest.mark.parametrize("name", ["input_gradient", "encoded"])
@pytest.mark.parametrize("target", [[4, 0], [0, -2], [0]])
def test_bad_targets_fail_the_request(served, name, target):
    asked = {"image": tf.constant(floats(2))}
    if name == "encoded":
        asked = {"image_bytes": tf.constant(encoded(2))}
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"target: got(.|\n)*expected .*-1 for the pred"
    ):
        served[name](**asked, target=tf.constant(target))


def test_bad_images_fail_the_request_before_they_are_decoded(served):
    good = encoded(1)[0]
    huge = good[:16] + (100_000).to_bytes(4, "big") * 2  # cut off right there
    for bad, message in {
        huge: r"image_bytes\[1\]: got 100000 × 100000 pixels; expected 1 to",
        b"\xff\xd8\xff" + b"\0" * images.MAX_BYTES: r"\[1\]: got 16777219 bytes; expected 1 to",
        b"GIF89a": "got a GIF; expected a JPEG or a PNG",
        b"": "got 0 bytes",
        good[:-4]: "Invalid PNG data",
    }.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served["encoded"](image_bytes=tf.constant([good, bad]), target=tf.constant([-1, -1]))


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(exported, tmp_path):
    command = shutil.which("saved_model_cli", path=os.path.dirname(sys.executable))
    assert command is not None, "TensorFlow installs saved_model_cli beside its Python"
    _, path, answers = exported
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}

    def run(*arguments):
        done = subprocess.run(
            [command, *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = run("show", "--dir", path, "--all")
    for name in ("serving_default", "encoded", *METHODS):
        assert f"signature_def['{name}']" in shown
    assert "inputs['image_bytes'] tensor_info" in shown
    np.savez(tmp_path / "in.npz", image=floats(7), target=targets(7))
    data = tmp_path / "in.npz"
    run(
        *("run", "--dir", path, "--tag_set", "serve", "--signature_def", "input_gradient"),
        *("--inputs", f"image={data}[image];target={data}[target]", "--outdir", str(tmp_path)),
    )
    close(np.load(tmp_path / "saliency.npy"), answers["input_gradient/7/saliency"])

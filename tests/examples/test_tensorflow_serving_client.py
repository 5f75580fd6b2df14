"""The client of TensorFlow Serving over REST: arrays, files, errors and the command."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.examples import serving_stand_in


@pytest.fixture(scope="module")
def address(signatures):
    with serving_stand_in.rest(signatures, "small") as found:
        yield found


@pytest.mark.long
def test_arrays_get_the_outputs_of_the_signature(example, address, signatures, images):
    over_rest = example("tensorflow_serving_client").over_rest
    inputs = {"image": images, "target": np.int32([2, -1, 0])}
    expected = signatures["fullgrad"](**{key: tf.constant(v) for key, v in inputs.items()})
    got = over_rest(address, "small", "fullgrad", inputs)
    assert set(got) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, atol=1e-6, err_msg=key)


def test_what_serving_rejects_is_an_error_with_its_sentence(example, address, images):
    over_rest = example("tensorflow_serving_client").over_rest
    with pytest.raises(RuntimeError, match="expected classes 0 to 2"):
        over_rest(address, "small", "fullgrad", {"image": images[:1], "target": np.int32([3])})
    with pytest.raises(RuntimeError, match="Servable not found"):
        over_rest(address, "other", "serving_default", {"image": images})


def test_the_command_explains_a_file(example, address, signatures, tmp_path, monkeypatch, capsys):
    content = tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (9, 8, 3), "uint8"))
    (tmp_path / "photograph.png").write_bytes(content.numpy())
    arguments = [f"--rest={address}", "--model=small", "--target=1", "photograph.png"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["client", *arguments])
    example("tensorflow_serving_client").main()
    image_bytes, target = tf.reshape(content, [1]), tf.constant([1])
    live = signatures["encoded"](image_bytes=image_bytes, target=target)
    assert f"class 1, score {live['score'][0]:.4g}\n" in capsys.readouterr().out


def test_the_command_takes_one_address(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["client", "--model=small", "photograph.png"])
    with pytest.raises(SystemExit):
        example("tensorflow_serving_client").main()
    assert "give one of --rest and --grpc" in capsys.readouterr().err

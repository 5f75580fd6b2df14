"""Presets that KerasHub itself wrote; run by `make test-zoo`, which installs it."""

import numpy as np
import pytest

from tfgrad import loading, saliency
from tfgrad.errors import ModelError

pytestmark = [pytest.mark.hub, pytest.mark.slow]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(classifier of KerasHub with a preprocessor, directory of its preset)."""
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    )
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=(32, 32), scale=1 / 127.5, offset=-1.0
    )
    preprocessor = keras_hub.models.ResNetImageClassifierPreprocessor(converter)
    task = keras_hub.models.ResNetImageClassifier(
        backbone=backbone, num_classes=4, preprocessor=preprocessor
    )
    directory = tmp_path_factory.mktemp("presets") / "resnet"
    task.save_to_preset(str(directory))
    return task, str(directory)


def test_a_directory_of_a_preset(written):
    task, directory = written
    found = loading.pretrained(directory)
    assert found.image_size == (32, 32) and found.image_range == (0.0, 255.0)
    x = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    logits = found.network.predict(x, verbose=0)
    expected = task.predict(x, verbose=0)  # logits: the task has no activation of its own
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    explained = saliency.FullGrad(found.network).explain(x)
    assert np.abs(explained.completeness_error).max() < 1e-4
    assert np.ptp(explained.maps, axis=(1, 2)).min() > 0


def test_random_weights_and_names(written):
    _, directory = written
    assert loading.is_pretrained(directory)
    assert loading.is_pretrained("resnet_18_imagenet")
    found = loading.pretrained(directory, weights=None)
    assert found.network.output_shape == (None, 4)


def test_no_connection(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metadata.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be had"):
        loading.pretrained(str(tmp_path))

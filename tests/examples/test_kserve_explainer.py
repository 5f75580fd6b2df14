"""The explainer for KServe, on a stand-in of KServe's classes: answers, batches, bad requests."""

import asyncio
import os
import sys
import types

import numpy as np
import pytest
import tensorflow as tf


class Model:
    """What the explainer uses of `kserve.Model`."""

    def __init__(self, name):
        self.name, self.ready = name, False


class InvalidInput(ValueError):
    """`kserve.errors.InvalidInput`, which the server answers with status 400."""


@pytest.fixture
def explainer(exported, example, monkeypatch):
    """The explainer of the exported model; its directory holds numbered versions."""
    kserve, errors = types.ModuleType("kserve"), types.ModuleType("kserve.errors")
    kserve.Model, errors.InvalidInput = Model, InvalidInput
    monkeypatch.setitem(sys.modules, "kserve", kserve)
    monkeypatch.setitem(sys.modules, "kserve.errors", errors)
    return example("kserve_explainer").Explainer("small", os.path.dirname(exported), 8)


def asked(verb, payload):
    return asyncio.run(verb(payload))


@pytest.mark.long
def test_explanations_are_those_of_the_saved_model(explainer, signatures, images):
    assert explainer.ready
    instances = [
        {"image": image.tolist(), "target": target}
        for image, target in zip(images, [2, -1, 0], strict=True)
    ]
    image, target = tf.constant(images), tf.constant([2, -1, 0])
    for method in ("fullgrad", "input_gradient"):
        found = asked(explainer.explain, {"instances": instances, "method": method})
        for key, value in signatures[method](image=image, target=target).items():
            got = [one[key] for one in found["explanations"]]  # three, from batches of two
            np.testing.assert_allclose(got, value, atol=2e-6, err_msg=key)
    found = asked(explainer.predict, {"instances": instances})["predictions"]
    live = signatures["serving_default"](image=image)
    for key, value in live.items():
        np.testing.assert_allclose([one[key] for one in found], value, atol=1e-6)


def test_the_first_method_and_the_predicted_class_are_the_defaults(explainer, signatures, images):
    payload = {"instances": [{"image": images[0].tolist()}]}
    (found,) = asked(explainer.explain, payload)["explanations"]
    image, target = tf.constant(images[:1]), tf.constant([-1])
    live = signatures["fullgrad"](image=image, target=target)
    assert found["class"] == live["class"][0]
    np.testing.assert_allclose(found["saliency"], live["saliency"][0], atol=2e-6)


def test_bad_requests_are_rejected_with_a_sentence(explainer, images):
    image = images[0].tolist()
    one = {"image": image, "target": 0}
    infinite = np.where(images[0] == images[0].max(), np.inf, images[0]).tolist()
    for message, payload in {
        "instances: expected a list of 1 to 8": {"instances": [one] * 9},
        "1 to 8 objects": [1],
        "objects {": {"instances": [image]},
        r"image: got the shape \(5, 3\); expected \(6, 5, 3\)": {
            "instances": [{"image": image[0]}]
        },
        "arrays of numbers": {"instances": [one, {"image": image[0]}]},
        "NaN or infinite": {"instances": [{"image": infinite}]},
        "target: expected integers from -1 to 2": {"instances": [{"image": image, "target": 3}]},
        "integers from": {"instances": [{"image": image, "target": 0.5}]},
        "method: got 'gradcam'; expected one of": {"instances": [one], "method": "gradcam"},
    }.items():
        with pytest.raises(InvalidInput, match=message):
            asked(explainer.explain, payload)

"""Targets in configurations and files, and targets of the user's own."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tests.helpers import target_cases
from tests.helpers.target_cases import CASES, images, probe
from tfgrad import penalties, targets
from tfgrad.errors import ArgumentError
from tfgrad.targets import Contrast, Region, Scalar, Target


@keras.saving.register_keras_serializable("tfgrad_tests")
class Spread(Target):
    """Largest logit − smallest logit."""

    linear = True

    def __init__(self, name="spread"):
        super().__init__(name)

    def compute(self, outputs):
        logits = outputs.head()
        return tf.reduce_max(logits, 1) - tf.reduce_min(logits, 1)


@pytest.mark.parametrize("case", CASES)
def test_a_target_comes_back(case):
    network, target = CASES[case]
    network, target = network(), target()
    text = json.dumps(targets.to_config(target))
    loaded = targets.validated(json.loads(text))
    assert type(loaded) is type(target) and loaded.get_config() == target.get_config()
    assert repr(loaded) == repr(target) and loaded.name == target.name
    first, second = (probe(network, images()).score(t) for t in (target, loaded))
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_a_target_of_the_users_own(float64):
    network = target_cases.classifier()
    logits = network(images()).numpy()
    loaded = targets.validated(json.loads(json.dumps(targets.to_config(Spread()))))
    assert isinstance(loaded, Spread)
    expected = logits.max(1) - logits.min(1)
    np.testing.assert_array_equal(probe(network, images()).score(loaded), expected)


def test_a_target_without_compute():
    with pytest.raises(NotImplementedError, match=r"Target has no compute\(outputs\)"):
        probe(target_cases.classifier(), images()).score(Target("nothing"))


def test_a_lambda_is_refused_where_it_is_saved():
    target = Scalar(lambda o: o[:, 0])
    assert repr(target) == "Scalar('scalar')"
    with pytest.raises(ArgumentError, match=r"function: got a lambda in Scalar\('scalar'\)"):
        targets.to_config(target)


def test_what_only_one_class_can_be_asked_for():
    at = probe(target_cases.classifier(), images())
    with pytest.raises(ArgumentError, match=r"Contrast\(0, 1\) for the gradient of a log_prob"):
        at.input_gradient(Contrast(0, 1), of="log_probability")
    with pytest.raises(ArgumentError, match=r"Contrast\(0, 1\), which is no class"):
        at.classes(Contrast(0, 1))


@pytest.mark.parametrize(
    "make", [lambda: Region(1, [[0, 1]]), lambda: Scalar(target_cases.price_of_both)]
)
def test_a_penalty_keeps_its_target(make):
    penalty = penalties.GradientNorm(1.0, target=make())
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(penalty))
    assert loaded.get_config() == penalty.get_config() and repr(loaded) == repr(penalty)


def test_a_saved_model_keeps_the_targets_of_its_penalties(tmp_path):
    penalty = penalties.GradientNorm(1.0, target=Region(1, target_cases.ONE_MASK))
    model = tfgrad.PenalizedModel(target_cases.unet(), [penalty])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert repr(loaded.penalties) == repr(model.penalties)
    first, second = (m.penalties[0].per_example(m.network, images()) for m in (model, loaded))
    np.testing.assert_allclose(first, second, rtol=1e-6)

"""Penalties that read no logits, on segmenters, detectors and networks of probabilities."""

import keras
import numpy as np
import pytest

import tfgrad
from tests.helpers.transfer_cases import SHAPE, check_value_and_gradient, filled, images
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.penalties import (
    ActivationMatching,
    AttentionJacobianMatching,
    AttentionMatching,
    GradientNorm,
    matching_layers,
)

L = keras.layers


def segmenter(seed, channels=2, last=None, name="segmenter"):
    x = keras.Input(SHAPE)
    features = L.Conv2D(channels, 2, padding="same", activation="softplus", name="features")(x)
    out = L.Conv2D(3, 1, activation=last, name="out")(features)
    return filled(keras.Model(x, out, name=name), seed)


def detector(seed, form, name="detector"):
    x = keras.Input(SHAPE)
    features = L.Conv2D(2, 2, padding="same", activation="softplus", name="features")(x)
    boxes = L.Conv2D(4, 1, name="boxes")(features)
    kinds = L.Conv2D(3, 1, activation="sigmoid", name="kinds")(features)
    outputs = {"boxes": boxes, "kinds": kinds} if form is dict else [boxes, kinds]
    return filled(keras.Model(x, outputs, name=name), seed)


def classifier(network):
    """The same features and another head."""
    features = network.get_layer("features").output
    logits = L.Dense(2)(L.GlobalAveragePooling2D()(features))
    return keras.Model(network.inputs[0], logits)


MATCHING = {
    "maps": lambda: AttentionMatching(layers=["features"]),
    "gradients": lambda: AttentionJacobianMatching(layers=["features"], window=0.5),
}
NETWORKS = {
    "segmenter": lambda seed: segmenter(seed),
    "probabilities": lambda seed: segmenter(seed, last="softmax"),
    "dict": lambda seed: detector(seed, dict),
    "list": lambda seed: detector(seed, list),
}


@pytest.mark.diagonal
@pytest.mark.parametrize("form", NETWORKS)
@pytest.mark.parametrize("penalty", MATCHING)
def test_attention_penalties_do_not_depend_on_the_outputs(float64, penalty, form):
    penalty, x = MATCHING[penalty](), images()
    net, taught = NETWORKS[form](1), NETWORKS[form](2)
    expected = penalty.per_example(classifier(net), x, teacher=classifier(taught))
    np.testing.assert_allclose(penalty.per_example(net, x, teacher=taught), expected, rtol=1e-12)


def test_weight_gradients_on_a_segmenter(float64):
    penalty, x = AttentionJacobianMatching(layers=["features"], window=0.5), images()
    net, taught = segmenter(1), segmenter(2)
    check_value_and_gradient(
        lambda: penalty.per_example(net, x, teacher=taught), net, None, "segmenter"
    )


def test_logits_of_any_shape_are_matched(float64):
    net, taught, x = segmenter(1), segmenter(2, channels=4), images()
    expected = np.sum(np.square(net(x) - taught(x)), (1, 2, 3))
    value = ActivationMatching().per_example(net, x, teacher=taught)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    small = keras.Model(taught.inputs[0], L.MaxPooling2D()(taught.outputs[0]))
    with pytest.raises(ArgumentError, match=r"teacher: got outputs of shape \(3, 2, 2, 3\)"):
        ActivationMatching().per_example(net, x, teacher=small)


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("form", [dict, list])
def test_a_detector_trains_with_losses_of_its_heads(form):
    net, taught, x = detector(1, form), detector(2, form), images(4).astype("float32")
    labels = {"boxes": np.zeros((4, 4, 4, 4)), "kinds": np.ones((4, 4, 4), "int32")}
    losses = {"boxes": "mse", "kinds": keras.losses.SparseCategoricalCrossentropy()}
    if form is list:
        labels, losses = list(labels.values()), list(losses.values())
    penalty = AttentionMatching(2.0, ["features"])
    model = tfgrad.PenalizedModel(net, [penalty], teacher=taught)
    model.compile("sgd", losses)
    plain = keras.models.clone_model(net)
    plain.set_weights(net.get_weights())
    plain.compile("sgd", losses)
    expected = np.mean(penalty.per_example(net, x, teacher=taught))
    logs = model.evaluate(x, labels, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(plain.evaluate(x, labels, verbose=0)[0], rel=1e-5)
    history = model.fit(x, labels, verbose=0).history
    assert history["attention_matching"][0] == pytest.approx(expected, rel=1e-5)
    assert history["loss"][0] == pytest.approx(logs["loss"] + 2 * expected, rel=1e-5)


def test_lessons_hold_the_maps_of_a_segmenter():
    net, taught, x = segmenter(1), segmenter(2), images().astype("float32")
    model = tfgrad.PenalizedModel(net, MATCHING["maps"](), teacher=taught)
    assert list(model.lessons(x).taught) == ["attention/features/2.0"]


def test_layers_are_proposed_for_segmenters():
    assert matching_layers(segmenter(1), segmenter(2), verbose=False) == [("out", "out")]


def test_penalties_that_read_logits_say_what_they_expect():
    net, x = segmenter(1), images().astype("float32")
    with pytest.raises(ModelError, match=r"shape \(3, 4, 4, 3\); expected logits .* try one num"):
        GradientNorm(target="predicted").per_example(net, x)
    of_probabilities = segmenter(1, last="softmax")
    for penalties in ([GradientNorm()], [MATCHING["maps"](), ActivationMatching()]):
        teacher = segmenter(2) if len(penalties) > 1 else None
        with pytest.raises(ModelError, match="'out' returns probabilities; expected logits"):
            tfgrad.PenalizedModel(of_probabilities, penalties, teacher=teacher)
    with pytest.raises(ModelError, match="teacher 'segmenter': its layer 'out' returns prob"):
        ActivationMatching().per_example(net, x, teacher=of_probabilities)
    several = keras.Model(net.inputs[0], [net.outputs[0], net.outputs[0]])
    with pytest.raises(ModelError, match="got 2 outputs, heads 0, 1; expected one tensor"):
        ActivationMatching().per_example(several, x, teacher=several)

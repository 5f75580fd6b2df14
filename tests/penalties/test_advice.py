"""What `advise` says of a model is what training does."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import conformance
from tests.helpers.advice_cases import EMBEDDING, MODELS, layer_norm, relu, smooth, table
from tests.helpers.variants import with_slow
from tfgrad import PenalizedModel
from tfgrad.errors import ArgumentError, TfgradError
from tfgrad.internal import suitability
from tfgrad.penalties import Examples, advice, advise
from tfgrad.second_order import make_safe

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore::tfgrad.errors.SecondOrderWarning"),
    pytest.mark.filterwarnings("ignore:.*received .from_logits=True.:UserWarning"),  # Keras's own
]


def trains(make, penalty):
    """Whether a model with a penalty makes a step."""
    network = make()
    teacher = None if penalty.teacher_needs() is None else make()
    flat = network.inputs[0]
    x = np.random.default_rng(0).uniform(size=(2, *flat.shape[1:])).astype(flat.dtype)
    outputs = network.outputs[0] if isinstance(network, keras.Sequential) else network.output
    labels = tf.nest.map_structure(lambda t: np.zeros((2, *t.shape[1:-1]), "int32"), outputs)
    losses = tf.nest.map_structure(lambda _: LOSS, outputs)
    try:
        model = PenalizedModel(network, [penalty], teacher=teacher)
        model.compile("sgd", losses)
        derivatives = x if x.dtype.kind == "f" else np.zeros((*x.shape, EMBEDDING), "float32")
        model.train_on_batch(Examples(x, {"derivatives": derivatives, "mask": x}), labels)
    except TfgradError:
        return False
    return all(np.isfinite(w).all() for w in network.get_weights())


EVERY = tuple(conformance.CASES)
SOME = ("GradientNorm", "ActivationMatching", "AttentionMatching", "BiasGradientNorm")


@pytest.mark.parametrize(
    ("name", "penalties"), with_slow([("table", SOME)], [(name, EVERY) for name in MODELS])
)
def test_what_fits_trains_and_nothing_else_does(name, penalties):
    rows = advise(MODELS[name](), only=penalties)
    assert {row.name for row in rows} == set(penalties)
    for row in rows:
        assert bool(row.fits or row.reason)
        if row.tried is not None:
            assert row.fits == trains(MODELS[name], row.tried), row


def test_layer_normalisation_is_told_of_make_safe_which_helps():
    network = layer_norm()
    found = advise(network, only=["GradientNorm"])["GradientNorm"]
    assert not found.fits and found.verdict == "no"
    assert "layer 'norm' (LayerNormalization)" in found.reason
    assert "tfgrad.layers.LayerNormalization; try tfgrad.second_order.make_safe" in found.advice
    make_safe(network)
    assert advise(network, only=["GradientNorm"]).fitting == ("GradientNorm",)


def test_a_relu_network_is_told_of_smooth_activations_each_time():
    network = relu()
    for _ in range(2):
        found = advise(network, only=["ScoreMatching"])["ScoreMatching"]
        assert found.fits and found.verdict == "with care"
        assert "its Hessian is zero" in found.reason
        assert found.advice.startswith("use a smooth activation")


def test_each_of_two_cautions_has_its_reason_and_its_advice():
    found = suitability.row("penalty", "p", True, ["one; use a smooth one.", "two. Pass b=1.", "c"])
    assert (found.reason, found.advice) == ("one; two; c", "use a smooth one; pass b=1")
    assert repr(suitability.Suitability("n", (found,))).startswith(
        "network 'n':\np  with care  one;"
    )


def test_a_list_of_layers_has_the_reasons_of_all_and_then_what_to_try():
    message = "network 'n': wrong here:\n  layer 'a': drops it; use A\n  layer 'b': is off; use B"
    found = suitability.row(
        "penalty", "p", False, [f"{message}\n  try mending.", "c. Try mending."]
    )
    assert found.reason == "network 'n': wrong here: layer 'a': drops it; layer 'b': is off; c"
    assert found.advice == "use A; use B; try mending"


def test_what_would_be_told_next_is_told_at_once():
    inputs = keras.Input((6,))
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.LayerNormalization()(inputs))
    x = keras.layers.Dense(4, "relu")(x)
    network = keras.Model(inputs, keras.layers.Dense(3, "softmax", name="last")(x))
    found = advise(network, only=["ScoreMatching", "GradientNorm"])
    for row in found:
        assert not row.fits and "(LayerNormalization): tf.nn.moments" in row.reason
        assert "its layer 'last' returns probabilities" in row.reason
        assert "tfgrad.models.logits(model)" in row.advice
    assert "batch norm ('bn')" in found["ScoreMatching"].reason
    assert "batch norm" not in found["GradientNorm"].reason


def test_the_table_shows_itself_and_the_model_stays(monkeypatch):
    network = table()
    before = [v.numpy() for v in network.variables]
    x = np.ones((3, 5), "float32")
    data = Examples(x, {"derivatives": x, "mask": x}), np.array([0, 2, 1])
    found = advise(
        network,
        data,
        only=["GradientNorm", "GradientMask", "AttentionMatching", '"label"', "Region"],
    )
    for old, new in zip(before, network.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    lines = str(found).split("\n")
    assert lines[0] == f"network '{network.name}':" and max(map(len, lines)) <= 100
    assert sum(line.startswith(("GradientNorm ", '"label" ')) for line in lines) == 2
    page = found._repr_html_()
    assert page.count("<tr>") == 1 + len(found) and "&quot;label&quot;" in page
    told = json.loads(json.dumps(found.to_dict()))
    assert told["network"] == network.name and len(told["rows"]) == len(found)
    assert {row["name"] for row in told["rows"] if row["fits"]} == set(found.fitting)
    assert not found["Region"].fits and found["AttentionMatching"].tried is None
    with pytest.raises(KeyError):
        found["GradientNrom"]


def test_every_penalty_is_tried():
    assert set(advice._penalties(None)) == conformance.public_penalties()


def test_wrong_arguments():
    with pytest.raises(ArgumentError, match=r"model: got a str; expected a keras\.Model"):
        advise("network")
    with pytest.raises(ArgumentError, match="data: got no examples"):
        advise(smooth(), np.zeros((0, 6, 6, 2), "float32"))

    with pytest.raises(ArgumentError, match="only: got 'GradientNom'; did you mean 'GradientNorm'"):
        advise(smooth(), only=["GradientNom"])

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    network = Subclassed()
    network(np.ones((1, 2), "float32"))
    with pytest.raises(ArgumentError, match=r"data: got None; .* does not declare its inputs"):
        advise(network)


def test_pixels_up_to_255_need_another_weight():
    """∇x f of a network that divides by 255 is 255 times smaller, and its square 65,025 times."""
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(2, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    found = advise(network, only=["GradientNorm"])["GradientNorm"]
    assert found.fits and found.verdict == "with care"
    assert "65,025 times smaller" in found.reason
    assert found.advice == "use 65,025 times the weight"
    without = keras.Model(network.layers[2].input, network.output)
    assert advise(without, only=["GradientNorm"])["GradientNorm"].verdict == "yes"


def test_several_inputs_of_a_model_of_one_logit():
    image, vector = keras.Input((6, 6, 2), name="image"), keras.Input((5,), name="vector")
    h = keras.layers.Conv2D(3, 3, activation="softplus", name="conv")(image)
    h = keras.layers.Concatenate()([keras.layers.Flatten()(h), vector])
    network = keras.Model({"image": image, "vector": vector}, keras.layers.Dense(1)(h))
    network.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    asked = ["GradientNorm", "AttentionMatching", "BiasGradientMatching", "SaliencyFooling"]
    found = advise(network, only=asked)
    assert [found[name].fits for name in asked] == [True, True, True, False]
    assert found["AttentionMatching"].tried.layers == (("conv", "conv"),)

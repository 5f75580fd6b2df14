"""Faults that were found by trying to break the library; each failed once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfgrad
from tfgrad import loading, losses, second_order
from tfgrad.errors import ArgumentError, DataError, ModelError, SecondOrderError, SecondOrderWarning
from tfgrad.penalties import GradientNorm, ScoreMatching

L = keras.layers
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(outputs=3):
    return keras.Sequential([keras.Input((4,)), L.Dense(5, "softplus"), L.Dense(outputs)])


def fitted(network, penalties, y, loss=LOGITS, x=None):
    model = tfgrad.PenalizedModel(network, penalties)
    model.compile(keras.optimizers.SGD(0.0), loss)
    x = np.ones((len(y), 4), "float32") if x is None else x
    return model.fit(x, np.asarray(y), verbose=0).history


@pytest.mark.parametrize("operation", ["constant", "abort", "vocabulary"])
def test_a_served_graph_may_not_read_files_or_end_the_process(tmp_path, operation):
    (tmp_path / "secret").write_bytes(b"0123456789")

    class Hostile(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 1], name="image")])
        def serve(self, image):
            if operation == "constant":
                read = tf.raw_ops.ImmutableConst(
                    dtype=tf.uint8, shape=[10], memory_region_name=str(tmp_path / "secret")
                )
                return {"logits": image + tf.cast(read, tf.float32)[None]}
            if operation == "abort":
                tf.raw_ops.Abort(error_msg="gone")
                return {"logits": image}
            sampled = tf.random.fixed_unigram_candidate_sampler(
                tf.zeros([1, 1], tf.int64), 1, 1, False, 10, vocab_file=str(tmp_path / "secret")
            )
            return {"logits": image + tf.cast(sampled.sampled_candidates, tf.float32)}

    module = Hostile()
    path = str(tmp_path / "model")
    signatures = {"serving_default": module.serve.get_concrete_function()}
    tf.saved_model.save(module, path, signatures=signatures)
    with pytest.raises(ModelError, match="path:"):
        loading.load_served(path)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.RandomRotation(0.1),
        lambda: L.RandomZoom(0.2),
        lambda: L.RandomTranslation(0.2, 0.2),
    ],
)
def test_warped_images_have_no_exact_gradient(layer):
    network = keras.Sequential([keras.Input((8, 8, 1)), layer(), L.Flatten(), L.Dense(2)])
    with pytest.raises(SecondOrderError, match="augment in the input pipeline"):
        second_order.check(network)


def test_a_layer_added_later_is_judged():
    network = keras.Sequential([keras.Input((4,)), L.Dense(4, "tanh")])
    second_order.check(network)
    network.add(L.LayerNormalization())
    network.add(L.Dense(3))
    with pytest.raises(SecondOrderError, match="LayerNormalization"):
        second_order.check(network)


def test_another_image_size_is_judged():
    class Resized(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.dense = L.Conv2D(2, 3), L.Dense(3)

        def call(self, x):
            y = self.conv(x)
            if x.shape[1] != 8:
                y = tf.image.resize(y, (6, 6))
            return self.dense(keras.ops.mean(y, (1, 2)))

    network = Resized()
    second_order.check(network, tf.TensorSpec([None, 8, 8, 1]))
    with pytest.raises(SecondOrderError, match="ResizeBilinearGrad"):
        second_order.check(network, tf.TensorSpec([None, 12, 12, 1]))


@pytest.mark.long
def test_state_outside_the_networks_variables_is_refused():
    class Noise(L.Layer):
        def call(self, x, training=False):
            return x + keras.random.normal(keras.ops.shape(x)) if training else x

    unseeded = keras.Sequential([keras.Input((4,)), Noise(), L.Dense(3)])
    with pytest.raises(ModelError, match="SeedGenerator"):
        fitted(unseeded, [ScoreMatching()], [0, 1])
    image = keras.Input(batch_shape=(2, 3, 4))
    stateful = keras.Model(image, L.Dense(3)(L.LSTM(4, stateful=True, use_cudnn=False)(image)))
    with pytest.raises(ModelError, match="keeps state outside"):
        fitted(stateful, [ScoreMatching()], [0, 1], x=np.ones((2, 3, 4), "float32"))


@pytest.mark.slow
def test_a_stateless_recurrent_network_and_dropout_are_not_refused():
    image = keras.Input((3, 4))
    x = L.Dropout(0.5)(L.LSTM(4, dropout=0.2)(image))
    history = fitted(
        keras.Model(image, L.Dense(3)(x)),
        [ScoreMatching()],
        [0, 1],
        x=np.ones((2, 3, 4), "float32"),
    )
    assert np.isfinite(history["loss"][0])


@pytest.mark.long
@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("outputs", "loss", "penalty", "y"),
    [
        (1, keras.losses.BinaryCrossentropy(from_logits=True), GradientNorm(target=0), [0, 1]),
        (1, "mse", GradientNorm(target=0), [10, 20]),
        (
            3,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
            GradientNorm(target="predicted"),
            [-1, 2],
        ),
        (256, LOGITS, GradientNorm(), np.array([0, 200], "uint8")),
        (200, LOGITS, GradientNorm(), np.array([0, 120], "int8")),
    ],
)
def test_integers_that_are_no_labels_out_of_range(outputs, loss, penalty, y):
    assert np.isfinite(fitted(dense(outputs), [penalty], y, loss)["loss"][0])


def test_labels_out_of_range_still_are():
    with pytest.raises(DataError, match="y: got labels from 0 to 3; expected 0 to 2"):
        fitted(dense(3), [GradientNorm()], [0, 3])


@pytest.mark.parametrize(("target", "y"), [("label", [0, 3]), ("label", [-1, 0]), ([0, 7], None)])
def test_an_absent_class_is_no_penalty_of_zero(target, y):
    with pytest.raises(ArgumentError, match=r"(y|target): got classes from .*expected"):
        GradientNorm(target=target).per_example(dense(), np.ones((2, 4), "float32"), y)


def test_one_target_per_example():
    with pytest.raises(ArgumentError, match="target: got 3 classes for a batch of 2"):
        GradientNorm(target=[0, 1, 2]).per_example(dense(), np.ones((2, 4), "float32"))


def test_inputs_wider_than_the_network():
    value = ScoreMatching().per_example(dense(), np.ones((2, 4)), np.array([0, 1]))
    assert value.dtype == tf.float64


def test_score_matching_takes_the_wider_dtype():
    got = losses.score_matching(tf.ones([2, 3], tf.float64), tf.ones([2]), 0.5)
    np.testing.assert_allclose(got, [3.0, 3.0])


def test_a_network_whose_call_takes_no_training_is_exported(tmp_path):
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

    network = Plain()
    network(np.ones((2, 4), "float32"))
    assert tfgrad.export.save(network, tmp_path / "plain").endswith("1")


def test_numpy_numbers_are_numbers():
    penalty = ScoreMatching(np.float32(0.5), sigma=np.float32(0.25), samples=np.int64(2))
    assert (penalty.weight, penalty.sigma, penalty.samples) == (0.5, 0.25, 2)


@pytest.mark.filterwarnings("ignore:.*trace of the batch:tfgrad.errors.SecondOrderWarning")
def test_score_matching_on_relu_is_told_of():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(5),
            tfgrad.layers.BatchNormalization(),
            L.ReLU(),
            L.Dense(3),
        ]
    )
    with pytest.warns(SecondOrderWarning, match="ReLU is its only non-linearity"):
        tfgrad.PenalizedModel(network, [ScoreMatching()])


def test_score_matching_on_softplus_and_gradient_norms_on_relu_are_fine():
    tfgrad.PenalizedModel(dense(), [ScoreMatching()])
    relu = keras.Sequential([keras.Input((4,)), L.Dense(5, "relu"), L.Dense(3)])
    tfgrad.PenalizedModel(relu, [GradientNorm()])


def test_a_damaged_state_says_so(tmp_path):
    model = tfgrad.PenalizedModel(dense(), [GradientNorm()])
    model.compile("adam", LOGITS)
    (tmp_path / "epoch-00003.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n cut short")
    with pytest.raises(ModelError, match="not a state of this model"):
        tfgrad.callbacks.Backup(tmp_path).restore(model)

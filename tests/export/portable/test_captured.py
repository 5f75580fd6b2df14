"""What a signature captures beside variables: constants, such as the mean of a normalisation."""

import keras
import numpy as np
import tensorflow as tf

from tfgrad.export.portable.rewriting import rewritten


def test_constants_outside_of_the_graph_are_read():
    network = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Normalization(mean=[1.0, 2, 3, 4, 5], variance=[1.0, 4, 9, 16, 25]),
            keras.layers.Dense(2),
        ]
    )
    spec = tf.TensorSpec([1, 5], tf.float32, "image")
    signature = tf.function(lambda image: {"logits": network(image)}, autograph=False)
    signature = signature.get_concrete_function(spec)
    assert any(outer.dtype != tf.resource for outer, _ in signature.graph.captures)
    portable = rewritten(signature, {"image": spec})
    assert not portable.captured_inputs
    image = tf.constant(np.random.default_rng(0).normal(size=(1, 5)).astype("float32"))
    np.testing.assert_allclose(
        portable(image=image)["logits"], signature(image=image)["logits"], rtol=1e-6
    )

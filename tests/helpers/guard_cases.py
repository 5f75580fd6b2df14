"""What tests of the guard share: networks around any layer, and what the guard finds in them."""

import keras

from tfgrad import second_order

L = keras.layers
SHAPE = (8, 8, 4)


@keras.saving.register_keras_serializable("tests")
class Lambda(L.Layer):
    """A user's own layer, of which the guard knows nothing."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def network_with(*stack, shape=SHAPE, dense=True):
    head = [L.Flatten(), L.Dense(2, name="head")] if dense else []
    return keras.Sequential([keras.Input(shape), *stack, *head], name="network")


def found(network, inputs=None, training=True):
    inspection = second_order.inspect(network, inputs, training)
    return [(f.layer, f.operation, f.severity) for f in inspection.findings]


STOPPED, BILINEAR = "tf.nn.moments", "ResizeBilinearGrad"

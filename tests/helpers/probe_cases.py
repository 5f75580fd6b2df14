"""What the tests of the probe share: two points with labels, and a layer around any function."""

import keras
import numpy as np

L = keras.layers

# f_0 − f_1 = −2 x_0 + 3 x_1 = ± ln 3, so that the softmax is (¾, ¼) and (¼, ¾).
X = np.array([[0.0, np.log(3) / 3], [np.log(3) / 2, 0.0]])
Y = np.array([0, 0])


class Function(L.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)

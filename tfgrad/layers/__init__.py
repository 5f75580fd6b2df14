"""Keras layers with correct second derivatives, and noise on biases.

A gradient penalty differentiates twice. The second derivative of some Keras layers is wrong: their
moments stop the gradient of the mean (`tf.nn.moments`), or the gradient operation of their kernel
has no gradient itself (`ResizeBilinearGrad`) or a wrong one under XLA (`MaxPoolGrad`). The layers
below are subclasses with the same names, arguments, weights and outputs, so weights files and
architectures carry over. `tfgrad.second_order.make_safe` changes the layers of a model that others
wrote in place.
"""

from tfgrad.layers.activations import Softplus
from tfgrad.layers.bias_noise import BiasNoise
from tfgrad.layers.normalization import BatchNormalization, GroupNormalization, LayerNormalization
from tfgrad.layers.pooling import MaxPooling1D, MaxPooling2D, MaxPooling3D
from tfgrad.layers.resizing import Resizing, UpSampling2D

__all__ = [
    "BatchNormalization",
    "BiasNoise",
    "GroupNormalization",
    "LayerNormalization",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "Resizing",
    "Softplus",
    "UpSampling2D",
]

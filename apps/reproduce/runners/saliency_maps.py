"""Saliency maps as rows declare them, in the forms that the tests take."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad import saliency
from tfgrad.saliency.placed_method import STRETCH, Placed

from ...common.trained_networks import Learned
from ..schema import BRIGHTNESS, CENTRE, Coarsened, Explained

# A function of images [batch, height, width, channels] and optionally classes [batch] to maps
# [batch, height, width].
MapFunction = Callable[..., tf.Tensor]


def map_function(network: Any, by: Explained) -> MapFunction:
    """A row's method on a network, as a function of (images, classes)."""
    if by.method == BRIGHTNESS:
        return lambda x, y=None: tf.reduce_mean(x, -1)
    if by.method == CENTRE:
        return _nearness
    method = saliency.get(by.method)
    options = dict(by.options)
    if issubclass(method, Placed | saliency.SmoothFullGrad):
        # Papers resize feature maps to the image, wherever their cells look.
        options.setdefault("placement", STRETCH)
    return method(network, **options)


def maps_or_control(learned: Learned, by: Explained) -> MapFunction | str:
    """`map_function`, or the method's name if it is the random control, which tests know."""
    if by.method == saliency.Random.name and square(by) == 1:
        return by.method
    return map_function(learned.network, by)


def maps_of_predicted(learned: Learned, by: Explained) -> MapFunction | str:
    """Maps of the predicted class, whatever the label; or the name of the random control."""
    function = maps_or_control(learned, by)
    if isinstance(function, str):
        return function
    compared = compared_maps(function, by)
    return lambda x, y: compared(x)


def compared_maps(function: MapFunction, by: Explained) -> MapFunction:
    """Maps as tests of pixels compare them: sizes if the row asks for them, averaged over squares.

    Args:
        function: The result of `map_function`.
        by: The row.
    """

    def maps(x: tf.Tensor, y: Any = None) -> tf.Tensor:
        found = tf.abs(function(x, y)) if by.magnitude else function(x, y)
        return coarser(found, square(by)) if square(by) > 1 else found

    return maps


def coarser(maps: tf.Tensor | np.ndarray, side: int) -> tf.Tensor:
    """Maps [batch, height, width] averaged over squares, and interpolated between their centres."""
    pooled = tf.nn.avg_pool2d(maps[..., tf.newaxis], side, side, "SAME")
    return tf.image.resize(pooled, maps.shape[1:])[..., 0]


def square(by: Explained) -> int:
    """The side of the squares over which a row's maps are averaged; 1 if they are not."""
    return by.square if isinstance(by, Coarsened) else 1


def maps_name(by: Explained) -> str:
    """Name of a row's maps on disk; rows that differ in squares only have the same."""
    return "-".join([by.method, *(f"{name}_{value}" for name, value in by.options.items())])


def trainings_name(by: Explained) -> str:
    """Name of a row's retrained networks on disk; rows that differ in squares have their own."""
    return maps_name(by) + (f"-squares_{square(by)}" if square(by) > 1 else "")


def _nearness(x: tf.Tensor, y: Any = None) -> tf.Tensor:
    """Nearness to the centre: 1 in the middle of an image, 0 in its corners."""
    down, across = (tf.linspace(-1.0, 1.0, size) ** 2 for size in x.shape[1:3])
    one = 1 - (down[:, tf.newaxis] + across) / 2
    return tf.tile(one[tf.newaxis], [tf.shape(x)[0], 1, 1])

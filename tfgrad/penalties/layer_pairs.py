"""Which layers of a student and a teacher to match: pairs whose maps have the same size."""

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError
from tfgrad.gradients import call_hooks, layer_biases
from tfgrad.gradients.intercepts import call_structure, closed_forms
from tfgrad.internal.arguments import integer, one_of

KINDS = ("attention", "bias")


def matching_layers(network, teacher, kind="attention", count=None, input_shape=None, verbose=True):
    """Propose (student, teacher) layer pairs of equal height and width, large maps first.

    Of each size both networks have, the last call in each: the end of a stage, after its activation
    and before what shrinks the map (§2.6.3), or for `kind="bias"` its last convolution with a bias.

    Args:
        network: the student, a Keras model of images [batch, height, width, channels].
        teacher: another.
        kind: `"attention"`, for `AttentionMatching` and `AttentionJacobianMatching`, or `"bias"`,
            for `BiasGradientMatching`.
        count: at most so many pairs, the largest maps first; None for all.
        input_shape: (height, width, channels) where the models do not say.
        verbose: whether to print what was chosen.

    Returns:
        A list of (student, teacher) call names.

    Raises:
        ArgumentError: the two have no map size in common.
    """
    one_of("kind", kind, KINDS)
    if count is not None:
        integer("count", count)
    found = [_last_of_each_size(model, kind, input_shape) for model in (network, teacher)]
    sizes = sorted(set(found[0]) & set(found[1]), key=lambda s: s[0] * s[1], reverse=True)
    if not sizes:
        raise ArgumentError(
            f"network, teacher: no map of {network.name!r} ({_sizes(found[0])}) has the size of "
            f"one of {teacher.name!r} ({_sizes(found[1])}). Attention and bias maps may differ in "
            "size: name pairs yourself, layers=[(student, teacher), ...]."
        )
    sizes = sizes[:count]
    pairs = [(found[0][size], found[1][size]) for size in sizes]
    if verbose:
        for (height, width), (student, taught) in zip(sizes, pairs, strict=True):
            line = f"{height}x{width}: {network.name}/{student} learns from {teacher.name}/{taught}"
            print(line)
    return pairs


def _last_of_each_size(model, kind, input_shape):
    """{(height, width): call name}, of maps with more than one position."""
    shape = input_shape
    if shape is None:
        known = getattr(model, "input_shape", None)
        shape = known[1:] if isinstance(known, tuple) else None
    if shape is None or None in tuple(shape):
        raise ArgumentError(
            f"input_shape: {model.name!r} does not have one fixed input shape; pass input_shape="
            "(height, width, channels)."
        )
    x = tf.zeros([1, *shape], keras.config.floatx())
    if not model.built:
        model(x, training=False)
    convolutions = [
        layer.name
        for layer in call_hooks.flatten(model)
        if kind == "bias" and closed_forms.rule(layer) == "affine"
    ]
    with (
        keras.StatelessScope(collect_losses=True),
        call_hooks.handled(_Maps()) as maps,
        layer_biases.recorded(convolutions) as biased,
    ):
        model(x, training=False)
    last = {}
    for call, size in maps.sizes.items():
        if kind == "attention" or (call in biased and _has_bias(biased[call])):
            last[size] = call
    return last


def _has_bias(biased):
    try:
        biased.bias()
    except ArgumentError:
        return False
    return True


def _sizes(found):
    return ", ".join(f"{h}x{w}" for h, w in found) or "it has none"


class _Maps(call_hooks.Handler):
    """Sizes of the maps that a model's layers put out, {call name: (height, width)}."""

    def __init__(self):
        self.sizes, self._names = {}, call_hooks.CallNames()
        self._learned = False  # what comes before the first weights only prepares the image

    def layer(self, layer, proceed, args, kwargs):
        output = proceed(*args, **kwargs)
        if call_hooks.is_symbolic(args, kwargs):
            return output
        name = self._names.next(layer.name)
        if call_structure.has_layers_inside(layer):
            return output
        self._learned = self._learned or closed_forms.rule(layer) == "affine"
        if not self._learned:
            return output
        if tf.is_tensor(output) and output.shape.rank == 4:
            first = keras.config.image_data_format() == "channels_first"
            height, width = output.shape[2:] if first else output.shape[1:3]
            if height * width > 1:
                self.sizes[name] = (height, width)
        return output

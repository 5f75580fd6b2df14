"""Matching a teacher's attention maps and their input-gradients (thesis §2.5.2)."""

import math
import numbers

import keras
import tensorflow as tf

from tfgrad import layers, losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import call_hooks
from tfgrad.gradients.forward_pass import Needs
from tfgrad.internal.arguments import number
from tfgrad.penalties.base import PACKAGE, Penalty


def layer_pairs(value):
    """((student, teacher), …) from a list of names or pairs, or an ArgumentError."""
    entries = [value] if isinstance(value, str) else value
    advice = (
        "expected a list of layer names, or of (student, teacher) pairs; "
        "tfgrad.penalties.matching_layers(network, teacher) proposes some."
    )
    if not isinstance(entries, list | tuple) or not entries:
        raise ArgumentError(f"layers: got {value!r}; {advice}")
    pairs = []
    for entry in entries:
        pair = (entry, entry) if isinstance(entry, str) else entry
        names = isinstance(pair, list | tuple) and len(pair) == 2
        if not names or not all(isinstance(name, str) for name in pair):
            raise ArgumentError(f"layers: got {entry!r} among them; {advice}")
        pairs.append(tuple(pair))
    return tuple(pairs)


def config_of(pairs):
    """Layer pairs as JSON can hold them."""
    return [list(pair) for pair in pairs]


def names_of(pairs, which):
    """Names of the layers whose calls are meant: `conv:1` is the second call of `conv`."""
    return tuple(dict.fromkeys(call_hooks.layer_of(pair[which]) for pair in pairs))


def features(probe, call):
    """What a call put out, if it has positions.

    Raises:
        ArgumentError: there was no such call, or its output is no map.
    """
    if call not in probe.layer_outputs:
        raise ArgumentError(
            f"layers: network {probe.network.name!r} did not call {call!r} at top level of this "
            f"pass; calls on record: {list(probe.layer_outputs)}."
        )
    output = probe.layer_outputs[call]
    if not tf.is_tensor(output) or output.shape.rank != 4:
        shape = getattr(output, "shape", type(output).__name__)
        raise ArgumentError(
            f"layers: {call!r} of network {probe.network.name!r} has outputs of shape {shape}; "
            "expected maps [batch, height, width, channels]. Name a convolution, an activation or "
            "a pooling layer before the network flattens."
        )
    return output


def attention(probe, call, power):
    """The attention map of a call, [batch, height, width]."""
    channels_first = keras.config.image_data_format() == "channels_first"
    return losses.attention_map(features(probe, call), power, 1 if channels_first else -1)


def of_one_size(student, teacher, pair):
    """Two maps [batch, height, width], the smaller resized (bilinear) to the larger.

    Raises:
        ArgumentError: neither is the smaller one, or a size is unknown.
    """
    sizes = tuple(student.shape[1:]), tuple(teacher.shape[1:])
    if sizes[0] == sizes[1]:
        return student, teacher
    if None in sizes[0] + sizes[1]:
        raise ArgumentError(
            f"layers: the maps of {pair} have sizes {sizes[0]} and {sizes[1]}; to be resized they "
            "must be known. Give both networks inputs of fixed size."
        )
    if all(s <= t for s, t in zip(*sizes, strict=True)):
        return _resized(student, sizes[1]), teacher
    if all(s >= t for s, t in zip(*sizes, strict=True)):
        return student, _resized(teacher, sizes[0])
    raise ArgumentError(
        f"layers: the maps of {pair} have sizes {sizes[0]} and {sizes[1]}, of which neither is the "
        "smaller; expected maps of one shape."
    )


def _resized(maps, size):
    resize = layers.Resizing(
        *size, interpolation="bilinear", dtype=maps.dtype.name, data_format="channels_last"
    )
    return resize(maps[..., tf.newaxis])[..., 0]


class _AttentionPenalty(Penalty):
    """Layer pairs and the power of the map, for the two penalties made of attention maps."""

    def __init__(self, weight, layers, power, name):
        super().__init__(weight, name)
        self.layers = layer_pairs(layers)
        self.power = number("power", power)

    def needs(self):
        """The student's layers."""
        return Needs(names_of(self.layers, 0))

    def teacher_needs(self):
        """The teacher's layers."""
        return Needs(names_of(self.layers, 1))

    @property
    def compares_logits(self):
        """False: features are compared."""
        return False

    def get_config(self):
        """Constructor arguments."""
        return {
            **super().get_config(),
            "layers": config_of(self.layers),
            "power": self.power,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionMatching(_AttentionPenalty):
    """Σ over layer pairs of ‖A_t/‖A_t‖ − A_s/‖A_s‖‖₂, A = Σ_c abs(Z_c)^power (Eqs. 2.7, 2.8).

    By hand, one channel, two positions: Z_s = (1, 1), Z_t = (1, 0) give maps (1, 1)/√2 and (1, 0),
    whose distance is √(2 − √2) ≈ 0.765. A map of zeros has no direction: it counts as zeros.

    Args:
        weight: λ.
        layers: names of layers of both networks, or (student, teacher) pairs, whose outputs are
            [batch, height, width, channels]. `conv:1` is the second call of `conv`. Where the sizes
            differ the smaller map is resized.
        power: 2 (Eq. 2.7), or 1 for Chapter 4's sums of absolute values (§4.4.1).
        name: of the metric.

    Raises:
        ArgumentError: a layer is not there or has no positions, or two maps do not fit.

    Source: thesis §2.5.2; Zagoruyko and Komodakis 2017.
    """

    def __init__(self, weight=1.0, layers=(), power=2.0, name="attention_matching"):
        super().__init__(weight, layers, power, name)

    @property
    def differentiates_twice(self):
        """False: there is no gradient in it."""
        return False

    def compute(self, probe):
        """The distance of the maps of each example, summed over pairs, [batch]."""
        total = 0.0
        for student, teacher in self.layers:
            taught = probe.teacher.recall(
                f"attention/{teacher}/{self.power}",
                lambda t, teacher=teacher: attention(t, teacher, self.power),
            )
            own, taught = of_one_size(
                attention(probe, student, self.power), taught, (student, teacher)
            )
            total += losses.root(losses.distance_of_directions(own, tf.cast(taught, own.dtype)))
        return total


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionJacobianMatching(_AttentionPenalty):
    """Σ over layer pairs of ‖g_t/‖g_t‖ − g_s/‖g_s‖‖², g = ∇x of one pixel of the map (Eq. 2.9).

    The map is average-pooled (stride 1, no padding); the pixel is the *teacher's* maximum, the
    first one of several, and serves both. An early layer's is easier to match (Table 2.4).

    By hand, A_s = x₁² at the only position, A_t = (x₁ + x₂)², at x = (1, 1): g_s = (2, 0),
    g_t = (4, 4), directions (1, 0) and (1, 1)/√2, so 2 − √2 ≈ 0.586.

    Args:
        weight: λ; 10 in Table 2.3.
        layers: names of layers of both networks, or (student, teacher) pairs, whose maps have equal
            height and width.
        window: side of the pooling window as a fraction of the map's, in (0, 1]: per axis
            max(1, round(window · side)). 1.0 pools the whole map, None does not pool. Table 2.5
            compares 1, 1/3, 1/5, 1/7, None; maps under 14 pixels cannot tell the small ones apart.
        power: of the attention map; 2 in Eq. 2.7.
        name: of the metric.

    Raises:
        ArgumentError: a layer is not there or has no positions, or two maps differ in size.

    Source: thesis §2.5.2.
    """

    def __init__(
        self, weight=1.0, layers=(), window=0.2, power=2.0, name="attention_jacobian_matching"
    ):
        super().__init__(weight, layers, power, name)
        fraction = isinstance(window, numbers.Real) and not isinstance(window, bool)
        if window is not None and not (fraction and 0 < float(window) <= 1):
            raise ArgumentError(
                f"window: got {window!r}; expected a fraction of the map's side in (0, 1], or None "
                "for no pooling."
            )
        self.window = None if window is None else float(window)

    def compute(self, probe):
        """The distance of the gradients' directions of each example, summed over pairs, [batch]."""
        total = 0.0
        for student, teacher in self.layers:
            key = f"{teacher}/{self.power}/{self.window}"
            size = probe.teacher.recall(
                f"attention size/{key}", lambda t, teacher=teacher: _side(t, teacher)
            )
            peak = probe.teacher.recall(
                f"attention peak/{key}", lambda t, teacher=teacher: self._peak(t, teacher)
            )
            taught = probe.teacher.recall(
                f"attention gradient/{key}",
                lambda t, teacher=teacher, peak=peak: self._gradient(t, teacher, peak),
            )
            self._check_size(probe, student, teacher, size)
            own = self._gradient(probe, student, peak)
            total += losses.distance_of_directions(own, taught)
        return total

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "window": self.window}

    def _peak(self, probe, call):
        pooled = self._pooled(probe, call)
        return tf.argmax(_flat(pooled), axis=-1, output_type=tf.int32)

    def _gradient(self, probe, call, peak):
        def pixel(probe):
            flat = _flat(self._pooled(probe, call))
            return tf.gather(flat, peak, batch_dims=1)

        return probe.slope((call, self.power, self.window, peak.ref()), pixel)

    def _pooled(self, probe, call):
        maps = attention(probe, call, self.power)
        sides = _known_sides(probe, call)
        window = [_window(self.window, side) for side in sides]
        if window == [1, 1]:
            return maps
        return tf.nn.avg_pool2d(maps[..., tf.newaxis], window, 1, "VALID")[..., 0]

    def _check_size(self, probe, student, teacher, size):
        own = _known_sides(probe, student)
        if size.shape[1:] != [0, *own]:
            raise ArgumentError(
                f"layers: the maps of {(student, teacher)} have sizes {tuple(own)} and "
                f"{tuple(size.shape[2:])}; one pixel can serve both only if they are equal. "
                "tfgrad.penalties.matching_layers(network, teacher) proposes pairs."
            )


def _side(probe, call):
    """An empty tensor [batch, 0, height, width] that carries a map's size in its shape."""
    maps = features(probe, call)
    sides = _known_sides(probe, call)
    return tf.zeros([tf.shape(maps)[0], 0, *sides], maps.dtype)


def _known_sides(probe, call):
    shape = features(probe, call).shape
    first = keras.config.image_data_format() == "channels_first"
    sides = list(shape[2:]) if first else list(shape[1:3])
    if None in sides:
        raise ArgumentError(
            f"layers: the map of {call!r} has the unknown size {tuple(sides)}; give the network "
            "inputs of fixed size."
        )
    return sides


def _window(fraction, side):
    return 1 if fraction is None else max(1, min(side, math.floor(fraction * side + 0.5)))


def _flat(maps):
    return tf.reshape(maps, [tf.shape(maps)[0], maps.shape[1] * maps.shape[2]])

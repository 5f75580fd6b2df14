"""Networks and penalties as experiments declare them."""

from collections.abc import Collection

import keras

import tfgrad
from tfgrad import models, penalties

from ..schema import Source, Subject, Term


def build(source: Source, image_shape, classes: int) -> tfgrad.PenalizedModel:
    """The network of a source, untrained, with its penalties."""
    if not isinstance(source, Subject):
        return tfgrad.PenalizedModel(
            models.get(source.network, image_shape, classes, width=source.width)
        )
    network = models.get(
        source.network, image_shape, classes, width=source.width, activation=source.activation
    )
    if source.dropout:
        pooling = [n.name for n in network.layers if isinstance(n, keras.layers.MaxPooling2D)]
        network = with_dropout(network, pooling, source.dropout)
    if source.weight_decay:
        for layer in network.layers:
            if hasattr(layer, "kernel"):
                layer.kernel.regularizer = keras.regularizers.L2(source.weight_decay)
    return tfgrad.PenalizedModel(network, [build_penalty(term) for term in source.terms])


def with_dropout(network: keras.Model, layers: Collection[str], rate: float) -> keras.Model:
    """A copy with the same weights and dropout right after some layers."""

    def call(original, *args, **kwargs):
        outputs = original(*args, **kwargs)
        if original.name in layers:
            outputs = keras.layers.Dropout(rate, name=f"{original.name}_dropout")(outputs)
        return outputs

    copy = keras.models.clone_model(network, call_function=call)
    copy.set_weights(network.get_weights())
    return copy


def build_penalty(term: Term) -> penalties.Penalty:
    """The penalty that a term declares."""
    options = dict(term.options)
    if "layers" in options:
        options["layers"] = [
            layer if isinstance(layer, str) else tuple(layer) for layer in options["layers"]
        ]
    return getattr(penalties, term.penalty)(term.weight, **options)

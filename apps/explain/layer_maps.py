"""The bias-gradients of single layers, which --layers draws (thesis Fig. 3.1)."""

import difflib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.saliency import FullGrad, LayerMap

from .explainers import Explainer

FLAGS = flags.FLAGS
LAYERS = 6


def define_flags() -> None:
    """Define which layers."""
    flags.DEFINE_list(
        "layers",
        [],
        "Names of the layer calls whose bias-gradients are drawn, too, or 'auto' for "
        f"{LAYERS} over the depth.",
    )


def check_flags(served: bool) -> None:
    """Check that the model has layers.

    Args:
        served: Whether the model is a SavedModel.
    """
    if served and FLAGS.layers:
        raise ArgumentError(
            "--layers: got with a SavedModel, which has no layers; expected another --model."
        )


def calls(explainer: Explainer, size: tuple[int, int]) -> list[str]:
    """The calls of --layers, in the network's order for 'auto'.

    Args:
        explainer: Model.
        size: (height, width) of the images.
    """
    method = FullGrad(explainer.network)
    probe = method.probe(tf.zeros((1, *size, explainer.shape[-1])))
    laid_out = method.attribute(probe, probe.classes("predicted"))
    if FLAGS.layers != ["auto"]:
        for name in FLAGS.layers:
            if name not in laid_out:
                close = difflib.get_close_matches(name, laid_out, n=1)
                hint = f"did you mean {close[0]!r}? Expected" if close else "expected"
                raise ArgumentError(
                    f"--layers: got {name!r}; {hint} calls that have a bias-gradient with "
                    f"positions: {', '.join(laid_out)}."
                )
        return FLAGS.layers
    # The bias of a convolution before a batch norm is part of the batch norm's.
    merged = {t.source for t in probe.intercepts if t.kind == "batch_norm"}
    terms = {i: t for i, t in enumerate(probe.intercepts) if t.name in laid_out}
    own = [
        t.name
        for i, t in terms.items()
        if t.kind in ("affine", "batch_norm")
        and i not in merged
        and not isinstance(t.operation, keras.layers.Normalization)
    ]
    names = own if len(own) > 1 else [t.name for t in terms.values()]
    if not names:
        raise ModelError(
            f"--layers: got {explainer.name}, none of whose layers has a bias-gradient with "
            "positions; expected a convolutional network."
        )
    chosen = np.linspace(0, len(names) - 1, min(LAYERS, len(names))).round().astype(int)
    return [names[i] for i in chosen]


def maps(
    explainer: Explainer, calls: Sequence[str], x: np.ndarray, target: Sequence[int]
) -> dict[str, np.ndarray]:
    """{call: its bias-gradient summed over channels [rows, H, W]}, the input's term first.

    Args:
        explainer: Model.
        calls: Names of layer calls.
        x: Images as the model takes them, [rows, H, W, C].
        target: Classes to explain, [rows].
    """
    found = {}
    for call in dict.fromkeys(["input", *calls]):
        method = LayerMap(explainer.network, call, chunk_size=FLAGS.batch_size)
        found[call] = np.asarray(method(x, target))
    return found

"""Do maps depend on the weights? Layers that are re-initialised one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgrad.errors import ModelError
from tfgrad.evaluation.map_tests.explained_model import ExplainedModel
from tfgrad.evaluation.map_tests.map_stages import SCORE, MapStages, check_some_vary, over_images
from tfgrad.evaluation.map_tests.reinitialise import (
    layers_with_weights,
    reinitialise_layer,
    restored,
)
from tfgrad.evaluation.measurement import LOWER, Measurement
from tfgrad.internal.arguments import integer, one_of
from tfgrad.models import output_meaning

CASCADING, INDEPENDENT = "cascading", "independent"
# The order of summation may differ between calls; a stale map differs by far more.
_ROUNDING = 1e-3


@output_meaning.takes_outputs("model")
def randomisation(
    model: Any,
    images: Any,
    method: Any,
    *,
    order: str = CASCADING,
    target: Any = None,
    seed: int = 0,
    draws: int = 1,
    batch_size: int = 64,
    inputs: Any = None,
    outputs: Any = None,
) -> Measurement:
    """How similar maps stay while layers are re-initialised, from the output back to the input.

    A map that depends on the network must change with it. The class of each image is the one of the
    network as it came, and one map function, built once, is called at every stage.

    Each layer whose weights the network reads counts, in the order of those reads: nested and
    frozen layers and batch norms included, and layers that are not called because `call` takes a
    weight out of them; only `Normalization` stays. The new weights come from the layer's own
    initialisers, from its configuration, with seeds derived from `seed`. If the configuration does
    not restore the layer (a class without `get_config`), the entries of each weight are shuffled,
    and a single entry is drawn from a normal of its size. The weights change in the model itself,
    so nothing else should use it meanwhile. They are restored afterwards, also after an exception,
    bit by bit.

    The standard error is over images and draws. With a single draw it does not contain the
    variation between draws, which may be larger: use several draws to compare methods.

    Args:
        model: A built Keras model from images to logits, or a `PenalizedModel` of one.
        images: Images, float [n, H, W, C], as the model takes them.
        method: A function from a model to a function of (images, classes) that returns maps
            [b, H, W], such as `tfgrad.saliency.get("fullgrad")`. Raw values are compared: a sign
            counts.
        order: `"cascading"`, all layers from the output down to this one are random; or
            `"independent"`, only this one is.
        target: What is explained: the class, None for the predicted one, an int, or ints [n]; or
            any other target, see `completeness`.
        seed: Seed of the new weights.
        draws: Number of draws that are averaged, image by image.
        batch_size: Number of images per call.
        inputs: The key or position of the input whose maps are compared, of several; None for the
            one that is explained, if it is a single one. Masked steps of token ids do not count.
        outputs: What the model's outputs mean, see `tfgrad.models.output_meaning`; None for what
            its compiled loss says.

    Returns:
        Along the layers, whose names are the `labels`, the absolute value abs(ρ) of Spearman's rank
        correlation with the maps of the network as it came, averaged over draws and images, and its
        standard error; point 0 is that network itself, evaluated twice, for reference. A map of the
        opposite sign scores 1, one that became constant 0; chance is a little above 0. Columns:
        "signed rank correlation", of ρ; "rank correlation of sizes", ρ of absolute values;
        "structural similarity", of absolute maps in [0, 1] (11×11 window, or the map's smaller side
        if that is less); "rank correlation of other images", the score between each map and that,
        for the network as it came, of the image half of them away and its class, NaN for a single
        image: the part of the score that may be due to positions that all images share, such as
        the border; "weights changed", ‖new − old‖ / ‖old‖ of this layer, mean over draws, 0 where
        its initial values are those it has (an untrained batch norm); and counts over all draws:
        "maps unchanged", exactly equal although the logits are not, and "maps left out", NaN or
        infinite, or constant for the network as it came. A mean over no image is NaN.

    Raises:
        ArgumentError: An argument is out of range, or the method does not return maps of the
            images.
        DataError: An image holds NaN or infinite pixels, or no map of the network as it came ranks
            pixels.
        ModelError: A kernel moved by less than a tenth of its norm when it was re-initialised, as
            where the initialiser holds pretrained numbers; the network reads a variable that no
            layer owns; maps of one network differ from call to call; or the map function does not
            follow the weights: one built at the end returns other maps.
        NonFiniteError: A logit of the network as it came is NaN or infinite.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps" (2018), sections 3.1 and 3.2; thesis
    §3.3.
    """
    one_of("order", order, (CASCADING, INDEPENDENT))
    draws, seed = integer("draws", draws), integer("seed", seed, lowest=0)
    explained = ExplainedModel(model, images, target, batch_size, method, inputs)
    first = tf.nest.map_structure(lambda t: t[:1], explained.batches[0])
    layers = layers_with_weights(explained.network, first)
    function = explained.function
    before = explained.maps(function)
    check_some_vary(before, explained.visible)
    _check_equal(before, explained.maps(function), "maps of one network differ from call to call")
    found = MapStages(explained, before)
    found.add(before, explained.logits, 0.0)
    with restored(explained.network) as restore:
        for draw in range(draws):
            restore()
            stages = enumerate(reversed(layers.items()))
            for number, (path, layer) in stages:
                if order == INDEPENDENT:
                    restore()
                changed = reinitialise_layer(layer, path, _seed(seed, draw, number))
                found.add(explained.maps(function), explained.forward(), changed)
        fresh = explained.maps(explained.built(explained.network))
        _check_equal(fresh, found.last, "a map function built before the weights changed is stale")
    return Measurement(
        name=f"{order} randomisation",
        score=SCORE,
        direction=LOWER,
        along="randomised layer",
        points=tuple(float(number) for number in range(len(layers) + 1)),
        labels=("none", *reversed(layers)),
        reference=1,
        seed=seed,
        over=over_images(explained, draws) + ", 1 draw of the weights" * (draws == 1),
        examples=len(explained),
        **found.numbers(len(layers)),
    )


def _seed(seed: int, draw: int, number: int) -> int:
    """A seed of its own for every layer of every draw."""
    return int(np.random.SeedSequence([seed, draw, number]).generate_state(1)[0])


def _check_equal(maps: np.ndarray, again: np.ndarray, what: str) -> None:
    size = np.nanmax(np.abs(maps), initial=0, where=np.isfinite(maps))
    if not np.allclose(maps, again, rtol=_ROUNDING, atol=_ROUNDING * size, equal_nan=True):
        raise ModelError(
            f"method: {what}, so the result would not depend on the network alone; expected a "
            "function that reads the weights at every call (no stale trace), with a fixed seed."
        )

"""A small network that is trained on scikit-learn's digits in some seconds, without a download."""

from collections.abc import Callable, Sequence

import keras

from tfgrad import callbacks, data, models, penalties

from . import compilation

NAME = "digits"
WEIGHT = 0.03
BATCH = 64
EPOCHS = 10


def train(
    dataset: data.Dataset,
    chosen: Sequence[penalties.Penalty],
    epochs: int,
    seed: int = 0,
    shown: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """A VGG-4 of quarter width, trained on a data set of small images.

    Args:
        dataset: Its training split.
        chosen: Penalties.
        epochs: Passes over the data.
        seed: Seed of weights and order.
        shown: Callbacks that report.
    """
    keras.utils.set_random_seed(seed)
    network = models.get("vgg4", dataset.image_shape, len(dataset.classes), width=0.25)
    model = compilation.compiled_model(network, chosen, keras.optimizers.Adam(1e-3))
    model.fit(
        data.pipeline(dataset, BATCH, training=True, seed=seed),
        epochs=epochs,
        steps_per_epoch=data.steps_per_epoch(dataset, BATCH),
        shuffle=False,
        verbose=0,
        callbacks=[callbacks.StopOnNonFinite("nothing was exported"), *shown],
    )
    return network


def trained(
    epochs: int = EPOCHS, said: Callable[[str], None] = lambda line: print(line, flush=True)
) -> tuple[keras.Model, Sequence[str]]:
    """(network on pixels from 0 to 1, class names), trained with a gradient-norm penalty.

    Args:
        epochs: Passes over the 1,437 digits.
        said: Takes a line about what is done.
    """
    dataset = data.load("digits", "train")
    said(f"digits: training VGG-4 at width ¼ on {len(dataset)} digits, {epochs} epochs")
    network = train(dataset, [penalties.GradientNorm(WEIGHT)], epochs)
    return network, dataset.classes

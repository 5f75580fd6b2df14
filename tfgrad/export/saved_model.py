"""Exports models that serve their own explanations: a SavedModel with one signature per method.

TensorFlow Serving loads `<directory>/<version>/saved_model.pb`, and clients bind to the names of
signatures, inputs and outputs, so these names are the public API of an exported model:

| signature         | inputs                              | outputs                               |
|-------------------|-------------------------------------|---------------------------------------|
| `serving_default` | image [B, …] float32                | logits, probabilities [B, K] float32; |
|                   |                                     | see `outputs` of `save`               |
| each method's     | image; target [B] int32             | saliency [B, H, W], score [B] float32;|
| name              | (−1: the predicted class)           | class [B] int32; the method's extras  |
| `encoded`         | image_bytes [B] string (JPEG, PNG), | all of `serving_default`'s; saliency, |
|                   | target                              | score, class of the first method      |

The batch size B is free. `encoded` exists if the model takes images of one size with 1 or 3
channels in a range that is known; each image is checked before it is decoded (`tfgrad.images`),
resized to the model's size, and its channels moved to the axis on which the model takes them. A
request with no images, or with NaN or infinite pixels, fails.

The files hold the network's own variables and graph functions and nothing of Keras: a process with
TensorFlow alone, or TensorFlow Serving, computes the same numbers. The version's directory also
holds tfgrad.json and model_card.md, which describe the model and which Serving ignores, and one
warm-up request for each signature, which Serving runs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgrad import saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.export import any_model, checks, image_ranges, model_card, publication, warmup_requests
from tfgrad.export.portable import writing
from tfgrad.export.portable.further import Further
from tfgrad.export.signatures import Served, build_signatures, name_of, traced_preprocess
from tfgrad.internal.arguments import integer
from tfgrad.targets import Target
from tfgrad.training import PenalizedModel


def save(
    model: keras.Model,
    directory: str | os.PathLike[str],
    methods: Sequence[str | saliency.Method] | None = None,
    classes: Sequence[str] | None = None,
    *,
    targets: Sequence[Target] = (),
    preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
    image_range: tuple[float, float] | None = None,
    outputs: Any = None,
    warmup: bool = True,
    formats: str | Sequence[str] = ("saved_model",),
    batch_size: int | None = 1,
    example: Any = None,
    version: int = 1,
    training: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> str:
    """Export a model as the next version under a directory.

    The version appears complete or not at all: it is written to a temporary directory beside its
    final place and then renamed, and a failure removes what was written. Two concurrent writers
    get two versions.

    Args:
        model: A built Keras model that returns logits [B, K], or a `PenalizedModel` around one.
        directory: The model's directory; created if absent. Its name is the served model's name.
        methods: The explanations to serve, each under a signature of its name: names of
            `tfgrad.saliency.METHODS`, or methods built on this model, with options of their own.
            None: `"fullgrad"`, for images, and `"input_gradient"`.
        classes: The K classes' names, stored in the metadata.
        targets: Scalars of the outputs. Each gets a signature METHOD_TARGET for every method given
            by name, beside METHOD for classes, which only a model with logits has. What a target
            takes with each example, such as a mask, is an input of its signature. A method that was
            built with a target serves that one. See `tfgrad.export.any_model`, also for models with
            several inputs and of token ids, whose signatures take the inputs by name.
        preprocess: A Keras layer or a function in TensorFlow operations that runs inside the graph
            on float32 images [B, …] and returns the network's input in the same shape, for example
            `keras.applications.resnet.preprocess_input`. The maps explain what it returns. None:
            the model's own `preprocessor`, if it has one as the tasks of KerasHub do.
        image_range: The values of black and white in the images that `preprocess` (or the network)
            takes; the signature `encoded` scales decoded pixels to it. None: the range that
            `tfgrad.models.image_range` finds. Where nothing tells, `encoded` is left out.
        outputs: What the outputs mean: `"exclusive"` (`probabilities` is the softmax), `"binary"`
            (one logit f: [1 − σ(f), σ(f)]), `"independent"` (the sigmoids) or `"regression"` (no
            `probabilities`); None for what the compiled loss says. See
            `tfgrad.models.output_meaning`.
        warmup: Whether to write one request of batch size 1 for each signature, which TensorFlow
            Serving runs when it loads the version. Those of the first method and of methods from
            elsewhere are run here, as one that fails would keep the version from being served.
        formats: What is written into the version's directory: `"saved_model"`, `"litert"`
            (model.tflite, with a signature for each method), `"onnx"` (METHOD.onnx),
            `"openvino"` (METHOD.xml, METHOD.bin) and `"web"` (a folder, web, with a page that
            explains photographs in a browser). Names of inputs and outputs are the SavedModel's,
            and sizes are fixed. Each file is run here and compared with TensorFlow's outputs, for
            which the extras `litert`, `onnx` (also of the page) and `openvino` have the packages.
        batch_size: The number of examples in each request to the files beside the SavedModel.
        example: Real inputs to compare them on, {name: array [n, …]} or an array of images, which
            the page offers, too; None draws pixels of the range.
        version: The least number of the version, an integer ≥ 1. TensorFlow Serving serves the
            highest one, so a new version is always above those that exist.
        training: What is known of the training, such as the epoch, stored in the metadata:
            strings, numbers, and lists and dicts of these.
        card: Facts for the page model_card.md in the version's directory, {name: text, number, list
            of these, or table {name: text or number}}, such as the data and the accuracy. The page
            states by itself what is served, how to ask for it, and the penalties of a
            `PenalizedModel`. TensorFlow Serving does not read it.

    Returns:
        The path written, `directory/<version>`.

    Raises:
        ArgumentError: An unknown method, a method of another model, a wrong number of class names,
            a `preprocess` that cannot be traced or changes the shape, an invalid range, an unknown
            format or one whose packages are missing, or a directory that cannot be written.
        ModelError: The model is not built, has several inputs or outputs, ends in a softmax, or
            has a weight that is NaN or infinite; or a method cannot be exported; or, beside the
            SavedModel, an input has a free size, or nothing can be had in a format.

    Warns:
        PortabilityWarning: A method cannot be had in a format; the metadata says why.
        OutputMeaningWarning: The model has one output, and nothing says what it means; it is taken
            for a logit of two classes.
        ImageRangeWarning: The range of the pixels is not known, or `image_range` contradicts what
            the network tells.
        PlacementWarning: A method stretches feature maps to the image, as it does if the model
            takes images of any size; the metadata says so under `left_out`.
    """
    if methods is not None:
        checks.check_methods(methods)
    formats = writing.check(formats, batch_size)
    integer("version", version)
    card = model_card.checked(card)
    penalties = model.penalties if isinstance(model, PenalizedModel) else None
    if any_model.is_needed(model, methods or (), checks.targets_of(targets)):
        if preprocess is not None or image_range is not None:
            raise ArgumentError(
                "preprocess, image_range: got one for a model or a target that has signatures of "
                "the model's own inputs; expected None; try preprocessing layers in the model."
            )
        return any_model.save(
            model,
            directory,
            methods,
            classes,
            targets,
            outputs,
            warmup and writing.SAVED_MODEL in formats,
            _further(model, formats, batch_size, example),
            version,
            training,
            card,
            penalties,
        )
    given = None if image_range is None else checks.image_range(image_range)
    served, preprocess = checks.served(model, preprocess, outputs)
    if methods is None:
        is_image = served.image.shape.rank == 4
        methods = ("fullgrad", "input_gradient") if is_image else ("input_gradient",)
    names = checks.class_names(classes, served.classes)
    variables = [v.value for v in served.network.variables]
    if preprocess is not None:
        served, more = _preprocessed(served, preprocess)
        variables += more
    served, no_range = _ranged(served, given, preprocess)
    chosen = checks.methods_of(served.network, methods, served.meaning)

    signatures = publication.traced(
        served.network,
        f"images {served.image.shape}",
        lambda: build_signatures(served, chosen),
    )
    warmup = warmup and writing.SAVED_MODEL in formats
    requests, no_warmup = _requests(served, chosen, signatures) if warmup else ({}, None)
    left_out = {
        "encoded": served.no_encoded() or no_range,
        "warmup": no_warmup,
        "placement": _stretched(chosen),
    }
    metadata = {
        "classes": names,
        "input_shape": list(served.image.shape),
        "image_range": None if served.image_range is None else list(served.image_range),
        "preprocess": None if preprocess is None else name_of(preprocess),
        "outputs": served.outputs,
        "meaning": served.meaning,
        "methods": {method.name: method.options() for method in chosen},
        "left_out": {name: why for name, why in left_out.items() if why},
    }
    if training is not None:
        metadata["training"] = dict(training)
    if no_range is not None:
        image_ranges.warn_unknown(served.network)
    further = _further(served.network, formats, batch_size, example)
    if further is not None:
        further = dataclasses.replace(
            further,
            value_range=served.image_range or (0.0, 1.0),
            lowest_target=served.lowest_target,
        )
    return publication.published(
        served.network,
        variables,
        signatures,
        requests,
        metadata,
        directory,
        further,
        version,
        card,
        penalties,
    )


def _further(
    network: Any, formats: tuple[str, ...], batch_size: int | None, example: Any
) -> Further | None:
    """The formats beside the SavedModel, or in its place; None if it is the only one."""
    if formats == (writing.SAVED_MODEL,):
        return None
    return Further(network, formats, batch_size or 1, example)


def _preprocessed(
    served: Served, preprocess: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[Served, list[tf.Variable]]:
    """The model behind a preprocessing, and the variables that the preprocessing reads."""
    function, variables, size = traced_preprocess(preprocess, served.image, served.channel_axis)
    return dataclasses.replace(served, preprocess=function, size=size), variables


def _ranged(
    served: Served, given: tuple[float, float] | None, preprocess: Any
) -> tuple[Served, str | None]:
    """The model with the range of its images, and the reason why it is not known."""
    function = None if preprocess is None else served.preprocess
    chosen = image_ranges.known(served.network, given, function)
    if chosen is not None or served.no_encoded() is not None:
        return dataclasses.replace(served, image_range=chosen), None
    if preprocess is not None:
        raise ArgumentError(
            "image_range: got None with preprocess=; expected the values of black and white that "
            "it takes. Try (0, 255) for those of keras.applications, (0, 1) for pixels in [0, 1]."
        )
    return served, image_ranges.UNKNOWN


def _stretched(methods: Sequence[saliency.Method]) -> str | None:
    """Which signatures stretch feature maps to the image, as their places are not known."""
    inner = {method.name: getattr(method, "method", method) for method in methods}
    names = [name for name, method in inner.items() if getattr(method, "stretches", False)]
    if not names:
        return None
    return f"feature maps of {', '.join(names)} are stretched, as where they look is not known"


def _requests(
    served: Served, methods: Sequence[saliency.Method], signatures: Mapping[str, Any]
) -> tuple[warmup_requests.Requests, str | None]:
    """Warm-up requests, or none and the reason."""
    # The first explanation is run; further ones of this package are made of the same operations.
    covered = [method.name for method in methods[1:] if type(method) in saliency.METHODS.values()]
    if "encoded" in signatures and served.black_is_zero:
        covered += ["serving_default", *(method.name for method in methods[:1])]
    try:
        return warmup_requests.successful_requests(signatures, served.lowest_target, covered), None
    except tf.errors.OpError as error:
        if None in served.image.shape[1:]:
            return {}, "no size of image that was tried gets through the model"
        raise ModelError(
            f"model {served.network.name!r}: got a model that fails on an image of zeros "
            f"({error.message}); expected one that does not, or TensorFlow Serving would not load "
            "it. Try calling it on such an image, or export with warmup=False."
        ) from error

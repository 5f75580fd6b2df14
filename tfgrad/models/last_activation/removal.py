"""Models that end before their last softmax or sigmoid, on the same layers and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal import keras_private
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.internal.wrapper import Wrapper
from tfgrad.models import call_inputs, output_meaning
from tfgrad.models.last_activation import calls, kinds
from tfgrad.models.last_activation.endings import Ending, Opaque, check_units, find, model_of
from tfgrad.models.preprocessors import own_preprocessor, preprocessed


class _Made:
    """A model without last activations, and what it depends on.

    It hangs on the model that it was made of, as it holds that model's layers. An object of its own
    kind, because Keras saves the layers, models and containers among a model's attributes.
    """

    def __init__(self, key: Any, model: keras.Model) -> None:
        self.key, self.model = key, model


_ATTRIBUTE = "_tfgrad_logits"
_COMBINING = (
    *(keras.layers.Add, keras.layers.Average, keras.layers.Concatenate, keras.layers.Lambda),
    *(keras.layers.Maximum, keras.layers.Minimum, keras.layers.Multiply, keras.layers.Subtract),
)


def logits(model: Any) -> keras.Model:
    """The model without its last softmax or sigmoid, on the same layers and weights.

    Most saved classifiers return probabilities p = softmax(f) or σ(f). The gradients of f are those
    that explanations and penalties are defined by: of p they vanish where the model is certain.

    The activation may be an argument of the last layer, a layer or operation of its own, followed
    by a reshaping or a cast, inside a nested model, or written in the `call` of a subclassed model.
    Every output is treated by itself, and outputs without activation stay as they are. The new
    model shares all variables: training one trains both. It is not compiled; its losses need
    `from_logits=True`. It can be saved, and the loaded one returns logits, too.

    Args:
        model: A built Keras model, or a `PenalizedModel` of one.

    Returns:
        A functional `keras.Model` of the same name, inputs and structure of outputs; for a
        subclassed model, a model that runs its `call`. The model itself if it returns logits,
        log-softmax included. A second call returns the same model, as long as the layers stay the
        same.

    Raises:
        ArgumentError: The model is no Keras model.
        ModelError: It is not built; it ends in the softmax of one unit; or its outputs are
            probabilities in another way, such as the mean of several softmaxes.

    Example:

    ```python
    network = tfgrad.models.logits(keras.models.load_model("mine.keras"))
    maps = tfgrad.saliency.FullGrad(network)(images)
    ```
    """
    if isinstance(model, Wrapper):
        model = model.network
    if not isinstance(model, keras.Model):
        raise ArgumentError(f"model: got a {type(model).__name__}; expected a keras.Model.")
    if not model.built:
        raise ModelError(
            f"model {model.name!r}: it is not built. Call it on a batch, or load its weights, "
            "before passing it on."
        )
    found, _ = leaving_out(model)
    if found is model:
        check_no_probabilities(model)
    return found


def may_return_probabilities(model: keras.Model) -> bool | None:
    """Whether a model ends in an activation that `logits` leaves out, read from its graph.

    Returns:
        None if the graph does not tell: the model or its last layer is written in Python.
    """
    if not is_graph(model):
        return None
    endings = [find(tensor, through_calls=False) for tensor in model.outputs]
    if any(isinstance(ending, Ending) for ending in endings):
        return True
    return None if any(isinstance(ending, Opaque) for ending in endings) else False


def is_graph(model: keras.Model) -> bool:
    """Whether a model is a graph of layers with known outputs."""
    return keras_private.is_graph_of_layers(model) and bool(getattr(model, "outputs", None))


def leaving_out(model: keras.Model) -> tuple[keras.Model, str]:
    """The model without last activations, and what was left out in words.

    Args:
        model: A built Keras model.

    Returns:
        The model itself and "" if no activation is found.

    Raises:
        ModelError: See `logits`.
    """
    if not is_graph(model):
        return _of_call(model)
    found = [find(tensor) for tensor in model.outputs]
    endings = {i: ending for i, ending in enumerate(found) if isinstance(ending, Ending)}
    if not endings:
        return model, ""
    key = tuple((i, ending.kind, ending.key) for i, ending in endings.items())
    lost = [endings[i].kind if i in endings else None for i in range(len(found))]
    first = next(iter(endings.values()))

    def make() -> keras.Model:
        structure = None if isinstance(model, keras.Sequential) else model.output
        sizes = [tensor.shape[-1] if tensor.shape else 1 for tensor in model.outputs]
        return _told(model_of(model, endings), model, lost, sizes, structure)

    return _kept(model, key, make), f"the {first.kind} of {first.layer!r}"


def _of_call(model: keras.Model) -> tuple[keras.Model, str]:
    """`leaving_out` of a model that is written in Python."""
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None:
        return model, ""
    found = _found(model, shape)
    if found is None:
        return model, ""
    for kind, size in zip(found.kinds, found.sizes, strict=True):
        check_units(str(kind), size, found.layer)
    key = (found.model.left_out, found.kinds, *map(id, model.variables))
    made = _kept(
        model,
        key,
        lambda: _told(found.model, model, list(found.kinds), list(found.sizes), found.structure),
    )
    return made, f"the {next(filter(None, found.kinds))} of {found.layer!r}"


def _found(model: keras.Model, shape: Any) -> calls.Found | None:
    """What `calls.found` finds with the first inputs that the model takes."""
    failed: Exception | None = None
    for specs in call_inputs.candidates(model, batch=4):
        try:
            return calls.found(model, specs, shape)
        except (TypeError, ValueError, tf.errors.OpError) as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return None


def _kept(model: keras.Model, key: Any, make: Callable[[], keras.Model]) -> keras.Model:
    """The model that was made for this key, or a new one."""
    kept = vars(model).get(_ATTRIBUTE)
    key = (key, id(own_preprocessor(model)))
    if kept is None or kept.key != key:
        kept = _Made(key, make())
        vars(model)[_ATTRIBUTE] = kept
    return kept.model


def _told(
    made: keras.Model,
    model: keras.Model,
    lost: list[str | None],
    sizes: list[int | None],
    structure: Any,
) -> keras.Model:
    """The new model, with the meaning of its outputs as the activations tell it."""
    output_meaning.inherit(made, model)
    if (preprocessor := own_preprocessor(model)) is not None:

        def samples(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
            return keras.utils.pack_x_y_sample_weight(*preprocessed(model, x, y, sample_weight))

        # Past Keras, which would save it with the model.
        vars(made).update(preprocessor=preprocessor, preprocess_samples=samples)
    meanings = [_meaning(kind, size) for kind, size in zip(lost, sizes, strict=True)]
    if len(meanings) == 1:
        output_meaning.remember(made, meanings[0])
    elif isinstance(structure, dict):
        output_meaning.remember(made, dict(keras.tree.pack_sequence_as(structure, meanings)))
    else:
        output_meaning.remember(made, dict(enumerate(meanings)))
    return made


def _meaning(kind: str | None, size: int | None) -> str | None:
    if kind is None:
        return None
    if kind == kinds.SOFTMAX:
        return output_meaning.EXCLUSIVE
    return output_meaning.BINARY if size == 1 else output_meaning.INDEPENDENT


def combines(model: keras.Model) -> bool:
    """Whether an output of a graph is a combination of others, such as a mean or a product.

    Such a model may average softmaxes, where no activation can be left out.
    """
    if not is_graph(model):
        return False
    last = [keras_private.producer(tensor)[0] for tensor in model.outputs]
    return any(
        isinstance(one, _COMBINING) or (one is not None and keras_private.is_own_operation(one))
        for one in last
    )


def check_no_probabilities(model: keras.Model) -> None:
    """Reject a model whose outputs are probabilities of no activation that can be left out.

    Raises:
        ModelError: A bounded activation other than softmax and sigmoid ends the graph, or every
            output on noise is in [0, 1] and they sum to 1.
    """
    plain = is_graph(model)
    for tensor in model.outputs if is_graph(model) else ():
        operation, _ = keras_private.producer(tensor)
        activation = vars(operation).get("activation") if operation is not None else None
        name = getattr(activation, "__name__", "")
        plain = plain and name == "linear"
        if name in ("hard_sigmoid", "sparse_sigmoid", "sparsemax"):
            raise ModelError(
                f"layer {operation.name!r}: got the activation {name}; expected softmax or "
                "sigmoid, whose arguments are logits. No logits belong to these probabilities: "
                'try activation="sigmoid", and training the model again.'
            )
    if plain:
        return
    for inputs in _noise(model):
        try:
            with tf.init_scope(), unchanged_state():
                flat = keras.tree.flatten(model(inputs, training=False))
            sums = [tf.reduce_sum(tf.cast(y, tf.float32), -1) for y in flat]
            inside = [bool(tf.reduce_all((y >= 0) & (y <= 1))) for y in flat]
            break
        except Exception:  # whatever inputs it needs, it cannot be looked at so
            continue
    else:
        return
    for y, total, bounded in zip(flat, sums, inside, strict=True):
        ones = bool(tf.reduce_all(tf.abs(total - 1) < 1e-3))
        if bounded and ones and y.shape.rank and y.shape[-1] > 1:
            raise ModelError(
                f"model {model.name!r}: got outputs in [0, 1] that sum to 1 and are no softmax of "
                "one layer, such as a mean of several; expected logits. Try the logarithm, whose "
                "softmax they are: keras.Model(x, keras.ops.log(model(x) + 1e-7)), x = "
                "keras.Input(model.input_shape[1:])."
            )


def _noise(model: keras.Model) -> Iterator[Any]:
    """Inputs of four examples, of a model written in Python all that it may take."""
    every = call_inputs.candidates(model)
    if is_graph(model):
        every = iter([model.inputs[0] if isinstance(model, keras.Sequential) else model.input])
    for inputs in every:
        yield keras.tree.map_structure(
            lambda t: kinds.noise((4, *(n or 32 for n in t.shape[1:])), t.dtype), inputs
        )

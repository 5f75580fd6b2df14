"""What a network's outputs [batch, K] mean: classes, labels or numbers.

| meaning         | the K outputs are                                   | probabilities    |
|-----------------|-----------------------------------------------------|------------------|
| `"exclusive"`   | logits of K classes, of which one is right          | softmax          |
| `"binary"`      | K = 1: the logit f of class 1 of two, −f of class 0 | [1 − σ(f), σ(f)] |
| `"independent"` | logits of K labels, any number of which are right   | sigmoid          |
| `"regression"`  | K numbers                                           | none             |

`known` reads it from an argument, from what `remember` stored, or from the compiled loss.
`meaning` adds the default: K classes, or two where there is one output.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import keras
import tensorflow as tf

from tfgrad.errors import ArgumentError, OutputMeaningWarning
from tfgrad.internal.arguments import one_of

EXCLUSIVE, BINARY, INDEPENDENT, REGRESSION = "exclusive", "binary", "independent", "regression"
MEANINGS = (EXCLUSIVE, BINARY, INDEPENDENT, REGRESSION)

# A loss on a sigmoid of every output: one output is binary, several are independent.
_SIGMOID = "sigmoid"
_LOSSES = {
    **dict.fromkeys(
        ("binary_crossentropy", "binary_focal_crossentropy", "hinge", "squared_hinge"), _SIGMOID
    ),
    **dict.fromkeys(
        (
            "categorical_crossentropy",
            "categorical_focal_crossentropy",
            "categorical_generalized_cross_entropy",
            "categorical_hinge",
            "kl_divergence",
            "sparse_categorical_crossentropy",
        ),
        EXCLUSIVE,
    ),
    **dict.fromkeys(
        (
            "huber",
            "log_cosh",
            "mean_absolute_error",
            "mean_absolute_percentage_error",
            "mean_squared_error",
            "mean_squared_logarithmic_error",
            "poisson",
        ),
        REGRESSION,
    ),
}

# By network: the meaning that an argument gave, and the one that the compiled loss of a model
# around the network gave. Weak, and no attributes of the network, which is saved without them.
_given: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_trained: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_warned: weakref.WeakSet[Any] = weakref.WeakSet()
# (network, meaning) pairs of the calls that are running, the innermost last.
_told: contextvars.ContextVar[tuple[tuple[Any, Any], ...]] = contextvars.ContextVar(
    "outputs", default=()
)
_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Source:
    """The network that has the same outputs, and the head of it that they are.

    An attribute of the new network; Keras saves attributes of this class with no model.
    """

    def __init__(self, network: keras.Model, head: Any) -> None:
        self.network, self.head = network, head


_SOURCE = "_tfgrad_source"


def check(outputs: Any) -> Any:
    """The argument `outputs` of an entry point, checked.

    Args:
        outputs: One of `MEANINGS`, None for what the network tells, or {head: one of these} for a
            network with several outputs.

    Raises:
        ArgumentError: It is none of these.
    """
    if isinstance(outputs, Mapping):
        return {head: None if one is None else check(one) for head, one in outputs.items()}
    return None if outputs is None else one_of("outputs", outputs, MEANINGS)


def remember(network: keras.Model, outputs: Any = None, loss: Any = None) -> None:
    """Store what is known of a network's outputs, for `known`; saved files do not contain it.

    Args:
        network: The plain network.
        outputs: A meaning, as `check` takes it; None leaves the stored one.
        loss: A loss as `compile` takes it, of a model around the network; None leaves the stored
            one.
    """
    if outputs is not None:
        _given[network] = check(outputs)
    if loss is not None:
        _trained[network] = _meanings_of(loss)


@contextlib.contextmanager
def told(network: Any, outputs: Any) -> Iterator[None]:
    """In this context a network's outputs have the meaning that a call was given.

    Args:
        network: The network.
        outputs: A meaning, as `check` takes it; None changes nothing.
    """
    outputs = check(outputs)
    before = _told.get()
    token = _told.set(before if outputs is None else (*before, (network, outputs)))
    try:
        yield
    finally:
        _told.reset(token)


def takes_outputs(name: str) -> Callable[[_Function], _Function]:
    """A decorator of functions with an argument `outputs`, which holds while they run.

    In a caller's `tf.function` AutoGraph leaves them as they are. It would otherwise rewrite every
    function of tfgrad that they call, which takes longer than tracing them.

    Args:
        name: Name of the argument that is the network; of a model around one its `network` counts.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            outputs = given.get("outputs")
            with contextlib.ExitStack() as stack:
                stack.enter_context(told(given[name], outputs))
                inner = getattr(given[name], "network", None)
                if inner is not None:
                    stack.enter_context(told(inner, outputs))
                return function(*args, **kwargs)

        return tf.autograph.experimental.do_not_convert(wrapped)

    return decorate


def inherit(network: keras.Model, source: keras.Model, head: Any = None) -> keras.Model:
    """Let a network with the outputs of another (or with one head of it) have their meaning.

    Args:
        network: The new network.
        source: The network whose outputs they are.
        head: The head that the new network consists of; None for all outputs.

    Returns:
        The new network.
    """
    if network is not source:
        # No weak dictionary: a source that keeps the network would be an entry for ever.
        vars(network)[_SOURCE] = _Source(source, head)
    return network


def known(
    network: keras.Model, outputs: Any = None, count: int | None = None, head: Any = None
) -> str | None:
    """The meaning of a network's outputs, or None if nothing tells.

    The argument comes first, then that of a running call (`told`), then what `remember` stored,
    then the loss that the network is compiled with, then what is known of the network that it was
    made of (`inherit`).

    Args:
        network: The plain network, out of any `PenalizedModel` around it.
        outputs: The argument of an entry point.
        count: The number K of outputs; by default the network's, as far as it defines it.
        head: The output of a network with several, by key or index.

    Raises:
        ArgumentError: The argument does not fit the number of outputs.
    """
    count = _count(network, head) if count is None else count
    # What a call was given for a softmax model holds for its logits, which the call uses.
    link = getattr(network, _SOURCE, None)
    source, own = (None, None) if link is None else (link.network, link.head)
    same = [network] if source is None or own is not None else [network, source]
    running = [meaning for told, meaning in reversed(_told.get()) if any(told is n for n in same)]
    for given in (check(outputs), *running, _given.get(network)):
        given = _part(given, head)
        if given is not None:
            return _fitting(network, given, count)
    for loss in (_trained.get(network), _meanings_of(getattr(network, "loss", None))):
        given = _part(loss, head)
        if given == _SIGMOID:
            given = BINARY if count == 1 else INDEPENDENT
        if given is not None and not (given == EXCLUSIVE and count == 1):
            return given
    return None if source is None else known(source, None, count, own if head is None else head)


def stated(network: keras.Model) -> Any:
    """What is known of every head of a network, in the form of the argument `outputs`."""
    try:
        heads = network.output
    except (AttributeError, ValueError):
        heads = None
    if isinstance(heads, list | tuple):
        heads = dict(enumerate(heads))
    if isinstance(heads, Mapping):
        return {head: known(network, head=head) for head in heads}
    return known(network)


def meaning(
    network: keras.Model, outputs: Any = None, count: int | None = None, head: Any = None
) -> str:
    """The meaning of a network's outputs: as `known`, else K classes, or two for one output.

    The arguments and errors are those of `known`.
    """
    found = known(network, outputs, count, head)
    if found is not None:
        return found
    count = _count(network, head) if count is None else count
    return BINARY if count == 1 else EXCLUSIVE


def warn_if_assumed(
    network: keras.Model, outputs: Any = None, count: int | None = None, head: Any = None
) -> None:
    """Warn, once per network, that its one output is taken for a logit and nothing says so.

    To be called where the sign of the output or a probability matters; the arguments are those of
    `known`.

    Warns:
        OutputMeaningWarning: There is one output whose meaning nothing tells.
    """
    count = _count(network, head) if count is None else count
    if count != 1 or network in _warned or known(network, outputs, count, head) is not None:
        return
    _warned.add(network)
    warnings.warn(
        f"network {network.name!r}: got one output and no compiled loss that tells its meaning; it "
        "is taken for the logit of class 1 of two classes. Pass outputs='binary' to say so, or "
        "outputs='regression' for a number.",
        OutputMeaningWarning,
        stacklevel=4,
    )


def class_count(meaning: str, count: int | None) -> int | None:
    """The number of classes of K outputs; for a regression the number of outputs."""
    return 2 if meaning == BINARY else count


def _fitting(network: keras.Model, given: str, count: int | None) -> str:
    """The given meaning, which must fit the number of outputs.

    Raises:
        ArgumentError: It does not.
    """
    if given == EXCLUSIVE and count == 1:
        raise ArgumentError(
            f"outputs: got 'exclusive' for network {network.name!r}, which has one output, whose "
            "softmax is 1 for every input; expected 'binary', 'independent' or 'regression'."
        )
    if given == BINARY and count not in (1, None):
        raise ArgumentError(
            f"outputs: got 'binary' for network {network.name!r}, which has {count} outputs; "
            "expected 'exclusive', 'independent' or 'regression'; 'binary' is one logit of two "
            "classes."
        )
    return given


def _count(network: keras.Model, head: Any) -> int | None:
    """The number of outputs of a head, as far as the network defines it before a call."""
    try:
        outputs = network.output if head is not None else network.outputs
    except (AttributeError, ValueError):
        return None
    found = outputs if head is None else _part(outputs, head)
    flat = keras.tree.flatten(found) if found is not None else []
    if len(flat) != 1 or not flat[0].shape:
        return None
    return 1 if len(flat[0].shape) == 1 else flat[0].shape[-1]


def _part(nest: Any, head: Any) -> Any:
    """What belongs to a head in a dict or list of heads; one meaning belongs to every head."""
    if isinstance(nest, Mapping):
        return nest.get(head, next(iter(nest.values())) if len(nest) == 1 and not head else None)
    if isinstance(nest, list | tuple):
        if head is None and len(nest) == 1:
            return nest[0]
        inside = isinstance(head, int) and 0 <= head < len(nest)
        return nest[head] if inside else None
    return nest


def _meanings_of(loss: Any) -> Any:
    """What a compiled loss says, in its structure: a meaning, `_SIGMOID`, or None for unknown."""
    if isinstance(loss, Mapping):
        return {head: _meanings_of(one) for head, one in loss.items()}
    if isinstance(loss, list | tuple):
        return [_meanings_of(one) for one in loss]
    return _LOSSES.get(_name_of(loss) or "")


def _name_of(loss: Any) -> str | None:
    """The name of Keras's function behind a loss; None for a loss of someone else."""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return None
    while isinstance(loss, functools.partial):
        loss = loss.func
    if isinstance(loss, type):
        classes = loss.__mro__ if issubclass(loss, keras.losses.Loss) else ()
    else:
        classes = type(loss).__mro__ if isinstance(loss, keras.losses.Loss) else ()
    for one in classes:
        function = _FUNCTION_OF.get(one)
        if function is not None:
            return function
    function = getattr(loss, "fn", loss)
    name = getattr(function, "__name__", None)
    return name if name and getattr(keras.losses, name, None) is function else None


def _loss_classes() -> dict[type, str]:
    """{Keras's class of a loss: name of its function}."""
    named = {name.replace("_", ""): name for name in _LOSSES}
    found = {}
    for name in dir(keras.losses):
        one = getattr(keras.losses, name)
        if isinstance(one, type) and name.lower() in named:
            found[one] = named[name.lower()]
    return found


_FUNCTION_OF = _loss_classes()

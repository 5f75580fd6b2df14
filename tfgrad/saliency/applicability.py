"""Which saliency methods and targets fit a model, found by trying each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tfgrad.errors import TfgradError
from tfgrad.gradients import model_checks
from tfgrad.gradients.targets.trials import one_of_each
from tfgrad.internal.suitability import Row, Suitability, chosen_of, row
from tfgrad.internal.trial_inputs import inputs_of
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.saliency.input_gradient import InputGradient


def applicable(model: Any, data: Any = None, only: Sequence[str] | None = None) -> Suitability:
    """Say which saliency methods and targets fit a model, and why the others do not.

    Each method is built with its default options and explains one example; each kind of target is
    asked of the input-gradient. The answer is therefore that of the methods' own checks, of the
    decomposition's check that its terms add up included. It takes the time of a first map of every
    method. The model is not changed.

    Args:
        model: A built Keras model, or a `PenalizedModel` of one.
        data: Inputs as a method takes them, a batch or a data set of (x, …) batches, of which the
            first example is explained; None draws one in 0 to 1 (token ids 0) of the shape that the
            model declares, with 32 in the place of a free size.
        only: The names of the methods and targets that are tried; None tries all.

    Returns:
        A table with a row for each of `tfgrad.saliency.METHODS` and each kind of target: `name`,
        `fits`, `reason`, `advice` (what to try). Methods that weight or draw feature maps name the
        layers that they read. `str` and notebooks show it; `to_dict` is for JSON.

    Raises:
        ArgumentError: The model is no Keras model; data is None and the model does not declare its
            inputs; or a name is unknown.
        ModelError: The model is not built.

    Example:

    ```python
    print(tfgrad.saliency.applicable(network))
    ```
    """
    from tfgrad.saliency import METHODS

    network = model_checks.network(model, as_returned=True)
    x = inputs_of(network, data, 1)
    with unchanged_state():
        outputs = network(x, training=False)
    tried = chosen_of({**METHODS, **one_of_each(outputs)}, only)
    rows = [
        (_method_row if name in METHODS else _target_row)(name, make, model, x)
        for name, make in tried.items()
    ]
    return Suitability(network.name, tuple(rows))


def _method_row(name: str, kind: Any, model: Any, x: Any) -> Row:
    method = None
    try:
        method = kind(model)
        method(x)
    except TfgradError as error:
        return row("method", name, False, [str(error)], method)
    layers = method.needs().layers
    reads = f"reads {', '.join(map(repr, layers))}" if layers else ""
    return Row("method", name, True, reads, tried=method)


def _target_row(name: str, make: Callable[[], Any], model: Any, x: Any) -> Row:
    target = None
    try:
        target = make()
        InputGradient(model, target=target)(x)
    except TfgradError as error:
        return row("target", name, False, [str(error)], target)
    return Row("target", name, True, tried=target)

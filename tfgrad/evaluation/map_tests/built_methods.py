"""Methods around a network: the map functions that a test calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tfgrad.errors import ArgumentError, TfgradError
from tfgrad.gradients.targets import Target
from tfgrad.saliency import Method


def built(
    method: Any, network: Any, target: Target | None = None, inputs: Any = None
) -> Callable[[Any, Any], Any]:
    """The map function of a method around a network.

    Args:
        method: A function from a model to a function of (images, classes).
        network: The network.
        target: What a class of `tfgrad.saliency` is built for, if it is no class.
        inputs: The inputs that it is built for; None for all.

    Raises:
        ArgumentError: The method is no function from a model to a function.
    """
    advice = "Try tfgrad.saliency.get('fullgrad'), or lambda m: FullGrad(m, resize=…)."
    if not callable(method) or isinstance(method, Method):
        raise ArgumentError(
            f"method: got {method!r}; expected a function from a model to a function of (images, "
            f"classes) that returns maps. {advice}"
        )
    options = {"target": target, "inputs": inputs}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        found = method(network, **(given if _is_class_of_methods(method) else {}))
    except TfgradError:
        raise
    except TypeError as error:
        if _takes_one(method):
            raise  # an error of the function's own code
        raise ArgumentError(
            f"method: got {method!r}, which does not take a model alone; expected a function from "
            f"a model to a function of (images, classes). {advice}"
        ) from error
    if not callable(found):
        raise ArgumentError(
            f"method: got one that returns a {type(found).__name__} for a model; expected a "
            f"function of (images, classes). {advice}"
        )
    return found


def _is_class_of_methods(method: Any) -> bool:
    return isinstance(method, type) and issubclass(method, Method)


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument, as far as it tells."""
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True

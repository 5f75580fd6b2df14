"""The methods that a comparison judges: maps of its model, and the same around changed models."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tfgrad import saliency
from tfgrad.errors import ArgumentError
from tfgrad.evaluation.comparison.result import CONTROL

# A function of (images, classes) that returns maps [batch, H, W].
Maps = Callable[[Any, Any], Any]


@dataclasses.dataclass
class Candidate:
    """A method to be judged.

    Attributes:
        name: in the table.
        method: a name or class of methods, a method, or a function of (images, classes).
        network: the model of the comparison.
        seed: of the control.
    """

    name: str
    method: Any
    network: Any
    seed: int

    @property
    def control(self) -> bool:
        """Whether it knows nothing."""
        return _is_control(self.method)

    @functools.cached_property
    def maps(self) -> Maps:
        """Its maps of images; a method that is built keeps its own model, whichever that is."""
        return self.method if self._factory is None else self._factory(self.network)

    def build(self, model: Any) -> Maps:
        """The method around the model of the comparison or a changed one, which it must explain.

        Raises:
            ArgumentError: it is built around another model, or cannot be built anew.
        """
        if self._factory is not None:
            return self._factory(model)
        if isinstance(self.method, saliency.Method):
            self._check_own()
            return self.method if model is self.network else _like(self.method, model)
        if model is not self.network:
            raise ArgumentError(
                f"methods: {self.name!r} is a function of images, which explains one model; this "
                "test asks about changed ones. Pass a name, a class of methods or a method."
            )
        return self.method

    @functools.cached_property
    def _factory(self) -> Callable[[Any], Maps] | None:
        """What makes the method of a model; None where it is made."""
        if self.control:
            return functools.partial(saliency.Random, seed=self.seed)
        if isinstance(self.method, str):
            return saliency.get(self.method)
        made = not isinstance(self.method, type) or not issubclass(self.method, saliency.Method)
        return None if made else self.method

    def _check_own(self) -> None:
        if not _same(self.method.network, self.network):
            raise ArgumentError(
                f"methods: {self.name!r} is built around another model than the one compared, "
                "which this test asks about; pass its class or name, or build it around that one."
            )


def candidates(methods: Any, network: Any, seed: int) -> list[Candidate]:
    """What is asked, and the control."""
    found = named("methods", methods, "names of tfgrad.saliency, or {name: method}")
    found.setdefault(CONTROL, CONTROL)
    for name, method in found.items():
        _check(name, method)
    return [Candidate(name, method, network, seed) for name, method in found.items()]


def named(argument: str, given: Any, expected: str) -> dict[str, Any]:
    """{name: item} of names or of a mapping."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Iterable):
        raise ArgumentError(f"{argument}: got a {type(given).__name__}; expected {expected}.")
    found = dict(given) if isinstance(given, Mapping) else {item: item for item in given}
    if not found:
        raise ArgumentError(f"{argument}: got none; expected {expected}.")
    for name in found:
        if not isinstance(name, str):
            raise ArgumentError(f"{argument}: got {name!r} for a name; expected {expected}.")
    return found


def _is_control(method: Any) -> bool:
    return isinstance(method, str) and method == CONTROL


def _check(name: str, method: Any) -> None:
    """Refuse what is no method before anything is computed."""
    if name == CONTROL and not _is_control(method):
        raise ArgumentError(
            f"methods: got a {type(method).__name__} by the name of {CONTROL!r}, which is the "
            "control's; choose another name."
        )
    if isinstance(method, str):
        saliency.get(method)
    elif not callable(method):
        raise ArgumentError(
            f"methods: {name!r} is a {type(method).__name__}; expected a name of tfgrad.saliency, "
            "a class of methods, a method, or a function of (images, classes)."
        )


def _same(network: Any, other: Any) -> bool:
    """Whether two are one: of a model that takes a dict, every look makes a new one around it."""
    ends, others = (getattr(model, "outputs", None) or [] for model in (network, other))
    shared = len(ends) == len(others) > 0 and all(map(operator.is_, ends, others))
    return network is other or shared


def _like(method: saliency.Method, model: Any) -> saliency.Method:
    """The same method, around another model."""
    options = method.options()
    try:
        if type(method) is saliency.Smooth:
            return saliency.Smooth(**(options | {"method": _like(method.method, model)}))
        return type(method)(model, **options, chunk_size=method.chunk_size)
    except TypeError as error:
        raise ArgumentError(
            f"methods: {method!r} cannot be built around another model ({error}); expected "
            "options() to return what its class takes besides the model."
        ) from error

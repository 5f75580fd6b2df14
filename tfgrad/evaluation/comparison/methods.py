"""The methods of a comparison: their maps of the compared model, and of changed models."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tfgrad import saliency
from tfgrad.errors import ArgumentError
from tfgrad.evaluation import networks
from tfgrad.evaluation.comparison.result import CONTROL
from tfgrad.gradients.targets import Target
from tfgrad.saliency.networks import Networks

# A function of (images, classes) that returns maps [batch, H, W].
Maps = Callable[[Any, Any], Any]


@dataclasses.dataclass
class Candidate:
    """A method to be evaluated.

    Attributes:
        name: Name in the table.
        method: A name or class of methods, a method, or a function of (images, classes).
        network: The model of the comparison.
        seed: Seed of the control.
        asks: The target that all tests measure; None for classes.
        inputs: The key or position of the input that the tests look at, of several.
    """

    name: str
    method: Any
    network: Any
    seed: int
    asks: Target | None = None
    inputs: Any = None

    @property
    def control(self) -> bool:
        """Whether the method is the control, which does not look at the model."""
        return _is_control(self.method)

    @functools.cached_property
    def maps(self) -> Maps:
        """The map function; a method that is already built keeps its own model."""
        return self.method if self._factory is None else self._factory(self.network)

    def build(self, model: Any) -> Maps:
        """The method around the compared model or a changed copy, which it must explain.

        Raises:
            ArgumentError: The method is built around another model, or cannot be built again.
        """
        if self._factory is not None:
            return self._factory(model)
        if isinstance(self.method, saliency.Method):
            self._check_own()
            return self.method if model is self.network else _like(self.method, model)
        if model is not self.network:
            raise ArgumentError(
                f"methods: {self.name!r} is a function of images, which explains one model; "
                "expected a method that can be built around others, as this test changes the "
                "model. Pass a name, a class of methods or a method."
            )
        return self.method

    @functools.cached_property
    def _factory(self) -> Callable[[Any], Maps] | None:
        """The function from a model to the method; None if the method is already built."""
        options = {"target": self.asks, "inputs": self.inputs}
        given = {name: value for name, value in options.items() if value is not None}
        if self.control:
            return functools.partial(saliency.Random, seed=self.seed, **given)
        if isinstance(self.method, str):
            return functools.partial(saliency.get(self.method), **given)
        made = not isinstance(self.method, type) or not issubclass(self.method, saliency.Method)
        return None if made else functools.partial(self.method, **given)

    def _check_own(self) -> None:
        # A target may read the outputs that the model returns, and a method its logits.
        own = Networks(self.method.model)
        if not any(_same(own.of(asks), self.network) for asks in (self.asks, self.method.target)):
            raise ArgumentError(
                f"methods: {self.name!r} is built around another model than the one compared; "
                "expected the same, as this test evaluates it. Pass its class or name, or build it "
                "around that model."
            )


def candidates(
    methods: Any, network: Any, seed: int, asks: Target | None = None, inputs: Any = None
) -> list[Candidate]:
    """The methods to be evaluated, the control included; see `compare`.

    Raises:
        ArgumentError: A method does not exist, has the name of the control, or was built for
            another target.
    """
    found = _named_methods(methods)
    found.setdefault(CONTROL, CONTROL)
    for name, method in found.items():
        _check(name, method, asks)
    return [Candidate(name, method, network, seed, asks, inputs) for name, method in found.items()]


def target_of(model: Any, methods: Any, target: Any) -> Target | None:
    """The target that all tests measure; None for classes.

    Args:
        model: The model of the comparison.
        methods: The methods, of which those that are built for a `Target` tell it.
        target: The target that the user chose, or None.

    Raises:
        ArgumentError: It is a class.
    """
    targets = (getattr(method, "target", None) for method in _named_methods(methods).values())
    own = next((one for one in targets if isinstance(one, Target)), None)
    return networks.target_of(model, None, own if target is None else target)


def _named_methods(methods: Any) -> dict[str, Any]:
    return named("methods", methods, "names of tfgrad.saliency, or {name: method}")


def named(argument: str, given: Any, expected: str) -> dict[str, Any]:
    """{name: item}, from names or from a mapping.

    Args:
        argument: The argument that messages name.
        given: A name, several names, or a mapping.
        expected: The description of what the argument takes, for messages.

    Raises:
        ArgumentError: `given` has another form, or is empty.
    """
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


def _check(name: str, method: Any, asks: Target | None) -> None:
    """Reject what is no method of this target before anything is computed."""
    own = getattr(method, "target", None)
    built = asks is not None and isinstance(method, saliency.Method) and own is not None
    if built and not networks.same(own, asks):
        raise ArgumentError(
            f"methods: {name!r} is built with target={own!r}; expected {asks!r}, as all tests "
            "measure one target; try it without target=."
        )
    if name == CONTROL and not _is_control(method):
        raise ArgumentError(
            f"methods: got a {type(method).__name__} by the name of {CONTROL!r}, which is the "
            "control's; expected another name."
        )
    if isinstance(method, str):
        saliency.get(method)
    elif not callable(method):
        raise ArgumentError(
            f"methods: {name!r} is a {type(method).__name__}; expected a name of tfgrad.saliency, "
            "a class of methods, a method, or a function of (images, classes)."
        )


def _same(network: Any, other: Any) -> bool:
    """Whether two models are one; one that takes a dict gets a new wrapper at every look-up."""
    ends, others = (getattr(model, "outputs", None) or [] for model in (network, other))
    shared = len(ends) == len(others) > 0 and all(map(operator.is_, ends, others))
    return network is other or shared


def _like(method: saliency.Method, model: Any) -> saliency.Method:
    """The same method around another model."""
    # A target as it is: of its saved form, functions have to be registered.
    shared = {name: getattr(method, name) for name in ("outputs", "channels", "target")}
    options = {**method.options(), **{k: v for k, v in shared.items() if v is not None}}
    try:
        if type(method) is saliency.Smooth:
            return saliency.Smooth(**(options | {"method": _like(method.method, model)}))
        own = {name: getattr(method, name) for name in ("inputs", "at")}
        own = {name: value for name, value in own.items() if value is not None}
        return type(method)(model, **options, **own, chunk_size=method.chunk_size)
    except TypeError as error:
        raise ArgumentError(
            f"methods: {method!r} cannot be built around another model ({error}); expected "
            "options() to return the arguments that its class takes besides the model."
        ) from error

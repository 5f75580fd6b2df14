"""The tests of a comparison by name, and the arguments that each gets for one method."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.comparison.compared_model import ComparedModel
from tfgrad.evaluation.comparison.methods import Candidate, named
from tfgrad.evaluation.map_tests.bias_sensitivity import bias_sensitivity
from tfgrad.evaluation.map_tests.class_flip import class_flip
from tfgrad.evaluation.map_tests.completeness import completeness
from tfgrad.evaluation.map_tests.pixel_perturbation import pixel_perturbation
from tfgrad.evaluation.map_tests.pixel_removal import RANDOM
from tfgrad.evaluation.map_tests.randomisation import randomisation
from tfgrad.evaluation.map_tests.shift_agreement import shift_agreement
from tfgrad.evaluation.map_tests.weak_dependence import weak_dependence
from tfgrad.evaluation.measurement import Measurement
from tfgrad.gradients.targets import Target
from tfgrad.internal.arguments import one_of


@dataclasses.dataclass(frozen=True)
class Pair:
    """One method on one model: everything that a test can ask for.

    Attributes:
        compared: The model and the data.
        candidate: The method.
        ranking: Returns what ranks pixels: maps of the predicted classes, shared between tests.
    """

    compared: ComparedModel
    candidate: Candidate
    ranking: Callable[[], Any]


class MapTest(Protocol):
    """A test of one method on one model."""

    @property
    def by_ranking(self) -> bool:
        """Whether the test asks for `Pair.ranking`."""

    def run(self, pair: Pair) -> Measurement:
        """The result of a pair; any exception is the pair's failure."""


@dataclasses.dataclass(frozen=True)
class OwnTest:
    """A test written by the user.

    Attributes:
        function: A function of (model, data, maps), maps being a function of (images, classes).
    """

    function: Callable[[Any, Any, Any], Measurement]
    by_ranking: bool = False

    def run(self, pair: Pair) -> Measurement:
        """See `MapTest`."""
        return self.function(pair.compared.network, pair.compared.data, pair.candidate.maps)


def _ranked_batches(pair: Pair) -> dict[str, Any]:
    return {
        "network": pair.compared.network,
        "batches": pair.compared.data,
        "maps": pair.ranking(),
        "target": pair.compared.asks,
        "inputs": pair.compared.inputs,
    }


def _classified_batches(pair: Pair) -> dict[str, Any]:
    # saliency.Random returns the same map for every class, so a difference of two would be zero.
    maps = RANDOM if pair.candidate.control else pair.candidate.maps
    return {
        "network": pair.compared.network,
        "batches": pair.compared.data,
        "maps": maps,
        "inputs": pair.compared.inputs,
    }


def _images_and_builder(pair: Pair) -> dict[str, Any]:
    return {
        "model": pair.compared.network,
        "images": pair.compared.sample,
        "method": pair.candidate.build,
        "target": pair.compared.asked_of_sample,
        "inputs": pair.compared.inputs,
    }


@dataclasses.dataclass(frozen=True)
class KnownTest:
    """A test of `tfgrad.evaluation`, called by argument name.

    Attributes:
        measure: The test's function.
        inputs: Returns the arguments that describe a pair, {name: value}.
        options: Further arguments, {name: value}.
        fixed: Names of the options that define the test, which a user may not set.
    """

    measure: Callable[..., Measurement]
    inputs: Callable[[Pair], dict[str, Any]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: tuple[str, ...] = ()

    @property
    def by_ranking(self) -> bool:
        """See `MapTest`."""
        return self.inputs is _ranked_batches

    def run(self, pair: Pair) -> Measurement:
        """See `MapTest`."""
        return self.measure(**{**self.inputs(pair), **self.options})

    def known(self) -> list[str]:
        """The options that a user may set: the arguments with a default."""
        return [
            name
            for name, parameter in inspect.signature(self.measure).parameters.items()
            if parameter.default is not parameter.empty and name not in self.fixed
        ]


_CHANGE = {"score": "change of the top probability"}
# The maps are of what `compare` is asked.
_ASKED = ("target", "inputs")
TESTS: dict[str, KnownTest] = {
    "pixels": KnownTest(pixel_perturbation, _ranked_batches, _CHANGE, _ASKED),
    "pixels_most": KnownTest(
        pixel_perturbation, _ranked_batches, _CHANGE | {"remove": "most"}, ("remove", *_ASKED)
    ),
    "class_flip": KnownTest(class_flip, _classified_batches),
    "randomisation": KnownTest(randomisation, _images_and_builder),
    "completeness": KnownTest(completeness, _images_and_builder),
    "bias_sensitivity": KnownTest(bias_sensitivity, _images_and_builder),
    "weak_dependence": KnownTest(weak_dependence, _images_and_builder),
    "shift_agreement": KnownTest(shift_agreement, _images_and_builder),
}

# Tests that need more than one model and data.
_APART = ("remove_and_retrain", "label_randomisation")


def chosen_tests(
    tests: Any,
    options: Mapping[str, Mapping[str, Any]],
    seed: int,
    asks: Target | None = None,
) -> dict[str, MapTest]:
    """{title: test}, with the options of the user.

    Args:
        tests: Names, or {title: name or function}; see `compare`.
        options: {title: {option: value}}.
        seed: Seed of the tests that take one.
        asks: The target that all tests measure; None for classes.

    Raises:
        ArgumentError: A test or an option is unknown, or a test is of classes alone.
    """
    found = named("tests", tests, f"some of {', '.join(TESTS)}, or {{title: function}}")
    for title in options:
        one_of("options", title, tuple(found))
    return {
        title: _chosen(title, test, options.get(title, {}), seed, asks)
        for title, test in found.items()
    }


def _chosen(
    title: str, test: Any, options: Mapping[str, Any], seed: int, asks: Target | None
) -> MapTest:
    if not isinstance(test, str):
        if not callable(test) or options:
            raise ArgumentError(
                f"tests: {title!r} is a {type(test).__name__} with options {dict(options)}; "
                "expected a name, or a function of (model, data, maps) without options here."
            )
        return OwnTest(test)
    if test in _APART:
        raise ArgumentError(
            f"tests: got {test!r}, which needs further networks; expected a test of one. Call "
            f"tfgrad.evaluation.{test} directly."
        )
    found = TESTS[one_of("tests", test, tuple(TESTS))]
    known = found.known()
    for option in options:
        one_of(f"options[{title!r}]", option, known)
    own = found.options
    if asks is not None:
        if found.measure is class_flip:
            raise ArgumentError(
                f"tests: got {test!r}, which compares maps of two classes, for {asks!r}; expected "
                "tests of any target; try 'pixels_most'."
            )
        own = {name: value for name, value in own.items() if name != "score"}
    seeded = {"seed": seed} if "seed" in known else {}
    return dataclasses.replace(found, options={**seeded, **own, **options})

"""Methods × tests on one model in one call: how faithful is each map, and what does it cost?"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tfgrad.errors import ArgumentError, NonFiniteError, TfgradError
from tfgrad.evaluation.comparison.compared_model import ComparedModel
from tfgrad.evaluation.comparison.cost import measured_cost
from tfgrad.evaluation.comparison.known_tests import TESTS, Pair, chosen_tests
from tfgrad.evaluation.comparison.methods import Candidate, candidates, target_of
from tfgrad.evaluation.comparison.ranking import ChangingDataError, ranking
from tfgrad.evaluation.comparison.result import COST, Comparison, Cost
from tfgrad.evaluation.measurement import Measurement
from tfgrad.gradients import model_checks
from tfgrad.internal.arguments import integer
from tfgrad.models import output_meaning
from tfgrad.saliency.networks import Networks

__all__ = ["TESTS", "compare"]

# {test: {method: the reason why the pair failed}}
Failures = dict[str, dict[str, str]]


@output_meaning.takes_outputs("model")
def compare(
    model: Any,
    data: Iterable[Any],
    methods: Any,
    tests: Any,
    *,
    target: Any = None,
    inputs: Any = None,
    images: int = 64,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    outputs: Any = None,
    costs: bool = True,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Evaluate saliency methods by tests on one model, in a table of methods × tests.

    | test                 | question                                                           |
    |----------------------|--------------------------------------------------------------------|
    | `"pixels"`           | `pixel_perturbation`: how much does the top probability change     |
    |                      | without the least salient pixels?                                  |
    | `"pixels_most"`      | the same without the most salient ones                             |
    | `"class_flip"`       | how far does an image move from one class to another?              |
    | `"randomisation"`    | is a map still the same once layers are re-initialised?            |
    | `"completeness"`     | does a map add up to the score?                                    |
    | `"bias_sensitivity"` | does it change with the biases?                                    |
    | `"weak_dependence"`  | does it stay the same within a linear region?                      |
    | `"shift_agreement"`  | is it the same for the same function of shifted images?            |

    The class flip compares maps of two classes; all other tests use maps of the predicted classes,
    or of a `target`, the only output of a regression for instance. The tests of pixels then measure
    the size of its change.
    The last five tests use the first images of the data. The control, `"random"`, is always a row.
    If a pair of method and test raises an exception, also one of the method's own code, the result
    lists it as a failure and the other pairs are evaluated. The maps for both tests of pixels are
    computed once and kept in a temporary file, so memory is that of one batch; every other test
    needs maps of other classes, images or networks.

    The first three tests also evaluate methods that are built around another model than this one.
    The last five reject these, as they depend on the model that a map explains.

    Args:
        model: A Keras model from images [batch, H, W, C] to logits, or a `PenalizedModel` of one;
            with a target, a model with any outputs. It may take several inputs, or token ids.
        data: A data set of (images, integer labels) batches that can be read several times; for
            both tests of pixels, with the same images in the same order. With a target of inputs,
            or of tuples (inputs, anything).
        methods: Names of `tfgrad.saliency.METHODS`; or {name in the table: such a name, a class of
            methods, a method built around a model, or a function of (images, classes) that
            returns maps [batch, H, W]}.
        tests: Names in the table above; or {title: such a name, or a function of
            (model, data, maps) that returns a `Measurement`, where maps is a function of (images,
            classes)}.
        target: What is explained and measured in the place of classes: a `tfgrad.targets.Target`,
            or a function from the outputs to [batch]. None takes that of the methods that are built
            for one.
        inputs: The key or position of the input that the tests look at, of several; the others are
            held. Classes of methods are built for it.
        images: Number of images for the last five tests.
        options: {test: {option of its function: value}}, such as
            `{"pixels": {"fill": 0.0, "fractions": (0.5, 0.7, 0.9)}}`.
        seed: Seed of all random numbers.
        outputs: What the model's outputs mean: `"exclusive"`, `"binary"` (one logit of two
            classes), `"independent"` or `"regression"`; None for what its compiled loss says. See
            `tfgrad.models.output_meaning`. Methods that are built already have their own.
        costs: Whether the time of a map is measured; without it equal runs have equal tables.
        on_progress: Called with (pairs done, pairs in all, the next pair).

    Returns:
        The measurements, failures and costs. A cost is the median over at least three batches,
        after a warm-up with one of each size, each timed in turn with an input-gradient of the same
        batch. For a small model it is the cost of a call rather than of arithmetic.

    Raises:
        ArgumentError: A method, test or option does not exist; an option is out of range; the data
            are no batches of images and labels that the model takes; the images change from pass to
            pass; methods are built for several targets; or a test is of classes and there is a
            target.
        DataError: A label is no class of the model.
        ModelError: The model does not return logits.
        NonFiniteError: A logit is NaN or infinite.
        Exception: Whatever a test written by the user raises for the control.
    """
    asks = target_of(model, methods, target)
    network = Networks(model).of(asks)
    asked = chosen_tests(tests, options or {}, seed, asks)
    evaluated = candidates(methods, network, seed, asks, inputs)
    compared = ComparedModel(network, data, integer("images", images), asks, inputs)
    if asks is None:
        model_checks.check_logits(network, compared.sample)
    found: dict[str, dict[str, Measurement]] = {test: {} for test in asked}
    failures: Failures = {}
    measured: dict[str, Cost] = {}
    shared = sum(test.by_ranking for test in asked.values()) > 1
    done = 0
    # The control first: an argument or a logit that fails there is wrong for every method.
    for candidate in sorted(evaluated, key=lambda c: not c.control):
        with tempfile.TemporaryFile() as file:
            pair = Pair(compared, candidate, ranking(compared, candidate, file, shared))
            for title, test in asked.items():
                if on_progress is not None:
                    on_progress(done, len(evaluated) * len(asked), f"{title} of {candidate.name}")
                with _failure_kept(failures, title, candidate):
                    found[title][candidate.name] = test.run(pair)
                done += 1
        cost_failures: Failures = {}
        with _failure_kept(cost_failures, COST, candidate):
            if costs:
                measured[candidate.name] = measured_cost(compared, candidate)
        _add_unless_known(failures, cost_failures, candidate.name)
    order = tuple(candidate.name for candidate in evaluated)
    found = {
        test: {method: row[method] for method in order if method in row}
        for test, row in found.items()
    }
    return Comparison(order, found, failures, measured, "" if asks is None else repr(asks))


@contextlib.contextmanager
def _failure_kept(failures: Failures, title: str, candidate: Candidate) -> Iterator[None]:
    """Keep an exception as the failure of a pair, unless it concerns every method."""
    try:
        yield
    except Exception as error:
        expected = isinstance(error, TfgradError)
        general = isinstance(error, ArgumentError | NonFiniteError) or not expected
        if isinstance(error, ChangingDataError) or (candidate.control and general):
            raise
        sentence = str(error) if expected else f"{type(error).__name__}: {error}"
        failures.setdefault(title, {})[candidate.name] = sentence


def _add_unless_known(failures: Failures, cost_failures: Failures, method: str) -> None:
    """Add the failure of a method's cost, unless a test of the same method failed alike."""
    known = [row.get(method) for row in failures.values()]
    for sentence in cost_failures.get(COST, {}).values():
        if sentence not in known:
            failures.setdefault(COST, {})[method] = sentence

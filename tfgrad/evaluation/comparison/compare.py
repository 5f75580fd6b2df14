"""Methods × tests on one model, in one call: how faithful is each map, and what does it cost?"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
import tensorflow as tf

from tfgrad import saliency
from tfgrad.errors import ArgumentError, NonFiniteError, TfgradError
from tfgrad.evaluation.batches import placed
from tfgrad.evaluation.comparison.methods import Candidate, Maps, candidates, named
from tfgrad.evaluation.comparison.result import COST, Comparison, Cost
from tfgrad.evaluation.map_tests.axioms import (
    bias_sensitivity,
    completeness,
    shift_agreement,
    weak_dependence,
)
from tfgrad.evaluation.map_tests.class_flip import class_flip
from tfgrad.evaluation.map_tests.pixel_perturbation import pixel_perturbation
from tfgrad.evaluation.map_tests.pixel_removal import RANDOM, mapped
from tfgrad.evaluation.map_tests.randomisation import randomisation
from tfgrad.evaluation.measurement import Measurement
from tfgrad.gradients import model_checks
from tfgrad.internal.arguments import integer, one_of

_TIMED_BATCHES = 3
# A cost is timed until both numbers are reached: rounds, and seconds; and in no case more rounds.
_ROUNDS, _SECONDS, _MOST_ROUNDS = 3, 0.3, 30


def compare(
    model: Any,
    data: Iterable[Any],
    methods: Any,
    tests: Any,
    *,
    images: int = 64,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Put saliency methods to tests on one model: a table of methods × tests.

    | test                 | asks                                                               |
    |----------------------|--------------------------------------------------------------------|
    | `"pixels"`           | `pixel_perturbation`: how much does the top probability change     |
    |                      | without the least salient pixels?                                  |
    | `"pixels_most"`      | the same without the most salient ones                             |
    | `"class_flip"`       | how far does an image move from one class to another?              |
    | `"randomisation"`    | is a map still the same once layers are drawn anew?                |
    | `"completeness"`     | does a map add up to the score?                                    |
    | `"bias_sensitivity"` | does it move with the biases?                                      |
    | `"weak_dependence"`  | does it stay within a linear region?                               |
    | `"shift_agreement"`  | is it the same for the same function of shifted images?            |

    All maps but those of the class flip are of the predicted classes. The last five tests are on
    the first images of the data. The control, `"random"`, is always a row. A pair of method and
    test that raises an exception, a method's own included, is a failure in the result, and the rest
    goes on. The maps that both tests of pixels rank by are computed once and kept in a temporary
    file, so that memory is that of one batch; every other test asks for maps of other classes,
    images or networks.

    The first three tests also judge methods that are built around another model than this one. The
    last five refuse these: they ask the model that a map explains.

    Args:
        model: a Keras model from images [batch, H, W, C] to logits, or a `PenalizedModel` of one.
        data: a data set of (images, integer labels) batches that can be read again; if both tests
            of pixels are asked, with the same images in the same order.
        methods: names of `tfgrad.saliency.METHODS`; or {name in the table: such a name, a class of
            methods, a method built around a model, or a function of (images, classes) that
            returns maps [batch, H, W]}.
        tests: names of the table above; or {title: such a name, or a function of
            (model, data, maps) that returns a `Measurement`, maps being a function of (images,
            classes)}.
        images: how many the last five tests take.
        options: {test: {option of its function: value}}, such as
            `{"pixels": {"fill": 0.0, "fractions": (0.5, 0.7, 0.9)}}`.
        seed: of everything that is drawn.
        on_progress: called with (pairs done, pairs in all, the pair that is next).

    Returns:
        The measurements, failures and costs. A cost is the median over three batches or more, after
        one of each size that warms up, in turn with an input-gradient of the same batch. Of a small
        model it is that of a call rather than of arithmetic.

    Raises:
        ArgumentError: a method, test or option does not exist, an option is out of range, the data
            are no batches of images that the model takes and labels, or their images change from
            pass to pass.
        DataError: a label is no class of the model.
        ModelError: the model does not return logits.
        NonFiniteError: a logit is NaN or infinite.
        Exception: whatever a test of one's own raises for the control.
    """
    network = model_checks.network(model)
    asked = _tests(tests, options or {}, seed)
    judged = candidates(methods, network, seed)
    task = _Task(network, data, integer("images", images))
    model_checks.check_logits(network, task.sample)
    found: dict[str, dict[str, Measurement]] = {test: {} for test in asked}
    failures: dict[str, dict[str, str]] = {}
    costs: dict[str, Cost] = {}
    done = 0
    # The control first: what it refuses of arguments and logits is wrong for every method.
    for candidate in sorted(judged, key=lambda c: not c.control):
        with tempfile.TemporaryFile() as file:
            ranking = _ranking(task, candidate, file, asked)
            for title, test in asked.items():
                if on_progress is not None:
                    on_progress(done, len(judged) * len(asked), f"{title} of {candidate.name}")
                with _recorded(failures, title, candidate):
                    found[title][candidate.name] = test.run(task, candidate, ranking)
                done += 1
        of_cost: dict[str, dict[str, str]] = {}
        with _recorded(of_cost, COST, candidate):
            costs[candidate.name] = _cost(task, candidate)
        said = [row.get(candidate.name) for row in failures.values()]
        for sentence in of_cost.get(COST, {}).values():
            if sentence not in said:
                failures.setdefault(COST, {})[candidate.name] = sentence
    order = tuple(candidate.name for candidate in judged)
    found = {
        test: {method: row[method] for method in order if method in row}
        for test, row in found.items()
    }
    return Comparison(order, found, failures, costs)


class _ChangingData(ArgumentError):
    """Everybody's, whichever method meets it first."""


@contextlib.contextmanager
def _recorded(
    failures: dict[str, dict[str, str]], title: str, candidate: Candidate
) -> Iterator[None]:
    """Keep an exception as the failure of a pair, unless it is everybody's."""
    try:
        yield
    except Exception as error:
        expected = isinstance(error, TfgradError)
        of_all = isinstance(error, ArgumentError | NonFiniteError) or not expected
        if isinstance(error, _ChangingData) or (candidate.control and of_all):
            raise
        sentence = str(error) if expected else f"{type(error).__name__}: {error}"
        failures.setdefault(title, {})[candidate.name] = sentence


# Tests


def _of_data(measure: Any, task: _Task, candidate: Candidate, ranking: Any, **options: Any) -> Any:
    """With a function of (images, classes)."""
    return measure(task.network, task.data, candidate.maps, **options)


def _by_class(measure: Any, task: Any, candidate: Any, ranking: Any, **options: Any) -> Any:
    """The same, where maps of several classes are compared."""
    # saliency.Random shows every class the same, so that a difference of its maps is nothing.
    maps = RANDOM if candidate.control else candidate.maps
    return measure(task.network, task.data, maps, **options)


def _by_ranking(measure: Any, task: Any, candidate: Any, ranking: Any, **options: Any) -> Any:
    """With the maps of the predicted classes, which several tests share."""
    return measure(task.network, task.data, ranking(), **options)


def _of_images(measure: Any, task: Any, candidate: Any, ranking: Any, **options: Any) -> Any:
    """With the first images and a function from a model to its maps."""
    return measure(task.network, task.sample, candidate.build, **options)


@dataclasses.dataclass(frozen=True)
class _Test:
    """A function that measures, and how it is asked.

    Attributes:
        measure: of `tfgrad.evaluation`.
        ask: calls it with what it takes.
        options: besides that.
        fixed: those that make the test what it is.
    """

    measure: Callable[..., Measurement]
    ask: Callable[..., Measurement] = _of_data
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: tuple[str, ...] = ()

    def run(self, task: _Task, candidate: Candidate, ranking: Callable[[], Any]) -> Measurement:
        return self.ask(self.measure, task, candidate, ranking, **self.options)

    def known(self) -> list[str]:
        """The options that a user may set."""
        _, _, _, *rest = inspect.signature(self.measure).parameters
        return [name for name in rest if name not in self.fixed]


_CHANGE = {"score": "change of the top probability"}
TESTS: dict[str, _Test] = {
    "pixels": _Test(pixel_perturbation, _by_ranking, _CHANGE),
    "pixels_most": _Test(
        pixel_perturbation, _by_ranking, _CHANGE | {"remove": "most"}, fixed=("remove",)
    ),
    "class_flip": _Test(class_flip, _by_class),
    "randomisation": _Test(randomisation, _of_images),
    "completeness": _Test(completeness, _of_images),
    "bias_sensitivity": _Test(bias_sensitivity, _of_images),
    "weak_dependence": _Test(weak_dependence, _of_images),
    "shift_agreement": _Test(shift_agreement, _of_images),
}


# What needs more than a model and data.
_APART = ("remove_and_retrain", "label_randomisation")


def _tests(tests: Any, options: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, _Test]:
    """{title: test} with everybody's options."""
    found = named("tests", tests, f"some of {', '.join(TESTS)}, or {{title: function}}")
    for title in options:
        one_of("options", title, tuple(found))
    return {
        title: _test(title, test, options.get(title, {}), seed) for title, test in found.items()
    }


def _test(title: str, test: Any, options: Mapping[str, Any], seed: int) -> _Test:
    if not isinstance(test, str):
        if not callable(test) or options:
            raise ArgumentError(
                f"tests: {title!r} is a {type(test).__name__} with options {dict(options)}; "
                "expected a name, or a function of (model, data, maps) that has its own."
            )
        return _Test(test)
    if test in _APART:
        raise ArgumentError(
            f"tests: got {test!r}, which trains networks of its own; call "
            f"tfgrad.evaluation.{test} itself."
        )
    found = TESTS[one_of("tests", test, tuple(TESTS))]
    known = found.known()
    for option in options:
        one_of(f"options[{title!r}]", option, known)
    seeded = {"seed": seed} if "seed" in known else {}
    return dataclasses.replace(found, options={**seeded, **found.options, **options})


# What is asked about


@dataclasses.dataclass
class _Task:
    """A model and data.

    Attributes:
        network: that is explained.
        data: (images, labels) batches.
        count: of the images that tests of whole images take.
    """

    network: Any
    data: Iterable[Any]
    count: int

    @functools.cached_property
    def digest(self) -> bytes:
        """Of all images in order, in a pass of its own."""
        digest = hashlib.blake2b()
        for x, _ in self.data:
            digest.update(_bytes(tf.convert_to_tensor(x)))
        return digest.digest()

    @functools.cached_property
    def sample(self) -> tf.Tensor:
        """The first images."""
        parts, left = [], self.count
        for x, _, _ in placed(self.data, self.network):
            parts.append(x[:left])
            left -= len(parts[-1])
            if not left:
                break
        return tf.concat(parts, 0)

    def predicted(self, x: Any) -> tf.Tensor:
        """The classes of a batch, int32 [batch]."""
        return self._classify(x)

    @functools.cached_property
    def _classify(self) -> Any:
        return tf.function(
            lambda x: tf.argmax(self.network(x, training=False), -1, tf.int32),
            autograph=False,
            reduce_retracing=True,
        )

    @functools.cached_property
    def first_batches(self) -> list[tuple[Any, Any]]:
        """A few (images, predicted classes), the same ones again if the data are short."""
        read = itertools.islice(placed(self.data, self.network), _TIMED_BATCHES)
        batches = [(x, self.predicted(x)) for x, _, _ in read]
        return list(itertools.islice(itertools.cycle(batches), _TIMED_BATCHES))


def _ranking(
    task: _Task, candidate: Candidate, file: IO[bytes], asked: Mapping[str, _Test]
) -> Callable[[], Any]:
    """What tests rank by: the method, or where several do, its maps computed once."""

    def of_predicted(x: Any, y: Any) -> Any:
        return candidate.maps(x, task.predicted(x))

    if sum(test.ask is _by_ranking for test in asked.values()) < 2:
        return lambda: of_predicted
    return functools.cache(functools.partial(_kept, task, of_predicted, file))


def _kept(task: _Task, maps_of: Maps, file: IO[bytes]) -> np.ndarray:
    """The maps of all images, [n, H, W], in a file."""
    count, maps, digest = 0, np.zeros(0), hashlib.blake2b()
    file.seek(0)  # Whatever an earlier call that failed has left.
    file.truncate()
    for (x, found), _, _ in mapped(placed(task.data, task.network), maps_of, 0):
        before, maps = maps, found.numpy()
        if count and maps.dtype != before.dtype:
            raise ArgumentError(
                f"maps: got {maps.dtype} after {before.dtype}; expected one type in all batches, "
                "as values are compared in their own precision."
            )
        file.write(maps.tobytes())
        digest.update(_bytes(x))
        count += len(maps)
    file.flush()
    if digest.digest() != task.digest:
        raise _ChangingData(
            "data: its images change from pass to pass, and maps of one pass rank pixels in "
            "others; expected the same ones in the same order. Use "
            "shuffle(n, reshuffle_each_iteration=False) and no random augmentation."
        )
    return np.memmap(file, maps.dtype, "r", shape=(count, *maps.shape[1:]))  # type: ignore[call-overload]


def _bytes(x: tf.Tensor) -> bytes:
    return x.numpy().tobytes()


def _cost(task: _Task, candidate: Candidate) -> Cost:
    """Medians over a few batches, in turn with input-gradients of the same ones."""
    functions = candidate.maps, saliency.InputGradient(task.network)
    for batch in {len(y): (x, y) for x, y in task.first_batches}.values():
        for function in functions:
            _seconds(function, *batch)  # traces
    times: list[list[float]] = []
    spent = 0.0
    for x, y in itertools.islice(itertools.cycle(task.first_batches), _MOST_ROUNDS):
        pair = [_seconds(function, x, y) for function in functions]
        times.append([seconds / len(y) for seconds in pair])
        spent += sum(pair)
        if len(times) >= _ROUNDS and spent >= _SECONDS:
            break
    own, bare = np.transpose(times)
    return Cost(1e3 * float(np.median(own)), float(np.median(own / bare)))


def _seconds(function: Maps, x: Any, y: Any) -> float:
    began = time.perf_counter()
    np.asarray(function(x, y))
    return time.perf_counter() - began

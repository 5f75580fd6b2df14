"""`Explanations`: the saliency maps of chosen examples after every epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgrad import distribution, saliency
from tfgrad.callbacks.map_records import MapFiles, MapRecord, MapSummaries, check_packages, picture
from tfgrad.errors import ArgumentError
from tfgrad.gradients.model_checks import nonfinite_weight
from tfgrad.internal.arguments import integer
from tfgrad.internal.wrapper import Wrapper

# A figure has a row for each example.
MOST_EXAMPLES = 64


class Explanations(keras.callbacks.Callback):
    """Writes the saliency maps of chosen examples after every `every`-th epoch and after the last.

    The maps show the weights at the end of the epoch, in inference mode. TensorBoard receives, for
    each method, one picture with a row for each example (the input, and the input under its map)
    and scalars: the mean `score` of what is explained, the largest `completeness_error` of
    FullGrad, the largest `convergence_gap` of integrated gradients. The step, and the number in the
    name of a file, is the number of completed epochs, also in a resumed run.

    Every method is built and traced once, when training starts; an epoch costs the maps. Weights,
    optimizer and random state do not change, so that a run ends with the same weights with and
    without the callback. Averaged weights of an optimizer (`use_ema`) are not put into the model:
    the maps show the weights that the next step starts from. After an epoch whose loss or weights
    are not finite nothing is written.

    Of several workers the first one writes. TensorBoard lists the maps under "Images" as the run
    `explanations`, beside those of `keras.callbacks.TensorBoard` in the same `log_dir`.

    Args:
        x: The examples, at most 64, as a saliency method takes them: floats [n, H, W, C] of images,
            [n, T, C] of series, [n, F] of tables, ints [n, T] of token ids, or a nest of several
            inputs. Images are drawn in 0 to 1; those of another range are stretched, all alike.
        methods: Names of `tfgrad.saliency.METHODS`, or methods built on the model that is trained.
        every: Epochs between two explanations, an integer ≥ 1.
        log_dir: Directory of TensorBoard's event files; None writes none.
        directory: Directory of PNG files `epoch_0003_fullgrad.png`, each of which appears whole;
            None writes none.
        target: What is explained, see `tfgrad.saliency.Method`: a class, classes [n], a
            `tfgrad.targets.Target`; None for the class that is predicted at that epoch.
        class_names: The names of the classes, for captions.

    Raises:
        ArgumentError: An argument is wrong; once training starts also if x does not fit the model,
            a method is built on another model, or a directory cannot be written.
        DataError: x holds NaN or infinite values, as training starts.
        ModelError: A method cannot explain the model, as training starts.
        ImportError: matplotlib or, for `log_dir`, tensorboard is not installed.
        WriteError: From `fit`: a file cannot be written.

    Example:

    ```python
    maps = tfgrad.callbacks.Explanations(x[:8], log_dir="runs/mine/tensorboard")
    model.fit(x, y, epochs=20, callbacks=[maps])
    ```
    """

    def __init__(
        self,
        x: Any,
        methods: Sequence[str | saliency.Method] = ("fullgrad", "input_gradient"),
        every: int = 1,
        log_dir: str | os.PathLike[str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        target: Any = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if log_dir is None and directory is None:
            raise ArgumentError(
                "log_dir, directory: got None for both, so that nothing would be written; expected "
                "one or both; try log_dir='runs/tensorboard'."
            )
        if not isinstance(methods, list | tuple) or not methods:
            raise ArgumentError(
                f"methods: got {methods!r}; expected a list of names or methods, at least one; try "
                "('fullgrad', 'input_gradient')."
            )
        for method in methods:
            if not isinstance(method, saliency.Method):
                saliency.get(method)
        check_packages(log_dir is not None)
        self.x = _examples(x)
        self.methods, self.target = tuple(methods), target
        self.every = integer("every", every)
        self.log_dir = None if log_dir is None else os.fspath(log_dir)
        self.directory = None if directory is None else os.fspath(directory)
        self.class_names = None if class_names is None else list(class_names)
        self._explained: Any = None  # the model whose methods are built
        self._built: dict[str, _Traced] = {}
        self._records: list[MapRecord] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Build and trace every method, and draw its maps once, so that errors come now."""
        if not distribution.is_chief(self.model.distribute_strategy):
            return
        if self._explained is not self.model:
            built = [self._method(one) for one in self.methods]
            self._built = {method.name: _Traced(method, self.x, self.target) for method in built}
            if len(self._built) < len(built):
                raise ArgumentError(
                    f"methods: got {[method.name for method in built]}; expected different names."
                )
            self._explained = self.model
        if nonfinite_weight(self.model.weights) is None:
            for name, traced in self._built.items():
                picture(name, self.x, traced(), self.class_names)
        if self.directory is not None:
            self._records.append(MapFiles(self.directory))
        if self.log_dir is not None:
            self._records.append(MapSummaries(os.path.join(self.log_dir, "explanations")))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the maps of this epoch."""
        last = epoch + 1 == self.params.get("epochs")
        due = (epoch + 1) % self.every == 0 or last
        if not due or not self._records or not is_finite(self.model, logs):
            return
        for name, traced in self._built.items():
            found = traced()
            figure = picture(name, self.x, found, self.class_names, f"epoch {epoch + 1}")
            for record in self._records:
                record.add(epoch + 1, name, figure, found)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the files."""
        for record in self._records:
            record.close()
        self._records = []

    def _method(self, given: str | saliency.Method) -> saliency.Method:
        """A method of the model that is trained."""
        if isinstance(given, str):
            return saliency.get(given)(self.model)
        network = self.model.network if isinstance(self.model, Wrapper) else self.model
        if given.model is not self.model and given.model is not network:
            raise ArgumentError(
                f"methods: got {given!r}, built on another model; expected methods of "
                f"{self.model.name!r}, which is trained. Build it on that model, or pass its name."
            )
        return given


class _Traced:
    """The maps of fixed examples by one compiled function, with what comes beside them.

    Args:
        method: The method.
        x: The examples.
        target: What is explained.
    """

    def __init__(self, method: saliency.Method, x: Any, target: Any) -> None:
        self._method, self._target, self._x = method, target, method.checked(x)
        self._function: Callable[..., dict[str, Any]] | None = None
        if method.traceable:

            def explain(given: Any) -> dict[str, Any]:
                return method.explain(given, target)

            # With the number of examples, so that a target that does not fit fails in the trace.
            function = tf.function(explain, autograph=False).get_concrete_function(self._x)
            self._function = lambda given: function(*tf.nest.flatten(given))

    def __call__(self) -> dict[str, Any]:
        """The outputs of `Method.explain` as arrays; of methods that cannot be traced, the maps."""
        if self._function is None:
            found: Any = {"saliency": self._method(self._x, self._target)}
        else:
            try:
                found = self._function(self._x)
            except tf.errors.InvalidArgumentError as error:
                translated = self._method.translated(error)
                if translated is None:
                    raise
                raise translated from error
        return tf.nest.map_structure(np.asarray, found)


def is_finite(model: Any, logs: dict[str, Any] | None) -> bool:
    """Whether the loss of an epoch, as far as it is known, and all weights are finite."""
    if not np.isfinite((logs or {}).get("loss", 0.0)):
        return False
    return nonfinite_weight(model.weights) is None


def _examples(x: Any) -> Any:
    """The examples, as arrays.

    Raises:
        ArgumentError: They are not one or more arrays of as many examples, or too many.
    """
    if isinstance(x, tf.data.Dataset | keras.utils.PyDataset):
        raise ArgumentError(
            f"x: got a {type(x).__name__}; expected the examples themselves, as one array or a "
            "nest of arrays; try next(iter(dataset))[0][:8]."
        )
    shapes = [np.shape(part) for part in tf.nest.flatten(x)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or not 1 <= next(iter(counts)) <= MOST_EXAMPLES:
        raise ArgumentError(
            f"x: got arrays of shapes {shapes}; expected one to {MOST_EXAMPLES} examples, batch "
            "first, of which each is a row of a picture; try x[:8]."
        )
    return tf.nest.map_structure(np.asarray, x)

"""What is recorded of the training of a network: data, settings, penalties and results."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import tfgrad
from tfgrad import loading, models, penalties
from tfgrad.errors import TfgradError
from tfgrad.evaluation import Measurement
from tfgrad.evaluation.network_tests import noise_robustness

from . import digits_network, network_record, work_directory

# Flags of training runs that say how a network was trained, in the order in which they are told.
_TOLD = (
    *("dataset", "train_split", "per_class", "image_size", "normalize", "augment"),
    *("network", "weights", "frozen", "width", "activation", "batch_norm", "dtype_policy"),
    *("epochs", "batch_size", "optimizer", "learning_rate", "decay_epochs", "weight_decay", "seed"),
)
# Those of them that describe the networks of `tfgrad.models`; others have their own.
_OF_SMALL = ("width", "activation", "batch_norm")


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What is recorded of a training.

    Attributes:
        settings: {what: its value}, as it was trained; empty if nothing is recorded.
        penalties: The penalties it was trained with; None if nothing tells.
        results: The content of results.json, or {}.
    """

    settings: Mapping[str, Any]
    penalties: Sequence[penalties.Penalty] | None
    results: Mapping[str, Any]

    @property
    def matches_scores(self) -> bool:
        """Whether the input-gradients were trained to be the score of a density."""
        return any(isinstance(p, penalties.ScoreMatching) for p in self.penalties or ())

    @property
    def accuracy(self) -> float | None:
        """The test accuracy at the end of the training, or None."""
        found = (self.results.get("test") or {}).get("val_accuracy")
        return self.results.get("accuracy", found)

    @property
    def noise(self) -> Measurement | None:
        """Accuracy under noise at the end of the training, or None."""
        levels = self.results.get("noise")
        if not isinstance(levels, list) or not levels:
            return None
        try:
            numbers = [(one["sigma"], one["accuracy"], one["deviation"]) for one in levels]
            points, values, deviations = zip(*numbers, strict=True)
        except (KeyError, TypeError):  # of another version
            return None
        return noise_robustness.measured(points=points, values=values, deviations=deviations)

    def facts(self) -> dict[str, Any]:
        """What is recorded, as the model card of an export takes it."""
        found = dict(self.settings)
        if self.penalties is not None:
            found["penalties"] = "; ".join(map(repr, self.penalties)) or "none"
        if self.accuracy is not None:
            found["test accuracy at the end of training"] = f"{self.accuracy:.2%}"
        if (noise := self.noise) is not None:
            found["Test accuracy under Gaussian input noise"] = {
                f"σ = {sigma:g}": f"{mean:.2%} ± {deviation:.2%}"
                for sigma, (mean, deviation) in noise.curve().items()
            }
        return found


def of(path: str) -> TrainingRecord:
    """What is recorded of a network.

    Args:
        path: A .keras or .h5 file, the work directory of a training run, or a name, as
            `trained_networks.Learned` takes it.
    """
    if path == digits_network.NAME and not os.path.exists(path):
        return _of_digits()
    directory = path if os.path.isdir(path) else os.path.dirname(path)
    of_run = os.path.isdir(path) or os.path.basename(path) in ("network.keras", "model.keras")
    if not of_run:
        return TrainingRecord({}, _penalties(path), {})
    run = work_directory.read_json(os.path.join(directory, "run.json"))
    results = work_directory.read_json(os.path.join(directory, "results.json"))
    given = run.get("flags") if isinstance(run, Mapping) else None
    given = given if isinstance(given, Mapping) else {}
    told = [name for name in _TOLD if given.get("network") in models.NAMES or name not in _OF_SMALL]
    settings = {
        name: given[name] for name in told if given.get(name) not in (None, False, [], "", 0.0)
    }
    checked = network_record.checked(directory, results)
    if isinstance(checked.get("seconds"), int | float):
        settings["seconds of training"] = round(checked["seconds"], 1)
    return TrainingRecord(settings, _penalties(os.path.join(directory, "model.keras")), checked)


def _of_digits() -> TrainingRecord:
    settings = {
        "dataset": "digits",
        "train_split": "train",
        "network": "vgg4",
        "width": 0.25,
        "epochs": digits_network.EPOCHS,
        "batch_size": digits_network.BATCH,
        "optimizer": "adam",
        "seed": 0,
    }
    return TrainingRecord(settings, [penalties.GradientNorm(digits_network.WEIGHT)], {})


def _penalties(path: str) -> Sequence[penalties.Penalty] | None:
    """The penalties in a model's file; None if there is no such file, or one without penalties."""
    if not os.path.isfile(path):
        return None
    try:
        with warnings.catch_warnings():  # about training with these penalties
            warnings.simplefilter("ignore")
            model = loading.load(path, compile=False)
    except TfgradError:
        return None
    return list(model.penalties) if isinstance(model, tfgrad.PenalizedModel) else None

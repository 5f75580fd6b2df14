"""The end of a training run: accuracy under noise, networks, tables and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from absl import flags

from tfgrad import data, evaluation, figures
from tfgrad.internal import files

from . import shared_flags, terminal, work_directory
from .training_run import Run

FLAGS = flags.FLAGS

PLAIN = "plain"


def write(
    run: Run,
    model: keras.Model,
    network: keras.Model,
    history: Sequence[Mapping[str, Any]],
    test: data.Dataset,
    label: str,
    **more: Any,
) -> dict[str, Any]:
    """Test under noise, then write the networks, the tables and the figures.

    Args:
        run: The run.
        model: Trained model.
        network: Plain classifier in it.
        history: Logs that `training_run.fit` returned.
        test: Test set.
        label: Name of this run in tables.
        more: Additional entries of results.json.

    Returns:
        The content of results.json.
    """
    for trained, name in ((model, "model.keras"), (network, "network.keras")):
        files.write_model(run.path(name), trained)
    robustness = evaluation.noise_robustness(
        network, run.images(test), shared_flags.numbers("noise", float), seed=FLAGS.seed
    )
    table = evaluation.Measurement.markdown({label: robustness})
    results = {
        "label": label,
        "test": {k: v for k, v in history[-1].items() if k.startswith("val_")},
        "noise": [
            {"sigma": s, "accuracy": mean, "deviation": deviation}
            for s, (mean, deviation) in robustness.curve().items()
        ],
        "seconds": sum(line["seconds"] for line in history),
        **images_record(run, test),
        **more,
        "versions": work_directory.versions(),
    }
    files.write_text(run.path("noise.md"), table + "\n")
    figures.history(
        run.path("history.png"),
        {k: [line[k] for line in history] for k in ("accuracy", "val_accuracy")},
        y_label="accuracy",
        title=label,
    )
    files.write_json(run.path("results.json"), results)
    terminal.show(f"\ntest accuracy (%) under input noise\n{table}\n\nwritten to {run.directory}")
    return results


def images_record(run: Run, test: data.Dataset) -> dict[str, Any]:
    """The entries of results.json that tell which images the network takes."""
    return {
        "classes": list(test.classes),
        "input_shape": list(test.image_shape),
        "image_range": [0.0, 1.0],  # before they are normalised
        "normalize": None if run.statistics is None else [s.tolist() for s in run.statistics],
    }


def label(*names: str) -> str:
    """The name of this run in tables: its flags of these names that are not 0."""
    parts = [f"{n.replace('_', ' ')} {value:g}" for n in names if (value := getattr(FLAGS, n))]
    return ", ".join(parts) or PLAIN

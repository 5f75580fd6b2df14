"""A tour in one command: train, compare under noise, export, serve, explain.

    python -m apps.quickstart

On scikit-learn's 8×8 digits, without internet or GPU, in about a minute on two cores:

1. trains the same small VGG twice, plainly and with a gradient-norm penalty (Prop. 2);
2. prints both accuracies under Gaussian input noise (Table 2.2's experiment);
3. exports the penalised network to saved_models/quickstart/<version>;
4. starts a process that imports only TensorFlow, loads that SavedModel and calls its signatures
   of FullGrad and the input-gradient;
5. draws images, their saliency maps, predictions.

Writes noise.md, noise.png and explained.png to runs/quickstart, and the SavedModel.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite, 74 a full disk.
"""

from .common import command

# isort: split
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import flags

import tfgrad
from tfgrad import callbacks, data, evaluation, figures, penalties
from tfgrad.errors import ModelError
from tfgrad.internal import files

from .common import digits_network, terminal

FLAGS = flags.FLAGS
ROWS = 4

CLIENT = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf
import numpy as np
path, images, answers = sys.argv[1:]
image = tf.constant(np.load(images))
served = tf.saved_model.load(path)
predicted = served.signatures["serving_default"](image=image)
target = tf.fill([len(image)], -1)  # the predicted class
full = served.signatures["fullgrad"](image=image, target=target)
gradient = served.signatures["input_gradient"](image=image, target=target)
np.savez(
    answers,
    probabilities=predicted["probabilities"],
    fullgrad=full["saliency"],
    error=full["completeness_error"],
    saliency=gradient["saliency"],
    gradient=gradient["gradient"],
)
assert "tfgrad" not in sys.modules
"""


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_integer("epochs", 30, "Passes over the 1,437 training digits.", lower_bound=1)
    flags.DEFINE_float(
        "weight", digits_network.WEIGHT, "Weight of the gradient norm.", lower_bound=0
    )
    flags.DEFINE_integer("seed", 0, "Seed of everything random.")
    flags.DEFINE_string("work_dir", "runs/quickstart", "Directory of the tables and pictures.")
    flags.DEFINE_string("to", "saved_models/quickstart", "Directory of the SavedModel.")


def main() -> None:
    """Run the five steps."""
    started = time.perf_counter()
    os.makedirs(FLAGS.work_dir, exist_ok=True)
    train, test = data.load("digits", "train"), data.load("digits", "test")
    rows, networks = {}, {}
    for name, chosen in (
        ("plain", []),
        (f"gradient norm, λ = {FLAGS.weight:g}", [penalties.GradientNorm(FLAGS.weight)]),
    ):
        print(f"\n{name}: VGG-4 at width ¼ on {len(train)} digits", flush=True)
        networks[name] = _trained(train, chosen)
        rows[name] = evaluation.noise_robustness(
            networks[name], data.pipeline(test, 256, training=False), repeats=5, seed=FLAGS.seed
        )
    table = evaluation.Measurement.markdown(rows)
    terminal.show(
        f"\ntest accuracy (%) on {len(test)} digits under input noise, 5 draws\n{table}\n"
    )
    files.write_text(os.path.join(FLAGS.work_dir, "noise.md"), table + "\n")
    figures.curves(
        os.path.join(FLAGS.work_dir, "noise.png"),
        {name: row.curve() for name, row in rows.items()},
        x_label=rows[name].along,
        y_label=rows[name].score,
        title="digits: accuracy under input noise",
    )
    path = tfgrad.export.save(networks[name], FLAGS.to, classes=train.classes, image_range=(0, 1))
    picture = os.path.join(FLAGS.work_dir, "explained.png")
    error = _explain(path, test, picture)
    print(f"exported to {path}: signatures serving_default, fullgrad, input_gradient, encoded")
    print(f"input- and bias-gradients add up to the logit within {error:.1e} of it")
    print(f"pictures: {picture} and {os.path.join(FLAGS.work_dir, 'noise.png')}")
    print(f"done in {time.perf_counter() - started:.0f} s")


def _trained(train: data.Dataset, chosen: Sequence[penalties.Penalty]) -> keras.Model:
    return digits_network.train(train, chosen, FLAGS.epochs, FLAGS.seed, [_Dots(FLAGS.epochs)])


def _explain(path: str, test: data.Dataset, picture: str) -> float:
    """Explain a few digits by the served model, in a process that imports only TensorFlow."""
    chosen = np.array([np.flatnonzero(test.labels == label)[0] for label in range(ROWS)])
    images = os.path.join(FLAGS.work_dir, "images.npy")
    answers = os.path.join(FLAGS.work_dir, "answers.npz")
    with files.replaced(images, ".npy") as unfinished:
        np.save(unfinished, test.images[chosen])
    client = [sys.executable, "-c", CLIENT, path, images, answers]
    asked = subprocess.run(client, stderr=subprocess.PIPE, text=True)
    if asked.returncode:
        raise ModelError(f"{path}: a process that imports only TensorFlow failed:\n{asked.stderr}")
    with np.load(answers) as served:
        figures.saliency_grid(
            picture,
            test.images[chosen],
            {
                "FullGrad": served["fullgrad"],
                "input-gradient": served["saliency"],
                "signed gradient": served["gradient"][..., 0],
            },
            labels=[test.classes[i] for i in test.labels[chosen]],
            predictions=[test.classes[i] for i in served["probabilities"].argmax(-1)],
            probabilities=served["probabilities"].max(-1),
            scale="contrast",
            title="explained by the served model",
        )
        return float(served["error"].max())


class _Dots(callbacks.TimeLeft):
    """Prints a line every tenth epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % 10 == 0 or epoch + 1 == self.epochs:
            super().on_epoch_end(epoch, logs)


if __name__ == "__main__":
    define_flags()
    command.run(main)

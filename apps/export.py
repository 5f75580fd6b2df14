"""Export a trained network as a SavedModel that explains itself.

    python -m apps.export --work_dir=runs/cifar --to=saved_models/cifar
    python -m apps.export --model=my_model.keras --to=saved_models/mine

writes saved_models/cifar/<version> with the signatures `serving_default` (image → logits,
probabilities), one for each of --methods (image, target → saliency, score, class, …) and `encoded`
(JPEG or PNG bytes, target → all of these, by the first method); TensorFlow Serving loads that
directory as it is. A network trained by apps.train on normalised images is
exported with the normalisation inside, so that clients send pixels in [0, 1].

The exported model is loaded again and compared with the live one before this command reports it.

Exit codes: 0 done, 64 usage, 65 bad model.
"""

from .common import command

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad import PenalizedModel, export, loading, saliency
from tfgrad.errors import ArgumentError, ModelError

from .common.trained_networks import from_run

FLAGS = flags.FLAGS


def define_flags():
    """All flags of this app."""
    flags.DEFINE_string("work_dir", None, "Work directory of a finished apps.train run.")
    flags.DEFINE_string("model", None, "Or: a .keras file of a network that returns logits.")
    flags.DEFINE_string("to", None, "Directory of the served model, e.g. saved_models/NAME.")
    flags.DEFINE_list(
        "methods",
        ["fullgrad", "input_gradient"],
        f"Explanations: {', '.join(saliency.METHODS)}.",
    )


def main():
    """Load, wrap, export, verify."""
    if bool(FLAGS.work_dir) == bool(FLAGS.model):
        raise ArgumentError("--work_dir, --model: give exactly one of the two.")
    if not FLAGS.to:
        raise ArgumentError("--to: not given; name a directory such as saved_models/mine.")
    if FLAGS.work_dir:
        network, classes = from_run(FLAGS.work_dir)
    else:
        model, classes = loading.load(FLAGS.model, compile=False), None
        network = model.network if isinstance(model, PenalizedModel) else model
    path = export.save(network, FLAGS.to, FLAGS.methods, classes)
    difference = verify(network, path)
    print(f"exported to {path}; logits differ from the live network's by at most {difference:.1e}")
    for name, signature in loading.load_served(path).signatures.items():
        inputs = ", ".join(signature.structured_input_signature[1])
        outputs = ", ".join(signature.structured_outputs)
        print(f"  {name}: {inputs} -> {outputs}")


def verify(network, path):
    """The largest difference between served and live logits on random pixels; or ModelError."""
    shape = [2, *[side or 32 for side in network.input_shape[1:]]]
    image = tf.constant(np.random.default_rng(0).uniform(size=shape), tf.float32)
    served = loading.load_served(path).signatures["serving_default"](image=image)["logits"]
    live = tf.cast(network(image, training=False), tf.float32)
    difference = float(tf.reduce_max(tf.abs(served - live)))
    if not difference <= 1e-4 * max(1.0, float(tf.reduce_max(tf.abs(live)))):
        raise ModelError(f"{path}: served logits differ from the live network's by {difference}.")
    return difference


if __name__ == "__main__":
    define_flags()
    command.run(main)

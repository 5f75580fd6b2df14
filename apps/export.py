"""Export a trained network as a SavedModel with saliency maps among its signatures.

    python -m apps.export --work_dir=runs/cifar --to=saved_models/cifar
    python -m apps.export --model=my_model.keras --image_range=0,255 --to=saved_models/mine
    python -m apps.export --model=MobileNetV2 --to=saved_models/mobilenet

Writes saved_models/cifar/<version> with the signatures `serving_default` (image → logits,
probabilities), one for each of --methods (image, target → saliency, score, class, …) and `encoded`
(JPEG or PNG bytes, target → all of these, by the first method); TensorFlow Serving loads that
directory as it is. A network trained by apps.train on normalised images is exported together with
the normalisation, so that clients send pixels in [0, 1]; with --model, too, if the record of its
training is beside the file. The range of other networks is what their first layers tell or
--image_range gives; where nothing tells, `encoded` is left out.

--formats writes files for LiteRT, ONNX Runtime and OpenVINO, or a page that explains photographs in
a browser, beside the SavedModel or in its place. The docstring of tfgrad.export.save tells what
each holds, and which extras to install.

model_card.md in the version's directory tells what is served, how to ask for it, and what is
recorded of the training: data, settings, penalties, accuracy, and accuracy under noise.

The exported model is loaded again and compared with the network before this command reports it.

Exit codes: 0 done, 64 usage, 65 bad model, 74 a full disk.
"""

from .common import command

# isort: split
import functools
import json
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tfgrad import export, loading, saliency
from tfgrad.errors import ArgumentError, ModelError
from tfgrad.internal import announced
from tfgrad.internal.served_files import METADATA

from .common import invocation, pixel_range, trained_networks, training_record
from .common.trained_networks import from_file, from_run

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_string(
        "work_dir", None, f"Work directory of a finished run of {invocation.named('train')}."
    )
    flags.DEFINE_string(
        "model",
        None,
        ".keras or .h5 file of a classifier, the name of one in keras.applications or KerasHub, or "
        "'digits', instead of --work_dir.",
    )
    pixel_range.define()
    flags.adopt_module_key_flags(pixel_range)  # for --help
    trained_networks.define_outputs()
    flags.adopt_module_key_flags(trained_networks)
    flags.DEFINE_string("to", None, "Directory of the served model, such as saved_models/NAME.")
    flags.DEFINE_list(
        "methods",
        ["fullgrad", "input_gradient"],
        f"Saliency methods of the signatures: {', '.join(saliency.METHODS)}.",
    )
    flags.DEFINE_list(
        "formats",
        ["saved_model"],
        "What is written: saved_model, litert, onnx, openvino, web.",
    )
    flags.DEFINE_integer(
        "batch_size", 1, "Examples in a request to the files beside the SavedModel.", lower_bound=1
    )


def main() -> None:
    """Load, export and verify."""
    if bool(FLAGS.work_dir) == bool(FLAGS.model):
        raise ArgumentError("--work_dir, --model: got both or none; expected exactly one.")
    if not FLAGS.to:
        raise ArgumentError("--to: got none; expected a directory; try saved_models/mine.")
    classes: Sequence[str] | None
    image_range: pixel_range.Range | None
    if FLAGS.work_dir:
        if FLAGS.image_range is not None:
            raise ArgumentError(
                "--image_range: got with --work_dir, whose record tells it; expected only with "
                "--model."
            )
        network, classes = from_run(FLAGS.work_dir)
        image_range = pixel_range.UNIT
    else:
        network, classes, image_range = from_file(FLAGS.model)
    with announced.to(functools.partial(print, flush=True)):
        path = export.save(
            network,
            FLAGS.to,
            FLAGS.methods,
            classes,
            image_range=image_range,
            formats=FLAGS.formats,
            batch_size=FLAGS.batch_size,
            card=training_record.of(FLAGS.work_dir or FLAGS.model).facts(),
        )
    _show_formats(path)
    if "saved_model" not in FLAGS.formats:
        return
    print("loading it again, and comparing its logits", flush=True)
    difference = verify(network, path)
    print(f"exported to {path}; logits differ from the live network's by at most {difference:.1e}")
    for name, signature in loading.load_served(path).signatures.items():
        inputs = ", ".join(signature.structured_input_signature[1])
        outputs = ", ".join(signature.structured_outputs)
        print(f"  {name}: {inputs} -> {outputs}")


def _show_formats(path: str) -> None:
    """Print what was written beside the SavedModel, and how far it differs from TensorFlow."""
    with open(os.path.join(path, METADATA), encoding="utf-8") as file:
        formats = json.load(file).get("formats", {})
    for name, said in formats.items():
        print(f"{name} in {path}:")
        for method, error in said.get("errors", {}).items():
            files = ", ".join(said["files"][method])
            print(f"  {method}: {files}; differs from TensorFlow by at most {error:.1e}")
        for method, why in said.get("left_out", {}).items():
            print(f"  {method}: left out, {why}")


def verify(network: keras.Model, path: str) -> float:
    """The largest difference between served and live logits on random pixels.

    Raises:
        ModelError: It is larger than rounding explains.
    """
    shape = [2, *[side or 32 for side in network.input_shape[1:]]]
    image = tf.constant(np.random.default_rng(0).uniform(size=shape), tf.float32)
    served = loading.load_served(path).signatures["serving_default"](image=image)["logits"]
    live = tf.cast(network(image, training=False), tf.float32)
    difference = float(tf.reduce_max(tf.abs(served - live)))
    if not difference <= 1e-4 * max(1.0, float(tf.reduce_max(tf.abs(live)))):
        raise ModelError(
            f"{path}: got served logits that differ from the live network's by {difference}; "
            "expected the same to rounding."
        )
    return difference


if __name__ == "__main__":
    define_flags()
    command.run(main)

"""Report on a trained network: accuracy, robustness, decomposition, maps and their faithfulness.

    python -m apps.report --model=digits --dataset=digits --out=runs/report
    python -m apps.report --model=runs/cifar --dataset=cifar10 --count=1000 --out=runs/report

--model is the work directory of a run of apps.train, a .keras or .h5 file of a classifier (whose
last softmax or sigmoid is left out), the name of a network of keras.applications or KerasHub, or
'digits'. Images are normalised as the record beside the network says (--normalize where there is
none).

The directory --out appears once everything is done, and is never incomplete. It holds
  report.html   everything on one page that loads nothing, to send, read on a phone or print
  report.pdf    the same on pages of A4
  report.json   all numbers, with flags and versions
An earlier report there is replaced; a directory with any other file is not touched.

The page says of each number how it was measured and on how many images:
  what the network is, and what is recorded of its training
  test accuracy, by class
  accuracy under Gaussian noise
  accuracy under adversarial perturbations (FGSM and PGD) of stated sizes
  how exactly input- and bias-gradients add up to the logit
  saliency maps of right and of wrong predictions
  tests of these maps beside random ones
  density ratios, of a network that was trained by score matching
Of the same flags, numbers are those of apps.evaluate.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a logit that is not finite, 74 a full disk.
"""

from ..common import command, shared_flags

# isort: split
import os
from collections.abc import Mapping
from typing import Any

from absl import flags

from tfgrad import saliency
from tfgrad.errors import ArgumentError
from tfgrad.figures import canvas
from tfgrad.internal import files
from tfgrad.internal.json_values import plain

from ..common import (
    output_directory,
    robustness,
    tested_networks,
    training_record,
    work_directory,
)
from . import html_page, measuring, pdf_pages
from .measured import Measured
from .sections import Report, Section

FLAGS = flags.FLAGS
FILES = ("report.html", "report.pdf", "report.json")


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_string(
        "model",
        None,
        "Work directory of a run, .keras or .h5 file of a classifier, name of a network of "
        "keras.applications or KerasHub, or 'digits'.",
    )
    tested_networks.define_flags()
    robustness.define_flags()
    for part in (tested_networks, robustness):
        flags.adopt_module_key_flags(part)  # for --help
    flags.DEFINE_list(
        "methods",
        ["fullgrad", "gradcam", "input_gradient"],
        f"Saliency methods that are shown and tested: {', '.join(saliency.METHODS)}.",
    )
    flags.DEFINE_integer(
        "images", 64, "Number of images for the decomposition and the tests of maps.", lower_bound=2
    )
    flags.DEFINE_integer(
        "shown", 4, "Number of right and of wrong predictions whose maps are shown.", lower_bound=1
    )
    flags.DEFINE_string("title", None, "Title of the report.")
    flags.DEFINE_integer("seed", 0, "Seed of noise, starting points, random maps and weights.")
    flags.DEFINE_string("out", "runs/report", "Directory of the report.")


def main() -> None:
    """Load, measure and write."""
    if not FLAGS.model:
        raise ArgumentError(
            "--model: got none; expected a run, a file or a name; try --model=digits."
        )
    if not FLAGS.methods:
        raise ArgumentError("--methods: got none; expected one or more; try fullgrad.")
    for name in FLAGS.methods:
        saliency.get(name)
    robustness.check()
    canvas.new_figure((1, 1))  # raises at once where there is no matplotlib
    images = tested_networks.images(FLAGS.model)
    tested = tested_networks.load(FLAGS.model, FLAGS.model, images, "--model")
    record = training_record.of(FLAGS.model)
    with output_directory.written_aside(FLAGS.out, FILES) as directory:
        measured = Measured(tested, images, record)
        report = _report(tested.network.name, list(measuring.sections(measured)))
        paths = [os.path.join(directory, name) for name in FILES]
        files.write_text(paths[0], html_page.page(report))
        files.write_bytes(paths[1], pdf_pages.content(report))
        files.write_json(paths[2], _content(report))
    for what, value in report.summary:
        print(f"{what}: {value}")
    print(f"written to {FLAGS.out}: {', '.join(FILES)}")


def _report(name: str, parts: list[Section]) -> Report:
    found: dict[str, Any] = {part.key: part.numbers for part in parts}
    summary = [
        ("test accuracy", f"{found['accuracy']['accuracy']:.2%}"),
        ("parameters", f"{found['network']['parameters']:,}"),
        _last("noise σ", found["noise"]["measurement"]),
    ]
    for attack, measurement in found["adversarial"].get("attacks", {}).items():
        summary.append(_last(f"{attack.split(',')[0]} ε", measurement))
    if "largest" in found["decomposition"]:
        summary.append(("completeness error", f"{found['decomposition']['largest']:.1e}"))
    return Report(FLAGS.title or f"Report on {name}", summary, parts)


def _last(what: str, measurement: Mapping[str, Any]) -> tuple[str, str]:
    """The score at the last point of a curve, with its name."""
    return f"under {what} = {measurement['points'][-1]:g}", f"{measurement['values'][-1]:.2%}"


def _content(report: Report) -> Any:
    return plain(
        {
            "title": report.title,
            "flags": shared_flags.resolved(),
            "versions": work_directory.versions(),
            "sections": {part.key: dict(part.numbers) for part in report.sections},
        }
    )


if __name__ == "__main__":
    define_flags()
    command.run(main)

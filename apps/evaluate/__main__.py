"""Put trained networks, or their saliency maps, to tests: tables, curves, and every number.

    python -m apps.evaluate --models=plain=runs/plain,score=runs/score --dataset=cifar10 \\
        --tests=noise,density,pixels,energy --out=runs/evaluated
    python -m apps.evaluate --models=plain=runs/plain --methods=fullgrad,gradcam,input_gradient \\
        --tests=pixels,randomisation --out=runs/maps

A model is NAME=PATH: a finished run of apps.train, or a .keras file of a network that returns
logits. Images are normalised as each network's record says (--normalize where there is none), and
σ and --fill are in the units of these images.

Tests of networks, a row each:
  noise    accuracy under Gaussian noise (thesis Table 2.2)
  density  E p(x+η|y) / p(x|y): does the implicit density prefer noise? (Fig. 5.1)
  pixels   accuracy without the least salient pixels, by each network's own maps; with --baseline
           also that of one network by everybody's maps (Fig. 5.3)
  energy   the share of logit-, loss- and high-temperature loss-gradients that falls into the upper
           left corner, which is where the papers fool gradients into (Fig. 5.5)

Tests of maps, with --methods, a row for each method and one for random maps:
  pixels            change of the top probability without the least salient pixels (Fig. 3.2a)
  pixels_most       the same without the most salient ones
  class_flip        fall of the log-odds of --from against --to without the pixels that argue for
                    --from and against --to (Table 3.1)
  randomisation     size of the rank correlation of maps with those from before, while layers are
                    drawn anew, from the output on (--order)
  completeness      does a map add up to the score?
  bias_sensitivity  does it move with the biases?
  weak_dependence   does it stay within a linear region?
  shift_agreement   is it the same for the same function of shifted images?
docs/faithfulness.md says what each proves, and what it does not. A method that a network or a test
refuses is "failed" in the table, with the reason below. Of layers of your own, which this app
cannot import, ask tfgrad.evaluation.compare.

The directory --out appears when everything is done, and never half. It holds
  tables.md     a table for each test, value ± deviation; with --methods first one of all of them,
                a curve's mean and a map's cost in it
  TEST.png      a curve for each row; tests of a single number have none
  TEST.csv      a line for each row and point, with all columns
  methods.png   with --methods: a bar for each method, by tests
  methods.csv   with --methods: every pair and point with its cost, or why it failed
  results.json  all of it, with flags and versions
An earlier result there is replaced; a directory with anything else in it is not touched.

Exit codes: 0 done, 64 usage, 65 bad data or model, or no method that works, 70 a logit that is not
finite.
"""

from ..common import command, shared_flags

# isort: split
import math
import os

from absl import flags

from tfgrad.errors import ArgumentError
from tfgrad.evaluation.map_tests import pixel_perturbation
from tfgrad.internal import files

from ..common import output_directory, work_directory
from . import map_tests, network_tests, networks, report

FLAGS = flags.FLAGS
REFERENCES = {"density": (1.0, "noise as likely as images")}


def define_flags():
    """All flags of this app."""
    networks.define_flags()
    flags.DEFINE_list(
        "tests",
        None,
        f"Of {', '.join(network_tests.TESTS)}, which is the default; with --methods of "
        f"{', '.join(map_tests.TESTS)}; default: {', '.join(map_tests.DEFAULT)}.",
    )
    network_tests.define_flags()
    map_tests.define_flags()
    for part in (networks, network_tests, map_tests):
        flags.adopt_module_key_flags(part)  # for --help
    flags.DEFINE_list(
        "fractions", list(map(str, pixel_perturbation.FRACTIONS)), "Shares of pixels to remove."
    )
    flags.DEFINE_enum("remove", "least", ("least", "most"), "Which pixels first.")
    flags.DEFINE_enum(
        "score",
        None,
        list(pixel_perturbation.SCORES),
        "What is left, for pixels; default: accuracy, with --methods change of the top "
        "probability.",
    )
    flags.DEFINE_float(
        "fill", None, "Value of removed pixels; default: each image's mean colour, black to flip."
    )
    flags.DEFINE_integer("seed", 0, "Of all that is drawn, the same for every model.")
    flags.DEFINE_string("out", "runs/evaluated", "Directory for the result.")


def main():
    """Load, test, tabulate, draw."""
    paths = networks.paths()
    asked = network_tests if FLAGS.methods is None else map_tests
    tests = _tests(asked)
    asked.check(tests, paths)
    _check_removal()
    images = networks.images()
    asked.check_images(tests, images)
    loaded = {name: networks.load(name, path, images) for name, path in paths.items()}
    if asked is network_tests:
        for subject in loaded.values():
            network_tests.rehearse(tests, subject, images)
    with output_directory.written_aside(FLAGS.out, _files()) as directory:
        print(f"{len(images)} images of {images.name!r}, {len(loaded)} model(s)", flush=True)
        found = asked.run(tests, loaded, images)
        text = _written(directory, found) if asked is network_tests else _maps(directory, found)
    print(f"\n{text}\n\nwritten to {FLAGS.out}")


def _tests(asked):
    """The tests of --tests, each once."""
    tests = asked.DEFAULT if FLAGS.tests is None else FLAGS.tests
    other = map_tests.TESTS if asked is network_tests else network_tests.TESTS
    for test in tests or [""]:
        if test not in asked.TESTS:
            hint = ""
            if test in other:
                hint = f" {test!r} is a test of " + (
                    "maps: add --methods."
                    if asked is network_tests
                    else "networks: drop --methods."
                )
            raise ArgumentError(
                f"--tests: got {test!r}; expected some of {', '.join(asked.TESTS)}.{hint}"
            )
    return list(dict.fromkeys(tests))


def _check_removal():
    network_tests.numbers("fractions", highest=1)
    if FLAGS.fill is not None and not math.isfinite(FLAGS.fill):
        raise ArgumentError(f"--fill: got {FLAGS.fill}; expected a finite number.")


# The result


def _files():
    """Whatever a result may hold."""
    tests = (*network_tests.TESTS, network_tests.BY_BASELINE, *map_tests.TESTS)
    curves = {f"{test}.{suffix}" for test in tests for suffix in ("png", "csv")}
    return curves | {"tables.md", "results.json", *map_tests.FILES}


def _maps(directory, found):
    """Write what was found of maps, {model: Comparison}; returns the tables."""
    map_tests.write(directory, found)
    content = {model: result.to_json() for model, result in found.items()}
    return _written(
        directory, map_tests.tables(found), map_tests.texts(found), "method", models=content
    )


def _written(directory, tables, first=(), row="model", **record):
    """Write tables, {test: {row: Measurement}}, under those that stand first; returns the text."""
    titled = {test: (network_tests.title(test, rows), rows) for test, rows in tables.items()}
    text = "\n\n".join([*first, *(report.text(*table) for table in titled.values())])
    files.write_text(os.path.join(directory, "tables.md"), text + "\n")
    for test, (title, rows) in titled.items():
        path = os.path.join(directory, test)
        report.write_rows(f"{path}.csv", rows, row)
        report.draw(f"{path}.png", title, rows, REFERENCES.get(test))
    content = record or {
        "tests": {
            test: {name: found.to_json() for name, found in rows.items()}
            for test, rows in tables.items()
        }
    }
    head = {"flags": shared_flags.resolved(), "versions": work_directory.versions()}
    files.write_json(os.path.join(directory, "results.json"), head | content)
    return text


if __name__ == "__main__":
    define_flags()
    command.run(main)

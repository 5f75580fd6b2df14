"""Test trained networks, or their saliency maps: tables, curves, and all numbers.

    python -m apps.evaluate --models=plain=runs/plain,score=runs/score --dataset=cifar10 \\
        --tests=noise,density,pixels,energy --out=runs/evaluated
    python -m apps.evaluate --models=plain=runs/plain --methods=fullgrad,gradcam,input_gradient \\
        --tests=pixels,randomisation --out=runs/maps

A model is NAME=PATH: a finished run of apps.train, or a .keras or .h5 file of a classifier, whose
last softmax or sigmoid is left out. Images are normalised as the record beside each network says
(--normalize where there is none), and σ and --fill are in the units of these images.

Tests of networks, a row for each:
  noise    accuracy under Gaussian noise (thesis Table 2.2)
  adversarial  accuracy under perturbations of size ε that raise the loss, by FGSM and by PGD (ε is
           in the units of pixels in [0, 1], to which perturbed images are clipped)
  density  E p(x+η|y) / p(x|y): does the implicit density prefer noise? (Fig. 5.1)
  pixels   accuracy without the least salient pixels, ranked by each network's own maps; with
           --baseline also that of one network, ranked by the maps of each (Fig. 5.3)
  energy   the share of the energy of logit-, loss- and high-temperature loss-gradients in the upper
           left corner, which is where the papers fool gradients into (Fig. 5.5)

Tests of maps, with --methods, a row for each method and one for random maps:
  pixels            change of the top probability without the least salient pixels (Fig. 3.2a)
  pixels_most       the same without the most salient pixels
  class_flip        fall of the log-odds of --from against --to without the pixels that argue for
                    --from and against --to (Table 3.1)
  randomisation     absolute rank correlation with the original maps while layers are
                    re-initialised, from the output on (--order)
  completeness      does a map add up to the score?
  bias_sensitivity  does it change with the biases?
  weak_dependence   does it stay the same within a linear region?
  shift_agreement   is it the same for the same function of shifted images?
The page "Is the map faithful?" of the documentation explains what each shows, and what it does
not; so do the docstrings in tfgrad.evaluation. If a test cannot evaluate a method, its cell reads
"failed", and the reason stands below the table. To test layers of your own, which this command
cannot import, call tfgrad.evaluation.compare.

The directory --out appears once everything is done, and is never incomplete. It holds
  tables.md     a table for each test, value ± standard deviation; with --methods first a table of
                all of them, with a curve's mean and a map's cost
  TEST.png      a curve for each row; tests of a single number have none
  TEST.csv      a line for each row and point, with all columns
  methods.png   with --methods: a bar for each method, by tests
  methods.csv   with --methods: every pair and point with its cost, or why it failed
  results.json  all of it, with flags and versions
An earlier result there is replaced; a directory with any other file is not touched.

Exit codes: 0 done, 64 usage, 65 bad data or model, or no method that works, 70 a logit that is not
finite, 74 a full disk.
"""

from ..common import command, shared_flags

# isort: split
from absl import flags

from tfgrad.errors import ArgumentError

from ..common import output_directory, terminal, work_directory
from . import map_tests, network_tests, networks, removal_flags, report
from .suite import Suite

FLAGS = flags.FLAGS
SUITES = (network_tests.SUITE, map_tests.SUITE)


def define_flags() -> None:
    """Define all flags of this command."""
    networks.define_flags()
    flags.DEFINE_list(
        "tests",
        None,
        f"Tests of networks: {', '.join(network_tests.TESTS)}; default: all. With --methods, tests "
        f"of maps: {', '.join(map_tests.TESTS)}; default: {', '.join(map_tests.DEFAULT)}.",
    )
    network_tests.define_flags()
    map_tests.define_flags()
    removal_flags.define_flags()
    for part in (networks, network_tests, map_tests, removal_flags):
        flags.adopt_module_key_flags(part)  # for --help
    flags.DEFINE_integer(
        "seed", 0, "Seed of noise, random maps and weights, the same for every model."
    )
    flags.DEFINE_string("out", "runs/evaluated", "Directory of the result.")


def main() -> None:
    """Load, test, tabulate and draw."""
    paths = networks.paths()
    suite = network_tests.SUITE if FLAGS.methods is None else map_tests.SUITE
    tests = _tests(suite)
    suite.check(tests, paths)
    removal_flags.check()
    images = networks.images()
    suite.check_images(tests, images)
    loaded = {name: networks.load(name, path, images) for name, path in paths.items()}
    suite.rehearse(tests, loaded, images)
    with output_directory.written_aside(FLAGS.out, _files()) as directory:
        print(f"{len(images)} images of {images.name!r}, {len(loaded)} model(s)", flush=True)
        found = suite.run(tests, loaded, images)
        head = {"flags": shared_flags.resolved(), "versions": work_directory.versions()}
        text = report.write(directory, found, head)
    terminal.show(f"\n{text}\n\nwritten to {FLAGS.out}")


def _tests(suite: Suite) -> list[str]:
    """The tests of --tests, each once."""
    tests = suite.default if FLAGS.tests is None else FLAGS.tests
    for test in tests or [""]:
        if test not in suite.tests:
            others = [other for other in SUITES if test in other.tests]
            hint = f" {test!r} is a test of {others[0].choose}." if others else ""
            raise ArgumentError(
                f"--tests: got {test!r}; expected some of {', '.join(suite.tests)}.{hint}"
            )
    return list(dict.fromkeys(tests))


def _files() -> set[str]:
    """The names of all files that a result may hold."""
    files = {"tables.md", "results.json"}
    for suite in SUITES:
        files |= {f"{test}.{suffix}" for test in suite.tests for suffix in ("png", "csv")}
        files |= set(suite.files)
    return files


if __name__ == "__main__":
    define_flags()
    command.run(main)

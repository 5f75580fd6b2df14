"""Compare finished runs of apps.train: accuracy under noise as a table and a figure.

    python -m apps.compare --work_dirs=runs/plain,runs/gradient_norm_1 --out=runs/noise

Writes OUT.md, OUT.png and OUT.json.

Exit codes: 0 done, 64 usage, 65 a directory without a finished run.
"""

from .common import command

# isort: split
import os
from collections.abc import Mapping, Sequence

from absl import flags

from tfgrad import evaluation, figures
from tfgrad.errors import ArgumentError, DataError
from tfgrad.evaluation.network_tests import noise_robustness
from tfgrad.internal import files

from .common import invocation, terminal, work_directory

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define all flags of this command."""
    flags.DEFINE_list(
        "work_dirs", [], f"Work directories of finished runs of {invocation.named('train')}."
    )
    flags.DEFINE_string("out", "runs/noise", "Prefix of the files that are written.")
    flags.DEFINE_string("title", "accuracy under input noise", "Title of the figure.")


def main() -> None:
    """Read, tabulate and draw."""
    if not FLAGS.work_dirs:
        raise ArgumentError("--work_dirs: got none; expected one or more directories.")
    rows, records = {}, []
    for directory in FLAGS.work_dirs:
        results = work_directory.read_json(os.path.join(directory, "results.json"))
        if results is None:
            raise DataError(
                f"--work_dirs: got {directory!r}, which holds no finished run; expected a work "
                f"directory of {invocation.named('train')}."
            )
        flags_of_run = work_directory.read_json(os.path.join(directory, "run.json"))["flags"]
        label = f"{results['label']} ({flags_of_run['activation']})"
        rows[label] = _measured(results["noise"])
        asked = {k: v for k, v in flags_of_run.items() if k not in work_directory.NOT_COMPARED}
        records.append({"work_dir": directory, "flags": asked, "results": results})
    table = evaluation.Measurement.markdown(rows)
    files.write_text(f"{FLAGS.out}.md", table + "\n")
    files.write_json(f"{FLAGS.out}.json", records)
    figures.curves(
        f"{FLAGS.out}.png",
        {name: row.curve() for name, row in rows.items()},
        x_label=rows[label].along,
        y_label=rows[label].score,
        title=FLAGS.title,
    )
    terminal.show(f"{table}\n\nwritten to {FLAGS.out}.md, .png and .json")


def _measured(levels: Sequence[Mapping[str, float]]) -> evaluation.Measurement:
    """The result of `evaluation.noise_robustness`, from the record of a run."""
    points, values, deviations = zip(
        *((level["sigma"], level["accuracy"], level["deviation"]) for level in levels), strict=True
    )
    return noise_robustness.measured(points=points, values=values, deviations=deviations)


if __name__ == "__main__":
    define_flags()
    command.run(main)

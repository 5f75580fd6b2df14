"""Start and end of every command: quiet logs, a manual page, errors of one line, exit codes.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite.
"""

import glob
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from absl import app, flags, logging

USAGE, DATA, NON_FINITE = 64, 65, 70
# The commands may be installed under another name than `apps`.
PACKAGE = __package__.rpartition(".")[0]


def _start_tensorflow() -> None:
    """Import TensorFlow without the native messages that no log level silences.

    On a machine without an NVIDIA driver they only report, in ten lines, that there is no GPU.
    They are shown where there is a driver, or where the import fails.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        quiet = False
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            quiet = not glob.glob("/dev/nvidia*")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if not quiet:
                captured.seek(0)
                sys.stderr.write(captured.read().decode(errors="replace"))


_start_tensorflow()


def named(command: str) -> str:
    """Another command's name as `python -m` takes it, such as `apps.train`."""
    return f"{PACKAGE}.{command}"


def run(main: Callable[[], Any]) -> None:
    """Run `main()` after parsing flags, and exit with the code of the outcome."""

    def guarded(argv: list[str]) -> None:
        from tfgrad import errors

        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; see --help", USAGE)
        try:
            main()
        except errors.NonFiniteError as error:
            _fail(error, NON_FINITE)
        except (errors.DataError, errors.ModelError) as error:
            _fail(error, DATA)
        except errors.TfgradError as error:
            _fail(error, USAGE)
        except KeyboardInterrupt:
            _fail("interrupted; the same command resumes from what is done, or starts again", 130)

    # The manual pages, which --help prints, are written for the package's name in the repository.
    page = sys.modules["__main__"]
    if page.__doc__ and PACKAGE != "apps":
        page.__doc__ = re.sub(r"\bapps\.(?=[a-z])", f"{PACKAGE}.", page.__doc__)
    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    # absl's --help lists the main module's own flags; the shared ones belong there too.
    for flag in flags.FLAGS.flags_by_module_dict().get(f"{__package__}.shared_flags", []):
        flags.FLAGS.register_key_flag_for_module(argv[0], flag)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{error}; see --help", USAGE)
    except SystemExit:
        # absl's --help exits with 1.
        sys.exit(0)


def _fail(message: object, code: int) -> NoReturn:
    sys.stdout.flush()
    print(f"{_program()}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _program() -> str:
    """The command's name: `train` of apps/train.py, `benchmark` of apps/benchmark/__main__.py."""
    path = pathlib.Path(sys.argv[0])
    return path.parent.name if path.stem == "__main__" else path.stem

"""Start and end of every command: quiet logs, a manual page, errors of one line, exit codes.

Exit codes: 0 done, 64 usage, 65 bad data or model, 70 a loss that is not finite, 73 a directory in
use by another process, 74 a full disk, 75 a lost worker.
"""

import contextlib
import glob
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

try:
    from absl import app, flags, logging
except ImportError as missing:
    raise SystemExit(
        f"the commands need absl ({missing}); try pip install 'tfgrad[apps]'"
    ) from None

from . import flag_names, invocation

USAGE, DATA, NON_FINITE, IN_USE, DISK, WORKER = 64, 65, 70, 73, 74, 75


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


def own_flags() -> dict[str, Any]:
    """{name: value} of the flags that this command defines; libraries define flags, too."""
    return {
        flag.name: flag.value
        for module, module_flags in flags.FLAGS.flags_by_module_dict().items()
        if module.startswith(f"{invocation.PACKAGE}.") or module == sys.argv[0]
        for flag in module_flags
    }


def run(main: Callable[[], Any], positional: str | None = None) -> None:
    """Run `main()` after parsing flags, and exit with the code of the outcome.

    Args:
        main: The command.
        positional: Name of the list flag that arguments without a flag are appended to.

    Errors and warnings of the library take one line each, and name flags in place of arguments.
    """

    def guarded(argv: list[str]) -> None:
        import tensorflow as tf

        from tfgrad import errors
        from tfgrad.internal import files, ownership
        from tfgrad.training import failures

        if len(argv) > 1 and positional:
            given: Any = flags.FLAGS[positional].value
            flags.FLAGS[positional].value = [*given, *argv[1:]]
        elif len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; see --help", USAGE)
        try:
            with _warnings_of_one_line():
                main()
        except errors.TfgradError as error:
            _fail_with(error)
        except tf.errors.OpError as error:
            clear = failures.named(error)
            if clear is None:
                raise
            _fail_with(clear)
        except OSError as error:
            if not files.is_full(error):
                raise
            _fail_with(files.cannot_write(error, "path", str(error.filename)))
        except KeyboardInterrupt:
            _fail("interrupted; the same command resumes from what is done, or starts again", 130)
        finally:
            ownership.release_all()

    page = sys.modules["__main__"]
    if page.__doc__:
        page.__doc__ = invocation.in_text(page.__doc__)
    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=_parse)


def _in_flags(message: object) -> str:
    return flag_names.as_flags(str(message), own_flags())


@contextlib.contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    """Warnings of tfgrad as messages of the command, without a path and a line of code."""
    from tfgrad import errors

    usual = warnings.formatwarning

    def formatted(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if category.__module__ == errors.__name__:
            return f"{_program()}: {_in_flags(message)}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _parse(argv: list[str]) -> list[str]:
    # absl's --help lists the main module's own flags; the shared ones belong there too.
    for flag in flags.FLAGS.flags_by_module_dict().get(f"{__package__}.shared_flags", []):
        flags.FLAGS.register_key_flag_for_module(argv[0], flag)
    flags.FLAGS.set_gnu_getopt()  # flags may follow arguments without a flag
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(flag_names.of_parsing(str(error)), USAGE)
    except SystemExit:
        # absl's --help exits with 1.
        sys.exit(0)


def _fail(message: object, code: int) -> NoReturn:
    sys.stdout.flush()
    print(f"{_program()}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _fail_with(error: Exception) -> NoReturn:
    """`_fail` with the code of an error of tfgrad."""
    from tfgrad import errors
    from tfgrad.internal import files

    codes = (
        (errors.NonFiniteError, NON_FINITE),
        ((errors.DataError, errors.ModelError), DATA),
        (errors.InUseError, IN_USE),
        (errors.WorkerError, WORKER),
    )
    code = next((code for kinds, code in codes if isinstance(error, kinds)), USAGE)
    if isinstance(error, OSError) and files.is_full(error):
        code = DISK
    if code == WORKER:  # TensorFlow's end of a distributed run waits for the lost worker
        with contextlib.suppress(SystemExit):
            _fail(_in_flags(error), code)
        os._exit(code)
    _fail(_in_flags(error), code)


def _program() -> str:
    """The command's name: `train` of apps/train.py, `benchmark` of apps/benchmark/__main__.py."""
    path = pathlib.Path(sys.argv[0])
    return path.parent.name if path.stem == "__main__" else path.stem

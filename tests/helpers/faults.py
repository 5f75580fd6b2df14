"""Faults of the machine that can be made in a test: files that cannot grow, other processes."""

import contextlib
import os
import resource
import signal
import traceback
import warnings


@contextlib.contextmanager
def no_file_above(size):
    """In this context no file of the process can grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def another_process(function):
    """A forked process that has called `function` and then does nothing until it is killed.

    `function` must run no operation of TensorFlow, whose threads a forked process lacks.

    Yields:
        (process id, the text that `function` returned or the error that it raised).
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12's about threads
        child = os.fork()
    if not child:
        try:
            os.close(reading)
            try:
                text = str(function())
            except Exception as error:
                text = "".join(traceback.format_exception_only(error))
            os.write(writing, text.encode())
            os.close(writing)
            signal.pause()
        finally:
            os._exit(0)
    os.close(writing)
    text = os.read(reading, 1 << 16).decode()  # not to the end: children of the child have it open
    os.close(reading)
    try:
        yield child, text
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

"""Faults of the machine that can be made in a test: files that cannot grow, other processes."""

import contextlib
import os
import resource
import signal
import traceback


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
    with os.fdopen(reading) as file:
        text = file.read()
    try:
        yield child, text
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

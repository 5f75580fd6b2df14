"""The exceptions and warnings a user of tfgrad can catch.

Every message names the argument, what came, what was expected and what to try.
"""


class TfgradError(Exception):
    """Base of every error raised on purpose by tfgrad."""


class ArgumentError(TfgradError, ValueError):
    """An argument has the wrong type, shape or value."""


class DataError(TfgradError, ValueError):
    """Images or labels cannot be used: unknown set, NaN pixels, labels out of range."""


class ModelError(TfgradError, ValueError):
    """A model or a model file cannot be used: truncated, foreign, unsafe, or ending in softmax."""


class SecondOrderError(ModelError):
    """A layer whose second derivative TensorFlow drops or falsifies."""


class NonFiniteError(TfgradError, ArithmeticError):
    """The loss or a weight became NaN or infinite; the last good state was kept."""


class ResumeError(TfgradError, ValueError):
    """A work directory holds a run made under other flags."""


class WriteError(ArgumentError, OSError):
    """A file or directory cannot be written: the disk is full, or permission is missing.

    `errno`, `strerror` and `filename` are those of the `OSError` that is its `__cause__`.
    """

    def __init__(
        self,
        message: str,
        errno: int | None = None,
        strerror: str | None = None,
        filename: str | None = None,
    ) -> None:
        super().__init__(message)
        self.errno, self.strerror, self.filename = errno, strerror, filename

    def __str__(self) -> str:
        return str(self.args[0])


class InUseError(TfgradError, RuntimeError):
    """Another process is writing to the same directory or file."""


class WorkerError(TfgradError, RuntimeError):
    """Another worker of a distributed run has ended, failed or not started."""


class SecondOrderWarning(UserWarning):
    """A layer whose second derivative is slightly wrong, and which the papers use all the same."""


class OutputMeaningWarning(UserWarning):
    """A network's one output is taken for a logit of two classes, which nothing says."""


class LogitsWarning(UserWarning):
    """A network's last softmax or sigmoid is left out, as what is explained are its logits."""


class ImageRangeWarning(UserWarning):
    """The range of a network's pixels is not known, or is said to be another than it tells."""


class AxesWarning(UserWarning):
    """A network does not tell which axes of its input are positions and which are channels."""


class PlacementWarning(UserWarning):
    """Feature maps are stretched to the image, as it is not known where their cells look."""


class PortabilityWarning(UserWarning):
    """An explanation cannot be had in a format beside the SavedModel."""


class ClassNamesWarning(UserWarning):
    """The names of a network's classes are not known."""


class ImagesLeftOutWarning(UserWarning):
    """Images of a folder cannot be read, or belong to no class, and are left out."""

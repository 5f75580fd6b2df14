"""A table that is small enough to run in a test."""

from apps.reproduce.schema import Experiment, Row, Source, Term, Training, paper

MATCHED = Term("ActivationMatching", 1.0)
SHORT = Training(epochs=2, drops=(1,), batch_size=16)


def tiny(**changes):
    """Two rows on the digits, with a teacher that is trained first."""
    rows = (
        Row("Cross-entropy", paper=paper((3, 5), "50±1 60")),
        Row("Match activations", (MATCHED,), paper=paper((3, 5), "55±1 65")),
    )
    defaults = {
        "name": "tiny",
        "title": "A tiny table",
        "scale": "small",
        "dataset": "digits",
        "student": "vgg4",
        "width": 0.1,
        "training": SHORT,
        "sizes": ((3, 2), (5, 1)),
        "rows": rows,
        "teacher": Source("vgg4", 0.1, "digits", SHORT),
    }
    return Experiment(**{**defaults, **changes})

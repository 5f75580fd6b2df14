"""Matching slopes, or values under input noise: Figure 2.1's one-dimensional toy."""

from ..schema import Metric, Toy, ToyRow


def figure_2_1(scale: str) -> Toy:
    """Figure 2.1: a few points, their slopes, and noise around them."""
    copies = (1, 10, 100, 1000, 10_000) if scale == "paper" else (1, 10, 100, 1000)
    rows = (
        ToyRow("Values only"),
        ToyRow("Values and slopes", slopes=True),
        *(
            ToyRow(f"Values at {n:,} noisy cop{'ies' if n > 1 else 'y'} of each point", copies=n)
            for n in copies
        ),
    )
    return Toy(
        name="f2.1",
        title="Figure 2.1: matching slopes does what matching many noisy copies does",
        scale=scale,
        sizes=((6, 5 if scale == "paper" else 3),),
        rows=rows,
        metrics=(
            Metric("error", "error to the teacher (rms)", 1.0, 3),
            Metric("slope_error", "error of the slopes at the points (rms)", 1.0, 3),
            Metric(
                "difference", "slopes' difference to those of “values and slopes” (rms)", 1.0, 3
            ),
        ),
        note="errors of values are taken between the outermost points; the paper has no numbers",
    )

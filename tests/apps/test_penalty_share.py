"""The hint of `train` where penalties outweigh the rest of the loss."""

import pytest

from apps.common.penalty_share import PenaltyShare, hint
from tfgrad.penalties import AntiScoreMatching, GradientNorm, ScoreMatching


def test_a_penalty_that_is_most_of_the_loss():
    # 45 of 46.875; 1e-6 · 45000 = 0.045 of 1.92.
    said = hint([GradientNorm(0.001)], {"loss": 46.875, "gradient_norm": 4.5e4})
    assert said == (
        "gradient_norm: 0.001 times 4.5e+04 is 96% of the loss; --gradient_norm=1e-06 would be 2%"
    )


def test_a_negative_penalty():
    said = hint([ScoreMatching(1.0)], {"loss": -8.0, "score_matching": -9.0})
    assert said == "score_matching: 1 times 9 is 90% of the loss; --score_matching=0.01 would be 8%"


@pytest.mark.parametrize(
    "logs",
    [
        {"loss": 2.0, "gradient_norm": 10.0},  # half of it
        {"loss": 2.0},
        {"loss": float("nan"), "gradient_norm": 1.0},
    ],
)
def test_no_hint(logs):
    assert hint([GradientNorm(0.1)], logs) is None


def test_several_are_summed_and_the_largest_is_named():
    chosen = [GradientNorm(0.1), AntiScoreMatching(0.2)]
    logs = {"loss": 10.0, "gradient_norm": 30.0, "anti_score_matching": 20.0}
    assert hint(chosen, logs).startswith("anti_score_matching: 0.2 times 20 is 40% of the loss")


def test_only_after_the_first_epoch(capsys):
    callback = PenaltyShare([GradientNorm(1.0)])
    for epoch in range(3):
        callback.on_epoch_end(epoch, {"loss": 10.0, "gradient_norm": 9.0})
    assert capsys.readouterr().out.count("gradient_norm: 1 times 9 is 90% of the loss") == 1

"""What a penalty's configuration holds, also of a penalty that a user writes."""

import json

import pytest

from tfgrad.penalties import GradientNorm, Penalty, ScoreMatching


class Own(Penalty):
    """A penalty as a user writes one: neither `get_config` nor `from_config`."""

    def __init__(self, weight=1.0, name="own", head=None):
        super().__init__(weight, name, head)


class Headless(Penalty):
    def __init__(self, weight=1.0, name="headless"):
        super().__init__(weight, name)


@pytest.mark.parametrize("head", [None, "target", 1, ("target", 0)])
def test_the_head_of_a_penalty_of_one_s_own_is_saved(head):
    config = Own(0.5, head=head).get_config()
    assert config == {"weight": 0.5, "name": "own", "head": head}
    assert Own.from_config(json.loads(json.dumps(config))).head == head


def test_a_constructor_without_head_gets_none():
    config = Headless(0.5).get_config()
    assert config == {"weight": 0.5, "name": "headless"}
    for again in (config, {**config, "head": None}):
        assert Headless.from_config(again).get_config() == config


def test_a_config_without_head_loads():
    config = {k: v for k, v in GradientNorm(0.5).get_config().items() if k != "head"}
    assert GradientNorm.from_config(config).head is None


def test_repr_keeps_the_order_that_records_of_retrained_networks_hold():
    shown = repr(ScoreMatching(0.1, head="target"))
    names = [part.split("=")[0] for part in shown.partition("(")[2].split(", ")]
    assert names == [
        *("weight", "name", "sigma", "samples", "estimator", "target", "seed"),
        *("head", "statistics", "stability"),
    ]

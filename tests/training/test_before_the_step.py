"""How often a step is traced, and that what is built before it is what it would have built."""

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.helpers.training_cases import LOSS, Subclassed, examples, functional, sequential
from tfgrad import PenalizedModel
from tfgrad.errors import ArgumentError
from tfgrad.internal import keras_private
from tfgrad.models import two_heads
from tfgrad.penalties import GradientNorm
from tfgrad.training import before_the_step


class Counting(PenalizedModel):
    """Counts the traces of its step."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


def compiled(network, head=None, metrics=("accuracy",), **options):
    model = Counting(network, GradientNorm(0.1, head=head))
    loss, metrics = (LOSS, list(metrics)) if head is None else ({head: LOSS}, {head: [*metrics]})
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=metrics, **options)
    return model


def fit(model, y=None, **options):
    x, labels = examples()
    y = labels if y is None else y
    return model.fit(x, y, 5, shuffle=False, verbose=0, **options).history


@pytest.mark.sample(2)
@pytest.mark.parametrize("make", [functional, sequential])
def test_a_step_is_traced_once(make):
    model = compiled(make())
    fit(model)
    assert model.traces == 1


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables .'source_logits")
def test_a_step_of_two_heads_is_traced_once():
    model = compiled(two_heads(functional(), 4), head="target")
    fit(model, {"target": examples()[1]})
    assert model.traces == 1


def test_single_batches_are_traced_once():
    model, (x, y) = compiled(sequential()), examples()
    model.train_on_batch(x, y)
    model.train_on_batch(x, y)
    assert model.traces == 1


METRICS = {"a name": "accuracy", "a metric": keras.metrics.SparseTopKCategoricalAccuracy(2)}


@pytest.mark.long
@pytest.mark.sample(2)
@pytest.mark.parametrize("metric", METRICS)
def test_training_is_that_of_a_step_that_builds_its_own(metric, monkeypatch):
    metrics = [METRICS[metric]]
    built = compiled(sequential(), metrics=metrics)
    history = fit(built)
    monkeypatch.setattr(before_the_step, "build", lambda *_: None)
    alone = compiled(sequential(), metrics=metrics)
    assert fit(alone) == history
    for mine, its in zip(alone.variables, built.variables, strict=True):
        np.testing.assert_array_equal(mine, its)
    paths = [[v.path for v in model.metrics_variables] for model in (alone, built)]
    assert paths[0] == paths[1]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "make", [Subclassed, lambda: keras.Sequential([L.Dense(3)])], ids=["subclassed", "unbuilt"]
)
def test_networks_whose_outputs_are_not_known_yet_train(make):
    assert np.isfinite(fit(compiled(make()))["loss"]).all()


def test_errors_are_those_of_the_step(monkeypatch):
    model = compiled(two_heads(functional(), 4), head="target")
    with pytest.raises(ArgumentError, match=r"target: got 'label' on head 'target', to which no"):
        fit(model, examples()[1])

    def fails(*_):
        raise ValueError("not this one")

    monkeypatch.setattr(keras_private, "build_loss_and_metrics", fails)
    model = compiled(sequential())
    assert fit(model)["accuracy"]
    assert model.traces == 2


def test_evaluation_builds_no_optimizer():
    model = compiled(sequential())
    model.evaluate(*examples(), verbose=0)
    assert not model.optimizer.built

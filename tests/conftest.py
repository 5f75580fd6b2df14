"""Shared by every test: quiet logs, seeds, and float64 where a test asks for it."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# The networks of tests are too small for threads to share: more would only wait for one another.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import pytest

from tests.helpers import variants
from tfgrad.models import output_meaning


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Before -m chooses."""
    variants.mark_what_is_left_out(items)


def pytest_collection_finish():
    """Collect garbage less often: networks and graphs are made of many small objects.

    What the imports left stays for good, and is not looked through again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def one_output_is_a_number(monkeypatch):
    """For networks that are plain functions: one output that nothing explains is no logit."""
    known = output_meaning.known

    def known_or_number(network, outputs=None, count=None, head=None):
        found = known(network, outputs, count, head)
        count = output_meaning._count(network, head) if count is None else count
        return "regression" if found is None and count == 1 else found

    monkeypatch.setattr(output_meaning, "known", known_or_number)


@pytest.fixture
def float64():
    """Build layers and inputs in float64 (the policy alone leaves `Input` at float32)."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)

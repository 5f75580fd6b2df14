"""Learning from a teacher takes the same steps on one device and on two replicas."""

import numpy as np
import pytest

from tests.test_distribution import finish, run


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """One process per replica count: two strategies of different size in one process abort."""
    directory = tmp_path_factory.mktemp("transfer")
    results = []
    for replicas in (1, 2):
        out = directory / f"{replicas}.npz"
        finish(run(["-m", "tests.helpers.transfer_run", str(replicas), out]))
        results.append(np.load(out))
    return results


@pytest.mark.parametrize("student", ["live", "lessons", "heads"])
def test_two_replicas_take_the_steps_of_one(one_and_two, student):
    """Batches of 16, 16 and 3, sample weights, every penalty; the run checks the teacher's bits."""
    one, two = one_and_two
    names = [n for n in one if n.startswith(f"{student}/")]
    assert names == [n for n in two if n.startswith(f"{student}/")]
    worst = 0.0
    for name in names:
        rtol = 0 if "weight_" in name else 1e-6
        np.testing.assert_allclose(two[name], one[name], rtol=rtol, atol=1e-6, err_msg=name)
        if "weight_" in name:
            worst = max(worst, np.abs(two[name] - one[name]).max())
    print(f"{student}: {worst:.1e}")


def test_lessons_train_as_a_live_teacher(one_and_two):
    for result in one_and_two:
        for name in (n for n in result if n.startswith("live/")):
            other = result[name.replace("live/", "lessons/")]
            np.testing.assert_allclose(other, result[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_run_moves_the_weights(one_and_two):
    from tests.helpers import transfer_run

    start = [v.numpy() for v in transfer_run.network(1, 3, "conv").weights]
    for student in ("live", "heads"):
        moved = [
            np.abs(one_and_two[0][f"{student}/weight_{i}"] - w).max() for i, w in enumerate(start)
        ]
        assert min(moved) > 1e-3

"""Learning from a teacher takes the same steps on one device and on two replicas."""

import numpy as np
import pytest

from tests.distribution.test_replicas import finish, run
from tests.helpers import transfer_run
from tests.helpers.arrays import arrays_of
from tests.helpers.variants import with_slow


def one_and_two(directory, *students):
    """One process per strategy: two of different size in one process abort."""
    one, two = directory / "1.npz", directory / "2.npz"
    transfer_run.main(1, one, students)
    finish(run(["-m", "tests.helpers.transfer_run", "2", two, *students]))
    return [arrays_of(one), arrays_of(two)]


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Two heads under three penalties."""
    return one_and_two(tmp_path_factory.mktemp("heads"), "heads")


@pytest.fixture(scope="module")
def every_penalty(tmp_path_factory):
    """With the teacher at hand, and with its recorded outputs."""
    return one_and_two(tmp_path_factory.mktemp("every"), "live", "lessons")


STUDENTS = with_slow(
    [("heads", "heads")], [("every_penalty", "live"), ("every_penalty", "lessons")]
)


@pytest.mark.long
@pytest.mark.parametrize(("results", "student"), STUDENTS)
def test_two_replicas_take_the_steps_of_one(results, student, request):
    """Batches of 16, 16 and 3, weighed but with two heads; the run checks the teacher's bits."""
    one, two = request.getfixturevalue(results)
    names = [n for n in one if n.startswith(f"{student}/")]
    assert names == [n for n in two if n.startswith(f"{student}/")]
    worst = 0.0
    for name in names:
        rtol = 0 if "weight_" in name else 1e-6
        np.testing.assert_allclose(two[name], one[name], rtol=rtol, atol=1e-6, err_msg=name)
        if "weight_" in name:
            worst = max(worst, np.abs(two[name] - one[name]).max())
    print(f"{student}: {worst:.1e}")


@pytest.mark.slow
def test_lessons_train_as_a_live_teacher(every_penalty):
    for result in every_penalty:
        for name in (n for n in result if n.startswith("live/")):
            one, other = result[name], result[name.replace("live/", "lessons/")]
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("results", "student"), STUDENTS)
def test_the_run_moves_the_weights(results, student, request):
    from tests.helpers import transfer_run

    one, _ = request.getfixturevalue(results)
    start = [v.numpy() for v in transfer_run.network(1, 3, "conv").weights]
    moved = [np.abs(one[f"{student}/weight_{i}"] - w).max() for i, w in enumerate(start)]
    assert min(moved) > 1e-3

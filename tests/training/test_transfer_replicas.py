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
def live(tmp_path_factory):
    return one_and_two(tmp_path_factory.mktemp("live"), "live")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Recorded outputs of the teacher, and two heads: the same steps of the same replicas."""
    return one_and_two(tmp_path_factory.mktemp("others"), "lessons", "heads")


@pytest.mark.parametrize(
    ("results", "student"),
    with_slow([("live", "live")], [("others", "lessons"), ("others", "heads")]),
)
def test_two_replicas_take_the_steps_of_one(results, student, request):
    """Batches of 16, 16 and 3, sample weights, every penalty; the run checks the teacher's bits."""
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
def test_lessons_train_as_a_live_teacher(live, others):
    for one, result in zip(live, others, strict=True):
        for name in one:
            other = result[name.replace("live/", "lessons/")]
            np.testing.assert_allclose(other, one[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("results", "student"), with_slow([("live", "live")], [("others", "heads")])
)
def test_the_run_moves_the_weights(results, student, request):
    from tests.helpers import transfer_run

    one, _ = request.getfixturevalue(results)
    start = [v.numpy() for v in transfer_run.network(1, 3, "conv").weights]
    moved = [np.abs(one[f"{student}/weight_{i}"] - w).max() for i, w in enumerate(start)]
    assert min(moved) > 1e-3

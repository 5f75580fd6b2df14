"""Messages of the library, as commands show them: flags in place of arguments."""

import sys
import warnings

import pytest

from apps.common import command
from apps.common.flag_names import as_flags, of_parsing
from apps.reproduce import __main__ as reproduce
from tests.helpers.app_run import in_process
from tfgrad import errors

FLAGS = {
    "dataset": "mnist",
    "data_dir": "/data",
    "download": False,
    "train_split": "train",
    "test_split": "foo",
    "image_size": None,
    "network": "vgg9",
    "per_class": 1000,
    "width": 1.0,
    "teacher_width": 0.0,
    "models": ["a=x/y.keras", "b=z.h5"],
    "methods": ["cam"],
    "jit_compile": True,
    "batch_size": 64,
}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("per_class: got 1000; lower per_class.", "--per_class: got 1000; lower --per_class."),
        (
            "name: got 'mnist', which /data/data_dir lacks. Point data_dir at it, or pass "
            "download=True.",
            "--dataset: got 'mnist', which /data/data_dir lacks. Point --data_dir at it, or pass "
            "--download.",
        ),
        ("split: got 'foo' of 'mnist'; unknown.", "--test_split: got 'foo' of 'mnist'; unknown."),
        ("width: got 0.0; expected > 0", "--teacher_width: got 0.0; expected > 0"),
        ("use name='digits'.", "use --dataset=digits."),
        (
            "input_shape: got (8, 8, 1); expected 32 for depth=9; try depth=4.",
            "--image_size: got (8, 8, 1); expected 32 for --network=vgg9; try --network=vgg4.",
        ),
        ("path: 'x/y.keras' is damaged", "--models: 'x/y.keras' is damaged"),
        ("directory: got 'z.h5', a file", "--models: got 'z.h5', a file"),
        ("method: got 'cam'; expected 'gradcam'.", "--methods: got 'cam'; expected 'gradcam'."),
        ("or train with jit_compile=False", "or train with --nojit_compile"),
        ("try image_size=(64, 64).", "try --image_size=64,64."),
        (
            "x: got 1; expected None; try data_dir=None",
            "x: got 1; expected None; try no --data_dir",
        ),
        # Files within the directory that a flag names, under temporary names.
        ("path: got '/data/mnist/x', which", "--data_dir: got '/data/mnist/x', which"),
        ("directory: got '/data/a/b.h5'; expected", "--data_dir: got '/data/a/b.h5'; expected"),
        ("path: got '/data/x.tmp-12-34/y.png', which", "--data_dir: got '/data/x', which"),
        ("path: got '/database/x', which",) * 2,
        # Arguments of loading that no command has a flag for.
        ("x, or raise limit_bytes= if", "x, or load it in Python with limit_bytes= if"),
        # Neither flags nor arguments, or no flags of this command.
        ("--image_size: got 3; try --image_size=64,64.",) * 2,
        ("target: got 3; try target='label' or sigma=0.1.",) * 2,
        ("path: 'my_data_dir/batch_size.h5' is gone; x.batch_size: batch_size()",) * 2,
    ],
)
def test_arguments_are_named_as_flags(message, shown):
    assert as_flags(message, FLAGS) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("flag --epochs=0: 0 is not positive", "flag --epochs=0: 0 is not positive; see --help"),
        (
            "Unknown command line flag 'm'. Did you mean: map, model ?",
            "Unknown command line flag 'm'; did you mean --map or --model? See --help",
        ),
        (
            "flag --net=Vgg: value should be one of <vgg|resnet>",
            "--net: got 'Vgg'; did you mean 'vgg'? Expected one of vgg, resnet; see --help",
        ),
        (
            "flag --net=x: value should be one of <vgg|resnet>",
            "--net: got 'x'; expected one of vgg, resnet; see --help",
        ),
    ],
)
def test_what_a_mistyped_flag_may_mean(message, shown):
    assert of_parsing(message) == shown


def test_a_command_translates_errors_and_warnings(capsys, monkeypatch):
    def main():
        for category in (errors.SecondOrderWarning, UserWarning):
            message = category("per_class: got 3; pass download=True")
            sys.stderr.write(warnings.formatwarning(message, category, "file.py", 7))
        raise errors.DataError("split: got 'foo'; try data_dir=None.")

    monkeypatch.setattr(reproduce, "main", main)
    with in_process(reproduce) as run:
        assert run("--train_split=bar", "--test_split=foo") == command.DATA
    assert capsys.readouterr().err.splitlines() == [
        "reproduce: per_class: got 3; pass --download",
        "file.py:7: UserWarning: per_class: got 3; pass download=True",
        "reproduce: --test_split: got 'foo'; try no --data_dir.",
    ]
    assert "file.py" in warnings.formatwarning("x", errors.SecondOrderWarning, "file.py", 7)


def test_small_images_are_refused_before_a_teacher_is_trained(tmp_path, capsys):
    """By the flag that helps: the experiment has no flag for the networks."""
    with in_process(reproduce) as run:
        code = run("--experiment=t4.1", "--dataset=digits", f"--work_dir={tmp_path}")
    assert code == command.USAGE
    out, err = capsys.readouterr()
    assert "got images (8, 8, 1) of 'digits'" in err and "try --image_size=32,32" in err
    assert "training vgg" not in out and not (tmp_path / "teachers").exists()

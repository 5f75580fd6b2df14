"""Which modules open a tape: one on an input, and few others."""

import ast
import pathlib

import tfgrad

PACKAGE = pathlib.Path(tfgrad.__file__).parent
TAPES = {"GradientTape", "ForwardAccumulator"}
ALLOWED = {
    "gradients/forward_pass.py": "the only tape on an input",
    "gradients/intercepts/tangents.py": "transposes one call's backward pass to J·x",
    "internal/derivatives/crops.py": "differentiates the formula of one operation",
    "internal/derivatives/pooling.py": "differentiates the formula of one operation",
    "penalties/advice.py": "the tape on the weights, of a step that is traced and not run",
    "saliency/placement/layout.py": "a tape on coordinates; computes no gradient of the network",
    "second_order/tracing.py": "inspects the operations of a graph and computes nothing",
    "training/penalized_model.py": "the tape on the weights",
    "training/terms.py": "the tape on the weights, of terms with a forward pass of their own",
}


def names(path):
    """Every attribute and imported name of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def test_a_tape_on_an_input_is_opened_in_the_forward_pass_alone():
    opened = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if TAPES & set(names(path))
    }
    assert opened == set(ALLOWED)

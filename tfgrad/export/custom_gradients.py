"""Leaves the custom gradients of a network out of its exported explanations."""

from __future__ import annotations

import tensorflow as tf

_MARK = "_gradient_op_type"
_WORDS = (
    "an explanation of a SavedModel cannot be differentiated where the network has custom "
    "gradients, which are not written for it; differentiate logits of serving_default, or the "
    "explanations of the Keras model"
)


class CustomGradients:
    """What `tf.custom_gradient` leaves in the graphs of explanations.

    The gradients of a network are part of an explanation's graph once it is traced. Of each mark
    that remains TensorFlow would trace a function when it writes the graph, and read one when it
    loads it: hundreds, of a network of `silu`.
    """

    def __init__(self) -> None:
        self._found = False

    def leave_out(self) -> None:
        """Take the marks off the current graph, at the end of its trace."""
        for operation in tf.compat.v1.get_default_graph().get_operations():
            if _is_marked(operation):
                operation._clear_attr(_MARK)
                self._found = True

    def finished(self, outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The outputs of an explanation, in whose graph this is called last.

        Without the marks TensorFlow would return another gradient in silence, so it is refused.
        """
        self.leave_out()
        if not self._found:
            return outputs
        return {
            name: tf.raw_ops.PreventGradient(input=value, message=_WORDS)
            if value.dtype.is_floating
            else value
            for name, value in outputs.items()
        }


def _is_marked(operation: tf.Operation) -> bool:
    try:
        operation.get_attr(_MARK)
    except ValueError:
        return False
    return True

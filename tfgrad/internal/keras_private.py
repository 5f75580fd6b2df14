"""All private names of Keras that the project uses.

None of them has a public counterpart in Keras 3.15. `make test-nightly` runs the tests with the
newest nightly build of Keras; a name that a new version lacks is replaced here.

Five more private names are methods that subclasses override, and stand in their classes:
`GroupNormalization._apply_normalization` and `BatchNormalization._moments` (`tfgrad.layers`), and
`Model._maybe_symbolic_build`, `_make_function` and `_autoconvert_optionals`
(`tfgrad.training.network_wrapper`).
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import keras
import tensorflow as tf

# Models with the `call` that one of these modules defines only pass outputs from layer to layer.
_GRAPHS_OF_LAYERS = ("keras.src.models.functional", "keras.src.models.sequential")
# `keras.activations.relu` is no operation of `keras.ops`, unlike its siblings.
_OPERATIONS = ("keras.src.ops.", "keras.src.activations.")


def flatten_layers(
    layer: keras.layers.Layer, *, include_self: bool = True, recursive: bool = True
) -> list[keras.layers.Layer]:
    """The layers inside a layer or model in Keras's order, the layer itself first."""
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def has_layers(layer: keras.layers.Layer) -> bool:
    """Whether a layer directly contains another one."""
    return bool(keras.tree.flatten(getattr(layer, "_layers", [])))


def sharing_copy(operation: keras.Operation, **replaced: Any) -> Any:
    """A copy of a layer or operation with the same variables and no calls in any graph.

    Later changes of the variables are changes of both, and the original does not change. A config
    that Keras made of the constructor's arguments says "linear" or None for what is replaced.

    Args:
        operation: A layer, built, or a bare operation.
        **replaced: Attributes of the copy; a layer replaces the layer that the attribute holds.
    """
    kind: Any = type(operation)
    copy = kind.__new__(kind)
    own = ("build", "quantize", "_tracker", "_inbound_nodes", "_outbound_nodes")
    for name, value in operation.__dict__.items():
        if name not in own:
            # Keras and TensorFlow append to plain lists and dicts of what a layer contains.
            copy.__dict__[name] = value.copy() if type(value) in (list, dict) else value
    copy.__dict__.update(_inbound_nodes=[], _outbound_nodes=[])
    if isinstance(operation, keras.layers.Layer):
        layers = {id(vars(operation).get(name)): value for name, value in replaced.items()}
        copy._initialize_tracker()
        for store, (_, items) in operation._tracker.config.items():
            for item in items:
                item = layers.get(id(item), item)
                if store != "layers" or isinstance(item, keras.layers.Layer):
                    copy._tracker.add_to_store(store, item)
        copy._tracker.locked = operation._tracker.locked
    copy.__dict__.update(replaced)
    written = getattr(operation, "_auto_config", None)
    if written is not None and set(written.config) & set(replaced):
        values = {
            name: ("linear" if isinstance(value, str) else None) if name in replaced else value
            for name, value in written.config.items()
        }
        copy.__dict__["_auto_config"] = type(written)(**values)
    return copy


def is_of_keras(operation: Any) -> bool:
    """Whether a layer or operation is of a class that Keras defines."""
    return type(operation).__module__.startswith("keras.src.")


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights of a layer itself, without those of the layers inside it."""
    return layer._trainable_variables + layer._non_trainable_variables


def is_graph_of_layers(operation: Any) -> bool:
    """Whether a model's call only passes outputs from layer to layer (functional, Sequential)."""
    return isinstance(operation, keras.Model) and (
        type(operation).call.__module__ in _GRAPHS_OF_LAYERS
    )


def is_own_operation(operation: keras.Operation) -> bool:
    """Whether a bare operation is one of `keras.ops` or `keras.activations`."""
    return type(operation).__module__.startswith(_OPERATIONS)


def is_rematerialised(layer: keras.layers.Layer) -> bool:
    """Whether a layer was built inside a `keras.RematScope` that recomputes its call."""
    return bool(getattr(layer, "_remat_mode", None))


def without_recomputation(operation: keras.Operation) -> Callable[..., Any]:
    """The call that a rematerialised layer or operation repeats in the backward pass."""
    quantised = getattr(operation, "quantization_mode", None) is not None
    return operation.quantized_call if quantised else operation.call


def arguments_of_nodes(operation: keras.Operation) -> list[Any]:
    """The flat arguments of every symbolic call of an operation."""
    return [
        argument
        for node in operation._inbound_nodes
        for argument in tf.nest.flatten((node.arguments.args, node.arguments.kwargs))
    ]


def symbolic_calls(operation: keras.Operation) -> list[tuple[list[Any], list[Any]]]:
    """(the Keras tensors that it takes, those that it returns) of each symbolic call."""
    return [(node.input_tensors, list(node.outputs)) for node in operation._inbound_nodes]


def producer(tensor: keras.KerasTensor) -> tuple[keras.Operation, Any]:
    """(operation, node) of the symbolic call that returned a Keras tensor."""
    history = tensor._keras_history
    return history.operation, history.operation._inbound_nodes[history.node_index]


def output_index(tensor: keras.KerasTensor) -> int:
    """The index of a Keras tensor among the outputs of the call that returned it."""
    return tensor._keras_history.tensor_index


def output_of_call(model: keras.Model, call: str) -> keras.KerasTensor:
    """The output of a call in the graph of a functional or Sequential model.

    Args:
        model: The model.
        call: Name of the call: `conv`, and `conv:1` for the second call of `conv` in this graph.

    Raises:
        KeyError: The graph has no such call.
    """
    network = getattr(model, "_functional", None) or model
    seen: dict[str, int] = {}
    for depth in sorted(network._nodes_by_depth, reverse=True):
        for node in network._nodes_by_depth[depth]:
            name = node.operation.name
            repeats = seen.get(name, 0)
            seen[name] = repeats + 1
            if call == (f"{name}:{repeats}" if repeats else name):
                return node.outputs[0]
    raise KeyError(call)


def takes_a_dict(model: keras.Model) -> bool:
    """Whether a functional model was built with a dict of inputs."""
    return isinstance(getattr(model, "_inputs_struct", None), dict)


def input_structure(model: keras.Model) -> Any:
    """The nest of inputs that a functional model was built with; None of another model."""
    return getattr(model, "_inputs_struct", None)


def with_mask_of(twin: Any, tensor: Any) -> Any:
    """`twin` with the mask that `tensor` carries, if it carries one."""
    mask = getattr(tensor, "_keras_mask", None)
    if mask is not None:
        twin._keras_mask = mask
    return twin


def mask_of(tensor: Any) -> Any:
    """The mask that a tensor carries; None if it carries none."""
    return getattr(tensor, "_keras_mask", None)


def without_call_information(error: Exception) -> Exception:
    """The error, marked so that Keras does not append the arguments of enclosing calls to it."""
    error._keras_call_info_injected = True  # type: ignore[attr-defined]
    return error


def build_at_once(layer: keras.layers.Layer) -> None:
    """Mark a layer without weights as built, as Keras's activation layers do."""
    layer._build_at_init()


def broadcast_shape(layer: keras.layers.GroupNormalization, input_shape: Any) -> Any:
    """The shape that broadcasts a group normalisation's weights to its grouped inputs."""
    return layer._create_broadcast_shape(input_shape)


def reduction_axes(layer: keras.layers.BatchNormalization) -> list[int]:
    """The axes over which a batch normalisation computes its moments."""
    return layer._reduction_axes


def track_loss(model: keras.Model, value: tf.Tensor, sample_weight: tf.Tensor) -> None:
    """Update the metric `loss`, which a custom `train_step` must do itself."""
    model._loss_tracker.update_state(value, sample_weight=sample_weight)


def additional_losses(model: keras.Model) -> list[tf.Tensor]:
    """The losses of layers and regularisers, each scaled to this replica's share."""
    return [model._aggregate_additional_loss(loss) for loss in model.losses]


def is_distributed(model: keras.Model) -> bool:
    """Whether a model was built in the scope of a `tf.distribute` strategy."""
    return model._distribute_strategy is not None


def symbolic_build(model: keras.Model, batch: tuple[Any, ...]) -> None:
    """Build a model, its metrics and loss from the shapes of one batch."""
    model._symbolic_build(data_batch=batch)


def batch_specs(iterator: Any) -> Any:
    """The specifications of the batches of an iterator that Keras made for `fit` or `evaluate`."""
    return iterator._distributed_dataset.element_spec


def build_loss_and_metrics(model: keras.Model, labels: Any, outputs: Any) -> None:
    """Create the variables of a compiled loss and of compiled metrics, as their first call does.

    Args:
        model: A compiled model.
        labels: Specifications of the labels, with shape and dtype.
        outputs: Those of the outputs, in the same structure.
    """
    for part in (model._compile_loss, model._compile_metrics):
        if part is not None and not part.built:
            part.build(labels, outputs)


def load_archive(file: BinaryIO, compile: bool) -> Any:
    """The object that an open `.keras` file holds; nothing is opened by its name."""
    from keras.src.saving import saving_lib

    return saving_lib.load_model(file, compile=compile, safe_mode=True)


def load_h5(file: Any, compile: bool) -> Any:
    """The object that an open legacy `h5py.File` holds."""
    from keras.src.legacy.saving import legacy_h5_format

    return legacy_h5_format.load_model_from_hdf5(file, compile=compile, safe_mode=True)


def h5_names(group: Any, attribute: str) -> list[str]:
    """The names that an attribute of a legacy HDF5 file lists, in one piece or several."""
    from keras.src.legacy.saving import legacy_h5_format

    return list(legacy_h5_format.load_attributes_from_hdf5_group(group, attribute))


_Check = Callable[[str, tuple[int, ...], str], None]
_checks: contextvars.ContextVar[tuple[_Check, ...]] = contextvars.ContextVar(
    "tfgrad_variable_checks", default=()
)
_lock = threading.Lock()
_watching = 0
_validate_shape: Any = None


@contextlib.contextmanager
def checked_variables(check: _Check) -> Iterator[None]:
    """Call `check(path, shape, dtype)` in this thread before a Keras variable gets its values.

    An error that it raises leaves the variable without values.
    """
    global _watching, _validate_shape
    token = _checks.set((*_checks.get(), check))
    with _lock:
        _watching += 1
        if _watching == 1:
            _validate_shape = keras.Variable._validate_shape
            keras.Variable._validate_shape = _checked_shape
    try:
        yield
    finally:
        with _lock:
            _watching -= 1
            if _watching == 0:
                del keras.Variable._validate_shape
        _checks.reset(token)


def _checked_shape(variable: Any, shape: Any) -> Any:
    shape = _validate_shape(variable, shape)
    for check in _checks.get():
        check(variable._path, tuple(shape), variable._dtype)
    return shape


def in_metric() -> bool:
    """Whether the variable that is made now is the state of a metric."""
    from keras.src.backend.common import global_state

    scopes = global_state.get_global_attribute("name_scope_stack")
    return bool(scopes) and isinstance(scopes[-1].caller, keras.metrics.Metric)


def weights_file(model: keras.Model) -> io.BytesIO:
    """What `Model.save_weights` writes to a .weights.h5 file, in memory."""
    from keras.src.saving import saving_lib

    content = io.BytesIO()
    store = saving_lib.H5IOStore(content, mode="w")
    try:
        saving_lib._save_state(
            model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
        )
    finally:
        store.close()
    return content


def write_model_file(model: keras.Model, file: BinaryIO) -> None:
    """Write what `Model.save` writes to a .keras file to an open file."""
    from keras.src.saving import saving_lib

    saving_lib.save_model(model, file)

"""Methods of tf-keras-vis (`pip install "tfgrad[vis]"`) with the interface of this package.

They run eagerly, on functional and Sequential models of images that contain no other models. They
cannot be exported, smoothed or differentiated. Maps are as tf-keras-vis computes them, not
normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import keras
import numpy as np
import tensorflow as tf

from tfgrad.errors import ArgumentError, ModelError, TfgradError
from tfgrad.gradients import axes, class_scores, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal import call_hooks
from tfgrad.internal.arguments import integer
from tfgrad.internal.keras_private import output_of_call
from tfgrad.internal.unchanged_state import unchanged_state
from tfgrad.models import output_meaning, pixel_range
from tfgrad.models.output_meaning import BINARY, EXCLUSIVE, INDEPENDENT
from tfgrad.saliency import cam_layers, zero_maps
from tfgrad.saliency.keras_vis_models import Listed, imported, require_plain
from tfgrad.saliency.options import MethodOptions
from tfgrad.saliency.placed_method import CELLS, STRETCH, Placed
from tfgrad.saliency.placement import Laid

_FEATURES = "features"


class _KerasVis(Placed):
    """A class of tf-keras-vis, called for every batch.

    Args:
        model: Functional or Sequential, with one input [B, H, W, C] and no model inside it.
        layer: Name of the layer whose feature maps are weighted, or of one of its calls; None takes
            the last convolution whose maps have more than one position.
        placement: `"cells"`, or `"stretch"`, which tf-keras-vis does; see `Placed`.
        **options: See `MethodOptions`.

    Raises:
        ArgumentError: tf-keras-vis is not installed, or the model has no such layer.
        ModelError: tf-keras-vis cannot use the model.
    """

    traceable = False
    zero_map = zero_maps.CUT_OFF
    _module: ClassVar[str] = ""
    _class: ClassVar[str] = ""
    _dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16", "float64")

    def __init__(
        self,
        model: Any,
        layer: str | None = None,
        *,
        placement: str = CELLS,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, placement, **options)
        if isinstance(self.target, targets.Target):
            raise self._no_target(self.target)
        self.layer = layer
        self._recorded: str | None = None
        require_plain(self.network, self._dtypes)
        if layer is not None:
            cam_layers.check_name(self.network, layer)
        self._vis = getattr(imported(self._module), self._class)

    def _no_target(self, target: Any) -> ArgumentError:
        return ArgumentError(
            f"target: got {target!r}; expected a class, as {self.name!r} of tf-keras-vis explains "
            "classes only; try 'gradcam'."
        )

    def passed(self, x: Any, target: Any) -> Any:
        """Not available, as tf-keras-vis computes outside TensorFlow's graphs.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            f"method: got {self.name!r}, which comes from tf-keras-vis and cannot be traced or "
            "exported; expected a call of the method itself on a batch, outside any tf.function; "
            "try 'gradcam', which can be exported."
        )

    def attribute(self, probe: Probe, target: Any) -> Any:
        """Not available; see `passed`."""
        return self.passed(probe.x, target)

    def options(self) -> dict[str, Any]:
        """`layer`, as it was given, and `placement`."""
        return {"layer": self.layer, "placement": self.placement}

    def needs(self) -> Needs:
        """The outputs of the layer, where its maps are placed."""
        name = self._recorded
        return Needs(layers=() if name is None else (call_hooks.layer_of(name),))

    def positioned(self, probe: Probe) -> dict[str, tuple[tf.Tensor, Laid]]:
        """The output of the chosen call."""
        assert self._recorded is not None
        return {_FEATURES: (probe.layer_outputs[self._recorded], lambda values: values)}

    def _run(self, x: Any, target: Any) -> Any:
        if isinstance(target, targets.Target):
            raise self._no_target(target)
        with unchanged_state():
            _, classes, meaning = self._outputs(x, target)
            try:
                maps = self._maps(Listed.of(self.network), x, classes.numpy().tolist(), meaning)
            except TfgradError:
                raise
            except (AttributeError, ValueError) as error:
                raise ModelError(
                    f"model {self.network.name!r}: got an error of tf-keras-vis ({error}); "
                    "expected a model that it can explain; try layer= with the name of another "
                    "convolution."
                ) from error
        if not np.isfinite(maps).all():
            raise ModelError(
                f"model {self.network.name!r}: got NaN or infinite maps of {self.name!r}; expected "
                "finite ones. tf-keras-vis exponentiates logits, which overflows from 88 on in "
                "float32; try 'gradcam', or a model with smaller logits."
            )
        return tf.constant(maps, tf.float32)

    def _outputs(self, x: tf.Tensor, target: Any) -> tuple[tf.Tensor, tf.Tensor, str]:
        """The logits, the explained classes, and what the logits mean."""
        count = self._class_count(x)
        meaning = output_meaning.meaning(self.network, self.outputs, count)
        (logits,) = keras.tree.flatten(self.network(x, training=False))
        return logits, targets.classes(target, logits, meaning=meaning), meaning

    def _reported(self, x: Any, target: Any) -> dict[str, Any]:
        maps = self._run(x, target)
        with unchanged_state():
            logits, classes, meaning = self._outputs(x, target)
        logits = tf.cast(logits, tf.float32)
        score = class_scores.logit(logits, classes, meaning)
        found: dict[str, Any] = {
            "outputs": {"saliency": maps, "score": score, "class": classes},
            "terms": {},
        }
        if meaning != output_meaning.REGRESSION:
            found["probabilities"] = class_scores.probabilities(logits, meaning)
        return found

    def _maps(self, model: keras.Model, x: tf.Tensor, classes: list[int], meaning: str) -> Any:
        return self._cam(model, x, self._score(classes, meaning))

    def _score(self, classes: list[int], meaning: str) -> Any:
        """What tf-keras-vis differentiates: each image's logit, −f for class 0 of one logit f."""
        scores = imported("utils.scores")
        return (scores.BinaryScore if meaning == BINARY else scores.CategoricalScore)(classes)

    def _cam(self, model: keras.Model, x: tf.Tensor, score: Any) -> Any:
        call = self._call(x)
        maps = self._vis(model)(
            score,
            x,
            penultimate_layer=_Called(output_of_call(self.network, call.name)),
            seek_penultimate_conv_layer=False,
            normalize_cam=False,
            expand_cam=self.placement == STRETCH,
        )
        if self.placement == STRETCH:
            return maps
        size = tuple(x.shape[1:3])
        if size not in self._places:
            self._recorded = call.name
            self._places[size] = self.located_apart(tf.TensorSpec(x.shape, x.dtype))
        maps = tf.constant(np.asarray(maps), tf.float32)
        return self.laid({_FEATURES: maps}, x, "bilinear_half_pixel").numpy()

    def _call(self, x: tf.Tensor) -> axes.Call:
        """The call whose maps are weighted."""
        spec = self._spec(tuple(x.shape))
        if axes.channel_axis(self.network, spec) != 3:
            raise ModelError(
                f"model {self.network.name!r}: got images [batch, channels, height, width]; "
                "expected [batch, height, width, channels] for tf-keras-vis; try 'gradcam', which "
                "takes both."
            )
        if self.layer is None:
            return self._last_convolution(spec)
        return cam_layers.named(self.network, spec, self.layer, _is_plain_map)

    def _last_convolution(self, spec: tf.TensorSpec) -> axes.Call:
        kinds = keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.Conv3D
        names = [layer.name for layer in self.network.layers if isinstance(layer, kinds)]
        for call in reversed(axes.analysed(self.network, spec).calls.values()):
            known = call_hooks.layer_of(call.name) in names or call.name in names
            if known and _is_plain_map(call) and not call.has_one_position:
                return call
        raise ModelError(
            f"model {self.network.name!r}: got no convolution with maps [batch, height, width, "
            "channels] of more than one position; expected one whose maps can be weighted; try "
            "layer= with the name of another layer, or 'gradcam'."
        )


class _Called(keras.layers.Layer):
    """What tf-keras-vis takes for a layer: it reads the output of one call.

    A layer that is called more than once has no `output`. Sequential models that `add` builds call
    their layers again at every `add`.
    """

    def __init__(self, output: keras.KerasTensor) -> None:
        super().__init__()
        self._called = output

    @property
    def output(self) -> keras.KerasTensor:
        """The output of the call."""
        return self._called


def _is_plain_map(call: axes.Call) -> bool:
    return call.features is not None and call.features.channels == 3


class GradCAMPlusPlus(_KerasVis):
    """Grad-CAM++: feature maps weighted by positive gradients of exp(f_y) and higher derivatives.

    s = relu(Σ_c w_c A_c), w_c = Σ_{i,j} α_{c,i,j} relu(∂exp(f_y)/∂A_c[i, j]), with α of the paper.
    Not for models whose logits exceed 88, where exp overflows in float32; use `GradCAM` there.

    Args:
        model: Functional or Sequential, with one input [B, H, W, C] and no model inside it.
        layer: Name of the layer whose feature maps A are weighted, or of one of its calls; None
            takes the last convolution whose maps have more than one position.
        **options: See `MethodOptions`.

    Source: Chattopadhay et al., "Grad-CAM++" (2018), section 3.2.
    """

    name = "gradcam_plus_plus"
    _module, _class = "gradcam_plus_plus", "GradcamPlusPlus"


class LayerCAM(_KerasVis):
    """LayerCAM: s = relu(Σ_c relu(∂f_y/∂A_c) ⊙ A_c), each position weighted by its own gradient.

    Not for nested or subclassed models; use `GradCAM` there. Arguments: see `GradCAMPlusPlus`.

    Source: Jiang et al., "LayerCAM" (2021), Eq. 5.
    """

    name = "layercam"
    _module, _class = "layercam", "Layercam"


class ScoreCAM(_KerasVis):
    """Score-CAM: feature maps weighted by the softmax score of the image masked by each.

    s = relu(Σ_c w_c A_c), with w_c the class's probability for x ⊙ A_c, where A_c is resized to the
    image and scaled to [0, 1]; that of one logit or of independent labels is a sigmoid. One forward
    pass per channel of the layer, with all masked copies of a chunk in memory: use a small
    `chunk_size`, or `GradCAM` where there are many channels.
    Arguments: see `GradCAMPlusPlus`.

    Source: Wang et al., "Score-CAM" (2020), section 3.
    """

    name = "scorecam"
    _module, _class = "scorecam", "Scorecam"
    _dtypes = ("float32", "float16")

    def _maps(self, model: keras.Model, x: tf.Tensor, classes: list[int], meaning: str) -> Any:
        class_scores.check_classes(meaning, "'scorecam', which weights maps by probabilities")
        if meaning not in (BINARY, INDEPENDENT):
            return self._cam(model, x, self._score(classes, meaning))
        # The probability of a label is the softmax of [0, f]; tf-keras-vis takes one model a call.
        maps = np.zeros(x.shape[:3], "float32")
        for k in set(classes):
            place, column = (k, 0) if meaning == BINARY else (1, k)
            chosen = np.flatnonzero(np.asarray(classes) == k)
            score = self._score([place] * len(chosen), EXCLUSIVE)
            maps[chosen] = self._cam(model.against_zero(column), tf.gather(x, chosen), score)
        return maps


def activation_maximization(
    model: Any,
    classes: Sequence[int],
    steps: int = 200,
    value_range: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    **options: Any,
) -> tf.Tensor:
    """Images with large logits of given classes, by gradient ascent of tf-keras-vis.

    Args:
        model: See `GradCAMPlusPlus`.
        classes: One class for each image.
        steps: Number of steps of the ascent.
        value_range: (lowest, highest) value of a pixel.
        seed: Seed of the uniform start images. The jitter and rotation of tf-keras-vis use NumPy's
            global generator.
        **options: Further arguments of `tf_keras_vis.activation_maximization`, such as
            `regularizers`, `input_modifiers` and `optimizer`. The default optimizer is its RMSprop,
            with the learning rate scaled from its range of 255 to this one.

    Returns:
        [len(classes), H, W, C] float32 within `value_range`.

    Raises:
        ArgumentError: The model does not have a class, or the range is empty.
        ModelError: tf-keras-vis cannot use the model.
    """
    low, high = (float(v) for v in value_range)
    if not low < high:
        raise ArgumentError(f"value_range: got {value_range!r}; expected (lowest, highest) pixels.")
    integer("steps", steps)
    cam = LayerCAM(model)
    shape = cam.network.inputs[0].shape[1:]
    if None in shape:
        raise ModelError(
            f"model {cam.network.name!r}: got images of any size, {tuple(shape)}; expected a fixed "
            "size, in which the start images can be drawn; try keras.Input with one."
        )
    pixel_range.warn_of_scale(cam.network, "value_range", low, high)
    start = tf.random.stateless_uniform((len(classes), *shape), [seed, 0], low, high)
    resolved = cam._resolved(list(classes), start).numpy().tolist()
    if min(resolved) < 0:
        raise ArgumentError(f"classes: got {list(classes)}; expected classes ≥ 0.")
    options.setdefault("optimizer", keras.optimizers.RMSprop((high - low) / 255, rho=0.999))
    maximization = imported("activation_maximization").ActivationMaximization
    images = maximization(Listed.of(cam.network))(
        cam._score(resolved, output_meaning.meaning(cam.network, cam.outputs)),
        seed_input=start,
        input_range=(low, high),
        steps=steps,
        **options,
    )
    return tf.clip_by_value(tf.cast(images, tf.float32), low, high)

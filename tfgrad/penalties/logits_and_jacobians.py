"""Matching a teacher's logits and their input-gradients (thesis Chapter 2)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgrad import losses
from tfgrad.errors import ArgumentError
from tfgrad.gradients import class_scores, targets
from tfgrad.gradients.forward_pass import Needs
from tfgrad.gradients.probe import Probe
from tfgrad.internal.arguments import integer, number, one_of
from tfgrad.internal.precision import in_widest_dtype
from tfgrad.models.output_meaning import BINARY, INDEPENDENT
from tfgrad.penalties import differences
from tfgrad.penalties import projections as projections_of
from tfgrad.penalties.base import PACKAGE, Penalty, at_config, checked_at, is_of_classes

LOSSES = ("squared_error", "cross_entropy")
EXACT, DIFFERENCE = MATCHING_ESTIMATORS = ("exact", "difference")


def teacher_logits(probe: Probe) -> tf.Tensor:
    """The teacher's logits [batch, classes].

    Raises:
        ArgumentError: The student has another number of logits.
    """
    logits = probe.teacher.recall("logits", lambda teacher: teacher.logits)
    student, teacher = probe.logits.shape[-1], logits.shape[-1]
    if None not in (student, teacher) and student != teacher:
        raise ArgumentError(
            f"teacher: got {teacher} logits; expected {student}, as many as network "
            f"{probe.network.name!r} has. To learn from a teacher of other classes give the "
            "student a second head: tfgrad.models.two_heads(network, source_classes), "
            "head='source'."
        )
    return tf.cast(logits, probe.logits.dtype)


def shared_target(probe: Probe, target: Any) -> Any:
    """The target for the student, where predictions (also −1) are the teacher's (§2.4.1)."""
    if isinstance(target, targets.Target):
        return _with_shared_choices(probe, target)
    teacher_logits(probe)
    if isinstance(target, str):
        if target != "predicted":
            return target
    elif isinstance(target, int) and target >= 0:
        return target
    key = "predicted" if isinstance(target, str) else f"classes/{target_key(target)}"
    return probe.teacher.recall(key, lambda teacher: teacher.classes(target))


def _with_shared_choices(probe: Probe, target: targets.Target) -> targets.Target:
    """The target with the choices, such as the predicted class, that the teacher's outputs make."""
    if type(target).fixed is targets.Target.fixed:
        return target

    def choose(teacher: Probe) -> dict[str, tf.Tensor]:
        chosen = teacher.fixed(target).values
        return {name: value for name, value in chosen.items() if value is not None}

    return target.with_values(probe.teacher.recall(f"choices/{target_key(target)}", choose))


def target_key(target: Any) -> str:
    """The target as part of the key of a teacher's answer."""
    if isinstance(target, str):
        return target
    if not isinstance(target, targets.Target):
        return repr(targets.to_config(target))
    try:
        told = repr((type(target).__name__, target.get_config()))
    except ArgumentError:  # A function without a name is one of this process alone.
        return f"{target.name}/{hash(target.key)}"
    return f"{target.name}/{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def check_alike(probe: Probe, own: Any, taught: Any) -> None:
    """Raise unless the gradients of a student and its teacher have the same shapes.

    Raises:
        ArgumentError: They differ, as those of embeddings of different size do.
    """
    shapes = [[tuple(t.shape[1:]) for t in tf.nest.flatten(nest)] for nest in (own, taught)]
    if shapes[0] != shapes[1]:
        raise ArgumentError(
            f"teacher: got gradients of shapes {shapes[1]}; expected {shapes[0]}, those of network "
            f"{probe.network.name!r}; try a teacher with the same embeddings, or another at=."
        )


@keras.saving.register_keras_serializable(PACKAGE)
class ActivationMatching(Penalty):
    """Σ_k (T^k(x) − S^k(x))² on logits: the first term of Prop. 1.

    By hand: T = (3, 1), S = (1, 0) gives 4 + 1 = 5.

    Logits of any shape are compared, such as a segmenter's [batch, height, width, classes], whose
    squared differences are summed over all axes but the batch axis.

    Args:
        weight: λ; 1 in Table 2.1, 10 in Tables 2.3, 4.1 and 4.2.
        head: Output of a network with several.
        name: Name of the metric.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.

    Source: thesis §2.4; Ba and Caruana 2014.
    """

    def __init__(
        self,
        weight: Any = 1.0,
        head: Any = None,
        name: str | None = "activation_matching",
        *,
        every: int = 1,
    ) -> None:
        super().__init__(weight, name, head, every=every)

    @property
    def differentiates_twice(self) -> bool:
        """False: it contains no gradient."""
        return False

    def needs(self) -> Needs:
        """Only the output, in any shape."""
        return Needs(logits=False)

    def teacher_needs(self) -> Needs:
        """The same of the teacher."""
        return Needs(logits=False)

    def compute(self, probe: Probe) -> tf.Tensor:
        """Squared distance of the logits of each example, [batch]."""
        if probe.output.shape.rank == 2:
            return losses.squared_distance(probe.logits, teacher_logits(probe))
        taught = probe.teacher.recall("logits", lambda teacher: teacher.output)
        if not taught.shape.is_compatible_with(probe.output.shape):
            raise ArgumentError(
                f"teacher: got outputs of shape {taught.shape}; expected {probe.output.shape}, as "
                f"network {probe.network.name!r} returns; try a layer after one of the two, such "
                "as tfgrad.layers.Resizing, that makes them equal."
            )
        return losses.squared_distance(probe.output, taught)


@keras.saving.register_keras_serializable(PACKAGE)
class JacobianMatching(Penalty):
    """Σ_k ‖∇x T^k − ∇x S^k‖², or the term of one logit: the second term of Prop. 1.

    Matching logits under input noise of variance σ² is matching logits plus σ² times this, exactly
    where both networks are affine.

    By hand, on S = (2x₁ + x₂, −x₁), T = (x₁, x₂): the label 0 gives (1−2)² + (0−1)² = 2, `"all"`
    adds (0+1)² + (1−0)² = 2 for class 1.

    `loss="cross_entropy"` is the gradient term of Eq. 2.2, −Σ_k ∇x T_s^k · ∇x log S_s^k with
    T_s, S_s = softmax(· / temperature), or the term of one class. It is unbounded below, and S = T
    is not its minimum; squared error is recommended, here as in the papers. One logit of two
    classes counts as the two logits [0, f]. The outputs of independent labels have a term each,
    that of a sigmoid's cross-entropy, −∇σ(T^k) · ∇log σ(S^k) − ∇σ(−T^k) · ∇log σ(−S^k).

    Args:
        weight: λ.
        target: `"label"` (the papers' heuristic, §2.4.1), `"predicted"` (the *teacher's* largest
            logit), `"all"`, a class, one class per example, or any other scalar of the outputs,
            whose choices of classes are the *teacher's*; see `tfgrad.targets`. Or `"projected"`: an
            unbiased estimate of `"all"` at the cost of one class, ‖∇x Σ_k v_k (T^k − S^k)‖² with
            random signs v_k; for squared errors.
        loss: `"squared_error"` or `"cross_entropy"`.
        temperature: Of both softmaxes (or sigmoids) in the cross-entropy; there is no factor T².
        head: Output of a network with several.
        name: Name of the metric.
        at: Layers of both networks whose outputs are differentiated beside float inputs, see
            `GradientNorm`. Meant for networks with the same embeddings.
        every: k: training computes it at each k-th step alone, with the weight k λ; see `Penalty`.
        projections: Number of random vectors per example and step, whose estimates are averaged:
            v of target `"projected"`, or δ of the differences.
        seed: Seed of the vectors.
        estimator: `"exact"`: by double backward. `"difference"`: both networks at x ± δ with random
            signs δ/σ, Σ_k ([T^k(x + δ) − T^k(x − δ)] − [S^k(x + δ) − S^k(x − δ)])²/4σ², of the
            target's logit or, at the same cost, of all. Its mean over δ is the exact value but for
            O(σ²). It needs no second derivative; its passes have the random masks of the first and
            change no state. For squared errors.
        step: σ in units of the root mean square of an example; None for 0.01, in float64 1e-4.

    Raises:
        ArgumentError: An argument is none of these.

    Source: thesis §2.4, Eq. 2.2; Srinivas and Fleuret, ICML 2018. Differences: Lee et al., Indirect
    gradient matching for adversarial robust distillation, 2023.
    """

    squares_input_gradients = True
    _shown_unless: Mapping[str, Any] = {
        **Penalty._shown_unless,
        "projections": 1,
        "seed": 0,
        "estimator": EXACT,
        "step": None,
    }

    def __init__(
        self,
        weight: Any = 1.0,
        target: Any = "label",
        loss: str = "squared_error",
        temperature: float = 1.0,
        head: Any = None,
        name: str | None = "jacobian_matching",
        *,
        at: Any = None,
        every: int = 1,
        projections: int = 1,
        seed: int = 0,
        estimator: str = EXACT,
        step: float | None = None,
    ) -> None:
        super().__init__(weight, name, head, every=every)
        self.target, self.at = projections_of.validated(target), checked_at(at)
        self.projections, self.seed = integer("projections", projections), int(seed)
        self.estimator = one_of("estimator", estimator, MATCHING_ESTIMATORS)
        self.step = None if step is None else number("step", step)
        if estimator == DIFFERENCE and loss == "cross_entropy":
            raise ArgumentError(
                "estimator: got 'difference' with loss='cross_entropy', which is no squared "
                "distance; expected 'exact', or loss='squared_error'."
            )
        if estimator == DIFFERENCE and projections_of.is_projected(self.target):
            raise ArgumentError(
                "target: got 'projected' with estimator='difference', which has all logits at the "
                "cost of one; expected 'all'."
            )
        self.loss = one_of("loss", loss, LOSSES)
        self.temperature = number("temperature", temperature)
        if loss == "cross_entropy" and not is_of_classes(self.target):
            raise ArgumentError(
                f"target: got {self.target!r} with loss='cross_entropy', which is that of classes; "
                "expected 'label', 'predicted', 'all' or a class. Use loss='squared_error' for any "
                "scalar."
            )
        if loss == "cross_entropy" and projections_of.is_projected(self.target):
            raise ArgumentError(
                "target: got 'projected' with loss='cross_entropy', which weighs its terms; "
                "expected loss='squared_error'; or try target='all'."
            )
        if loss == "squared_error" and self.temperature != 1.0:
            raise ArgumentError(
                f"temperature: got {temperature!r} with loss='squared_error', which has no "
                "softmax; expected 1.0. Use loss='cross_entropy' for another temperature."
            )

    @property
    def reads_classes(self) -> bool:
        """Whether it differentiates probabilities; a squared distance ignores a common sign."""
        return self.loss == "cross_entropy"

    def needs(self) -> Needs:
        """The full Jacobian for target `"all"`, unless differences take its place."""
        jacobian = self._all() and self.estimator == EXACT
        return Needs(jacobian=jacobian, logits=is_of_classes(self.target), at=self.at or False)

    def teacher_needs(self) -> Needs:
        """The same of the teacher."""
        return self.needs()

    @property
    def differentiates_twice(self) -> bool:
        """Whether it is exact; differences of outputs need first derivatives alone."""
        return self.estimator == EXACT

    @property
    def draws_for_teacher(self) -> bool:
        """Whether it asks the teacher for other projections, or at other points, at every step."""
        return projections_of.is_projected(self.target) or self.estimator == DIFFERENCE

    def compute(self, probe: Probe) -> tf.Tensor:
        """The distance of the gradients of each example, [batch]."""
        target = shared_target(probe, self.target)
        if self.estimator == DIFFERENCE:
            return self._difference(probe.in_float32(), target)
        if projections_of.is_projected(target):
            return self._projected(probe)
        if self._all():
            return self._compute_all(probe)
        if self.loss == "squared_error":
            own, taught = probe.input_gradient(target), self._taught(probe, target, "logit")
            check_alike(probe, own, taught)
            return losses.squared_distance(own, taught)
        if probe.meaning == INDEPENDENT:
            return self._of_label(probe, target)
        student = probe.input_gradient(target, "log_probability", self.temperature)
        return -losses.inner_product(student, self._taught(probe, target, "probability"))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "target": targets.to_config(self.target),
            "loss": self.loss,
            "temperature": self.temperature,
            "at": at_config(self.at),
            "projections": self.projections,
            "seed": self.seed,
            "estimator": self.estimator,
            "step": self.step,
        }

    def _all(self) -> bool:
        return isinstance(self.target, str) and self.target == "all"

    def _taught(self, probe: Probe, target: Any, of: str) -> Any:
        return probe.teacher.recall(
            f"{of} gradient/{target_key(self.target)}/{self.temperature}",
            lambda teacher: teacher.input_gradient(target, of, self.temperature),
        )

    def _of_label(self, probe: Probe, target: Any) -> tf.Tensor:
        """The term of one independent label, [batch]; see `_sigmoid_term`."""
        taught = self._taught(probe, target, "logit")
        product = losses.inner_product(probe.input_gradient(target), taught)
        logits = targets.select(teacher_logits(probe), probe.classes(target))
        return self._sigmoid_term(logits, product)

    def _sigmoid_term(self, taught: tf.Tensor, product: tf.Tensor) -> tf.Tensor:
        """−∇σ(T) · ∇log σ(S) − ∇σ(−T) · ∇log σ(−S) = −σ(T) σ(−T) ∇T · ∇S, over temperature²."""
        taught = tf.cast(taught, product.dtype) / self.temperature
        return -tf.sigmoid(taught) * tf.sigmoid(-taught) * product / self.temperature**2

    def _difference(self, probe: Probe, target: Any) -> tf.Tensor:
        shifts = differences.directions(probe, self.projections, self.seed, self.step)

        def slopes(p: Probe) -> list[tf.Tensor]:
            if self._all():
                return [differences.along(p, shift, p.forward) for shift in shifts]
            score = functools.partial(p.score_at, target=p.fixed(target))
            return [differences.along(p, shift, score)[:, tf.newaxis] for shift in shifts]

        key = f"difference/{target_key(self.target)}/{self.projections}/{self.seed}/{self.step}"
        taught = probe.teacher.recall(key, lambda teacher: slopes(teacher.in_float32()))
        pairs = zip(slopes(probe), taught, strict=True)
        return tf.add_n([losses.squared_distance(s, t) for s, t in pairs]) / self.projections

    def _projected(self, probe: Probe) -> tf.Tensor:
        vectors = projections_of.signs(probe, self.projections, self.seed)
        key = projections_of.key_of(self.projections, self.seed)
        student = projections_of.gradients(probe, vectors, key)
        taught = probe.teacher.recall(
            key, lambda teacher: projections_of.gradients(teacher, vectors, key)
        )
        check_alike(probe, student, taught)
        pairs = zip(student, taught, strict=True)
        return tf.add_n([losses.squared_distance(s, t) for s, t in pairs]) / self.projections

    def _compute_all(self, probe: Probe) -> tf.Tensor:
        taught = probe.teacher.recall("jacobian", lambda teacher: teacher.input_jacobian())
        student = probe.input_jacobian()
        check_alike(probe, student, taught)
        if self.loss == "squared_error":
            pairs = zip(student, taught, strict=True)
            return tf.add_n([losses.squared_distance(s, t) for s, t in pairs])
        logits = teacher_logits(probe)
        class_scores.check_classes(probe.meaning, "loss='cross_entropy'")
        if probe.meaning in (BINARY, INDEPENDENT):
            products = [losses.inner_product(s, t) for s, t in zip(student, taught, strict=True)]
            terms = [self._sigmoid_term(logits[:, k], p) for k, p in enumerate(products)]
            return tf.add_n(terms)
        p_student = tf.nn.softmax(probe.logits / self.temperature)
        p_teacher = tf.nn.softmax(logits / self.temperature)
        student = _centred(student, p_student)
        taught = _centred(taught, p_teacher)
        # ∇T_s = T_s ∇log T_s, and ∇log of a softmax is the centred gradient over the temperature.
        terms = []
        for k, (s, t) in enumerate(zip(student, taught, strict=True)):
            p, product = in_widest_dtype(p_teacher[:, k], losses.inner_product(s, t))
            terms.append(p * product)
        return -tf.add_n(terms) / self.temperature**2


def _centred(rows: list[Any], probabilities: tf.Tensor) -> list[list[tf.Tensor]]:
    """∇S^k − Σ_j p_j ∇S^j of every class."""
    flat = [tf.nest.flatten(row) for row in rows]
    means = []
    for i in range(len(flat[0])):
        weighted = []
        for j, row in enumerate(flat):
            shape = [-1] + [1] * (row[i].shape.rank - 1)
            # A float32 input of a float64 network has float32 gradients, and the reverse.
            p, row[i] = in_widest_dtype(tf.reshape(probabilities[:, j], shape), row[i])
            weighted.append(p * row[i])
        means.append(tf.add_n(weighted))
    return [[g - m for g, m in zip(row, means, strict=True)] for row in flat]

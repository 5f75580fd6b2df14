"""The papers' equations as pure functions of tensors; most return one number per example, [batch].

A gradient is a tensor [batch, …], or a nest of them for a network with several inputs, whose
squared norms then add up, in the widest of their dtypes. "Thesis" is S. Srinivas, *Gradient-based
Methods for Deep Model Interpretability* (EPFL); "ICLR" is Srinivas and Fleuret, *Rethinking the
Role of Gradient-based Attribution Methods for Model Interpretability* (2021).
"""

from typing import Any

import tensorflow as tf

from tfgrad.internal.precision import at_least_float32, in_widest_dtype, total

# Entries up to this size count as zero in `normalized` and `saliency_map`.
ZERO = 1e-20


def squared_norm(gradient: Any) -> tf.Tensor:
    """‖g‖² of each example: the sum of squares over all axes but the batch axis.

    Args:
        gradient: g, [batch, …], or a nest of such tensors.

    Returns:
        [batch], float32 or wider.

    Source: thesis Prop. 2 (with the label's logit, or summed over logits for the full Jacobian);
    Eq. 2.3 when the gradient is that of the label's log-probability.
    """
    parts = []
    for g in tf.nest.flatten(gradient):
        g = at_least_float32(g)
        parts.append(tf.reduce_sum(tf.square(g), axis=tf.range(1, tf.rank(g))))
    return total(parts)


def score_matching(gradient: Any, trace: tf.Tensor, stability: float = 1e-4) -> tf.Tensor:
    """h + ½‖∇x f_y‖² + μ h²: the stabilised score-matching objective.

    Args:
        gradient: ∇x f_y, [batch, …], or a nest of such tensors.
        trace: h, an estimate of tr ∇²x f_y, [batch].
        stability: μ ≥ 0. With μ = 0 the objective has no lower bound in h.

    Returns:
        [batch], float32 or wider.

    Source: thesis Eq. 5.4, ICLR Eq. 8.
    """
    norm, trace = in_widest_dtype(squared_norm(gradient), at_least_float32(trace))
    return trace + 0.5 * norm + stability * tf.square(trace)


def anti_score_matching(trace: tf.Tensor, threshold: float = 1000.0) -> tf.Tensor:
    """−min(h, τ): minimising it raises the Hessian trace to τ; beyond τ its gradient is zero.

    Args:
        trace: h, an estimate of tr ∇²x f_y, [batch].
        threshold: τ.

    Returns:
        [batch], float32 or wider.

    Source: thesis §5.5.
    """
    trace = at_least_float32(trace)
    return -tf.minimum(trace, tf.convert_to_tensor(threshold, trace.dtype))


def taylor_trace(clean: tf.Tensor, noisy: tf.Tensor, sigma: float) -> tf.Tensor:
    """2/(Nσ²) Σ_n (f(x + v_n) − f(x)), v ~ N(0, σ²I): the papers' estimator of tr ∇²x f.

    Args:
        clean: f(x), [batch].
        noisy: f(x + v_n), [samples, batch].
        sigma: σ > 0.

    Returns:
        [batch]. Unbiased for quadratic f; variance ≈ 4‖∇f‖²/(Nσ²) + 2‖H‖²_F/N, H = ∇²x f.

    Source: thesis Eq. 5.3, ICLR Eq. 6.
    """
    return 2.0 / sigma**2 * tf.reduce_mean(noisy - clean[tf.newaxis], axis=0)


def antithetic_trace(
    clean: tf.Tensor, plus: tf.Tensor, minus: tf.Tensor, sigma: float
) -> tf.Tensor:
    """1/(Nσ²) Σ_n (f(x + v_n) + f(x − v_n) − 2 f(x)): an estimator of tr ∇²x f.

    The terms of odd order in v cancel, among them 2v·∇f/σ², the largest of `taylor_trace`.

    Args:
        clean: f(x), [batch].
        plus: f(x + v_n), [samples, batch].
        minus: f(x − v_n), [samples, batch].
        sigma: σ > 0.

    Returns:
        [batch]. Unbiased for quadratic f; variance ≈ 2‖H‖²_F/N, independent of ∇f.
    """
    return tf.reduce_mean(plus + minus - 2.0 * clean[tf.newaxis], axis=0) / sigma**2


def log_probability(logits: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """log softmax(f)_y = −softplus(log Σ_{j≠y} exp(f_j − f_y)), from differences of logits only.

    The difference form stays precise for confident predictions: its gradient contains 1 − p_y as a
    sum of small terms, where subtracting p_y from 1 would leave rounding error.

    Args:
        logits: f, [batch, classes].
        indices: y, integers [batch].

    Returns:
        [batch], in the dtype of the logits.
    """
    chosen = tf.one_hot(
        indices, tf.shape(logits)[-1], on_value=True, off_value=False, dtype=tf.bool
    )
    of_chosen = tf.reduce_sum(tf.where(chosen, logits, tf.zeros_like(logits)), -1, keepdims=True)
    # A finite number: −∞ has no derivative.
    nothing = tf.cast(logits.dtype.min / 4, logits.dtype)
    others = tf.where(chosen, nothing, logits - of_chosen)
    return -tf.math.softplus(tf.reduce_logsumexp(others, -1))


def squared_distance(student: Any, teacher: Any) -> tf.Tensor:
    """‖S − T‖² of each example: the sum over all axes but the batch axis.

    Args:
        student: S, [batch, …], or a nest of such tensors.
        teacher: T, with the structure and shapes of S.

    Returns:
        [batch], float32 or wider.

    Source: thesis Prop. 1: logits in its first term, their input-gradients in its second.
    """
    differences = []
    for s, t in zip(tf.nest.flatten(student), tf.nest.flatten(teacher), strict=True):
        s = at_least_float32(s)
        differences.append(s - tf.cast(t, s.dtype))
    return squared_norm(differences)


def inner_product(a: Any, b: Any) -> tf.Tensor:
    """⟨a, b⟩ of each example: the sum of products over all axes but the batch axis.

    Args:
        a: [batch, …], or a nest of such tensors.
        b: The same structure and shapes.

    Returns:
        [batch], float32 or wider.

    Source: thesis Eq. 2.2, whose −∇x T_s^k · ∇x log S_s^k is its negative.
    """
    parts = []
    for u, v in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
        u = at_least_float32(u)
        product = u * tf.cast(v, u.dtype)
        parts.append(tf.reduce_sum(product, axis=tf.range(1, tf.rank(product))))
    return total(parts)


def attention_map(features: tf.Tensor, power: float = 2.0, channel_axis: int = -1) -> tf.Tensor:
    """A = Σ_c abs(Z_c)^p.

    Args:
        features: Z, [batch, height, width, channels], or with other positions.
        power: p; 2 for Eq. 2.7, 1 for the sums of absolute values of §4.4.1.
        channel_axis: The axis of the channels.

    Returns:
        [batch, height, width], float32 or wider.

    Source: thesis Eq. 2.7; Zagoruyko and Komodakis 2017.
    """
    features = at_least_float32(features)
    if power == 2:
        return tf.reduce_sum(tf.square(features), channel_axis)
    size = tf.abs(features)
    if power != 1:
        # At the zeros of a ReLU the first derivative (p < 1) or the second (p < 2) is infinite; the
        # selection makes both 0.
        alive = size > 0
        powers = tf.pow(tf.where(alive, size, tf.ones_like(size)), power)
        size = tf.where(alive, powers, tf.zeros_like(size))
    return tf.reduce_sum(size, channel_axis)


def normalized(values: Any) -> Any:
    """v / ‖v‖₂ of each example, with one norm over all tensors of a nest.

    The root holds no ε. Each example is first divided by the absolute value of its largest entry,
    a constant that the result does not depend on, so that the squares neither underflow nor
    overflow. An example without an entry above `ZERO` counts as v = 0: value and gradient are 0.

    Args:
        values: v, [batch, …], or a nest of such tensors.

    Returns:
        The same structure and shapes, all in the widest of the dtypes, float32 or wider.
    """
    flat = in_widest_dtype(*(at_least_float32(v) for v in tf.nest.flatten(values)))
    largest = tf.stack([tf.reduce_max(tf.abs(v), tf.range(1, tf.rank(v))) for v in flat])
    largest = tf.stop_gradient(tf.reduce_max(largest, axis=0))
    alive = largest > ZERO

    def per_example(vector: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        return tf.reshape(
            vector, tf.concat([tf.shape(vector), tf.ones_like(tf.shape(like)[1:])], 0)
        )

    divisor = tf.where(alive, largest, tf.ones_like(largest))
    flat = [v / per_example(divisor, v) for v in flat]
    squares = tf.where(alive, squared_norm(flat), tf.ones_like(largest))
    scale = tf.where(alive, tf.math.rsqrt(squares), tf.zeros_like(squares))
    return tf.nest.pack_sequence_as(values, [v * per_example(scale, v) for v in flat])


def distance_of_directions(student: Any, teacher: Any) -> tf.Tensor:
    """‖T/‖T‖ − S/‖S‖‖² of each example.

    Args:
        student: S, [batch, …], or a nest of such tensors.
        teacher: T, with the structure and shapes of S.

    Returns:
        [batch], float32 or wider, between 0 and 4: 2 − 2 cos of the angle between S and T; 1 if
        one of the two is zero.

    Source: thesis Eq. 2.9, Eq. 4.3.
    """
    return squared_distance(normalized(student), normalized(teacher))


def saliency_map(gradient: tf.Tensor, channel_axis: int = -1) -> tf.Tensor:
    """s = Σ_c abs(g) / Σ_{h,w,c} abs(g): the share of each pixel; the shares of an image add to 1.

    The second sum runs over all positions and channels, those of a series or a volume, too.

    An example in which no pixel's Σ_c abs(g) is above `ZERO` has s = 0 and no gradient.

    Args:
        gradient: g, [batch, height, width, channels].
        channel_axis: The axis of the channels.

    Returns:
        [batch, height, width], float32 or wider.

    Source: thesis Eq. 5.7; Heo, Joo and Moon 2019.
    """
    pixels = tf.reduce_sum(tf.abs(at_least_float32(gradient)), channel_axis)
    positions = range(1, pixels.shape.rank)
    total = tf.reduce_sum(pixels, positions, keepdims=True)
    alive = tf.reduce_max(pixels, positions, keepdims=True) > ZERO
    shares = pixels / tf.where(alive, total, tf.ones_like(total))
    return tf.where(alive, shares, tf.zeros_like(shares))


def root(squares: tf.Tensor) -> tf.Tensor:
    """√s, with gradient 0 where s = 0.

    Args:
        squares: s ≥ 0, of any shape.

    Returns:
        √s, in the shape of s.

    Source: the norm of thesis Eq. 2.8, from its square.
    """
    alive = squares > 0
    return tf.where(
        alive, tf.sqrt(tf.where(alive, squares, tf.ones_like(squares))), tf.zeros_like(squares)
    )

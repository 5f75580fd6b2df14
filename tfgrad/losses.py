"""The papers' equations as pure functions: tensors in, one number per example [batch] out.

A gradient is a tensor [batch, …], or a nest of them for a network with several inputs, whose
squared norms then add up. "Thesis" is S. Srinivas, *Gradient-based Methods for Deep Model
Interpretability* (EPFL); "ICLR" is Srinivas and Fleuret, *Rethinking the Role of Gradient-based
Attribution Methods for Model Interpretability* (2021).
"""

import tensorflow as tf

from tfgrad.internal.precision import at_least_float32

# What `normalized` takes for zero.
ZERO = 1e-20


def squared_norm(gradient):
    """‖g‖² of each example: Σ over everything but the batch axis.

    Args:
        gradient: [batch, …] or a nest of such tensors.

    Returns:
        [batch], at least float32.

    Source: thesis Prop. 2 (with the label's logit, or summed over logits for the full Jacobian);
    Eq. 2.3 when the gradient is that of the label's log-probability.
    """
    parts = []
    for g in tf.nest.flatten(gradient):
        g = at_least_float32(g)
        parts.append(tf.reduce_sum(tf.square(g), axis=tf.range(1, tf.rank(g))))
    return tf.add_n(parts)


def score_matching(gradient, trace, stability=1e-4):
    """h + ½‖∇x f_y‖² + μ h², the stabilised score-matching objective.

    Args:
        gradient: ∇x f_y, [batch, …] or a nest.
        trace: h, an estimate of tr ∇²x f_y, [batch].
        stability: μ ≥ 0.

    Returns:
        [batch]; unbounded below in h alone, bounded once μ > 0.

    Source: thesis Eq. 5.4, ICLR Eq. 8.
    """
    norm, trace = squared_norm(gradient), at_least_float32(trace)
    wider = max(norm.dtype, trace.dtype, key=lambda dtype: dtype.size)
    norm, trace = tf.cast(norm, wider), tf.cast(trace, wider)
    return trace + 0.5 * norm + stability * tf.square(trace)


def anti_score_matching(trace, threshold=1000.0):
    """−min(h, τ): raises the Hessian trace up to τ, past which the gradient is zero by design.

    Source: thesis §5.5.
    """
    trace = at_least_float32(trace)
    return -tf.minimum(trace, tf.convert_to_tensor(threshold, trace.dtype))


def taylor_trace(clean, noisy, sigma):
    """2/(Nσ²) Σ_n (f(x + v_n) − f(x)), v ~ N(0, σ²I): the papers' estimator of tr ∇²x f.

    Args:
        clean: f(x), [batch].
        noisy: f(x + v_n), [samples, batch].
        sigma: σ > 0.

    Returns:
        [batch]. Unbiased on quadratics; variance ≈ 4‖∇f‖²/(Nσ²) + 2‖H‖²_F/N.

    Source: thesis Eq. 5.3, ICLR Eq. 6.
    """
    return 2.0 / sigma**2 * tf.reduce_mean(noisy - clean[tf.newaxis], axis=0)


def antithetic_trace(clean, plus, minus, sigma):
    """1/(Nσ²) Σ_n (f(x + v_n) + f(x − v_n) − 2 f(x)): the odd terms cancel, 2v·∇f/σ² first.

    Args:
        clean: f(x), [batch].
        plus: f(x + v_n), [samples, batch].
        minus: f(x − v_n), [samples, batch].
        sigma: σ > 0.

    Returns:
        [batch]. Unbiased on quadratics; variance ≈ 2‖H‖²_F/N, whatever the gradient.
    """
    return tf.reduce_mean(plus + minus - 2.0 * clean[tf.newaxis], axis=0) / sigma**2


def log_probability(logits, indices):
    """log softmax(f)_y = −softplus(log Σ_{j≠y} exp(f_j − f_y)), of the differences of logits alone.

    The difference form keeps the small numbers of a sure prediction: its gradient carries
    1 − p_y as a sum of small terms, where 1 − p_y itself would be rounding.

    Args:
        logits: f, [batch, classes].
        indices: y, int32 [batch].

    Returns:
        [batch].
    """
    chosen = tf.one_hot(
        indices, tf.shape(logits)[-1], on_value=True, off_value=False, dtype=tf.bool
    )
    of_chosen = tf.reduce_sum(tf.where(chosen, logits, tf.zeros_like(logits)), -1, keepdims=True)
    # Never −∞, which has no derivative.
    nothing = tf.cast(logits.dtype.min / 4, logits.dtype)
    others = tf.where(chosen, nothing, logits - of_chosen)
    return -tf.math.softplus(tf.reduce_logsumexp(others, -1))


def squared_distance(student, teacher):
    """Σ (T − S)² of each example, over everything but the batch axis.

    Args:
        student: [batch, …] or a nest of such tensors.
        teacher: the same; a constant.

    Returns:
        [batch].

    Source: thesis Prop. 1, of logits (its first term) or of their input-gradients (its second).
    """
    differences = []
    for s, t in zip(tf.nest.flatten(student), tf.nest.flatten(teacher), strict=True):
        s = at_least_float32(s)
        differences.append(s - tf.cast(t, s.dtype))
    return squared_norm(differences)


def inner_product(a, b):
    """⟨a, b⟩ of each example: −∇x T_s^k · ∇x log S_s^k of thesis Eq. 2.2 is its negative.

    Args:
        a: [batch, …] or a nest of such tensors.
        b: the same.

    Returns:
        [batch], at least float32.
    """
    parts = []
    for u, v in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
        u = at_least_float32(u)
        product = u * tf.cast(v, u.dtype)
        parts.append(tf.reduce_sum(product, axis=tf.range(1, tf.rank(product))))
    return tf.add_n(parts)


def attention_map(features, power=2.0, channel_axis=-1):
    """A = Σ_c abs(Z_c)^power.

    Args:
        features: Z, [batch, height, width, channels].
        power: 2 for Eq. 2.7, 1 for the sums of absolute values of §4.4.1.
        channel_axis: where the channels are.

    Returns:
        [batch, height, width].

    Source: thesis Eq. 2.7; Zagoruyko and Komodakis 2017.
    """
    features = at_least_float32(features)
    if power == 2:
        return tf.reduce_sum(tf.square(features), channel_axis)
    size = tf.abs(features)
    if power != 1:
        # A ReLU's zeros, where derivatives of other powers are infinite and none of ours.
        alive = size > 0
        powers = tf.pow(tf.where(alive, size, tf.ones_like(size)), power)
        size = tf.where(alive, powers, tf.zeros_like(size))
    return tf.reduce_sum(size, channel_axis)


def normalized(values):
    """v / ‖v‖₂ of each example, over all tensors of a nest together; zero where v is.

    Exact and differentiable: no ε in the root. The example is divided by its largest entry first,
    a constant that the result does not depend on, so that squares neither vanish nor overflow.
    Below `ZERO` in every entry v counts as zero, in value and in gradient.

    Args:
        values: [batch, …] or a nest of such tensors.

    Returns:
        The same structure, at least float32.
    """
    flat = [at_least_float32(v) for v in tf.nest.flatten(values)]
    largest = tf.stack([tf.reduce_max(tf.abs(v), tf.range(1, tf.rank(v))) for v in flat])
    largest = tf.stop_gradient(tf.reduce_max(largest, axis=0))
    alive = largest > ZERO

    def per_example(vector, like):
        return tf.reshape(
            vector, tf.concat([tf.shape(vector), tf.ones_like(tf.shape(like)[1:])], 0)
        )

    divisor = tf.where(alive, largest, tf.ones_like(largest))
    flat = [v / per_example(divisor, v) for v in flat]
    squares = tf.where(alive, squared_norm(flat), tf.ones_like(largest))
    scale = tf.where(alive, tf.math.rsqrt(squares), tf.zeros_like(squares))
    return tf.nest.pack_sequence_as(values, [v * per_example(scale, v) for v in flat])


def distance_of_directions(student, teacher):
    """‖T/‖T‖ − S/‖S‖‖² of each example.

    Args:
        student: [batch, …] or a nest of such tensors.
        teacher: the same; a constant.

    Returns:
        [batch], between 0 and 4: 2 − 2 cos of the angle between them; 1 where one of them is zero.

    Source: thesis Eq. 2.9, Eq. 4.3.
    """
    return squared_distance(normalized(student), normalized(teacher))


def saliency_map(gradient, channel_axis=-1):
    """s = Σ_c abs(g) / Σ_{h,w,c} abs(g): the share of every pixel, which add up to 1.

    Below `ZERO` in every entry g counts as zero, in value and in gradient: s = 0 there.

    Args:
        gradient: [batch, height, width, channels].
        channel_axis: where the channels are.

    Returns:
        [batch, height, width], at least float32.

    Source: thesis Eq. 5.7; Heo, Joo and Moon 2019.
    """
    pixels = tf.reduce_sum(tf.abs(at_least_float32(gradient)), channel_axis)
    total = tf.reduce_sum(pixels, [1, 2], keepdims=True)
    alive = tf.reduce_max(pixels, [1, 2], keepdims=True) > ZERO
    shares = pixels / tf.where(alive, total, tf.ones_like(total))
    return tf.where(alive, shares, tf.zeros_like(shares))


def root(squares):
    """√s of each example, with gradient zero where s = 0: the norm of Eq. 2.8 from its square."""
    alive = squares > 0
    return tf.where(
        alive, tf.sqrt(tf.where(alive, squares, tf.ones_like(squares))), tf.zeros_like(squares)
    )

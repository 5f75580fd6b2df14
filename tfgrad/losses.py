"""The papers' equations as pure functions: tensors in, one number per example [batch] out.

A gradient is a tensor [batch, …], or a nest of them for a network with several inputs, whose
squared norms then add up. "Thesis" is S. Srinivas, *Gradient-based Methods for Deep Model
Interpretability* (EPFL); "ICLR" is Srinivas and Fleuret, *Rethinking the Role of Gradient-based
Attribution Methods for Model Interpretability* (2021).
"""

import tensorflow as tf


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
        g = _at_least_float32(g)
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
    norm, trace = squared_norm(gradient), _at_least_float32(trace)
    wider = max(norm.dtype, trace.dtype, key=lambda dtype: dtype.size)
    norm, trace = tf.cast(norm, wider), tf.cast(trace, wider)
    return trace + 0.5 * norm + stability * tf.square(trace)


def anti_score_matching(trace, threshold=1000.0):
    """−min(h, τ): raises the Hessian trace up to τ, past which the gradient is zero by design.

    Source: thesis §5.5.
    """
    trace = _at_least_float32(trace)
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


def _at_least_float32(values):
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values

"""The optimiser's steps against the formulas of [AdamW], in NumPy float64 (TRN-6)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_tf.framework import keras, tf
from ptycho_tf.optimiser import AdamW

DECAY, EPSILON = 1e-3, 1e-8


def expected(start: np.ndarray, gradients: list[np.ndarray], rate: float) -> np.ndarray:
    """Loshchilov and Hutter, algorithm 2, in float64."""
    values, first, second = start.astype(np.float64), np.zeros(start.shape), np.zeros(start.shape)
    for count, gradient in enumerate(gradients, start=1):
        values = values - rate * DECAY * values
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        values = values - rate * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.999**count)) + EPSILON)
    return values


@given(seed=st.integers(0, 99), decades=st.integers(-9, 1), steps=st.integers(1, 5))
def test_steps_for_gradients_of_any_size(seed, decades, steps):
    """Also where gradients are as small as epsilon."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=6)
    gradients = [rng.normal(size=6) * 10.0**decades for _ in range(steps)]
    variable = tf.Variable(start, dtype=tf.float64)
    optimiser = AdamW(0.1, weight_decay=DECAY, epsilon=EPSILON)
    for gradient in gradients:
        optimiser.apply([tf.constant(gradient)], [variable])
    # Keras holds rate and betas in float32.
    np.testing.assert_allclose(variable.numpy(), expected(start, gradients, 0.1), rtol=0, atol=1e-5)
    assert optimiser.epsilon == EPSILON


@pytest.mark.parametrize("scaled", [False, True])
def test_in_a_graph_and_under_a_scaled_loss(scaled):
    """As training uses it: traced once, the count of steps read again each time."""
    variable = tf.Variable([1.0, -2.0])
    gradients = [np.array([1e-7, 3e-6]), np.array([-2e-7, 1e-6]), np.array([3e-7, 2e-6])]
    optimiser = AdamW(0.01, weight_decay=DECAY, epsilon=EPSILON)
    if scaled:
        optimiser = keras.mixed_precision.LossScaleOptimizer(optimiser, initial_scale=1024.0)
    optimiser.build([variable])
    factor = 1024.0 if scaled else 1.0

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((2,), tf.float32)])
    def step(gradient):
        optimiser.apply([gradient * factor], [variable])

    for gradient in gradients:
        step(tf.constant(gradient, tf.float32))
    np.testing.assert_allclose(variable.numpy(), expected(np.array([1.0, -2.0]), gradients, 0.01), rtol=1e-5)

"""Adam compared with torch's Adam."""

import numpy as np
import pytest
import torch

from qdrl.compute.optimizers import Adam
from tests.critics.builders import normal


def test_steps_equal_those_of_torchs_adam() -> None:
    parameters, gradient = normal(2, 300), torch.zeros(2, 300)
    theirs = torch.nn.Parameter(parameters.double().clone())
    ours, torchs = Adam(parameters, gradient, 0.01), torch.optim.Adam([theirs], lr=0.01)
    for step in range(50):
        gradient.copy_(normal(2, 300, seed=step) * 10.0 ** (step % 5 - 3))
        theirs.grad = gradient.double()
        ours.step()
        torchs.step()
    torch.testing.assert_close(parameters.double(), theirs.data, rtol=1e-5, atol=1e-6)
    assert (parameters - normal(2, 300)).abs().min() > 1e-4


def test_the_first_step_is_the_learning_rate_against_the_gradients_sign() -> None:
    parameters, gradient = torch.zeros(3), torch.tensor([5.0, -1e-3, 0.0])
    Adam(parameters, gradient, 0.25).step()
    assert parameters.tolist() == pytest.approx([-0.25, 0.25, 0.0], rel=1e-4)


def test_after_a_reset_it_steps_like_a_new_one() -> None:
    used, new = torch.zeros(4), torch.zeros(4)
    gradient = normal(4)
    adam = Adam(used, gradient, 0.1)
    for _ in range(3):
        adam.step()
    adam.reset()
    used.zero_()
    adam.step()
    Adam(new, gradient, 0.1).step()
    assert torch.equal(used, new)


def test_a_restored_optimiser_continues_with_the_same_bits() -> None:
    one, gradient = normal(5), normal(5, seed=1)
    adam = Adam(one, gradient, 0.1)
    adam.step()
    state, other = adam.state_dict(), one.clone()
    again = Adam(other, gradient, 0.1)
    again.load_state_dict(state)
    for _ in range(2):
        adam.step()
        again.step()
    assert torch.equal(one, other)
    assert state["steps"] == 1
    np.testing.assert_allclose(state["mean"], 0.1 * gradient.numpy(), rtol=1e-6)


def test_moments_of_other_parameters_are_refused() -> None:
    state = Adam(torch.zeros(3), torch.zeros(3), 0.1).state_dict()
    with pytest.raises(ValueError, match=r"stored as \(3,\), expected \(4,\)"):
        Adam(torch.zeros(4), torch.zeros(4), 0.1).load_state_dict(state)

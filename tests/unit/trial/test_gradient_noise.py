from __future__ import annotations

import math

import pytest
import torch

from hpo.spec.training.regularisation import GradientNoise
from workers.trial.loop.noise import add_gradient_noise

DRAWS = 200_000


@pytest.mark.parametrize(
    ("scale", "decay", "step"),
    [(0.01, 0.55, 0), (0.01, 0.55, 99), (1.0, 0.55, 9), (0.3, 0.0, 1000)],
)
def test_noise_is_normal_and_its_variance_falls(scale: float, decay: float, step: int) -> None:
    torch.manual_seed(0)
    gradients = [torch.full((DRAWS // 2,), 3.0), torch.full((DRAWS // 4, 2), 3.0)]
    add_gradient_noise(gradients, GradientNoise(scale=scale, decay=decay), step)
    noise = torch.cat([gradient.flatten() for gradient in gradients]).double() - 3
    variance = scale / (1 + step) ** decay
    # Four standard errors of mean, variance and fourth moment of a normal distribution.
    assert abs(noise.mean().item()) < 4 * math.sqrt(variance / DRAWS)
    assert noise.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / DRAWS))
    assert (noise**4).mean().item() == pytest.approx(
        3 * variance**2, rel=4 * math.sqrt(96 / 9 / DRAWS)
    )


def test_noise_comes_from_the_global_generator() -> None:
    spec = GradientNoise(scale=0.1)

    def drawn() -> list[torch.Tensor]:
        gradients = [torch.zeros(5), torch.zeros(2, 3)]
        add_gradient_noise(gradients, spec, 3)
        return gradients

    torch.manual_seed(1)
    state = torch.get_rng_state()
    once, later = drawn(), drawn()
    torch.set_rng_state(state)
    again = drawn()
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], later[0])

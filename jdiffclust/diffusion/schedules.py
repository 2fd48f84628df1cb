"""Noise schedules beta_t and pulls m_t, in float64 on the host.

Arrays over steps are indexed by t itself: entry 0 is the clean image
(beta_0 = 0, m_0 = 0), entry T the last noise level.
"""

from __future__ import annotations

import numpy as np

from jdiffclust.errors import UserError
from jdiffclust.registry import BETAS, PULLS


def linear_betas(num_steps: int, start: float = 1e-4, end: float = .02) -> np.ndarray:
  """Linear betas of Ho, Jain and Abbeel (2020).

  Args:
    num_steps: T >= 1.
    start: beta_1 in (0, 1).
    end: beta_T in (0, 1).

  Returns:
    beta, float64 [T + 1], beta[0] = 0.
  """
  return np.concatenate([[0.], np.linspace(start, end, num_steps)])


def cosine_betas(num_steps: int, offset: float = .008,
                 largest: float = .999) -> np.ndarray:
  """Betas whose alphas_cumprod follow a squared cosine (Nichol and Dhariwal, 2021).

  Args:
    num_steps: T >= 1.
    offset: shift that keeps beta_1 from vanishing.
    largest: betas are cut here.

  Returns:
    beta, float64 [T + 1], beta[0] = 0.
  """
  u = (np.arange(num_steps + 1) / num_steps + offset) / (1 + offset)
  abar = np.cos(u * np.pi / 2) ** 2
  return np.concatenate([[0.], np.minimum(1 - abar[1:] / abar[:-1], largest)])


def sigmoid_betas(num_steps: int, start: float = 1e-4, end: float = .02) -> np.ndarray:
  """Betas that rise from `start` to `end` along a logistic curve on [-6, 6].

  Args:
    num_steps: T >= 1.
    start: value at the curve's foot, in (0, 1).
    end: value at its top, in (0, 1).

  Returns:
    beta, float64 [T + 1], beta[0] = 0.
  """
  curve = 1 / (1 + np.exp(-np.linspace(-6, 6, num_steps)))
  return np.concatenate([[0.], start + (end - start) * curve])


def make_betas(name: str, num_steps: int, start: float = 1e-4, end: float = .02,
               rescale: bool = True) -> np.ndarray:
  """The betas a config names.

  Args:
    name: one of `registry.BETAS`.
    num_steps: T.
    start: first beta of 'linear' and 'sigmoid'.
    end: last beta of the same.
    rescale: take start and end to be meant for T = 1000, and multiply them by
      1000 / T, which keeps the total noise.

  Returns:
    beta, float64 [T + 1], beta[0] = 0, the others in (0, 1).

  Raises:
    UserError: a beta is not in (0, 1); the first such t is named.
  """
  scale = 1000 / num_steps if rescale else 1.
  ends = () if name == 'cosine' else (start * scale, end * scale)
  betas = BETAS[name](num_steps, *ends)
  bad = np.flatnonzero(~((betas[1:] > 0) & (betas[1:] < 1)))
  if bad.size:
    t = int(bad[0]) + 1
    raise UserError(
        f'The {name} schedule has beta_{t} = {betas[t]:.4g} at T = {num_steps}, outside '
        '(0, 1): raise config.diffusion.num_steps, or lower config.diffusion.beta_end.')
  return betas


def one_minus_root(abar: np.ndarray) -> np.ndarray:
  """1 - sqrt(abar_t): valid on every usual schedule, of falling signal to noise.

  Args:
    abar: alphas_cumprod, [T + 1], 1 at t = 0; so for the other pulls.
  """
  return 1 - np.sqrt(abar)


def cdiffuse(abar: np.ndarray) -> np.ndarray:
  """sqrt((1 - abar_t) / sqrt(abar_t)), the choice of CDiffuSE (Lu et al., 2022).

  There abar_T stays near .4; on longer schedules m_t exceeds 1.
  """
  return np.sqrt((1 - abar) / np.sqrt(abar))


def linear_pull(abar: np.ndarray) -> np.ndarray:
  """Rises along t from 0 to .999 of 1 - sqrt(abar_T)."""
  return np.linspace(0, .999 * (1 - np.sqrt(abar[-1])), len(abar))


def no_pull(abar: np.ndarray) -> np.ndarray:
  """Zero: the plain DDPM."""
  return np.zeros_like(abar)


def make_pull(name: str, alphas_cumprod: np.ndarray) -> np.ndarray:
  """The pull m_t towards the cluster mean.

  Args:
    name: one of `registry.PULLS`.
    alphas_cumprod: abar, [T + 1], abar[0] = 1.

  Returns:
    m, float64 [T + 1], m[0] = 0. Not yet checked: `process.make_process` does.

  Raises:
    UserError: an unknown name.
  """
  return PULLS[name](alphas_cumprod)

"""The prediction 'residual': what the best linear guess of x_0 lacks.

With z = x_t - m_t sqrt(abar_t) mu = a_t x_0 + s_t eps, the centred observation, where
a_t = (1 - m_t) sqrt(abar_t) and s_t^2 = delta_t: if the pixels of a cluster were
independent, of mean mu and standard deviation d, the best guess of x_0 would be

  g_t = mu + k_t (z - a_t mu),     k_t = a_t d^2 / (a_t^2 d^2 + s_t^2),

and miss it by c_t = d s_t / sqrt(a_t^2 d^2 + s_t^2). The network says F, what is lacking
in these units:

  x_0^ = g_t + c_t F,     eta = (x_t - sqrt(abar_t) x_0^) / sqrt(1 - abar_t),

a weighted sum of z, mu and F. This is the preconditioning of Karras, Aittala, Aila and
Laine (2022) with the cluster's mean for that of all data. A network that predicts n_t
itself can say the same; but where noise is high it has to copy its input, less a little,
and its errors are divided by sqrt(abar_t) to make an x_0^. After a short training they
are larger there than those of mu (docs/benchmarks.md, Sample quality).

An error of F counts equally at all noise levels, which are drawn by their sigma_t =
s_t / a_t: log sigma_t is normal, by `MIDDLE` and `WIDTH`. Drawn by t, more than half of
them would show nothing of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jdiffclust.diffusion.process import Process

SPREAD = .5  # d, of pixels in [-1, 1]
MIDDLE, WIDTH = .6, 1.1  # median of sigma, and the standard deviation of its logarithm
FLOOR = 1e-9  # of p(t) to the largest: single precision shall not lose a level


class Residual(NamedTuple):
  """The weights of a sum that is eta; float64 [T + 1], 0 at t = 0.

  Attributes:
    centred: of z.
    mu: of mu.
    output: of F.
  """

  centred: np.ndarray
  mu: np.ndarray
  output: np.ndarray


def residual(process: Process) -> Residual:
  """How eta follows from a network's F.

  Args:
    process: the diffusion, float64 on the host.
  """
  root, noise = np.sqrt(process.alphas_cumprod), np.sqrt(1 - process.alphas_cumprod)
  noise[0] = np.inf  # there is none to predict
  a, s = (1 - process.m) * root, np.sqrt(process.delta)
  total = a**2 * SPREAD**2 + s**2
  k, c = a * SPREAD**2 / total, SPREAD * s / np.sqrt(total)
  return Residual((1 - root * k) / noise,
                  root * (process.m - (1 - k * a)) / noise, -root * c / noise)


def level_density(process: Process) -> np.ndarray:
  """p(t) under which log sigma_t is about normal, float64 [T + 1], 0 at t = 0.

  Args:
    process: the diffusion, float64 on the host.
  """
  steps = slice(1, None)
  log_sigma = (np.log(process.delta[steps]) / 2 - np.log1p(-process.m[steps])
               - np.log(process.alphas_cumprod[steps]) / 2)
  p = np.gradient(log_sigma) * np.exp(
      -.5 * ((log_sigma - np.log(MIDDLE)) / WIDTH)**2)
  p = np.maximum(p, FLOOR * p.max())
  return np.concatenate([[0.], p / p.sum()])

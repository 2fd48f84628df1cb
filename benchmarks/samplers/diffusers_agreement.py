"""Our samplers against the schedulers of `diffusers`: numbers, not speed.

  pip install -e '.[bench]'
  python -m benchmarks.samplers.diffusers_agreement [--steps=20]

Question:  do our samplers give the numbers that the schedulers of diffusers give?
Time:      some 20 seconds.
Kept:      docs/benchmarks.md, Samplers.

The DDPM of T = 1000 linear betas from 1e-4 to .02, the perfect denoiser of the
25-component mixture, one grid (leading, ours from 1 where theirs is from 0) and one
x_T. What matches what:

  ddim                 DDIMScheduler(timestep_spacing='leading', clip_sample=False,
                       set_alpha_to_one=True, prediction_type='sample'), eta = 0 and,
                       with the same noise, .5
  ddpm                 DDPMScheduler(clip_sample=False, prediction_type='sample'):
                       variance 'posterior' is 'fixed_small', 'step' 'fixed_large';
                       mean and standard deviation of every single step
  heun                 HeunDiscreteScheduler, timesteps given; its samples are our y
  dpm_solver_pp_2m     DPMSolverMultistepScheduler(algorithm_type='dpmsolver++',
                       solver_type='midpoint', final_sigmas_type='zero',
                       lower_order_final=False), timesteps given: first order in the
                       first and last step

diffusers keeps its tables in float32, where 1 - abar has lost 4 digits at small t, and
so the DPM solver's state; here both are float64, so that the formulas are compared and
not the roundings.
"""

from __future__ import annotations

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.common import make_parser, markdown
from jdiffclust.config import default_config
from jdiffclust.diffusion import analytic, samplers
from jdiffclust.diffusion.paths import from_process
from jdiffclust.diffusion.process import process_from_config

NUM, DIM, TARGET = 64, 8, 1e-5


def make_process():
  """The process of Ho et al. (2020), without a pull."""
  options = default_config().diffusion
  options.update(num_steps=1000, pull='zero')
  return process_from_config(options)


class Comparison:
  """Both sides' view of one problem.

  Attributes:
    process: the DDPM.
    sigma: sqrt((1 - abar) / abar) at t = 1..T.
    denoise: E[x_0 | x_t] of x [B, D] at one of t = 1..T, float64 NumPy.
  """

  def __init__(self, steps: int):
    self.steps = steps
    self.process, wide = make_process(), analytic.mixture_of_25(DIM, spacing=4.)
    self.path = from_process(self.process)
    self.data = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), wide._replace(
        means=wide.means / 8, variances=wide.variances / 64))
    self.abar = self.process.alphas_cumprod[1:]
    self.sigma = np.sqrt((1 - self.abar) / self.abar)
    self.keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0),
                                                        jnp.arange(NUM))
    self._mean = jax.jit(self.data.posterior_mean)

  def denoise(self, x, t):
    """E[x_0 | x_t = x]."""
    y = np.asarray(x, np.float64) / np.sqrt(self.abar[t - 1])
    return np.asarray(self._mean(jnp.asarray(y), self.sigma[t - 1]))

  def noise(self, number):
    """Our noise of a row, [NUM, DIM]."""
    return np.asarray(jax.vmap(lambda k: jax.random.normal(
        jax.random.fold_in(k, number), (DIM,)))(self.keys))

  def ours(self, name, **options):
    """The rows of a sampler's table, and its images."""
    sampler, table = samplers.make_sampler(name, self.path, self.steps, 'leading',
                                           **options)
    denoiser = analytic.denoiser(self.path, self.data)
    drawn = jax.jit(samplers.run, static_argnums=0)(
        sampler, table, denoiser, self.keys, jnp.zeros((NUM, DIM)))
    return table.rows, np.asarray(drawn.images)

  def scheduler(self, kind, **options):
    """A scheduler on our betas, its tables in float64."""
    found = kind(num_train_timesteps=1000, trained_betas=self.process.beta[1:], **options)
    found.alphas_cumprod = torch.tensor(self.abar)
    return found

  def exact_sigmas(self, scheduler, times):
    """Puts float64 noise levels in the place of float32 ones."""
    levels = torch.tensor(np.append(self.sigma[times - 1], 0.))
    if len(scheduler.sigmas) != len(levels):  # Heun: inner levels come twice
      levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
    scheduler.sigmas = levels


def ddim(c: Comparison, eta: float) -> float:
  """Largest difference of the images of DDIM."""
  _, ours = c.ours('ddim', eta=eta)
  scheduler = c.scheduler(
      diffusers.DDIMScheduler, timestep_spacing='leading', clip_sample=False,
      set_alpha_to_one=True, prediction_type='sample')
  scheduler.set_timesteps(c.steps)
  x = torch.tensor(c.noise(c.steps))
  for left, t in zip(range(c.steps - 1, -1, -1), scheduler.timesteps.tolist()):
    noise = torch.tensor(c.noise(left)) if eta else None
    x0 = torch.tensor(c.denoise(x, t + 1))
    x = scheduler.step(x0, t, x, eta=eta, variance_noise=noise).prev_sample
  return np.abs(x.numpy() - ours).max()


def ddpm(c: Comparison, variance: str) -> tuple[float, float]:
  """Largest differences of the means and deviations of DDPM's single steps."""
  rows, _ = c.ours('ddpm', variance=variance)
  kind = {'posterior': 'fixed_small', 'step': 'fixed_large'}[variance]
  scheduler = c.scheduler(
      diffusers.DDPMScheduler, timestep_spacing='leading', clip_sample=False,
      prediction_type='sample', variance_type=kind)
  scheduler.set_timesteps(c.steps)
  worst = np.zeros(2)
  for i, t in enumerate(scheduler.timesteps.tolist()[:-1]):
    assert rows.t[i] == t + 1
    x = c.noise(i)
    x0 = c.denoise(x, t + 1)
    # A generator of the same seed tells the noise that the step has drawn.
    seeded = lambda: torch.Generator().manual_seed(i)
    stepped = scheduler.step(torch.tensor(x0), t, torch.tensor(x),
                             generator=seeded()).prev_sample.numpy()
    z = torch.randn(x.shape, generator=seeded(), dtype=torch.float64).numpy()
    deviation = float(scheduler._get_variance(t))**.5
    scale = rows.scale[i + 1]
    mean = scale * (rows.c_y[i] * x / rows.scale[i] + rows.c_0[i] * x0)
    worst = np.maximum(worst, [np.abs(stepped - deviation * z - mean).max(),
                               abs(deviation - scale * rows.c_z[i])])
  return tuple(worst)


def heun(c: Comparison) -> float:
  """Largest difference of the images of Heun's method."""
  rows, ours = c.ours('heun')
  times = rows.t[[0, *range(1, len(rows.t), 2)]].astype(int)
  scheduler = c.scheduler(diffusers.HeunDiscreteScheduler)
  scheduler.set_timesteps(timesteps=(times - 1).tolist())
  c.exact_sigmas(scheduler, times)
  y = torch.tensor(c.noise(2 * c.steps - 1) / np.sqrt(c.abar[times[0] - 1]))
  for t in scheduler.timesteps:
    number = int(t) + 1
    x0 = c.denoise(y.numpy() * np.sqrt(c.abar[number - 1]), number)
    eps = (y.numpy() - x0) / c.sigma[number - 1]
    y = scheduler.step(torch.tensor(eps), t, y).prev_sample
  return np.abs(y.numpy() - ours).max()


def dpm_solver(c: Comparison) -> float:
  """Largest difference of the images of DPM-Solver++(2M)."""
  rows, ours = c.ours('dpm_solver_pp_2m')
  times = rows.t.astype(int)
  scheduler = c.scheduler(
      diffusers.DPMSolverMultistepScheduler, algorithm_type='dpmsolver++',
      solver_type='midpoint', final_sigmas_type='zero', prediction_type='sample',
      lower_order_final=False)
  scheduler.set_timesteps(timesteps=(times - 1).tolist())
  c.exact_sigmas(scheduler, times)
  x, outputs = torch.tensor(c.noise(c.steps)), []
  for i, t in enumerate(scheduler.timesteps.tolist()):
    # `step` without its rounding of the state to float32.
    scheduler._step_index = i
    outputs = [*outputs[-1:], torch.tensor(c.denoise(x, t + 1))]
    if i in (0, c.steps - 1):
      x = scheduler.dpm_solver_first_order_update(outputs[-1], sample=x)
    else:
      x = scheduler.multistep_dpm_solver_second_order_update(outputs, sample=x)
  return np.abs(x.numpy() - ours).max()


def main() -> None:
  """Prints the table of largest differences."""
  parser = make_parser(__doc__)
  parser.add_argument('--steps', type=int, default=20, help='a divisor of 1000')
  jax.config.update('jax_enable_x64', True)
  c = Comparison(parser.parse_args().steps)
  found = {'ddim': ddim(c, 0.), 'ddim, eta = .5': ddim(c, .5)}
  for variance in ('posterior', 'step'):
    found |= dict(zip((f'ddpm {variance}, means', f'ddpm {variance}, deviations'),
                      ddpm(c, variance)))
  found |= {'heun': heun(c), 'dpm_solver_pp_2m': dpm_solver(c)}
  print(f'diffusers {diffusers.__version__}, {c.steps} steps, {NUM} images of {DIM} '
        'numbers\n')
  print(markdown(('sampler', 'largest difference', f'below {TARGET:g}'), [
      [name, f'{value:.1e}', 'yes' if value < TARGET else 'NO']
      for name, value in found.items()]))


if __name__ == '__main__':
  main()

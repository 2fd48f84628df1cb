"""Does each method draw from the posterior where it is known exactly?

  python -m benchmarks.inverse [distance|coverage] [--dims=8,80,800] [--seen=1,2,4]
      [--steps=20,100] [--methods=...] [--problems=20] [--out=DIR]

Question:  distance: how far are the draws of each method from the posterior of a mixture
           of 25 Gaussians, by the sliced Wasserstein distance? coverage: do regions that
           shall hold 90% of the posterior hold the truth in 90% of problems?
Time:      distance: an hour; coverage: 5 minutes.
Kept:      docs/benchmarks.md, Restoring; results/inverse.

The experiment of MCGdiff's paper (Cardoso et al., 2024): d coordinates, of which a matrix
with singular values of U(0, 1) shows d_y, noise of U(0, 1) times the largest; 2,000 draws
of each method (with particles: of 1,000 twice) against 2,000 exact ones, over 100 slices;
the mean over problems +- 1.96 standard errors. Runs with numbers that are not finite are
counted, and kept out of the mean. The paper's weights of the mixture are not known; ours
are those of `analytic.mixture_of_25`. All methods take the same noise levels.

Coverage is by the exact posterior's own density: the truth is inside if its density is
above that of the least dense tenth of a method's draws.
"""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import (
    ROOT, integers, make_parser, markdown, names, read_json, write_json)
from jdiffclust.diffusion import analytic, paths
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.inverse import exact, moments, operators, restorer
from jdiffclust.inverse.problem import Problem
from jdiffclust.registry import RESTORERS

RESULTS = ROOT / 'benchmarks' / 'results' / 'inverse'
# Those that restore noisy observations. DPS has the step of the paper's authors.
METHODS = {'mcgdiff': {'particles': 1000}, 'tds': {'particles': 1000}, 'ddrm': {},
           'pigdm': {}, 'dps': {'scale': .1}}
NUM_DRAWS, NUM_SLICES = 2000, 100
PATH = paths.VariancePreserving(.1, 20.)
EXACT = 'exact'


def keys_of(number: int, seed: int, num: int):
  """Typed keys [num]."""
  key = jax.random.fold_in(jax.random.key(seed), number)
  return jax.random.split(key, num)


def quick_denoiser(mixture: analytic.GaussianMixture) -> Denoiser:
  """`analytic.denoiser` of round components of one variance, by products of matrices."""
  return Denoiser(PATH, mixture, _quick_mean)


def _quick_mean(mixture, path, x, t, mu):
  u, sigma = path.centred(x, t, mu), path.sigma(t)
  means = mixture.means.reshape(len(mixture.means), -1)
  before = mixture.variances.reshape(())
  total = (before + sigma**2)[:, None]
  flat = u.reshape(len(u), -1)
  product = jax.lax.dot(flat, means.T, precision='highest')
  logs = (product - jnp.sum(means**2, axis=1)[None] / 2) / total
  shares = jax.nn.softmax(logs + mixture.log_weights[None], axis=1)
  gain = before / total
  return ((1 - gain) * (shares @ means) + gain * flat).reshape(u.shape)


def prior(dim: int) -> analytic.GaussianMixture:
  """The mixture over images of 1 x 1 pixel with d channels."""
  found = analytic.mixture_of_25(dim)
  return found._replace(means=found.means.reshape(25, 1, 1, dim),
                        variances=jnp.ones((1, 1, 1, 1)))


def problem(dim: int, seen: int, seed: int):
  """A matrix [d_y, d], the truth, y and sigma_y."""
  rng = np.random.default_rng([dim, seen, seed])
  left, _ = np.linalg.qr(rng.normal(size=(seen, seen)))
  right, _ = np.linalg.qr(rng.normal(size=(dim, seen)))
  values = np.sort(rng.random(seen))[::-1]
  operator = operators.matrix(left * values @ right.T, (1, 1, dim))
  noise = rng.random() * values.max()
  truth = prior(dim).sample(jax.random.key(int(rng.integers(2**31))), 1)
  y = operator.apply(truth) + np.float32(noise) * rng.normal(
      size=(1, seen)).astype(np.float32)
  return Problem(operator, y, jnp.float32(noise)), truth


@functools.lru_cache
def model(dim: int):
  """Denoiser and moments of the mixture."""
  denoiser = quick_denoiser(prior(dim))
  found = moments.measure(denoiser, PATH, keys_of(0, 1, 256),
                          jnp.zeros((256, 1, 1, dim)))
  return denoiser, found


def draw(name: str, given: Problem, seed: int, num_draws: int, num_steps: int,
         **options) -> restorer.Restored:
  """Draws of one method, rows of draws of the problems of `given`."""
  dim = given.operator.shape[2]
  method = restorer.make_restorer(name, **METHODS[name] | options)
  denoiser, found = model(dim)
  number = len(given.observation)
  condition = jnp.zeros((method.num_rows(num_draws), number, 1, 1, dim))
  return restorer.restore(method, PATH, denoiser, given, keys_of(2, seed, number),
                          condition, found, num_draws, num_steps)


def sliced_distance(x, y, rng) -> float:
  """The mean over slices of the 1-Wasserstein distance of samples [n, d]."""
  directions = rng.normal(size=(x.shape[1], NUM_SLICES))
  directions /= np.linalg.norm(directions, axis=0)
  sort = lambda z: np.sort(np.asarray(z, np.float64) @ directions, axis=0)
  return float(np.mean(np.abs(sort(x) - sort(y))))


def distances(name: str, dim: int, seen: int, num_steps: int, problems: int):
  """The distance of each problem, and seconds a problem; NaN of a failed run."""
  found, seconds = [], []
  for seed in range(problems):
    given, _ = problem(dim, seen, seed)
    posterior = exact.posterior(prior(dim), given)
    wanted = posterior.sample(jax.random.key(seed), NUM_DRAWS).reshape(NUM_DRAWS, dim)
    begin = time.perf_counter()
    if name == EXACT:
      images = posterior.sample(jax.random.key(10**6 + seed), NUM_DRAWS)
    else:
      copies = NUM_DRAWS // 1000 if 'particles' in METHODS[name] else 1
      many = given._replace(observation=jnp.tile(given.observation, (copies, 1)))
      images = draw(name, many, seed, NUM_DRAWS // copies, num_steps).images
    images = np.asarray(images).reshape(NUM_DRAWS, dim)
    seconds.append(time.perf_counter() - begin)
    finite = np.isfinite(images).all()
    found.append(sliced_distance(images, wanted, np.random.default_rng(seed))
                 if finite else float('nan'))
  return found, float(np.median(seconds))


def cell(found) -> str:
  """Mean +- 1.96 standard errors, and how many runs failed."""
  kept = np.array(found)[np.isfinite(found)]
  failed = len(found) - len(kept)
  text = (f'{kept.mean():.2f} +- {1.96 * kept.std(ddof=1) / len(kept)**.5:.2f}'
          if len(kept) > 1 else '-')
  return text + (f' ({failed} failed)' if failed else '')


def compare(args) -> None:
  """The table of distances."""
  path = args.out / 'distances.json'
  known = read_json(path) or {}
  for dim in args.dims:
    for seen in args.seen:
      for num_steps in args.steps:
        for name in (*args.methods, EXACT):
          label = f'{dim} {seen} {num_steps} {name} {args.problems}'
          if label not in known:
            values, seconds = distances(name, dim, seen, num_steps, args.problems)
            known[label] = {'distances': values, 'seconds': seconds}
            write_json(path, known)
            print(f'{label}: {cell(values)}, {seconds:.1f} s a problem', flush=True)
  for num_steps in args.steps:
    rows = [[f'd = {dim}, d_y = {seen}', *(
        cell(known[f'{dim} {seen} {num_steps} {name} {args.problems}']['distances'])
        for name in (*args.methods, EXACT))] for dim in args.dims for seen in args.seen]
    print(f'\n{num_steps} steps\n')
    print(markdown(['', *args.methods, 'two exact draws'], rows))


def coverage(args) -> None:
  """How often regions that shall hold 90% hold the truth, over many problems."""
  dim, seen, number, num_steps = 8, 2, 10 * args.problems, max(args.steps)
  inside = {name: [] for name in (*args.methods, EXACT)}
  for seed in range(10):
    given, _ = problem(dim, seen, 1000 + seed)
    truths = prior(dim).sample(jax.random.key(seed), number // 10)
    z = jax.random.normal(jax.random.key(99 + seed), (number // 10, seen))
    given = given._replace(
        observation=given.operator.apply(truths) + given.noise * z)
    posteriors = [exact.posterior(prior(dim), given._replace(observation=y[None]))
                  for y in given.observation]
    for name in inside:
      if name == EXACT:
        images = np.stack([p.sample(jax.random.key(7000 + i), 500)
                           for i, p in enumerate(posteriors)], axis=1)
      else:
        options = {'particles': 500} if 'particles' in METHODS[name] else {}
        images = draw(name, given, seed, 500, num_steps, **options).images
        images = np.asarray(images).reshape(500, -1, 1, 1, dim)
      for i, (posterior, truth) in enumerate(zip(posteriors, truths)):
        density = lambda x: posterior.mixture.log_density(posterior.operator.into(x))
        own = np.asarray(density(images[:, i]))
        inside[name].append(bool(density(truth[None])[0] >= np.quantile(own, .1)))
  rows = []
  for name, found in inside.items():
    share = np.mean(found)
    rows.append([name, f'{share:.3f} +- {(share * (1 - share) / len(found))**.5:.3f}'])
  write_json(args.out / 'coverage.json', {k: float(np.mean(v))
                                          for k, v in inside.items()})
  print(markdown(['method', f'truth inside, of {number} problems'], rows))


def main() -> None:
  """Runs what is asked for."""
  parser = make_parser(__doc__, out=str(RESULTS))
  parser.add_argument('what', nargs='?', default='distance',
                      choices=('distance', 'coverage'))
  parser.add_argument('--dims', type=integers, default='8,80,800')
  parser.add_argument('--seen', type=integers, default='1,2,4')
  parser.add_argument('--steps', type=integers, default='20,100')
  parser.add_argument('--methods', type=names(RESTORERS), default=','.join(METHODS))
  parser.add_argument('--problems', type=int, default=20)
  args = parser.parse_args()
  {'distance': compare, 'coverage': coverage}[args.what](args)


if __name__ == '__main__':
  main()

"""What an E-step's evaluations buy: estimators of tau, and forms of the network.

  python -m benchmarks.tau_estimators train [--out=DIR]       a denoiser to study
  python -m benchmarks.tau_estimators bank [--out=DIR]        its costs, level by level
  python -m benchmarks.tau_estimators estimators [--out=DIR]  the estimators' table
  python -m benchmarks.tau_estimators quality [--out=DIR]     bounds of both networks
  python -m benchmarks.tau_estimators speed                   times of both networks

The digits; a shared-trunk denoiser trained on the fixed partition of the start
`neighbours`. `bank` evaluates it for some images, all clusters, all levels t and K
draws of eps each, in antithetic pairs. `estimators` takes these K for the distribution
of eps and draws from it with replacement: then any proposal over t, strata, pairs and
races are simulated exactly for that distribution, whose expected costs are known (the
variance within levels is (K - 1) / K of the true one, of pairs (K / 2 - 1) / (K / 2)).
No labels are used.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import pickle
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jdiffclust.batch import Batch
from jdiffclust.clustering import m_step, proposals, racing
from jdiffclust.clustering.e_step import fixed_parts
from jdiffclust.clustering.initialise import fit_start
from jdiffclust.data.dataset import load_source, read_images, scale_to_model
from jdiffclust.sharding import make_mesh
from jdiffclust.streams import stream
from jdiffclust.training.methods import build

COUNTS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
REFERENCE = 1024


def digits_config(conditioning: str, num_clusters: int = 10, seed: int = 0):
  """configs/digits.py with another form of the network and the start by neighbours."""
  spec = importlib.util.spec_from_file_location('digits', 'configs/digits.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.network.conditioning, config.em.init = conditioning, 'neighbours'
  config.num_clusters, config.seed = num_clusters, seed
  return config


def load_images(config) -> np.ndarray:
  """All digits, float32 [N, 8, 8, 1] in [-1, 1]."""
  source = load_source(config.data, for_fit=True)
  return np.asarray(scale_to_model(read_images(source, np.arange(source.num_images)),
                                   source.levels))


def train(config, images, num_steps: int):
  """A denoiser after so many gradient steps on its fixed start.

  Returns:
    The machinery, the averaged parameters, and tau of the start [N, Q].
  """
  machinery = build(config, images.shape[1:], 17, make_mesh(1))
  flat = images.reshape(len(images), -1)
  tau = fit_start(config.em.init, flat, images.shape[1:], config)(
      flat, np.arange(len(images))).astype(np.float32)
  sizes = np.maximum(tau.sum(axis=0), 1e-3)
  means = np.einsum('nq,nhwc->qhwc', tau, images) / sizes[:, None, None, None]
  state = m_step.set_mixture(
      machinery.init_state(),
      jnp.log(jnp.maximum(jnp.asarray(tau.mean(axis=0)), 1e-30)),
      jnp.asarray(means, jnp.float32))
  rng = np.random.default_rng(config.seed)
  on_device = jnp.asarray(tau)
  for _ in range(num_steps):
    rows = rng.integers(0, len(images), config.m_step.batch_size)
    batch = Batch(jnp.asarray(images[rows]), jnp.asarray(rows, jnp.int32))
    state, info = machinery.m_step(state, machinery.m_estimator, batch, on_device,
                                   stream(config.seed, 'm_step'))
    info.loss.block_until_ready()
  return machinery, state.ema, tau


def make_bank(machinery, params, images, num_draws: int) -> dict:
  """Costs of the images under all clusters at all levels.

  Returns:
    costs [T, Q, K, N], draws 2j and 2j + 1 of opposite noise; shifts <mu_q, eps>
    [T, Q, K, N]; fixed parts of the log-joints [Q, N]; weight proposal [T].
  """
  mixture, estimator = machinery.model, machinery.e_estimator
  x0, size = jnp.tile(images, (num_draws, 1, 1, 1)), len(images)

  @jax.jit
  def at_level(estimator, params, x0, t, key):
    half = jax.random.normal(key, (num_draws // 2, 1, size, *images.shape[1:]))
    eps = jnp.concatenate([half, -half], axis=1).reshape(x0.shape)
    steps = jnp.full(len(x0), t)
    features = mixture.features(estimator.process, params.network, x0, steps, eps)

    def of_cluster(mu):
      terms = mixture.draw_terms(estimator.process, params.network, features, x0, steps,
                                 mu[None], eps)
      cost = jnp.where(t == 1, -terms.log_decoder,
                       estimator.elbo_weights[t] * terms.error)
      shift = jnp.sum(eps * mu, axis=(1, 2, 3))
      return cost.reshape(num_draws, size), shift.reshape(num_draws, size)

    return jax.lax.map(of_cluster, params.means)

  key = jax.random.key(5)
  levels = [jax.tree.map(np.asarray, at_level(estimator, params, x0, t,
                                              jax.random.fold_in(key, t)))
            for t in range(1, machinery.process.num_steps + 1)]
  fixed, _ = fixed_parts(estimator, params, jnp.asarray(images))
  return {'costs': np.stack([cost for cost, _ in levels]),
          'shifts': np.stack([shift for _, shift in levels]),
          'fixed': np.asarray(fixed), 'weight': np.asarray(estimator.proposal[1:])}


def draw(rng, bank, proposal, replicates: int, num_draws: int, *, shared=True,
         stratify=True, antithetic=False, slopes=None) -> np.ndarray:
  """Importance-weighted costs as an E-step draws them, [G, n, Q, N].

  With slopes [T], slope_t <mu_q, eps> is subtracted as a control variate.
  """
  levels, clusters, per_level, size = bank['costs'].shape
  owners = 1 if shared else clusters
  # An antithetic pair has one level: draws 2j and 2j + 1 are of strata of their own.
  shape = (replicates, num_draws, owners, size)
  u = rng.random(shape)
  if stratify:
    u = (np.arange(num_draws)[:, None, None] + u) / num_draws
  t = np.minimum(np.searchsorted(np.cumsum(proposal), u * proposal.sum()), levels - 1)
  k = rng.integers(0, per_level, shape)
  if antithetic:
    if stratify:
      u = u.reshape(replicates, -1, 2, owners, size)[:, :, :1]
      u = (np.floor(u * num_draws / 2) + rng.random(u.shape)) / (num_draws / 2)
      t = np.searchsorted(np.cumsum(proposal), u * proposal.sum())
      t = np.minimum(np.repeat(t, 2, axis=2), levels - 1).reshape(shape)
    else:
      t[:, 1::2] = t[:, ::2]
    k[:, 1::2] = k[:, ::2] ^ 1
  q, i = np.arange(clusters)[:, None], np.arange(size)
  values = bank['costs'][t, q, k, i]
  if slopes is not None:
    values = values - slopes[t] * bank['shifts'][t, q, k, i]
  return values / (num_draws * proposal[t] / proposal.sum())


def control_slopes(bank) -> np.ndarray:
  """The regression of costs on <mu_q, eps>, both less their cluster means, [T]."""
  y, x = (bank[name] - bank[name].mean(axis=1, keepdims=True)
          for name in ('costs', 'shifts'))
  y = y - y.mean(axis=2, keepdims=True)
  return (x * y).sum(axis=(1, 2, 3)) / (x * x).sum(axis=(1, 2, 3))


def spread_proposal(bank, antithetic: bool) -> np.ndarray:
  """What the library's pilot would measure, on its number of images, [T]."""
  levels = proposals.pilot_levels(len(bank['weight']))
  costs = bank['costs'][levels - 1][:, :, :2, :proposals.NUM_IMAGES]
  costs = costs.mean(axis=2) if antithetic else costs[:, :, 0]
  spread = np.sqrt(((costs - costs.mean(axis=1, keepdims=True))**2).mean(axis=(1, 2)))
  return np.asarray(proposals.spread_proposal(
      jnp.asarray(spread, jnp.float32), levels,
      jnp.asarray(np.r_[0., bank['weight']], jnp.float32)), np.float64)[1:]


def posterior(joint):
  """tau [Q, N] of log-joints."""
  return scipy.special.softmax(joint, axis=0)


class Scores:
  """Compares estimates of the log-joints with a reference."""

  def __init__(self, bank):
    """The reference: 1,024 shared draws, in strata, by weight."""
    rng = np.random.default_rng(0)
    costs = draw(rng, bank, bank['weight'], 2, REFERENCE // 2)
    joint = bank['fixed'] - costs.sum(axis=1).mean(axis=0)
    self.tau, self.best = posterior(joint), joint.argmax(axis=0)
    self.truth = bank['fixed'] - bank['costs'].mean(axis=2).sum(axis=0)
    excess = costs - np.take_along_axis(costs, self.best[None, None, None], axis=2)
    error = np.sqrt(((excess[0] - excess[1])**2).sum(axis=0)) / 2
    lead = np.take_along_axis(joint, self.best[None], axis=0) - joint
    lead[self.best, np.arange(lead.shape[1])] = np.inf
    second = lead.argmin(axis=0)[None]
    self.clear = (np.take_along_axis(lead, second, axis=0)
                  > 2 * np.take_along_axis(error, second, axis=0))[0]

  def __call__(self, joint) -> dict:
    """Means over the images."""
    same = joint.argmax(axis=0) == self.best
    tau = posterior(joint)
    return {'agree': same.mean(), 'agree_clear': same[self.clear].mean(),
            'agree_truth': (joint.argmax(axis=0) == self.truth.argmax(axis=0)).mean(),
            'variation': np.abs(tau - self.tau).sum(axis=0).mean() / 2,
            'variation_truth':
                np.abs(tau - posterior(self.truth)).sum(axis=0).mean() / 2}


def mean_scores(rows: list[dict]) -> dict:
  """The mean of each entry."""
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def independent_scores(bank, scores, count: int, repeats: int) -> dict:
  """Independent (t, eps) for each cluster, as many as one likes: by their variance."""
  rng = np.random.default_rng(count)
  costs, p = bank['costs'].astype(np.float64), bank['weight'][:, None, None]
  mean = costs.mean(axis=2)
  variance = ((costs**2).mean(axis=2) / p).sum(axis=0) - mean.sum(axis=0)**2
  return mean_scores([
      scores(bank['fixed'] - mean.sum(axis=0)
             + rng.normal(size=variance.shape) * np.sqrt(variance / count))
      for _ in range(repeats)])


def race_scores(bank, scores, proposal, num_draws: int, max_draws: int, error: float,
                repeats: int, antithetic: bool) -> dict:
  """A race by the library's own looks, on draws from the bank."""
  half, clusters = num_draws // 2, len(bank['fixed'])
  replicates = max_draws // half
  level = error / ((clusters - 1) * (replicates - 2))
  rng, rows = np.random.default_rng(1), []
  fixed = jnp.asarray(bank['fixed'], jnp.float32)
  look = jax.jit(racing.look, static_argnames='level')
  for _ in range(repeats):
    costs = draw(rng, bank, proposal, replicates, half, antithetic=antithetic)
    units = costs.reshape(replicates, -1, 1 + antithetic, *costs.shape[2:]).sum(axis=2)
    race = racing.Race(None, jnp.full(fixed.shape, 2), jnp.full(fixed.shape, True),
                       jnp.full(fixed.shape[1], True), 2)
    for taken in range(2, replicates):
      race = look(race, fixed, jnp.asarray(units, jnp.float32),
                  float(np.log(clusters / racing.NEGLIGIBLE)), level=level)
      wanted = race.left & race.running[None]
      race = race._replace(counts=race.counts + wanted.astype(jnp.int32),
                           taken=taken + 1)
    counts = np.asarray(race.counts)
    used = np.arange(replicates)[:, None, None] < counts
    mean = np.where(used, costs.sum(axis=1), 0).sum(axis=0) / counts
    finalists = counts == counts.max(axis=0)
    lost = ~finalists[scores.truth.argmax(axis=0), np.arange(fixed.shape[1])]
    rows.append(scores(np.where(finalists, bank['fixed'] - mean, -np.inf)) | {
        'heads': counts.sum(axis=0).mean() * half,
        'trunks': counts.max(axis=0).mean() * half,
        'per_survivor': (counts.max(axis=0) * half).mean(),
        'survivors': finalists.sum(axis=0).mean(), 'best_lost': lost.mean()})
  return mean_scores(rows)


def evaluations_needed(curve: dict, target: float = .99) -> float:
  """Draws at which the agreement reaches the target, by interpolation over log S."""
  counts = sorted(curve)
  values = np.maximum.accumulate([curve[n]['agree'] for n in counts])
  if values[-1] < target:
    return float('inf')
  above = int(np.argmax(values >= target))
  if above == 0:
    return counts[0]
  share = (target - values[above - 1]) / (values[above] - values[above - 1])
  return float(np.exp((1 - share) * np.log(counts[above - 1])
                      + share * np.log(counts[above])))


def level_shares(bank) -> dict:
  """Variance of best minus second best cluster, one draw of t by weight, by source."""
  truth = bank['fixed'] - bank['costs'].mean(axis=2).sum(axis=0)
  second, best = np.argsort(truth, axis=0)[-2:]
  pick = lambda name, q: np.take_along_axis(bank[name], q[None, None, None], axis=1)[:, 0]
  excess, shift = (pick(name, second) - pick(name, best) for name in ('costs', 'shifts'))
  weight, num_draws = bank['weight'][:, None], excess.shape[1]
  within = lambda values, paired: (1 + paired) * (
      values.reshape(len(values), -1, 1 + paired, values.shape[2]).mean(axis=2)
      .var(axis=1, ddof=1) / weight).sum(axis=0).mean()
  slopes = control_slopes(bank)[:, None, None]
  mean = excess.mean(axis=1)
  return {'between_levels': float(((mean**2 / weight).sum(axis=0)
                                   - mean.sum(axis=0)**2).mean()),
          'within_levels': float(within(excess, 0)),
          'within_levels_control_variate': float(within(excess - slopes * shift, 0)),
          'within_levels_antithetic_per_draw': float(within(excess, 1)),
          'draws_per_level': num_draws}


def study_estimators(bank) -> dict:
  """All estimators' curves."""
  scores, weight = Scores(bank), bank['weight'].astype(np.float64)
  uniform = np.full(len(weight), 1 / len(weight))
  slopes = control_slopes(bank)
  single, paired = (spread_proposal(bank, antithetic) for antithetic in (False, True))
  variants = {
      'shared noise': (weight, {'stratify': False}),
      'shared, strata, t uniform': (uniform, {}),
      'shared, strata, t by weight': (weight, {}),
      'shared, strata, t by spread': (single, {}),
      'by weight, control variate': (weight, {'slopes': slopes}),
      'by spread, control variate': (single, {'slopes': slopes}),
      'by weight, antithetic': (weight, {'antithetic': True}),
      'by spread, antithetic': (paired, {'antithetic': True}),
      'by spread, antithetic, control variate':
          (paired, {'antithetic': True, 'slopes': slopes}),
  }
  result = {'clear_images': float(scores.clear.mean()), 'curves': {}, 'races': {},
            'reference': mean_scores([scores(scores.truth)]),
            'levels': level_shares(bank)}
  result['curves']['independent noise'] = {
      n: independent_scores(bank, scores, n, 20)
      for n in (*COUNTS, *(REFERENCE * 4**k for k in range(1, 8)))}
  for name, (proposal, options) in variants.items():
    rng = np.random.default_rng(1)
    result['curves'][name] = {
        n: mean_scores([scores(bank['fixed'] - draw(rng, bank, proposal, 2, n // 2,
                                                    **options).sum(axis=1).mean(axis=0))
                        for _ in range(int(np.clip(640 / n, 4, 40)))])
        for n in COUNTS}
  for num_draws, max_draws, error in (
      (8, 32, .01), (8, 64, .01), (16, 64, .01), (16, 64, .1), (16, 128, .01)):
    result['races'][f'{num_draws}..{max_draws}, {error:g}'] = race_scores(
        bank, scores, paired, num_draws, max_draws, error, 4, True)
  return result


def print_estimators(result: dict, clusters: int) -> None:
  """The tables, in Markdown."""
  shown = (8, 16, 32, 64, 1024)
  print('| estimator | ' + ' | '.join(f'agree at {n}' for n in shown)
        + ' | clear at 32 | variation at 32 | 99% at draws | x Q heads |')
  print('|---|' + '---|' * (len(shown) + 4))
  for name, curve in result['curves'].items():
    curve = {int(n): row for n, row in curve.items()}
    needed = evaluations_needed(curve)
    print(f'| {name} | ' + ' | '.join(f"{curve[n]['agree']:.3f}" for n in shown)
          + f" | {curve[32]['agree_clear']:.3f} | {curve[32]['variation']:.3f} | "
          f"{needed:.0f} | {needed * clusters:.0f} |")
  print('\n| race: draws, error rate | agree | agree, clear | variation | heads | trunks '
        '| survivors | best lost |')
  print('|---|' + '---|' * 7)
  for name, row in result['races'].items():
    print(f"| {name} | {row['agree']:.3f} | {row['agree_clear']:.3f} | "
          f"{row['variation']:.3f} | {row['heads']:.0f} | {row['trunks']:.1f} | "
          f"{row['survivors']:.2f} | {row['best_lost']:.4f} |")
  print('\nreference against the expected costs:', result['reference'])
  print('variance of one draw:', result['levels'])
  print(f"\nclear images (reference margin > 2 se): {result['clear_images']:.3f}")


def measure_quality(images, seeds, num_steps: int, cluster_counts,
                    posterior: str) -> list[dict]:
  """Bounds per image of both forms after the same steps from the same start."""
  rows = []
  for num_clusters in cluster_counts:
    for seed in seeds:
      for form in ('concatenated', 'shared_trunk'):
        config = digits_config(form, num_clusters, seed)
        config.em.posterior = posterior
        began = time.perf_counter()
        machinery, params, _ = train(config, images, num_steps)
        seconds = time.perf_counter() - began
        chosen = np.arange(0, len(images), 4)[:448]
        batch = Batch(jnp.asarray(images[chosen]), jnp.asarray(chosen, jnp.int32))
        _, info = machinery.e_step(machinery.e_estimator, params, batch,
                                   stream(seed, 'e_step'))
        bound = np.asarray(info.bound)
        rows.append({'form': form, 'clusters': num_clusters, 'seed': seed,
                     'bound': float(bound.mean()),
                     'error': float(bound.std() / len(bound)**.5),
                     'train_seconds': seconds})
        print(json.dumps(rows[-1]), flush=True)
  return rows


def measure_speed(images, rounds: int, cluster_counts) -> None:
  """E-steps of random networks, forms alternating; medians and their ratio."""
  print('| Q | concatenated, s | shared_trunk, s | ratio |')
  print('|---|---|---|---|')
  for num_clusters in cluster_counts:
    calls, times = {}, {}
    for form in ('concatenated', 'shared_trunk'):
      config = digits_config(form, num_clusters)
      machinery = build(config, images.shape[1:], 17, make_mesh(1))
      params = machinery.init_state().ema
      batch = Batch(jnp.asarray(images[:16]), jnp.arange(16, dtype=jnp.int32))
      calls[form] = lambda m=machinery, p=params, b=batch: jax.block_until_ready(
          m.e_step(m.e_estimator, p, b, jax.random.key(0)))
      calls[form]()
      times[form] = []
    for _ in range(rounds):
      for form, call in calls.items():
        began = time.perf_counter()
        call()
        times[form].append(time.perf_counter() - began)
    middle = {form: statistics.median(values) for form, values in times.items()}
    print(f"| {num_clusters} | {middle['concatenated']:.3f} | "
          f"{middle['shared_trunk']:.3f} | "
          f"{middle['concatenated'] / middle['shared_trunk']:.1f} |", flush=True)


def main() -> None:
  """Runs one part."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('part', choices=('train', 'bank', 'estimators', 'quality', 'speed'))
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/estimators'))
  parser.add_argument('--steps', type=int, default=900)
  parser.add_argument('--images', type=int, default=256)
  parser.add_argument('--draws', type=int, default=16)
  parser.add_argument('--seeds', type=int, default=2)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--posterior', choices=('amortised', 'monte_carlo'),
                      default='amortised', help='quality: a step of amortised scores all '
                      'clusters')
  parser.add_argument('--clusters', type=int, nargs='+', default=[10, 50, 200])
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  config = digits_config('shared_trunk')
  if args.part == 'train':
    _, params, _ = train(config, load_images(config), args.steps)
    (args.out / 'params.pkl').write_bytes(pickle.dumps(jax.device_get(params)))
  elif args.part == 'bank':
    images = load_images(config)
    chosen = np.random.default_rng(0).choice(len(images), args.images, replace=False)
    params = pickle.loads((args.out / 'params.pkl').read_bytes())
    machinery = build(config, images.shape[1:], 17, make_mesh(1))
    np.savez(args.out / 'bank.npz', **make_bank(machinery, params,
                                                images[np.sort(chosen)], args.draws))
  elif args.part == 'estimators':
    bank = dict(np.load(args.out / 'bank.npz'))
    result = study_estimators(bank)
    (args.out / 'estimators.json').write_text(json.dumps(result, indent=1))
    print_estimators(result, len(bank['fixed']))
  elif args.part == 'quality':
    rows = measure_quality(load_images(config), range(args.seeds), args.steps,
                           args.clusters, args.posterior)
    (args.out / 'quality.json').write_text(json.dumps(rows, indent=1))
  else:
    measure_speed(load_images(config), args.rounds, args.clusters)


if __name__ == '__main__':
  main()

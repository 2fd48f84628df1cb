"""What an E-step's evaluations buy: the estimators of tau, on one trained denoiser.

  python -m benchmarks.tau.estimators [--steps=900] [--images=256] [--draws=16]
      [--out=DIR]

Question:  how many evaluations of the network does an estimator need until it agrees with
           a reference?
Time:      some 10 minutes on two cores, a third of it the training.
Kept:      docs/benchmarks.md, Estimators of tau.

The digits; a shared-trunk denoiser trained on the fixed partition of the start
`neighbours` (DIR/params.pkl). A bank (DIR/bank.npz) has its costs for some images, all
clusters, all levels t and K draws of eps each, in antithetic pairs. The estimators take
these K for the distribution of eps and draw from it with replacement: then any proposal
over t, strata, pairs and races are simulated exactly for that distribution, whose
expected costs are known (the variance within levels is (K - 1) / K of the true one, of
pairs (K / 2 - 1) / (K / 2)). What is in DIR already is not repeated. No labels are used.
"""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from benchmarks.common import make_parser, markdown, prepared, trained, write_json
from benchmarks.tau.forms import digits_config
from jdiffclust.clustering.bound.tau import fixed_parts
from jdiffclust.clustering.cddpm import proposals, racing
from jdiffclust.clustering.starts.sample import start_of_all
from jdiffclust.data.dataset import images_at, load_source
from jdiffclust.sharding import to_host

COUNTS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
REFERENCE = 1024


def make_bank(method, params, images, num_draws: int) -> dict:
  """Costs of the images under all clusters at all levels.

  Returns:
    costs [T, Q, K, N], draws 2j and 2j + 1 of opposite noise; shifts <mu_q, eps>
    [T, Q, K, N]; fixed parts of the log-joints [Q, N]; weight proposal [T].
  """
  model, estimator = method.model, method.e_estimator
  x0, size = jnp.tile(images, (num_draws, 1, 1, 1)), len(images)

  @jax.jit
  def at_level(estimator, params, x0, t, key):
    half = jax.random.normal(key, (num_draws // 2, 1, size, *images.shape[1:]))
    eps = jnp.concatenate([half, -half], axis=1).reshape(x0.shape)
    steps = jnp.full(len(x0), t)
    shared = model.shared(estimator.process, params.network, x0, steps, eps)

    def of_cluster(mu):
      terms = model.draw_terms(estimator.process, params.network, shared, x0, steps,
                               mu[None], eps)
      cost = jnp.where(t == 1, -terms.log_decoder,
                       estimator.elbo_weights[t] * terms.error)
      shift = jnp.sum(eps * mu, axis=(1, 2, 3))
      return cost.reshape(num_draws, size), shift.reshape(num_draws, size)

    return jax.lax.map(of_cluster, params.means)

  key = jax.random.key(5)
  levels = [jax.tree.map(np.asarray, at_level(estimator, params, x0, t,
                                              jax.random.fold_in(key, t)))
            for t in range(1, method.process.num_steps + 1)]
  fixed, _ = fixed_parts(estimator, params, jnp.asarray(images))
  return {'costs': np.stack([cost for cost, _ in levels]),
          'shifts': np.stack([shift for _, shift in levels]),
          'fixed': np.asarray(fixed), 'weight': np.asarray(estimator.proposal[1:])}


def draw(rng, bank, proposal, replicates: int, num_draws: int, *, stratify=True,
         antithetic=False, slopes=None) -> np.ndarray:
  """Importance-weighted costs as an E-step draws them, all clusters the same draws.

  Args:
    rng: NumPy's generator.
    bank: of `make_bank`.
    proposal: over the levels, [T].
    replicates: G.
    num_draws: n, of each replicate.
    stratify: each draw of t is from its own n-th of the proposal.
    antithetic: draws 2j and 2j + 1 have opposite eps; they are stratified.
    slopes: slope_t <mu_q, eps> is subtracted as a control variate, [T]; None: nothing.

  Returns:
    [G, n, Q, N].
  """
  levels, clusters, per_level, size = bank['costs'].shape
  shape = (replicates, num_draws, 1, size)
  u = rng.random(shape)
  if stratify:
    u = (np.arange(num_draws)[:, None, None] + u) / num_draws
  t = np.minimum(np.searchsorted(np.cumsum(proposal), u * proposal.sum()), levels - 1)
  k = rng.integers(0, per_level, shape)
  if antithetic:  # a pair has one level, of a stratum of its own
    u = u.reshape(replicates, -1, 2, 1, size)[:, :, :1]
    u = (np.floor(u * num_draws / 2) + rng.random(u.shape)) / (num_draws / 2)
    t = np.searchsorted(np.cumsum(proposal), u * proposal.sum())
    t = np.minimum(np.repeat(t, 2, axis=2), levels - 1).reshape(shape)
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
  test = jax.jit(racing.drop_losers, static_argnames='level')
  for _ in range(repeats):
    costs = draw(rng, bank, proposal, replicates, half, antithetic=antithetic)
    units = costs.reshape(replicates, -1, 1 + antithetic, *costs.shape[2:]).sum(axis=2)
    race = racing.Race(None, jnp.full(fixed.shape, 2), jnp.full(fixed.shape, True),
                       jnp.full(fixed.shape[1], True), 2)
    for taken in range(2, replicates):
      race = test(race, fixed, jnp.asarray(units, jnp.float32),
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


def study(bank) -> dict:
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


def print_tables(result: dict, clusters: int) -> None:
  """The tables, in Markdown."""
  shown = (8, 16, 32, 64, 1024)
  rows = []
  for name, curve in result['curves'].items():
    needed = evaluations_needed(curve)
    rows.append([name, *(f"{curve[n]['agree']:.3f}" for n in shown),
                 f"{curve[32]['agree_clear']:.3f}", f"{curve[32]['variation']:.3f}",
                 f'{needed:.0f}', f'{needed * clusters:.0f}'])
  print(markdown(['estimator', *(f'agree at {n}' for n in shown), 'clear at 32',
                  'variation at 32', '99% at draws', 'x Q heads'], rows))
  forms = {'agree': '.3f', 'agree_clear': '.3f', 'variation': '.3f', 'heads': '.0f',
           'trunks': '.1f', 'survivors': '.2f', 'best_lost': '.4f'}
  print('\n' + markdown(['race: draws, error rate', *forms], [
      [name, *(f'{row[key]:{form}}' for key, form in forms.items())]
      for name, row in result['races'].items()]))
  print('\nreference against the expected costs:', result['reference'])
  print('variance of one draw:', result['levels'])
  print(f"\nclear images (reference margin > 2 se): {result['clear_images']:.3f}")


def main() -> None:
  """Trains and evaluates what is missing, and prints the tables."""
  parser = make_parser(__doc__, out='runs/estimators')
  parser.add_argument('--steps', type=int, default=900, help='of the training')
  parser.add_argument('--images', type=int, default=256, help='of the bank')
  parser.add_argument('--draws', type=int, default=16, help='K, even')
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  config = digits_config('shared_trunk', steps=args.steps)
  source = load_source(config.data)
  method, pipeline = prepared(config, source)
  of_params, of_bank = args.out / 'params.pkl', args.out / 'bank.npz'
  if not of_params.exists():
    state = trained(method, pipeline, start_of_all(source, config, 'neighbours', ()))
    of_params.write_bytes(pickle.dumps(to_host(state.ema)))
  if not of_bank.exists():
    chosen = np.random.default_rng(0).choice(source.num_images, args.images,
                                             replace=False)
    np.savez(of_bank, **make_bank(method, pickle.loads(of_params.read_bytes()),
                                  images_at(source, np.sort(chosen)), args.draws))
  bank = dict(np.load(of_bank))
  result = study(bank)
  write_json(args.out / 'estimators.json', result)
  print_tables(result, len(bank['fixed']))


if __name__ == '__main__':
  main()

"""Steps and sampler lower for CPU, CUDA and TPU; the training loop moves nothing."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import make_estimator
from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters
from jdiffclust.clustering.cddpm.e_step import make_e_step
from jdiffclust.clustering.cddpm.m_step import make_m_step
from jdiffclust.config import default_config
from jdiffclust.data.dataset import ImageSource
from jdiffclust.data.pipelines import MemoryPipeline, replicate_key
from jdiffclust.diffusion import predictions, samplers
from jdiffclust.diffusion.paths import from_process
from jdiffclust.networks.unet import ConcatenatedUNet, UNetBody
from jdiffclust.sharding import make_mesh, replicate, to_host
from jdiffclust.state import init_state, make_optimizer

PLATFORMS = ('cpu', 'cuda', 'tpu')


@pytest.fixture(autouse=True)
def standard_promotion():
  """optax.adam's bias correction does not trace under strict dtype promotion."""
  with jax.numpy_dtype_promotion('standard'):
    yield


def unet(dtype):
  # One level is quicker to lower; two levels in float32 cover the resampling layers.
  multipliers = (1, 2) if dtype == 'float32' else (1,)
  network = ConcatenatedUNet(UNetBody(
      channels=4, channel_multipliers=multipliers, blocks_per_level=1, num_heads=2,
      num_groups=2, dropout=.1, dtype=dtype))
  x = jnp.zeros((1, 4, 4, 1))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.ones(1, jnp.int32), x)
  return network, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_exports(oracle, images, key, dtype):
  """jax.export lowers the M-step, the E-step and the sampler for three platforms."""
  network, variables = unet(dtype)
  config = default_config()
  config.e_step.update(num_draws=4)
  raced = default_config().e_step
  raced.update(num_draws=4, max_draws=8, noise='antithetic')
  mesh, model = make_mesh(1), ConditionalDDPM(network.apply, 17)
  p = oracle.make()
  path = from_process(p)
  sampler, table = samplers.make_sampler('ddpm', path, path.num_steps)
  estimator = make_estimator(p, 'elbo', 'weight')
  params = Parameters(variables, jnp.zeros((3, 4, 4, 1)), jnp.zeros(3))
  batch = Batch(jnp.zeros((4, 4, 4, 1)), jnp.arange(4, dtype=jnp.int32))
  state = init_state(params, make_optimizer(config.m_step))

  @jax.jit
  def sample(table, path, params, keys, mu):
    eta = lambda variables, x, t, mu: model.denoise(
        variables, x, t.astype(jnp.int32), mu, None)
    denoiser = predictions.denoiser(path, params.network, eta, 'eta')
    return samplers.run(sampler, table, denoiser, keys, mu)

  calls = (
      (make_m_step(model, config.m_step, mesh),
       (state, estimator, batch, jnp.ones((9, 3)), key)),
      *((make_e_step(model, section, mesh), (estimator, params, batch, key))
        for section in (config.e_step, raced)),
      (sample, (table, path, params, jax.random.split(key, 4), batch.images)))
  for function, arguments in calls:
    exported = jax.export.export(function, platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    shapes = jax.eval_shape(function, *arguments)
    assert [a.shape for a in exported.out_avals] == [
        s.shape for s in jax.tree.leaves(shapes)]


def test_training_loop_transfers_nothing(oracle, key):
  """MemoryPipeline and the M-step run over epochs under transfer_guard('disallow')."""
  mesh = make_mesh(8)
  rng = np.random.default_rng(0)
  source = ImageSource('noise', rng.integers(0, 17, (20, 2, 2, 1)).astype(np.uint8),
                       [str(i) for i in range(20)], None, None, 17)
  section = default_config().m_step
  step = make_m_step(oracle.model, section, mesh)
  params = oracle.parameters(oracle.network(10), np.zeros((3, 2, 2, 1)))
  state = replicate(to_host(init_state(params, make_optimizer(section))), mesh)
  estimator, tau = replicate(to_host((
      make_estimator(oracle.make(), 'uniform', 'uniform'), jnp.full((20, 3), 1 / 3))),
      mesh)
  key = replicate_key(key, mesh)
  batches = MemoryPipeline(source, 8, 0, mesh).training(0)
  state, _ = step(state, estimator, next(batches), tau, key)
  with jax.transfer_guard('disallow'):
    for _ in range(7):  # more than three epochs of two minibatches
      state, info = step(state, estimator, next(batches), tau, key)
  assert int(state.step) == 8 and np.isfinite(float(info.loss))
  with jax.transfer_guard('disallow'), pytest.raises(Exception, match='[Dd]isallowed'):
    step(state, estimator, next(batches), np.full((20, 3), 1 / 3, np.float32), key)

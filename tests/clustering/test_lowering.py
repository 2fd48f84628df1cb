"""All steps lower for CUDA and TPU; the training loop moves nothing."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import lowering
from jdiffclust.clustering.bound.draws import make_estimator
from jdiffclust.clustering.cddpm.m_step import make_m_step
from jdiffclust.config import default_config
from jdiffclust.data.dataset import ImageSource
from jdiffclust.data.pipelines import MemoryPipeline, replicate_key
from jdiffclust.sharding import make_mesh, replicate, to_host
from jdiffclust.state import init_state, make_optimizer

# The layers of the configs, as few of each as can be, and all steps.
SMALL = {'network.channels': 4, 'network.channel_multipliers': (1,),
         'network.blocks_per_level': 1, 'network.num_groups': 2, 'network.num_heads': 2,
         'network.head': 'small', 'network.dtype': 'bfloat16', 'network.dropout': .1,
         'network.attention_levels': (), 'posterior.channels': 8,
         'posterior.num_views': 2, 'e_step.num_draws': 4, 'num_clusters': 3}
# Float32 throughout; two levels, of which one has attention; the other conditioning.
FLOAT32 = SMALL | {'network.dtype': 'float32', 'network.channel_multipliers': (1, 2),
                   'network.attention_levels': (1,), 'network.middle_attention': False,
                   'network.conditioning': 'concatenated'}
STEPS = ('M-step, amortised', 'M-step, a table', 'E-step, amortised', 'E-step, plain',
         'E-step, raced', 'sampler', 'restoring')


@pytest.fixture(autouse=True)
def standard_promotion():
  """optax.adam's bias correction does not trace under strict dtype promotion."""
  with jax.numpy_dtype_promotion('standard'):
    yield


@functools.cache
def traced(step, bfloat16=True):
  """A step's program, traced once."""
  config = lowering.config_for('mnist', SMALL if bfloat16 else FLOAT32)
  return lowering.programs(config, (4, 4, 3))[step]()


@pytest.mark.parametrize('step', STEPS)
def test_steps_lower(step):
  """For CUDA and TPU, with the results' shapes; none asks the host, or turns activations
  but where and as often as `lowering.LISTED` says. Only a race's loops end by data."""
  program = traced(step)
  for platform in ('cuda', 'tpu'):
    found = program.lower(lowering_platforms=(platform,))
    assert [a.shape for a in jax.tree.leaves(found.out_info)] == [
        a.shape for a in jax.tree.leaves(program.out_info)]
    assert lowering.asks_host(found) == []
    work = lowering.layout_work(found, lowering.BATCH, lowering.LEAST)
    assert {('convert', 'GroupNorm'), ('transpose', 'SelfAttention')} <= {
        (one.kind, one.place) for one in work}
    assert lowering.unlisted(work) == []
  assert (lowering.open_loops(program.jaxpr.jaxpr) > 0) == (step == 'E-step, raced')


def test_float32_is_not_converted():
  """With two levels, and gradients; 1x1 convolutions are products of matrices."""
  found = traced('restoring', False).lower(lowering_platforms=('cuda',))
  work = lowering.layout_work(found, lowering.BATCH, lowering.LEAST)
  assert {(one.kind, one.place) for one in work} == {('transpose', 'SelfAttention')}
  windows = re.findall(r'stablehlo.convolution.*: \(tensor<[^>]*>, tensor<(\d+)x(\d+)x',
                       found.as_text())
  assert windows and ('1', '1') not in windows


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

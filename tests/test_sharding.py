"""How much is under way on the devices at once."""

import jax
import numpy as np

from jdiffclust import default_config, sharding
from jdiffclust.data.dataset import array_source
from jdiffclust.data.passes import weighted_means
from jdiffclust.data.pipelines import MemoryPipeline
from jdiffclust.sharding import InFlight, make_mesh, replicate


def test_few_programs_are_in_flight(monkeypatch):
  """The fifth waits for the first, the sixth for the second, and so on."""
  waited = []
  monkeypatch.setattr(sharding.jax, 'block_until_ready', waited.append)
  in_flight = InFlight()
  for number in range(7):
    in_flight.add(number)
    assert waited == list(range(number - 3))


def test_sums_of_many_batches_end():
  """600 batches on eight devices: with as many sums in flight, XLA's threads wait for
  each other for good. The means are those of NumPy."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4800, 28, 28), dtype=np.uint8)
  tau = rng.dirichlet(np.ones(3), 4800).astype(np.float32)
  mesh = make_mesh(8)
  pipeline = MemoryPipeline(array_source(images, default_config().data), 8, 0, mesh)
  found = weighted_means(pipeline, np.arange(4800), replicate(tau, mesh), 8)
  expected = np.einsum('nq,nhw->qhw', tau.astype(np.float64), images / 127.5 - 1)
  np.testing.assert_allclose(jax.device_get(found)[..., 0],
                             expected / tau.sum(axis=0)[:, None, None], atol=2e-4)

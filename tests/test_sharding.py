"""How much is under way on the devices at once."""

import jax
import numpy as np
import pytest

from jdiffclust import default_config, sharding
from jdiffclust.data.dataset import array_source
from jdiffclust.data.passes import weighted_means
from jdiffclust.data.pipelines import MemoryPipeline
from jdiffclust.errors import UserError
from jdiffclust.sharding import InFlight, make_mesh, replicate


def test_few_programs_are_in_flight(monkeypatch):
  """The fifth waits for the first, the sixth for the second, and so on."""
  waited = []
  monkeypatch.setattr(sharding.jax, 'block_until_ready', waited.append)
  in_flight = InFlight()
  for number in range(7):
    in_flight.add(number)
    assert waited == list(range(number - 3))


@pytest.mark.parametrize('here, made_with, size, found, told', [
    (3, 0, 256, 2, '2 of 3 cpu device(s) are used, among which batches of 256'),
    (3, 8, 256, 2, 'the fit asked for 8'), (5, 8, 7, 1, '1 of 5'),
    (2, 8, 256, 2, '2 of 2 cpu device(s) are used; the fit asked for 8.'),
    (8, 0, 256, 8, ''), (8, 4, 256, 4, ''), (3, 0, 255, 3, '')])
def test_a_fit_is_read_on_other_devices(here, made_with, size, found, told, monkeypatch):
  """On as many as share out its batches, unless a number is asked for."""
  devices, lines = jax.devices()[:here], []
  monkeypatch.setattr(sharding.jax, 'devices', lambda: devices)
  config = default_config()
  config.num_devices, config.e_step.batch_size = made_with, size
  mesh = sharding.mesh_of_fit(config, made_with, lines.append)
  assert mesh.size == found and len(lines) == bool(told) and told in ''.join(lines)
  with pytest.raises(UserError, match='num_devices = 9'):
    config.num_devices = 9
    sharding.mesh_of_fit(config, made_with, lines.append)
  config.num_devices, config.e_step.batch_size = 2, 7
  with pytest.raises(UserError, match='not a multiple of the 2 devices'):
    sharding.mesh_of_fit(config, made_with, lines.append)


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

"""The short test before a run; and no sum of ours is one that a jaxlib gets wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust import backend, config, main, sharding
from jdiffclust.clustering.cluster_ddpm import latent_mixture
from jdiffclust.clustering.starts import colours
from jdiffclust.data.views import AffineMaps, transform
from jdiffclust.inverse import operators
from jdiffclust.networks.convolution import conv
from tests.helpers import refused

PADDING = ((2, 0), (1, 1))
FAULTY = jax.lib.__version__.startswith('0.10.')
# On either side of the range in which jaxlib 0.10 is wrong, and within.
ROWS = (32_768, 40_000, 43_600)


@pytest.fixture
def shifted(monkeypatch):
  """A convolution that is one row off, as a wrong backend might have it."""
  monkeypatch.setattr(backend, 'conv', functools.partial(conv, padding=PADDING))
  backend.check_backend_once.cache_clear()
  yield
  backend.check_backend_once.cache_clear()


def test_this_backend_is_right():
  """Nothing is raised."""
  backend.check_backend()


def test_the_known_fault_is_still_there_and_seen(monkeypatch):
  """In jaxlib 0.10, where it is let pass; later versions are asked for it, and right."""
  assert not FAULTY or backend.known_to_fail('sums of products')
  monkeypatch.setattr(backend, 'known_to_fail', lambda name: False)
  if FAULTY:
    assert 'of 40,000 sums of products)' in refused(backend.check_backend)
  else:
    backend.check_backend()


def test_what_a_run_needs_is_never_let_pass():
  """Only the product is, which none of ours is like: see below."""
  assert [name for name in backend.CHECKS if backend.known_to_fail(name)] == (
      ['sums of products'] if FAULTY else [])


def test_a_wrong_backend_ends_a_run_in_one_line(shifted, capsys, tmp_path):
  """Before anything is fitted; with exit code 2."""
  assert main.run(['jdiffclust', '--config=digits', f'--workdir={tmp_path}/run',
                   '--config.data.max_images=60', '--quiet']) == 2
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'gradients of a convolution)' in line, line
  assert jax.__version__ in line and not (tmp_path / 'run').exists()


def test_it_is_asked_once_a_process(monkeypatch):
  """Each fit has its mesh, and the backend does not change."""
  asked = []
  monkeypatch.setattr(backend, 'check_backend', lambda: asked.append(1))
  backend.check_backend_once.cache_clear()
  for _ in range(2):
    sharding.mesh_of(config.default_config())
  assert asked == [1]
  backend.check_backend_once.cache_clear()


def test_faults_are_counted():
  """Also what is no number; rounding is none."""
  right = np.arange(6.)
  assert backend.faults([right + .1, right], [right, right], 'ab') == []
  wrong = np.where(right > 3, np.nan, right)
  assert backend.faults([right, wrong], [right, right], 'ab') == ['2 of 6 b']


@pytest.mark.parametrize('rows', ROWS)
def test_sums_over_three(rows):
  """Squares of 2 or 3 numbers that a matrix has made of 3, of 40,000 rows, by NumPy.

  Latents of three dimensions in their mixture; the colours of a picture's pixels in the
  basis of an operator, weighed by a convolution, and as a histogram; views.
  """
  draws = np.random.default_rng(0)
  draw = lambda *shape: draws.standard_normal(shape).astype(np.float32)
  factors = np.triu(draw(4, 3, 3)) + 2 * np.eye(3, dtype=np.float32)
  mixture = latent_mixture.LatentMixture(np.zeros(4, np.float32), draw(4, 3), factors)
  z, picture, matrix, kernel = (
      draw(rows, 3), draw(1, rows // 16, 16, 3), draw(3, 3), draw(1, 1, 3, 2))
  operator = operators.Channels(operators.factors_of(matrix), picture.shape[1:])
  basis = np.asarray(operator.factors[2])
  maps = AffineMaps(np.array([[1., 0.], [0., -1.]], np.float32), np.zeros(2, np.float32))
  squares = lambda x: jnp.sum(x**2, axis=-1)
  levels = np.clip((picture[0] + 1) * 2 - .5, 0, 3)
  shares = np.maximum(1 - np.abs(levels[..., None] - np.arange(4)), 0)
  whitened = np.einsum('bqj,qjk->bqk', z[:, None] - mixture.means, factors)
  pairs = {
      'latents': (jax.jit(lambda z: latent_mixture.log_joint(mixture, z))(z),
                  np.log(np.diagonal(factors, 0, 1, 2)).sum(1)
                  - 1.5 * np.log(2 * np.pi) - (whitened**2).sum(2) / 2),
      'basis': (jax.jit(lambda x: squares(operator.into(x)))(picture),
                ((picture @ basis)**2).sum(-1)),
      'seen': (jax.jit(lambda x: squares(operator.apply(x)))(picture),
               ((picture @ matrix.T)**2).sum(-1)),
      'weighed': (jax.jit(lambda x: squares(conv(x, kernel)))(picture),
                  ((picture @ kernel[0, 0])**2).sum(-1)),
      'colours': (jax.jit(colours.histogram)(picture[0])**2 * (rows // 16 * 16),
                  np.einsum('yxr,yxg,yxb->rgb', *np.moveaxis(shares, 2, 0))),
      'views': (jax.jit(lambda x: squares(transform(x, maps)))(picture[0]),
                (picture[0, :, ::-1]**2).sum(-1))}
  for name, (ours, right) in pairs.items():
    np.testing.assert_allclose(ours, right, rtol=2e-3, atol=2e-3, err_msg=name)

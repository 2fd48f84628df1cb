"""Labels score a result and do nothing else, right ones, wrong ones or none."""

import copy
import json

import jax
import numpy as np
import pytest
from sklearn import datasets

import jdiffclust
from jdiffclust.config import default_config
from jdiffclust.data.dataset import array_source
from jdiffclust.registry import METHODS, STARTS
from jdiffclust.training.storage import Store
from tests import tiny
from tests.helpers import metrics_of, summary_of

DIGITS = datasets.load_digits()
IMAGES, TRUE = DIGITS.images.astype(np.uint8)[:60], DIGITS.target[:60]
LABELS = {'true': TRUE, 'wrong': np.random.default_rng(0).permutation(TRUE), 'none': None}
AUTO = {'num_clusters': 'auto', 'em.auto_clusters': (2, 3), 'em.auto_parts': 1}
# umap-learn is an optional extra; `latents` are of the methods that have some.
CASES = [
    *(('cddpm', {'start.kind': kind}) for kind in STARTS
      if kind not in ('umap', 'latents')),
    ('cddpm', {'start.kind': 'best', 'start.candidates': ('kmeans', 'gaussian_mixture'),
               'start.trial_steps': 2}),
    ('cluster_ddpm', {'start.kind': 'latents', 'posterior.anchor': 0.,
                      'em.posterior': 'amortised'}),
    ('cddpm', {'em.posterior': 'amortised'}),
    ('cddpm', {'em.posterior': 'amortised', 'em.schedule': 'stepwise',
               'start.max_images': 30}),
    ('cddpm', AUTO),
    *((method, {'em.posterior': 'amortised'}) for method in METHODS
      if method not in ('cddpm', 'cluster_ddpm', 'sr3')),  # those above
    ('sr3', {'num_clusters': 1})]


@pytest.fixture(autouse=True)
def promoting():
  """Optax promotes implicitly."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield


def config_of(method, changes):
  """Four EM iterations of two steps, which only a mistake would end before."""
  config = default_config()
  config.update_from_flattened_dict({
      'method': method, 'num_devices': 1, 'num_clusters': 3, 'latent.size': 4,
      'diffusion.num_steps': 20, 'diffusion.beta_end': .01, 'em.max_iterations': 4,
      'em.posterior': 'monte_carlo', 'em.bound_tolerance': 0.,
      'em.partition_tolerance': 0., 'start.kind': 'gaussian_mixture',
      'start.restarts': 1, 'views.num': 4, 'views.sets': 1, 'posterior.channels': 8,
      'recognition.channels': 8, 'recognition.steps': 4,
      'e_step.num_draws': 4, 'e_step.batch_size': 32, 'm_step.num_steps': 2,
      'm_step.first_num_steps': 0, 'm_step.batch_size': 16, **changes})
  return config


class Choosing(Store):
  """Keeps nothing but the choice of the number of clusters."""

  kept = None

  def keep_choice(self, choice):
    """In memory."""
    self.kept = choice

  def choice(self):
    """What was kept."""
    return self.kept


@pytest.fixture(scope='module')
def build():
  """`tiny.build`, but what is compiled is shared between fits of the same method."""
  built = {}

  def of(config, *given):
    key = (config.method, config.num_clusters, config.em.posterior, config.em.schedule,
           config.posterior.anchor, str(config.views))
    if key not in built:
      built[key] = tiny.build(config, *given)
    made = copy.copy(built[key])
    made.config = config
    return made

  return of


def bytes_of(tree):
  """Every array of a tree."""
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize('method, changes', CASES)
def test_labels_change_nothing_of_a_fit(method, changes, build):
  """tau, its start, the number of clusters, when it stops and all weights, to the bit.

  Right labels would be one more fit, and show nothing that these do not.
  """
  found = {}
  for name in ('wrong', 'none'):
    labels, config = LABELS[name], config_of(method, changes)
    source = array_source(IMAGES, config.data, labels=labels)
    assert (source.labels is None) == (labels is None)
    fit = jdiffclust.fit(config, source, Choosing(), build=build)
    found[name] = {
        'tau': fit.responsibilities.tobytes(), 'start': fit.start.tobytes(),
        'bound': fit.bound.tobytes(), 'weights': bytes_of(fit.params),
        'number': fit.config.num_clusters, 'choice': fit.choice,
        'symmetries': fit.symmetries,
        'history': json.dumps(fit.history), 'starts': fit.progress['starts'],
        'stop': (fit.progress['stop_reason'], len(fit.history))}
  assert found['wrong'] == found['none']
  assert found['none']['stop'] == ('maximum of iterations', 4)
  assert (found['none']['choice'] is None) == (changes is not AUTO)
  assert (found['none']['symmetries'] is None) == (method == 'sr3')


def scored(path):
  """Whether an entry of a summary is about labels, the time or the folder."""
  return bool({'command', 'acc', 'nmi', 'ari', 'num_labelled', 'reliability',
               'sample_quality', 'wall_seconds', 'peak_memory_mib',
               'train_images_per_second', 'waiting_share',
               'e_step_evaluations_per_second'} & set(path))


def entries(tree, path=()):
  """The leaves of a summary by their paths, without what is `scored`."""
  if scored(path):
    return {}
  if not isinstance(tree, dict):
    return {path: tree}
  return {inner: leaf for name, branch in tree.items()
          for inner, leaf in entries(branch, (*path, name)).items()}


def test_labels_change_nothing_but_scores_of_a_report(commands, tmp_path):
  """The files of a run by the command, and its summary."""
  found, scores = {}, {}
  for name, labels in LABELS.items():
    given = {} if labels is None else {'labels': labels}
    np.savez(tmp_path / 'x.npz', images=IMAGES, **given)
    workdir = tmp_path / name
    outcome = commands.fit(workdir, 'data.source=npz', f'data.path={tmp_path}/x.npz',
                           'data.max_images=0')
    assert outcome.code == 0, outcome.err
    summary = summary_of(workdir)
    scores[name] = summary['acc']
    found[name] = {
        'tau': (workdir / 'responsibilities.npy').read_bytes(),
        'metrics': metrics_of(workdir), **entries(summary)}
  assert scores['true'] != scores['wrong'] and scores['none'] is None
  assert found['true'] == found['wrong'] == found['none']

"""What tests of pages share: a summary and its table, and a page taken apart."""

import re
from html import parser

import numpy as np

from jdiffclust.evaluation import scores as clustering

VOID = {'meta', 'img', 'br', 'link', 'input'}


class Outline(parser.HTMLParser):
  """Collects tags and text, and checks that tags close in order."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.text = [], [], ''

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data if not {'style', 'script'} & set(self.open) else ''


def outline(path):
  result = Outline()
  result.feed(path.read_text(encoding='utf-8'))
  result.close()
  assert not result.open
  result.text = re.sub(r'\s+', ' ', result.text)
  return result


SCORES = {'acc': .9321, 'nmi': .8, 'ari': .7}
SUMMARY = {
    'dataset': 'digits', 'num_images': 1797, 'image_shape': (8, 8, 1),
    'method': 'soft', 'num_clusters': 3, 'seed': 0, **SCORES,
    'init': {**SCORES, 'acc': .5, 'method': 'kmeans'},
    'baselines': {'kmeans': SCORES, 'gaussian_mixture': {**SCORES, 'ari': None}},
    'bound_bits_per_dim': 3.25, 'cluster_sizes': [2, 1, 0], 'mean_probability': .733,
    'num_em_iterations': 5, 'train_images_per_second': 1234.5,
    'e_step_evaluations_per_second': 99., 'wall_seconds': 4000.,
    'devices': ['cpu', 'cpu'], 'versions': {'jax': '0.7'}, 'stop_reason': 'settled'}
TABLE = clustering.cluster_table(np.array([[.9, .1, 0], [.7, .3, 0], [.4, .6, 0]]))

"""The changes to files that the fault campaign makes."""

import collections
import json
import pickle

import numpy as np
import pytest

from benchmarks.faults import mutations

DATA = bytes(range(256)) * 2


@pytest.mark.parametrize('seed', range(20))
def test_changes_of_bytes(seed):
  """A cut is a beginning, an insertion has all of it in order, a swap the same bytes."""
  make = lambda: np.random.default_rng(seed)
  assert DATA.startswith(mutations.truncate(DATA, make()))
  longer = mutations.insert(DATA, make())
  assert 1 <= len(longer) - len(DATA) <= 64
  at = next((i for i, byte in enumerate(DATA) if longer[i] != byte), len(DATA))
  assert longer.endswith(DATA[at:])
  swapped = mutations.swap(DATA, make())
  assert len(swapped) == len(DATA)
  assert collections.Counter(swapped) == collections.Counter(DATA)
  flipped = np.frombuffer(mutations.flip(DATA, make()), np.uint8)
  assert np.bitwise_count(flipped ^ np.frombuffer(DATA, np.uint8)).sum() <= 8
  headed = mutations.header(DATA, make())
  assert len(headed) == len(DATA) and headed[67:] == DATA[67:]


@pytest.mark.parametrize('seed', range(20))
def test_changes_of_values_are_json(seed):
  """Whatever was changed, it can be parsed."""
  whole = {'a': [1, 2, {'b': 'x'}], 'c': None, 'd': {'e': {'f': 1.5}}}
  json.loads(mutations.values(json.dumps(whole).encode(), np.random.default_rng(seed)))


def test_payloads_are_executed_where_they_are_loaded(tmp_path):
  """Or the campaign would prove nothing."""
  marker = tmp_path / 'marker'
  for content in (mutations.pickled_array(marker), mutations.pickled_archive(marker)):
    (tmp_path / 'x').write_bytes(content)
    found = np.load(tmp_path / 'x', allow_pickle=True)
    if not isinstance(found, np.ndarray):
      found['images']
    assert marker.exists()
    marker.unlink()
  pickle.loads(mutations.pickled(marker))
  assert marker.exists()

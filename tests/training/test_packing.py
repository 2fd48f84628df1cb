"""Trees of arrays as long vectors, and checkpoints that hold them."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jdiffclust.errors import UserError
from jdiffclust.sharding import make_mesh, replicate
from jdiffclust.training import packing
from jdiffclust.training.checkpoints import Checkpoints, Snapshot, sealed
from jdiffclust.training.packing import packed, packed_like, structure, unpacked

TREE = {'weights': np.array([[1.5, -0.], [np.nan, np.inf]], np.float32),
        'none': np.zeros((0, 3), np.float32), 'step': np.array(7, np.int32),
        'more': [np.array([True, False]), np.arange(5, dtype=np.float32)]}
RESPONSIBILITIES = {'current': np.full((4, 2), .5, np.float32)}


def like(tree, mesh):
  """Shapes, dtypes and places of a tree."""
  place = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree)


def check_same(found, tree):
  """Asserts the same bits, shapes and dtypes."""
  assert jax.tree.structure(found) == jax.tree.structure(tree)
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(tree)):
    assert one.shape == other.shape and one.dtype == other.dtype
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize('piece', [1, 4, 2**24])
@pytest.mark.parametrize('devices', [1, 8])
def test_back_to_the_same_bits(piece, devices, monkeypatch):
  """In the order of the tree, whatever the pieces; on all devices."""
  monkeypatch.setattr(packing, 'PIECE', piece)
  mesh = make_mesh(devices)
  vectors = packed(replicate(TREE, mesh))
  # Names in a dict are sorted: more (bool, 5 numbers), none, step, weights.
  np.testing.assert_array_equal(np.concatenate(vectors['float32']),
                                [0, 1, 2, 3, 4, 1.5, 0, np.nan, np.inf])
  np.testing.assert_array_equal(np.concatenate(vectors['bool']), [True, False])
  assert max(len(one) for pieces in vectors.values() for one in pieces) <= piece
  room = packed_like(like(TREE, mesh))
  assert (jax.tree.map(lambda a: (a.shape, a.dtype), room)
          == jax.tree.map(lambda a: (a.shape, a.dtype), vectors))
  found = unpacked(vectors, like(TREE, mesh))
  check_same(found, TREE)
  assert all(len(leaf.sharding.device_set) == devices for leaf in jax.tree.leaves(found))


def test_what_is_packed_is_a_copy():
  """Training goes on while a checkpoint is written."""
  array = np.ones(3, np.float32)
  vectors = packed([array])
  array[0] = 5
  np.testing.assert_array_equal(vectors['float32'][0], [1, 1, 1])


@pytest.mark.parametrize('other', [
    {'a': np.zeros((2, 3), np.float32)}, {'b': np.zeros((3, 2), np.float32)},
    {'a': np.zeros((3, 2), np.int32)}, [np.zeros((3, 2), np.float32)]])
def test_structure_tells_trees_apart(other):
  """By names, shapes and dtypes; numbers are no part of it."""
  tree = {'a': np.zeros((3, 2), np.float32)}
  assert structure(tree) == structure({'a': jnp.ones((3, 2))}) != structure(other)


def restored(workdir, tree, warnings):
  """What is read into the shapes of a tree, or None."""
  with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
    mesh = make_mesh(1)
    return checkpoints.restore_newest(
        lambda progress: (like(tree, mesh), like(RESPONSIBILITIES, mesh)),
        warnings.append)


def test_checkpoint_of_a_state(tmp_path):
  """Comes back, its arrays as a vector for each dtype; not into another network."""
  with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
    checkpoints.save(3, Snapshot(TREE, RESPONSIBILITIES, {'iteration': 1}))
  number, found = restored(tmp_path, TREE, [])
  assert number == 3 and found.progress['iteration'] == 1
  check_same(found.state, TREE)
  check_same(found.responsibilities, RESPONSIBILITIES)
  arrays = ocp.StandardCheckpointer().metadata(
      tmp_path / 'checkpoints' / '3' / 'arrays').item_metadata
  assert sorted(arrays['state']) == ['bool', 'float32', 'int32']
  warnings = []
  with pytest.raises(UserError, match='can be read'):
    restored(tmp_path, {**TREE, 'weights': TREE['weights'].ravel()}, warnings)
  assert 'of another network' in warnings[0]


def test_checkpoint_of_an_earlier_version(tmp_path):
  """Each array by itself, as Orbax keeps trees (which refuses empty ones)."""
  tree = {name: array for name, array in TREE.items() if name != 'none'}
  arrays = {'state': tree, 'responsibilities': RESPONSIBILITIES}
  with ocp.CheckpointManager(tmp_path / 'checkpoints') as manager:
    manager.save(5, args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),
        progress=ocp.args.JsonSave(sealed({'iteration': 2}, arrays))))
  number, found = restored(tmp_path, tree, [])
  assert number == 5 and found.progress['iteration'] == 2
  check_same(found.state, tree)

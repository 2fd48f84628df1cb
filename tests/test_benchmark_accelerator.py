"""What `benchmarks.speed.accelerator` computes and counts, against sums by hand."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import accelerator, lowering
from benchmarks.speed.cards import CARDS, card_of, fastest, utilisation

KINDS = {
    'NVIDIA H200': 'H200', 'NVIDIA H100 80GB HBM3': 'H100 SXM',
    'NVIDIA H100 PCIe': 'H100 PCIe', 'NVIDIA H100 NVL': 'H100 NVL',
    'NVIDIA A100-SXM4-40GB': 'A100 40GB', 'NVIDIA A100-SXM4-80GB': 'A100 80GB SXM',
    'NVIDIA A100 80GB PCIe': 'A100 80GB PCIe', 'NVIDIA L4': 'L4', 'Tesla T4': 'T4',
    'Tesla V100-SXM2-16GB': 'V100 SXM', 'Tesla V100-PCIE-32GB': 'V100 PCIe',
    'TPU v4': 'TPU v4', 'TPU v5 lite': 'TPU v5e', 'TPU v5e': 'TPU v5e',
    'TPU v5': 'TPU v5p', 'TPU v5p': 'TPU v5p', 'TPU v6 lite': 'TPU v6e'}
UNKNOWN = ('cpu', 'NVIDIA L40S', 'NVIDIA T400', 'TPU v4 lite', 'TPU7x',
           'NVIDIA GH200 480GB', 'NVIDIA H100 80GB HBM3 MIG 1g.10gb')


def test_cards_are_known_by_what_jax_calls_them():
  """Each card of the table by one kind at least; others are not taken for one."""
  assert {kind: card_of(kind).name for kind in KINDS} == KINDS
  assert set(KINDS.values()) == {card.name for card in CARDS}
  assert all(card_of(kind) is None for kind in UNKNOWN)


def test_utilisation_and_roofline_by_hand():
  """3 TFLOP in half a second on 2 devices of 12 TFLOP/s; 10 GB at 2 GB/s."""
  assert utilisation(3e12, .5, 2, 12e12) == pytest.approx(.25)
  assert fastest(3e12, 1e9, 1e12, 2e9) == (3., 'compute')
  assert fastest(3e12, 10e9, 1e12, 2e9) == (5., 'memory')
  assert accelerator.peaks_of([2., 3.], 'NVIDIA H200') == {
      'float32': 2e12, 'bfloat16': 3e12}
  assert accelerator.peaks_of([2.], 'cpu') == {'float32': 2e12, 'bfloat16': 2e12}
  assert accelerator.peaks_of(None, 'NVIDIA A100-SXM4-40GB') == {
      'float32': 156e12, 'bfloat16': 312e12}
  assert accelerator.peaks_of(None, 'cpu') == {}


def test_budget_is_shared_and_ends():
  """100 s, of which 4 processes get a quarter each, or of what is left."""
  clock = [0.]
  whole = accelerator.Budget(100., lambda: clock[0])
  assert whole.share(4).ends == 25
  clock[0] = 40.
  assert whole.left() == 60 and whole.share(3).ends == 60
  clock[0] = 101.
  assert whole.left() == 0 and whole.share(1).left() == 0


def test_counts_of_devices():
  """Powers of two beyond one, and all."""
  assert [accelerator.counts_up_to(n) for n in (2, 3, 4, 6, 8)] == [
      [2], [2, 3], [2, 4], [2, 4, 6], [2, 4, 8]]


def step_of(memory):
  """A step that has room for so many images, and the batches it was asked for."""
  asked = []

  def rate(size):
    asked.append(size)
    if size > memory:
      raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes')
    return 10. * size

  return rate, asked


def test_batches_are_doubled_until_memory_ends():
  """Or a limit, or time; another error is none of memory."""
  endless = accelerator.Budget(1., lambda: 0.)
  rate, asked = step_of(50)
  found = accelerator.doubled(rate, {8: 80.}, 16, 0, endless)
  assert found.rates == {8: 80., 16: 160., 32: 320.} and asked == [16, 32, 64]
  assert found.ended == 'out of memory at 64'
  assert list(accelerator.doubled(step_of(50)[0], {}, 8, 20, endless).rates) == [8, 16]
  over = accelerator.doubled(rate, {}, 8, 0, accelerator.Budget(0., lambda: 0.))
  assert over == ({}, 'no time left for 8')
  with pytest.raises(ZeroDivisionError):
    accelerator.doubled(lambda size: size / 0, {}, 8, 0, endless)


def test_what_fails_loses_no_other_part():
  """A part out of memory, one that is wrong, one that has no time."""
  clock, told = [0.], []

  def fail(error):
    raise error

  def slow():
    clock[0] = 9.
    return {'rate': 2}

  accelerator.run_parts(
      {'large': lambda: fail(RuntimeError('RESOURCE_EXHAUSTED')),
       'wrong': lambda: fail(ValueError('one line\nand another')),
       'slow': slow, 'late': lambda: {'rate': 3}},
      accelerator.Budget(5., lambda: clock[0]), told.append)
  assert told == [
      {'part': 'large', 'left_out': 'out of memory'},
      {'part': 'wrong', 'left_out': 'ValueError: one line'},
      {'part': 'slow', 'rate': 2}, {'part': 'late', 'left_out': 'no time left'}]


def test_a_process_that_dies_is_told():
  """What it told before it died, then how it ended; or that its time was over."""
  lines = lambda code, seconds: list(accelerator.lines_of(
      [sys.executable, '-c', code], accelerator.Budget(seconds, lambda: 0.)))
  said = "print('{\"part\": 1}', flush=True); import os, sys, time; "
  assert lines(said, 60.) == [{'part': 1}]
  assert lines(said + 'os.kill(os.getpid(), 9)', 60.) == [
      {'part': 1}, {'process': 'the process ended with code -9, killed, perhaps for '
                               'want of memory'}]
  assert lines(said + "sys.exit('no such thing')", 60.)[1] == {
      'process': 'the process ended with code 1: no such thing'}


# ----------------------------------------------------------------------------- lowering


def lowered(function, *arguments):
  return jax.jit(function).trace(*arguments).lower(lowering_platforms=('cuda',))


def test_layout_work_by_hand():
  """Of 5 images: two transposes and a conversion; weights and small arrays are none."""
  def toy(x, w):
    with jax.named_scope('Layer_3'):
      y = x.transpose(0, 2, 1) @ w.T
    again = jax.jit(lambda a: jnp.sin(a).astype(jnp.bfloat16))  # is called twice
    return again(again(y).astype(jnp.float32)), x[:, 0].astype(jnp.bfloat16)

  found = lowering.layout_work(
      lowered(toy, jnp.ones((5, 3, 7)), jnp.ones((2, 3))), 5, 14)
  assert [(one.kind, one.place, one.count) for one in found if one.place == 'Layer'] == [
      ('transpose', 'Layer', 1)]
  assert sum(one.count for one in found if one.kind == 'convert') == 3
  assert sum(one.count for one in found if one.kind == 'transpose') == 1
  assert lowering.unlisted(found) == found
  listed = [one for one in found if one.kind == 'transpose']
  assert lowering.unlisted([lowering.Found('convert', 'GroupNorm', 9, 2)]) == []
  assert lowering.unlisted([lowering.Found('convert', 'GroupNorm', 9, 3)]) != []
  assert listed


def test_what_asks_the_host_is_seen():
  """A callback is, which JAX lowers for the device at hand alone; arithmetic is not.

  A loop that data end is counted, another is not.
  """
  ask = lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), jnp.float32), x)
  x = jnp.ones(3)
  asks = jax.jit(lambda x: jax.lax.map(ask, x[None])).lower(x)
  assert len(lowering.asks_host(asks)) == 1
  assert lowering.asks_host(lowered(jnp.sin, x)) == []
  endless = jax.jit(lambda x: jax.lax.while_loop(
      lambda x: x.sum() > 1, lambda x: x / 2, jax.lax.fori_loop(
          0, 3, lambda i, x: x + 1, x)))
  assert lowering.open_loops(endless.trace(x).jaxpr.jaxpr) == 1


def test_bytes_and_flops_by_hand():
  """A product in a loop of 4 turns; twice by a function that is called twice."""
  product = jax.jit(lambda a, b: a @ b)
  a, b = jnp.ones((2, 3)), jnp.ones((3, 3), jnp.float32)
  text = lowered(lambda a, b: product(product(a, b), b), a, b)
  assert lowering.moved_by_products(text) == 2 * 4 * (6 + 9 + 6)
  many = lambda map_: lowered(
      lambda a: map_(lambda row: row @ b, jnp.stack([a] * 4)), a).cost_analysis()['flops']
  assert many(lowering.unrolled) == 4 * 2 * 2 * 3 * 3
  x = jnp.arange(12.).reshape(4, 3)
  np.testing.assert_array_equal(
      lowering.unrolled(lambda row: (row.sum(), row * 2), x, batch_size=2)[0], x.sum(1))

"""What `benchmarks.speed.devices` counts and predicts, against sums by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.speed import devices
from jdiffclust.sharding import DATA_AXIS, SPLIT, WHOLE, make_mesh

PROGRAM = '''
  %all-reduce.1 = (f32[3,5]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={{0,1}}
  %later = f32[7]{0} all-reduce-start(%c), to_apply=%add
  %done = f32[7]{0} all-reduce-done(%later)
  %gather = bf16[8,2]{1,0} all-gather(%d), dimensions={0}
  %other = f32[100]{0} add(%e, %f), metadata={op_name="all-reduce(x)"}
'''


def test_bytes_of_collectives_by_hand():
  """15 + 1 numbers of 4 bytes, 7 of 4, 16 of 2; a start and its end are one."""
  assert devices.handed_on(PROGRAM) == [64, 28, 32]


def test_bytes_of_a_sum_over_devices():
  """Of the program that XLA makes: the sum of [3, 5] over 8 devices."""
  for count, calls in ((8, 1), (1, 0)):
    total = jax.jit(jax.shard_map(
        lambda x: jax.lax.psum(x[0] ** 2, DATA_AXIS), mesh=make_mesh(count),
        in_specs=SPLIT, out_specs=WHOLE))
    found = devices.cost_of(count, total, jnp.ones((count, 3, 5)))
    assert (found.calls, found.handed) == (calls, calls * 60)
    assert found.flops >= 15 and found.touched >= 120


def test_a_line_is_found():
  """Steps of 20 ms and 2 ms an image."""
  found = devices.fitted({4: .028, 8: .036, 16: .052})
  assert found.fixed == pytest.approx(.02) and found.rate == pytest.approx(500)


def test_images_per_second_by_hand():
  """One device alone; two, which hand on 1 MB at 1 GB/s; a link that costs nothing."""
  device, link = devices.Device(.02, 500.), devices.Link(1e9, 1e-3)
  of = lambda n, link: devices.images_per_second(n, 10, device, link, 10**6)
  assert of(1, link) == pytest.approx(10 / .04)
  # Each of two sends its half to the other, and the sum of the other half back.
  assert of(2, link) == pytest.approx(20 / (.04 + 2 * (.0005 + .001)))
  assert of(64, devices.Link(1e18, 0.)) == pytest.approx(64 * 10 / .04)

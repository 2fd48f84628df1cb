"""Speed and memory of the 28x28 config against the same U-Net in PyTorch/diffusers.

  pip install -e '.[bench]'
  python -m benchmarks.speed.throughput [--rounds=3] [--batch=32] [--threads=2]
      [--repeats=7]

Question:  how fast are training, the E-step's network and the sampler, beside diffusers?
Time:      some 5 minutes on two cores.
Kept:      docs/benchmarks.md, Speed and memory.

Rounds alternate between fresh processes of the two libraries, with the same batch, the
same parameter count within a few percent, the same levels, blocks and attention, and as
many threads. Reported: the median over rounds of each process's median time of a
training step (forward, backward, Adam), of an E-step network evaluation (forward only)
and of drawing images by 10 steps of DDIM (ours against `DDIMPipeline`, whose U-Net sees
one image, not two), the ratio of the medians, and peak resident memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource

import numpy as np

from benchmarks.common import config_of, make_parser, markdown, median_seconds
from benchmarks.speed.rounds import alternate
from benchmarks.speed.step import ONE_UNET

SIDE = 28
STEPS = 10  # of DDIM


def measure_jdiffclust(batch: int, threads: int, repeats: int) -> dict[str, float]:
  """Our M-step, the E-step's network and the sampler, from configs/mnist.py."""
  del threads  # the process was started with the cores it may use
  from jdiffclust.memory import keep_freed_memory, return_what_compilers_leave
  keep_freed_memory()  # as the command does, before JAX starts its threads
  return_what_compilers_leave()
  import jax
  import jax.numpy as jnp

  from jdiffclust.batch import Batch
  from jdiffclust.clustering.generation import generate
  from jdiffclust.clustering.method import build
  from jdiffclust.diffusion.paths import from_process
  from jdiffclust.diffusion.samplers import make_sampler
  from jdiffclust.sharding import SPLIT, WHOLE, mesh_of, over_rows
  config = config_of('mnist', {'m_step.batch_size': batch, **ONE_UNET})
  mesh = mesh_of(config)
  method = build(config, (SIDE, SIDE, 1), 256, mesh)
  state = [method.init_state()]
  images = jnp.asarray(
      np.random.default_rng(0).uniform(-1, 1, (batch, SIDE, SIDE, 1)), jnp.float32)
  minibatch = Batch(images, jnp.arange(batch, dtype=jnp.int32))
  tau = jnp.full((batch, config.num_clusters), 1 / config.num_clusters)

  def train():
    state[0], info = method.m_step(state[0], minibatch, tau, jax.random.key(0))
    info.loss.block_until_ready()

  denoise = over_rows(method.model.denoise, mesh, (WHOLE, SPLIT, SPLIT, SPLIT))
  t = jnp.full((batch,), 500, jnp.int32)
  evaluate = lambda: denoise(state[0].params.network, images, t,
                             images).block_until_ready()
  sampler, table = make_sampler('ddim', from_process(method.process), STEPS, 'leading')
  keys = jax.random.split(jax.random.key(0), batch)
  sample = lambda: generate(
      table, method.denoiser(state[0].params), keys, images, mesh=method.mesh,
      sampler=sampler, num_states=0).images.block_until_ready()
  weights = jax.tree.leaves(state[0].params.network)
  return {'parameters': sum(leaf.size for leaf in weights),
          **median_seconds({'train': train, 'evaluate': evaluate, 'sample': sample},
                           repeats)}


def matched_unet(config, shape, in_channels: int):
  """The UNet2DModel of the levels, blocks, channels and attention of a config.

  Args:
    config: its section `network` is used.
    shape: of an image, (H, W, C).
    in_channels: of what it sees; 2 C: [x_t, mu].
  """
  from diffusers import UNet2DModel
  network = config.network
  channels = [network.channels * times for times in network.channel_multipliers]
  attends = [level in network.attention_levels for level in range(len(channels))]
  return UNet2DModel(
      sample_size=shape[0], in_channels=in_channels, out_channels=shape[2],
      layers_per_block=network.blocks_per_level, block_out_channels=tuple(channels),
      norm_num_groups=network.num_groups,
      attention_head_dim=channels[-1] // network.num_heads,
      down_block_types=tuple(f"{'Attn' * at}DownBlock2D" for at in attends),
      up_block_types=tuple(f"{'Attn' * at}UpBlock2D" for at in reversed(attends)),
      resnet_time_scale_shift='scale_shift')


def steps_of_torch(network, shape, batch: int, context=contextlib.nullcontext):
  """Functions that take a gradient step, and evaluate once, on the network's device.

  Args:
    network: of `matched_unet`, which sees [x_t, mu].
    shape: of an image, (H, W, C).
    batch: images.
    context: in which it computes.
  """
  import torch
  height, width, channels = shape
  device = next(network.parameters()).device
  optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, fused=True)
  images = (torch.rand(batch, 2 * channels, height, width, device=device) * 2 - 1).to(
      memory_format=torch.channels_last)
  noise = torch.randn(batch, channels, height, width, device=device)
  t = torch.full((batch,), 500, device=device)

  def train():
    optimizer.zero_grad()
    with context():
      loss = ((network(images, t).sample - noise) ** 2).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.)
    optimizer.step()

  def evaluate():
    with torch.no_grad(), context():
      network(images, t)

  return train, evaluate


def measure_diffusers(batch: int, threads: int, repeats: int) -> dict[str, float]:
  """The matched UNet2DModel, attention at the last level."""
  import torch
  from diffusers import DDIMPipeline, DDIMScheduler

  torch.set_num_threads(threads)
  torch.manual_seed(0)
  config, shape = config_of('mnist'), (SIDE, SIDE, 1)
  last = {'memory_format': torch.channels_last}  # the quicker order on CPUs
  network = matched_unet(config, shape, 2).to(**last)
  train, evaluate = steps_of_torch(network, shape, batch)
  pipeline = DDIMPipeline(matched_unet(config, shape, 1).to(**last), DDIMScheduler())
  pipeline.set_progress_bar_config(disable=True)
  sample = lambda: pipeline(batch, num_inference_steps=STEPS, output_type='np')
  return {'parameters': sum(p.numel() for p in network.parameters()),
          **median_seconds({'train': train, 'evaluate': evaluate, 'sample': sample},
                           repeats)}


MEASURES = {'jdiffclust': measure_jdiffclust, 'diffusers': measure_diffusers}


def main() -> None:
  """Alternates child processes and prints the table."""
  parser = make_parser(__doc__)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--child', choices=MEASURES, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    result = MEASURES[args.child](args.batch, args.threads, args.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result | {'peak_mib': peak}))
    return
  found = alternate(
      'benchmarks.speed.throughput', MEASURES,
      {'batch': args.batch, 'threads': args.threads, 'repeats': args.repeats},
      args.rounds, {'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': str(args.threads)})
  images = {'train': args.batch, 'evaluate': args.batch, 'sample': args.batch * STEPS}
  speed = {name: {kind: count / middle[kind] for kind, count in images.items()}
           for name, middle in found.items()}
  print(markdown(
      ('U-Net 28x28', 'parameters', 'train images/s', 'evaluations/s',
       'image steps/s of DDIM', 'peak MiB'),
      [[name, f"{middle['parameters']:,.0f}",
        *(f'{value:.1f}' for value in speed[name].values()), f"{middle['peak_mib']:.0f}"]
       for name, middle in found.items()]))
  for kind in images:
    ratio = speed['jdiffclust'][kind] / speed['diffusers'][kind]
    print(f'jdiffclust / diffusers, {kind}: {ratio:.2f}')


if __name__ == '__main__':
  main()

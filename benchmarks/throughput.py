"""Speed and memory of the 28x28 config against the same U-Net in PyTorch/diffusers.

  pip install -e '.[bench]'
  python -m benchmarks.throughput [--rounds=3] [--batch=32] [--threads=2]

Rounds alternate between fresh processes of the two libraries, with the same batch, the
same parameter count within a few percent, the same levels, blocks and attention, and as
many threads. Reported: the median over rounds of each process's median time of a
training step (forward, backward, Adam), of an E-step network evaluation (forward only)
and of drawing images by 10 steps of DDIM (ours against `DDIMPipeline`, whose U-Net sees
one image, not two), the ratio of the medians, and peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

SIDE = 28
STEPS = 10  # of DDIM


def median_seconds(call, repeats: int) -> float:
  """Median time of a call that returns when its work is done, after one warm-up."""
  call()
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    call()
    times.append(time.perf_counter() - began)
  return statistics.median(times)


def measure_jdiffclust(batch: int, threads: int, repeats: int) -> dict:
  """Our M-step and the E-step's network, from configs/mnist.py."""
  del threads  # the process was started with the cores it may use
  import importlib.util

  import jax
  import jax.numpy as jnp
  import numpy as np

  from jdiffclust.batch import Batch
  from jdiffclust.diffusion.paths import from_process
  from jdiffclust.diffusion.samplers import make_sampler
  from jdiffclust.sharding import make_mesh
  from jdiffclust.streams import stream
  from jdiffclust.training.methods import build

  spec = importlib.util.spec_from_file_location('mnist', 'configs/mnist.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.m_step.batch_size = batch
  config.network.dropout = 0.
  # One whole U-Net, once an image, as the other's.
  config.network.conditioning, config.em.posterior = 'concatenated', 'monte_carlo'
  machinery = build(config, (SIDE, SIDE, 1), 256, make_mesh(1))
  state = machinery.init_state()
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params.network))
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.uniform(-1, 1, (batch, SIDE, SIDE, 1)), jnp.float32)
  minibatch = Batch(images, jnp.arange(batch, dtype=jnp.int32))
  tau = jnp.full((batch, config.num_clusters), 1 / config.num_clusters)
  key = stream(0, 'm_step')
  box = [state]

  def train():
    box[0], info = machinery.m_step(box[0], machinery.m_estimator, minibatch, tau, key)
    info.loss.block_until_ready()

  train_seconds = median_seconds(train, repeats)
  network = box[0].params.network
  denoise = jax.jit(machinery.model.denoise)
  t = jnp.full((batch,), 500, jnp.int32)
  evaluate = lambda: denoise(network, images, t, images).block_until_ready()
  path = from_process(machinery.process)
  sampler = make_sampler('ddim', path, STEPS, 'leading')
  keys = jax.random.split(jax.random.key(0), batch)
  sample = lambda: machinery.draw(sampler, path, box[0].params, keys, images,
                                  jnp.float32(1)).images.block_until_ready()
  return {'parameters': count, 'train': train_seconds,
          'evaluate': median_seconds(evaluate, repeats),
          'sample': median_seconds(sample, 3) / STEPS}


def measure_diffusers(batch: int, threads: int, repeats: int) -> dict:
  """The matched UNet2DModel: 32, 64, 64 channels, attention at the last level."""
  import torch
  from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

  torch.set_num_threads(threads)
  torch.manual_seed(0)
  make = lambda in_channels: UNet2DModel(
      sample_size=SIDE, in_channels=in_channels, out_channels=1, layers_per_block=2,
      block_out_channels=(32, 64, 64), norm_num_groups=8, attention_head_dim=16,
      down_block_types=('DownBlock2D', 'DownBlock2D', 'AttnDownBlock2D'),
      up_block_types=('AttnUpBlock2D', 'UpBlock2D', 'UpBlock2D'),
      resnet_time_scale_shift='scale_shift')
  network = make(2)
  optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
  images = torch.rand(batch, 2, SIDE, SIDE) * 2 - 1
  noise = torch.randn(batch, 1, SIDE, SIDE)
  t = torch.full((batch,), 500)

  def train():
    optimizer.zero_grad()
    loss = ((network(images, t).sample - noise) ** 2).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.)
    optimizer.step()

  def evaluate():
    with torch.no_grad():
      network(images, t)

  pipeline = DDIMPipeline(make(1), DDIMScheduler())
  pipeline.set_progress_bar_config(disable=True)
  sample = lambda: pipeline(batch, num_inference_steps=STEPS, output_type='np')
  return {'parameters': sum(p.numel() for p in network.parameters()),
          'train': median_seconds(train, repeats),
          'evaluate': median_seconds(evaluate, repeats),
          'sample': median_seconds(sample, 3) / STEPS}


MEASURES = {'jdiffclust': measure_jdiffclust, 'diffusers': measure_diffusers}


def main() -> None:
  """Alternates child processes and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
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
  found = {name: [] for name in MEASURES}
  for _ in range(args.rounds):
    for name in MEASURES:
      done = subprocess.run(
          [sys.executable, '-m', 'benchmarks.throughput', f'--child={name}',
           f'--batch={args.batch}', f'--threads={args.threads}',
           f'--repeats={args.repeats}'],
          check=True, capture_output=True, text=True,
          env=os.environ | {'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': str(args.threads)})
      found[name].append(json.loads(done.stdout.splitlines()[-1]))
  kinds = ('train', 'evaluate', 'sample')
  print('| U-Net 28x28 | parameters | train images/s | evaluations/s | image steps/s of '
        'DDIM | peak MiB |\n|---|---|---|---|---|---|')
  speed = {}
  for name, runs in found.items():
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    speed[name] = {key: args.batch / middle[key] for key in kinds}
    print(f"| {name} | {runs[0]['parameters']:,} | {speed[name]['train']:.1f} | "
          f"{speed[name]['evaluate']:.1f} | {speed[name]['sample']:.1f} | "
          f"{middle['peak_mib']:.0f} |")
  for key in kinds:
    ratio = speed['jdiffclust'][key] / speed['diffusers'][key]
    print(f'jdiffclust / diffusers, {key}: {ratio:.2f}')


if __name__ == '__main__':
  main()

"""What cards can do at most, by their makers, and what of it a program could reach."""

from __future__ import annotations

import re
from typing import NamedTuple


class Card(NamedTuple):
  """A kind of device.

  Attributes:
    name: for tables.
    told: a pattern of JAX's `device_kind` by which it is known, small letters.
    float32: FLOP/s of products of float32 arrays, as JAX computes them by default.
    bfloat16: FLOP/s of those of bfloat16 arrays.
    bandwidth: of its memory, bytes/s.
  """

  name: str
  told: str
  float32: float
  bfloat16: float
  bandwidth: float


# The makers' data sheets: NVIDIA's of the H200, H100, A100, L4, T4 and V100, without
# sparsity (where a sheet gives figures with it alone, half of those); Google Cloud's
# pages of each TPU. JAX multiplies float32 arrays as TF32 where a GPU has it, and in one
# pass of bfloat16 on TPUs. T4 and V100 have neither TF32 nor bfloat16: float32's peak is
# both. More special names come first.
CARDS = (
    Card('H200', r'\bh200', 494e12, 989e12, 4.8e12),
    Card('H100 NVL', r'h100.*nvl', 418e12, 835e12, 3.9e12),
    Card('H100 PCIe', r'h100.*pcie', 378e12, 756e12, 2e12),
    Card('H100 SXM', r'h100', 494e12, 989e12, 3.35e12),
    Card('A100 80GB PCIe', r'a100.*80gb.*pcie', 156e12, 312e12, 1.935e12),
    Card('A100 80GB SXM', r'a100.*80gb', 156e12, 312e12, 2.039e12),
    Card('A100 40GB', r'a100', 156e12, 312e12, 1.555e12),
    Card('L4', r'\bl4\b', 60e12, 121e12, .3e12),
    Card('T4', r'\bt4\b', 8.1e12, 8.1e12, .3e12),
    Card('V100 PCIe', r'v100.*pcie', 14e12, 14e12, .9e12),
    Card('V100 SXM', r'v100', 15.7e12, 15.7e12, .9e12),
    Card('TPU v4', r'tpu v4$', 275e12, 275e12, 1.2e12),
    Card('TPU v5e', r'tpu v5(e| lite)', 197e12, 197e12, .819e12),
    Card('TPU v5p', r'tpu v5p?$', 459e12, 459e12, 2.765e12),
    Card('TPU v6e', r'tpu v6(e| lite)', 918e12, 918e12, 1.638e12),
)


def card_of(kind: str) -> Card | None:
  """The card of a `device_kind`; None: it is not in the table, or a part of a card."""
  kind = kind.lower()
  if re.search(r'\bmig\b', kind):
    return None
  return next((card for card in CARDS if re.search(card.told, kind)), None)


def utilisation(flops: float, seconds: float, devices: int, peak: float) -> float:
  """The share of the devices' peak that a step of so many FLOPs uses.

  Args:
    flops: of the step, on all devices together.
    seconds: that it takes.
    devices: that share it.
    peak: of one device, FLOP/s.
  """
  return flops / seconds / (devices * peak)


def fastest(flops: float, moved: float, peak: float,
            bandwidth: float) -> tuple[float, str]:
  """The seconds that a step takes at least, and whether 'compute' or 'memory' bounds it.

  The roofline of Williams, Waterman and Patterson (2009).

  Args:
    flops: of the step.
    moved: bytes to and from memory.
    peak: FLOP/s.
    bandwidth: bytes/s.
  """
  computing, moving = flops / peak, moved / bandwidth
  return max(computing, moving), 'compute' if computing >= moving else 'memory'

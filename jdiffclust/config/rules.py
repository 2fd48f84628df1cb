"""What options must keep to: each by itself, together, and against the images.

`check_config` is called once, before anything is read or written; whatever needs the data
as well (Q against N, the U-Net's depth against the image) is checked by
`check_against_data`.
"""

from __future__ import annotations

from typing import Any

import ml_collections

from jdiffclust.config.option import LARGEST
from jdiffclust.config.options import (
    ADVISED_WEIGHT, AUTO, BEST, CHOOSE_IMAGES, EMBEDDED, FEWEST_STEPS, LATENTS,
    NEIGHBOURS, PLAIN, QUICK, all_options, copied, flatten, unknown_option)
from jdiffclust.errors import UserError
from jdiffclust.registry import (
    COMPARING_STARTS, EMBEDDINGS, LATE_STARTS, RECOGNISED, UNINFORMED_STARTS)


def check_config(config: ml_collections.ConfigDict) -> None:
  """Checks every option of a config by itself and against the others.

  Args:
    config: a ConfigDict made by `default_config` and changed.

  Raises:
    UserError: an option is unknown, missing, of another type or out of range.
  """
  known = all_options()
  flat = flatten(config)
  for name, value in flat.items():
    if name not in known:
      raise unknown_option(name)
    option = known[name]
    if not option.allows(value):
      numbers = value if isinstance(value, tuple) else (value,)
      most = str(LARGEST) not in option.allowed and any(
          type(number) is int and number > LARGEST for number in numbers)
      raise UserError(
          f'config.{name} = {value!r} is not allowed: it must be {option.allowed}'
          + f', and at most {LARGEST:,}' * most + f' ({option.meaning}).')
  missing = sorted(set(known) - set(flat))
  if missing:
    raise UserError(f'The config lacks {missing[0]!r}: start config files from '
                    'jdiffclust.config.default_config().')
  check_together(config)


def check_together(config: ml_collections.ConfigDict) -> None:
  """Checks the options against each other.

  Raises:
    UserError: two of them contradict each other.
  """
  for check in (_check_draws, _check_em, _check_model, _check_low, _check_effort,
                _check_samples, _check_processes):
    check(config)


def _check_draws(config) -> None:
  """Checks the draws of the E-step."""
  e_step = config.e_step
  for name in ('e_step', 'predict'):
    if config[name].num_draws % 2:
      raise UserError(
          f'config.{name}.num_draws = {config[name].num_draws} is odd: the E-step '
          'compares two halves, so it must be even.')
    if e_step.noise == 'antithetic' and config[name].num_draws % 4:
      raise UserError(
          f'config.{name}.num_draws = {config[name].num_draws} is not a multiple of 4, '
          "as config.e_step.noise = 'antithetic' needs: two halves of pairs.")
  if e_step.max_draws and (e_step.max_draws % e_step.num_draws
                           or e_step.max_draws == e_step.num_draws):
    raise UserError(
        f'config.e_step.max_draws = {e_step.max_draws} is not a multiple of '
        f'config.e_step.num_draws = {e_step.num_draws}: set it to 0 (no race) or to '
        f'{2 * e_step.num_draws}, {4 * e_step.num_draws}, ...')
  if e_step.max_draws and not e_step.share_draws:
    raise UserError('config.e_step.share_draws = False, but clusters can only race '
                    '(config.e_step.max_draws) on draws that they share: set one of '
                    'them back.')


def _check_em(config) -> None:
  """Checks how EM gets its responsibilities, and from which start."""
  if config.posterior.channels % 8:
    raise UserError(f'config.posterior.channels = {config.posterior.channels} is not '
                    'divisible by 8, the groups of its normalisation: choose a multiple.')
  if config.em.schedule == 'stepwise' and config.em.posterior != 'amortised':
    raise UserError(
        f"config.em.schedule = 'stepwise' keeps no table of tau, as config.em.posterior "
        f'= {config.em.posterior!r} needs: set config.em.posterior=amortised.')
  if config.em.schedule == 'stepwise' and config.em.reseed_empty:
    raise UserError('config.em.reseed_empty = True changes the table of tau that '
                    "config.em.schedule = 'stepwise' has not got: set one of them back.")
  if config.method not in LATENTS['methods'] and config.start.kind in LATE_STARTS:
    raise UserError(f'config.start.kind = {config.start.kind!r} needs the latents of '
                    f'method=cluster_ddpm, not of {config.method!r}: take another start.')
  remedy = (' (and config.posterior.temper=0, config.posterior.balance=1)'
            if config.method == 'cddpm' else '')
  anchored = config.em.posterior == 'amortised' or config.method == 'cluster_ddpm'
  anchored &= all_options()['posterior.anchor'].read_by(config.method)
  if anchored and config.posterior.anchor and config.start.kind in UNINFORMED_STARTS:
    raise UserError(
        f'config.posterior.anchor = {config.posterior.anchor} would hold the posterior '
        f'to a start that knows nothing, config.start.kind = {config.start.kind!r}: set '
        f'it to 0{remedy}, or take another start.')
  if config.method != 'cddpm' and config.em.schedule == 'stepwise':
    raise UserError("config.em.schedule = 'stepwise' is of method=cddpm: "
                    f'{config.method} has no mixture that could follow minibatches. Set '
                    'it to batch.')
  if (config.method == 'latent_cddpm'
      and config.em.max_iterations <= config.latent.iterations):
    raise UserError(
        f'config.latent.iterations = {config.latent.iterations} leaves CDDPM no EM '
        f'iteration of config.em.max_iterations = {config.em.max_iterations}: lower the '
        'one or raise the other.')


def _check_model(config) -> None:
  """Checks the noise schedule and the U-Net."""
  if config.m_step.weighting == 'residual' and (
      config.method != 'cddpm' or config.network.prediction != 'residual'):
    raise UserError(
        "config.m_step.weighting = 'residual' is of method=cddpm with network.prediction="
        'residual: set it to uniform (or auto).')
  if config.diffusion.beta_start > config.diffusion.beta_end:
    raise UserError(
        f'config.diffusion.beta_start = {config.diffusion.beta_start} exceeds '
        f'beta_end = {config.diffusion.beta_end}: betas must not fall.')
  multipliers = config.network.channel_multipliers
  if config.network.channels % config.network.num_groups:
    raise UserError(f'config.network.num_groups = {config.network.num_groups} does not '
                    f'divide config.network.channels = {config.network.channels}: choose '
                    'a divisor.')
  for level, multiple in enumerate(multipliers):
    channels = config.network.channels * multiple
    attends = level in config.network.attention_levels or (
        config.network.middle_attention and level == len(multipliers) - 1)
    if attends and channels % config.network.num_heads:
      raise UserError(
          f'config.network.num_heads = {config.network.num_heads} does not divide the '
          f'{channels} channels of level {level}: choose a divisor.')
  too_deep = [k for k in config.network.attention_levels if k >= len(multipliers)]
  if too_deep:
    raise UserError(
        f'config.network.attention_levels names level {too_deep[0]}, but the U-Net '
        f'has levels 0..{len(multipliers) - 1} (channel_multipliers = '
        f'{tuple(multipliers)}).')


def _check_low(config) -> None:
  """Checks that the method of low images is not asked for clusters."""
  if config.method != 'sr3':
    return
  if config.num_clusters != 1:
    raise UserError(f'config.num_clusters = {config.num_clusters!r}, but config.method = '
                    "'sr3' restores images and has no clusters: set num_clusters to 1.")
  if config.sample.guidance != 1:
    raise UserError(f'config.sample.guidance = {config.sample.guidance} leads away from '
                    "images of any cluster, which config.method = 'sr3' does not know: "
                    'set it to 1.')


def _check_effort(config) -> None:
  """Checks that a fit that ends with its start has one that says something."""
  if config.effort != QUICK:
    return
  what = ("config.method = 'sr3' has no clusters" if config.method == 'sr3' else
          f'config.start.kind = {config.start.kind!r} knows nothing of the images'
          if config.start.kind in UNINFORMED_STARTS else '')
  if what:
    raise UserError(f"config.effort = 'quick' ends with the clusters of the start, but "
                    f'{what}: set it to full.')


def _check_samples(config) -> None:
  """Checks what is generated and compared."""
  chosen = config.num_clusters != AUTO
  bad = [q for q in config.sample.clusters
         if chosen and type(q) is int and q >= config.num_clusters]
  if bad:
    raise UserError(f'config.sample.clusters names cluster {bad[0]}, but there are '
                    f'clusters 0..{config.num_clusters - 1} (the parts of one that was '
                    'split by hand are drawn together, by the number of the whole).')
  for name in ('interpolate', 'trajectory'):
    if config.sample[name] == 1:
      raise UserError(f'config.sample.{name} = 1: set it to 0 for none, or to 2 or more, '
                      'the first and the last included.')
  if config.sample.interpolate and len(config.sample.clusters) != 2:
    raise UserError(
        f'config.sample.interpolate = {config.sample.interpolate} goes from one cluster '
        f'to another: name two, not {len(config.sample.clusters)}, such as '
        '--config.sample.clusters=0,3.')
  if config.sample.trajectory and config.sample.sampler == 'adaptive':
    raise UserError("config.sample.sampler = 'adaptive' keeps no pictures on the way: "
                    'set config.sample.trajectory to 0, or take another sampler.')
  if 0 < config.quality.num_images <= NEIGHBOURS:
    raise UserError(
        f'config.quality.num_images = {config.quality.num_images} must exceed '
        f'{NEIGHBOURS}, the neighbours that are looked at (or be 0: no comparison).')


def _check_processes(config) -> None:
  """Checks the processes of a run."""
  d = config.distributed
  if d.process_id >= d.num_processes:
    raise UserError(f'config.distributed.process_id = {d.process_id} must be below '
                    f'num_processes = {d.num_processes}.')
  if d.num_processes > 1 and not d.coordinator:
    raise UserError('config.distributed.coordinator is empty: several processes need '
                    'the host:port of process 0.')


def unread(config) -> dict[str, Any]:
  """Options that were changed but that the method does not read, and their values."""
  known = all_options()
  return {name: value for name, value in flatten(config).items()
          if not known[name].read_by(config.method) and value != known[name].default}


def cautions(config) -> list[str]:
  """What is allowed but has no effect, or is known to go wrong, a line each."""
  found = []
  for name, value in unread(config).items():
    readers = ', '.join(all_options()[name].methods)
    found.append(f'config.{name} = {value!r} has no effect: config.method = '
                 f'{config.method!r} does not read it ({readers} would).')
  low, high = ADVISED_WEIGHT
  weight = config.latent.weight
  if all_options()['latent.weight'].read_by(config.method) and not low <= weight <= high:
    found.append(
        f'config.latent.weight = {weight} lies outside of [{low}, {high}], where '
        'ClusterDDPM was found to be stable: latents that ignore the mixture below '
        'it, or the images above it.')
  return found


def for_collection(config, num_images: int):
  """The config of a fit, with no more gradient steps than its images are worth.

  Args:
    config: checked; m_step.most_visits limits its numbers of steps.
    num_images: N.

  Returns:
    A config of its own: the steps of an EM iteration are those in which each image is
    used so often, or `FEWEST_STEPS` if these are more; never more than were asked for.
  """
  config, options = copied(config), config.m_step
  if options.most_visits:
    steps = max(FEWEST_STEPS,
                -(-options.most_visits * num_images // options.batch_size))
    for name in ('num_steps', 'first_num_steps'):
      config.m_step[name] = min(options[name], steps)
  return config


def repeated_start(config) -> str:
  """The start that start.repeats makes anew; '': none.

  That is the run's own; with effort='quick' not one that takes a network.
  """
  kind = config.start.kind if config.start.kind != BEST else config.start.candidates[0]
  if (not config.start.repeats or config.num_clusters == 1 or kind in UNINFORMED_STARTS
      or config.method == 'sr3'):
    return ''
  return '' if (kind, config.effort) == (RECOGNISED, QUICK) else kind


def spaces_for(config, embedded: bool) -> tuple[str, ...]:
  """What start.spaces comes to for images.

  Args:
    config: a checked config.
    embedded: whether the images have embeddings.

  Raises:
    UserError: they have, and nothing would look at them; or they have not, and these are
      asked for.
  """
  spaces = tuple(config.start.spaces)
  if not embedded:
    if EMBEDDINGS in spaces:
      raise UserError(f'config.start.spaces = {spaces} names embeddings, but there are '
                      'none: give a file of them by config.data.embeddings.')
    return spaces
  kind, why = config.start.kind, ''
  kinds = config.start.candidates if kind == BEST else (kind,)
  if config.method == 'sr3':
    why = "config.method = 'sr3' has no clusters"
  elif not set(kinds) & set(COMPARING_STARTS):
    why = (f'config.start.kind = {kind!r} does not read them '
           f"({' and '.join(COMPARING_STARTS)} do)")
  elif EMBEDDINGS not in spaces and spaces != PLAIN:
    why = f'config.start.spaces = {spaces} does not name them'
  if why:
    raise UserError(f'The embeddings (config.data.embeddings) would have no effect: '
                    f'{why}. Leave them out, or change that.')
  return EMBEDDED if spaces == PLAIN else spaces


def check_against_data(config, image_shape, num_images: int,
                       embedded: bool = False) -> None:
  """Checks the options that depend on the images.

  Args:
    config: a checked config.
    image_shape: (H, W, C) after resizing and padding.
    num_images: N.
    embedded: whether the images have embeddings.

  Raises:
    UserError: more clusters than images, a U-Net too deep for the images, or low images
      of a size that is no whole number, or quarter turns of images that are not
      square, or as of `spaces_for`.
  """
  spaces_for(config, embedded)
  half = min(num_images, CHOOSE_IMAGES) // 2
  if config.num_clusters == AUTO and half <= 3:
    raise UserError(
        f"config.num_clusters = 'auto' needs at least 8 images, of which parts vote, not "
        f'{num_images}: give the number.')
  if config.num_clusters == AUTO and config.em.auto_clusters[1] >= half:
    raise UserError(
        f'config.em.auto_clusters = {tuple(config.em.auto_clusters)} asks for more '
        f'clusters than half of the images can show: HIGH must be below {half}.')
  if config.num_clusters != AUTO and config.num_clusters > num_images:
    raise UserError(
        f'config.num_clusters = {config.num_clusters} exceeds the {num_images} images: '
        f'it must be in 1..{num_images}.')
  height, width, _ = image_shape
  turns = config.views.quarter_turns
  if turns != AUTO and turns > 0 and height != width:
    raise UserError(f'config.views.quarter_turns = {turns}, but images of '
                    f'{height}x{width} are not square: set it to 0.')
  reduction = config.sr3.factor
  if config.method == 'sr3' and (height % reduction or width % reduction):
    raise UserError(f'Images of {height}x{width} are not divisible by config.sr3.factor '
                    f'= {reduction}: set it to a divisor of both sides, or '
                    f'config.data.image_size to a multiple of {reduction}.')
  levels = len(config.network.channel_multipliers)
  factor = 2 ** (levels - 1)
  if min(height, width) < factor:
    raise UserError(
        f'The U-Net is too deep for images of {height}x{width}: its {levels} levels '
        f'(config.network.channel_multipliers) halve them {levels - 1} times. '
        f'Take fewer levels, or larger images by config.data.image_size.')
  if height % factor or width % factor:
    hint = f'set --config.data.image_size to a multiple of {factor}, or take fewer levels'
    if height == width:
      more = (-height % factor)
      if more % 2 == 0:
        hint = (f'set --config.data.padding={config.data.padding + more // 2}, or '
                + hint)
    raise UserError(
        f"Images of {height}x{width} are not divisible by {factor}, as the U-Net's "
        f'{levels} levels need: {hint}.')

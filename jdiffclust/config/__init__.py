"""The configuration: its options, their rules, and how it is stored."""

from jdiffclust.config.modes import NEW_IMAGES, asked_of, check_usable
from jdiffclust.config.option import LEVELS, Option, closest, nearest
from jdiffclust.config.options import (
    ADVISED_WEIGHT, AUTO, BEST, CHOOSE_IMAGES, EMBEDDED, FULL, NEIGHBOURS, OPTIONS,
    QUICK, RENAMED, RESIZED, SYMMETRIES, all_options, copied, default_config, flatten,
    options, unknown_option)
from jdiffclust.config.rules import (
    cautions, check_against_data, check_config, for_collection, repeated_start,
    spaces_for, unread)
from jdiffclust.config.store import (
    LISTED, differences, fitted_config, from_json, has_config, settle_like, to_json,
    where_it_is)

__all__ = [
    'ADVISED_WEIGHT', 'AUTO', 'BEST', 'CHOOSE_IMAGES', 'EMBEDDED', 'FULL', 'LEVELS',
    'LISTED', 'NEIGHBOURS', 'NEW_IMAGES', 'OPTIONS', 'Option', 'QUICK', 'RENAMED',
    'RESIZED', 'SYMMETRIES', 'all_options', 'asked_of', 'cautions', 'check_against_data',
    'check_config', 'check_usable', 'closest', 'copied', 'default_config',
    'differences', 'fitted_config', 'flatten', 'for_collection', 'from_json',
    'has_config', 'nearest', 'options', 'repeated_start', 'settle_like', 'spaces_for',
    'to_json', 'unknown_option', 'unread', 'where_it_is']

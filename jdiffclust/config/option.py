"""One option of the configuration: its default, its check and its text."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

# Whom an option is for: whoever has images to cluster; whoever fits a run to a machine;
# whoever works on the model.
LEVELS = ('person', 'machine', 'model')
LARGEST = 2**31 - 1  # what an integer of JAX holds, and so any count
LONGEST = 4096  # pixels of a side: one image of that takes minutes and gigabytes
AUTO = 'auto'  # the word for what is found out from the images when a run begins


@dataclasses.dataclass(frozen=True)
class Option:
  """One option of the configuration.

  Attributes:
    default: its default value; its type is the option's type.
    allowed: what is allowed, in words, for the error message.
    check: true for an allowed value.
    meaning: one line for `--help`, which needs no other line beside it.
    level: one of `LEVELS`.
    methods: the methods that read it; (): all.
    defines_run: whether a fitted workdir belongs to this value. Resuming with
      another one is refused.
    word: a text allowed beside values of that type, or ''.
    kinds: other types allowed beside it.
  """

  default: Any
  allowed: str
  check: Callable[[Any], bool]
  meaning: str
  level: str = 'model'
  methods: tuple[str, ...] = ()
  defines_run: bool = True
  word: str = ''
  kinds: tuple[type, ...] = ()

  def allows(self, value) -> bool:
    """Whether `value` has the type and passes the check, or is the word."""
    if self.word and isinstance(value, str):
      return value == self.word
    kind = type(self.default)
    kinds = ((int, float) if kind is float else (kind,)) + self.kinds
    # True is an integer to Python, not to us.
    right_type = isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)
    return right_type and self.check(value)

  @property
  def of_one_type(self) -> bool:
    """Whether all allowed values are of the type of the default."""
    return not (self.word or self.kinds)

  def read_by(self, method: str) -> bool:
    """Whether a method reads the option."""
    return not self.methods or method in self.methods


def integer(default: int, low: int, meaning: str, high: int | None = None,
            **kwargs) -> Option:
  """An option that is an integer from `low` to `high` (None: to LARGEST)."""
  allowed = f'an integer >= {low}' if high is None else f'an integer {low}..{high}'
  return Option(default, allowed,
                lambda v: low <= v <= (LARGEST if high is None else high), meaning,
                **kwargs)


def real(default: float, low: float, high: float, meaning: str, open_low: bool = False,
         **kwargs) -> Option:
  """An option that is a number from `low` (or above it) to `high`."""
  bracket = '(' if open_low else '['
  return Option(default, f'a number in {bracket}{low:g}, {high:g}]',
                lambda v: (low < v if open_low else low <= v) and v <= high,
                meaning, **kwargs)


def auto_share(meaning: str, **kwargs) -> Option:
  """An option that is a share, found out from the images by default."""
  return Option(AUTO, f'a number in [0, 1], or {AUTO!r}',
                lambda v: v == AUTO or 0 <= v <= 1, f'{meaning}; auto: it is found out '
                'from the images', word=AUTO, kinds=(int, float), **kwargs)


def choice(default: Any, choices: Sequence[Any], meaning: str, **kwargs) -> Option:
  """An option that is one of some values."""
  return Option(default, 'one of ' + ', '.join(map(repr, choices)),
                lambda v: v in choices, meaning, **kwargs)


def names(default: tuple[str, ...], choices: Sequence[str], meaning: str,
          **kwargs) -> Option:
  """An option that is a tuple of different names, at least one."""
  return Option(
      default, f'different names out of {tuple(choices)}, as in {default}',
      lambda v: 0 < len(v) == len(set(v)) and all(name in choices for name in v),
      meaning, **kwargs)


def text(default: str, meaning: str, **kwargs) -> Option:
  """An option that is any text."""
  return Option(default, 'text', lambda v: True, meaning, **kwargs)


def flag(default: bool, meaning: str, **kwargs) -> Option:
  """An option that is True or False."""
  return Option(default, 'True or False', lambda v: True, meaning, **kwargs)


def integers(default: tuple[int, ...], low: int, meaning: str, allow_empty: bool = False,
             **kwargs) -> Option:
  """An option that is a tuple of integers from `low` on."""
  return Option(
      default, f'integers >= {low}, as in (1, 2)',
      lambda v: (allow_empty or len(v) > 0)
      and all(type(n) is int and low <= n <= LARGEST for n in v), meaning, **kwargs)


def closest(name: str, names, cutoff: float) -> list[str]:
  """Returns the one of `names` most like `name`, [] if none is as like as `cutoff`."""
  return difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)


def nearest(name: str, names) -> str:
  """Returns ' Did you mean ...?' for the name most like `name`, or ''."""
  close = closest(name, names, .6)
  return f' Did you mean {close[0]!r}?' if close else ''

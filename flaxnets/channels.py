"""Channel names, wavelengths and subsets: parses the texts of configs and flags, and enumerates subsets."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import random
import re
from collections.abc import Iterator, Sequence

from flaxnets.errors import InputError

Subset = tuple[int, ...]

# The largest number of subsets in one evaluation: each costs time and a row of the table.
MAX_SUBSETS = 1024

_SIZE = re.compile(r'size(>=|<=|==|=|>|<)(\d+)')
_COMPARISONS = {
  '>=': operator.ge,
  '<=': operator.le,
  '==': operator.eq,
  '=': operator.eq,
  '>': operator.gt,
  '<': operator.lt,
}
_SAMPLE = re.compile(r'sample:(\d+)')
GRAMMAR = "channel names ('RG', 'B02,B03'), 'full', 'all', 'singles', 'pairs', 'size>=2' or 'sample:64'"


def larger_first(subset: Subset) -> tuple[int, Subset]:
  """The key that sorts subsets: larger ones first, those of one size by index."""
  return -len(subset), subset


@dataclasses.dataclass(frozen=True)
class ChannelSet:
  """The ordered channels that a network was built for.

  Attributes:
    names: channel names, unique and not empty, without spaces, commas or semicolons.
    wavelengths: centre wavelengths in nanometres, one per channel, None where unknown; empty if all are unknown.

  Raises:
    InputError: for no names, repeated or malformed names, or another number of wavelengths than of names.
  """

  names: tuple[str, ...]
  wavelengths: tuple[float | None, ...] = ()

  def __post_init__(self):
    object.__setattr__(self, 'names', tuple(str(name) for name in self.names))
    object.__setattr__(self, 'wavelengths', tuple(self.wavelengths))
    if not self.names:
      raise InputError('there are no channel names; a network needs at least one channel')
    repeated = sorted({name for name in self.names if self.names.count(name) > 1})
    if repeated:
      raise InputError(f'channel {repeated[0]!r} is repeated in {", ".join(self.names)}; names must be unique')
    for name in self.names:
      if not re.fullmatch(r'[^\s,;]+', name):
        raise InputError(f'channel name {name!r} is empty or contains a space, comma or semicolon')
    if self.wavelengths and len(self.wavelengths) != len(self.names):
      raise InputError(
        f'{len(self.wavelengths)} wavelengths for {len(self.names)} channels; give one per channel (None if unknown)'
      )

  @classmethod
  def of(cls, text: str, wavelengths: Sequence[float | None] = ()) -> ChannelSet:
    """The channel set that a text describes.

    With a comma, names are separated by commas: 'B02,B03,B08'. A trailing comma is ignored: 'RG,' is one channel.
    Without a comma, the text is one name: 'B08', 'NIR', 'DAPI', 'VV', 'red'. There is one exception: distinct capital
    letters that are all among R, G, B and N, or that include R, G and B, are one channel per letter: 'RGB', 'RG',
    'RGBN', 'RGBD'.
    """
    return cls(_names(text), tuple(wavelengths))

  def __len__(self) -> int:
    return len(self.names)

  @property
  def full(self) -> Subset:
    return tuple(range(len(self)))

  def label(self, subset: Sequence[int]) -> str:
    """The subset as text: 'RG' if all names of the set are single letters, else 'B02,B03'."""
    separator = '' if all(len(name) == 1 for name in self.names) else ','
    return separator.join(self.names[index] for index in subset)

  def index(self, name: str) -> int:
    """The index of a channel.

    Raises:
      InputError: for a name that is not in this set.
    """
    try:
      return self.names.index(name)
    except ValueError:
      raise InputError(f'no channel {name!r}; the channels are {", ".join(self.names)}') from None

  def names_in(self, text: str) -> tuple[str, ...]:
    """The names that a text lists, read as channels of this set. The set may lack some of them.

    The text is read as in `of`, with two differences. The name of a channel of this set is that channel. If all names
    of this set are single letters, a text without a comma is one channel per letter.
    """
    text = text.strip()
    if text not in self.names and ',' not in text and all(len(name) == 1 for name in self.names):
      return tuple(text)
    return (text,) if text in self.names else _names(text)

  def order(self, names: str | Sequence[str]) -> tuple[int, ...]:
    """The indices of some channels, in the given order.

    Args:
      names: a sequence of names, or text: 'RG' or 'B02,B03' (see `names_in`).

    Raises:
      InputError: for no names, an unknown name, or a repeated name.
    """
    if isinstance(names, str):
      names = self.names_in(names)
    indices = tuple(self.index(name) for name in names)
    if not indices:
      raise InputError(f'no channel is named; the channels are {", ".join(self.names)}')
    for name in names:
      if list(names).count(name) > 1:
        raise InputError(f'channel {name!r} is repeated in {",".join(names)}; name each channel once')
    return indices

  def subset(self, names: str | Sequence[str]) -> Subset:
    """The sorted subset of some channel names or of 'full'; see `order` for the forms of names and the errors."""
    if isinstance(names, str) and names.strip() == 'full' and 'full' not in self.names:
      return self.full
    return tuple(sorted(self.order(names)))

  def subsets(self, text: str) -> list[Subset]:
    """The distinct subsets that a text lists, larger ones first.

    Terms are separated by semicolons: channel names ('RG', 'B02,B03,B08'), 'full' (the subset of all channels), 'all'
    (every subset), 'singles', 'pairs', 'size>=2' (also <=, ==, <, >), 'sample:64' (64 subsets: the full set and others
    drawn with a fixed seed, the size uniform). If a channel has the name of a keyword, the text means the channel.

    Raises:
      InputError: for a term that is none of these or matches no subset, and for more than 1,024 subsets.
    """
    found: set[Subset] = set()
    for term in text.split(';'):
      found.update(self._term(term.strip()))
    if len(found) > MAX_SUBSETS:
      raise InputError(f"{text!r} lists {len(found):,} subsets; the maximum is {MAX_SUBSETS:,}, so try 'sample:64'")
    return sorted(found, key=larger_first)

  def _term(self, term: str) -> Iterator[Subset] | list[Subset]:
    count = len(self)
    if term not in self.names:
      if match := _SAMPLE.fullmatch(term):
        return self._sample(int(match[1]))
      if term == 'all':
        return self._of_sizes(term, range(1, count + 1))
      if term == 'singles':
        return self._of_sizes(term, [1])
      if term == 'pairs':
        return self._of_sizes(term, [2])
      if match := _SIZE.fullmatch(term):
        compare, bound = _COMPARISONS[match[1]], int(match[2])
        return self._of_sizes(term, [size for size in range(1, count + 1) if compare(size, bound)])
    try:
      return [self.subset(term)]
    except InputError as error:
      if re.search(r'[<>=:]', term) or not term:
        raise InputError(f'cannot read the subset {term!r}; subsets are {GRAMMAR}') from None
      raise InputError(f'{error}; subsets are {GRAMMAR}') from None

  def _of_sizes(self, term: str, sizes: Sequence[int]) -> Iterator[Subset]:
    total = sum(math.comb(len(self), size) for size in sizes)
    if total == 0:
      raise InputError(f'{term!r} matches no subset of the {len(self)} channels')
    if total > MAX_SUBSETS:
      raise InputError(
        f'{term!r} of {len(self)} channels is {total:,} subsets; '
        f"the maximum is {MAX_SUBSETS:,}, so list some, such as 'full;{self.label((0, 1))}', or try 'sample:64' or "
        f"'size>={len(self) - 1}'"
      )
    return itertools.chain.from_iterable(itertools.combinations(range(len(self)), size) for size in sizes)

  def _sample(self, wanted: int) -> list[Subset]:
    """Distinct subsets drawn with a fixed seed: a uniform size, then uniform members. All if there are fewer."""
    if wanted < 1:
      raise InputError("'sample:0' is no subset; the number must be at least 1, as in 'sample:64'")
    if wanted >= 2 ** len(self) - 1:
      return list(self._of_sizes('all', range(1, len(self) + 1)))
    if wanted > MAX_SUBSETS:
      raise InputError(f"'sample:{wanted}' is too many subsets; the maximum is {MAX_SUBSETS:,}")
    generator, sampled = random.Random(0), {self.full}
    while len(sampled) < wanted:
      size = generator.randint(1, len(self))
      sampled.add(tuple(sorted(generator.sample(range(len(self)), size))))
    return list(sampled)


def _names(text: str) -> tuple[str, ...]:
  """The names in a text, by the rule of `ChannelSet.of`."""
  text = text.strip()
  if ',' in text:
    return tuple(name.strip() for name in text.removesuffix(',').split(','))
  letters = set(text)
  distinct, capitals = len(letters) == len(text), text.isalpha() and text.isupper()
  letter_per_channel = distinct and (letters <= set('RGBN') or (capitals and letters >= set('RGB')))
  return tuple(text) if letter_per_channel else (text,)

"""Figures of a report: their look, and how they are written. matplotlib's figures alone, without pyplot's state.

The colours are those of K. Okabe and M. Ito, Color Universal Design (2008), which colour-blind readers can tell apart.
In an SVG they are CSS variables, --c0 to --c7, and the ink is the text's colour: one plot suits light and dark.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

if TYPE_CHECKING:
  from matplotlib.typing import RcKeyType  # newer than Matplotlib 3.9, so not at run time

# Okabe and Ito's, with a darker orange and sky blue: each has a contrast of 3 : 1 to white.
COLOURS = ('#0072b2', '#bf8300', '#009e73', '#cc79a7', '#5d3a9b', '#3399cc', '#d55e00', '#7a7a7a')
# The same for a dark page.
DARK_COLOURS = ('#5aaee6', '#f0b13a', '#3fc79a', '#e39cc4', '#a98fe8', '#9bd8fa', '#f2855b', '#a9a9a9')
INK = '#1f2328'
_STYLES = ('-', '--', ':', '-.')
MOST = len(COLOURS) * len(_STYLES)  # lines that can be told apart
_WIDTH, _HEIGHT = 4.8, 3.1  # inches; a legend is added to the height
_LEGEND_ROW = 0.19
_SETTINGS: dict[RcKeyType, Any] = {
  'svg.fonttype': 'none',  # text stays text
  'svg.hashsalt': 'flaxnets',
  'font.size': 9,
  'text.parse_math': False,  # names are names, whatever they hold
  'text.color': INK,
  'axes.edgecolor': INK,
  'axes.labelcolor': INK,
  'xtick.color': INK,
  'ytick.color': INK,
  'axes.linewidth': 0.6,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.color': INK,
  'grid.alpha': 0.13,
  'grid.linewidth': 0.6,
  'axes.axisbelow': True,
  'lines.linewidth': 1.4,
}


@dataclasses.dataclass(frozen=True)
class Plot:
  """A figure with its name, for file names, and a sentence that says what it shows."""

  name: str
  caption: str
  figure: Figure


def svg(plot: Plot) -> str:
  """An <svg> element to embed in a page; its ids begin with the plot's name."""
  with settings():
    FigureCanvasSVG(plot.figure)
    buffer = io.StringIO()
    plot.figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  text = re.sub(
    r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-labelledby="{plot.name}-said">', text
  )
  return re.sub('<[^>]*>', lambda tag: _embedded(tag[0], plot.name), text)  # names between tags stay as they are


def _embedded(tag: str, name: str) -> str:
  """A tag of an SVG with ids that begin with a name, and with the page's colours."""
  tag = re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{name}-', tag)
  for number, colour in enumerate(COLOURS):
    tag = tag.replace(colour, f'var(--c{number})')
  return tag.replace(INK, 'currentColor')


def png(plot: Plot) -> bytes:
  """The plot on white, 150 dots an inch."""
  with settings():
    FigureCanvasAgg(plot.figure)
    buffer = io.BytesIO()
    plot.figure.savefig(buffer, format='png', dpi=150, facecolor='white')
  return buffer.getvalue()


@contextlib.contextmanager
def settings() -> Iterator[None]:
  """The look of all figures, within a block."""
  with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
    warnings.filterwarnings('ignore', message='Glyph .* missing from')  # the page's fonts may have it
    yield


def new_axes(entries: int, *, height: float = _HEIGHT, left: float = 0.6) -> tuple[Figure, Axes]:
  """A figure with axes and room for a legend above them.

  Args:
    entries: of the legend, which has two columns.
    height: of the axes and what is below them, inches.
    left: room for the names of the y axis, inches.
  """
  above = 0.12 + _LEGEND_ROW * -(-entries // 2)
  total = height + above
  figure = Figure(figsize=(_WIDTH, total))
  figure_axes = figure.add_axes((left / _WIDTH, 0.5 / total, 1 - (left + 0.12) / _WIDTH, (height - 0.5) / total))
  return figure, figure_axes


def legend(axes: Axes) -> None:
  """Draws the legend above the axes."""
  axes.legend(
    loc='lower left',
    bbox_to_anchor=(-0.1, 1.0),
    ncols=2,
    frameon=False,
    fontsize=8,
    borderaxespad=0.1,
    labelspacing=0.3,
    handlelength=1.8,
    columnspacing=1.2,
  )


def short(name: str, most: int = 28) -> str:
  """A name in a plot, of at most so many characters."""
  visible = f'\u200b{name}' if name.startswith('_') else name  # a legend leaves out what begins with _
  return visible if len(visible) <= most else f'{visible[: most - 1]}…'


def look(number: int) -> dict[str, Any]:
  """Colour and style of a plot's n-th line; MOST differ."""
  return {'color': COLOURS[number % len(COLOURS)], 'linestyle': _STYLES[number // len(COLOURS) % len(_STYLES)]}

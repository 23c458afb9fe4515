"""A report as one page of HTML that contains everything it shows, and may not connect to anything."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from flaxnets.report import figures, plots, tables, words

SECTIONS = {
  'summary': 'Summary',
  'subsets': 'Subsets',
  'comparison': 'Comparison',
  'curves': 'Learning curves',
  'macs': 'Accuracy and cost',
  'worth': 'Worth of channels',
  'confusions': 'Confusions',
  'calibration': 'Calibration',
  'kernels': 'Kernels',
  'examples': 'Images',
  'channels': 'Channels',
  'config': 'Config',
  'provenance': 'Provenance',
}


def html(report: Mapping[str, Any]) -> str:
  """The page of what `flaxnets.report.gather.gather` found.

  Names and labels are escaped. A Content-Security-Policy forbids every connection and every script but the page's own,
  which is named by its hash.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('flaxnets.report', '.'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  # Subsets stay in their order, and numbers take no more room than they need.
  environment.policies['json.dumps_kwargs'] = {'sort_keys': False, 'separators': (',', ':')}
  script = _file('page.js')
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  runs = report['runs']
  return environment.get_template('page.html.jinja').render(
    report=report,
    runs=runs,
    sections=SECTIONS,
    script=Markup(script),  # our own file
    style=Markup(_file('page.css') + _colours()),
    digest=digest,
    plots={
      section: [(plot, Markup(figures.svg(plot))) for plot in found]  # matplotlib escapes text
      for section, found in plots.of_report(report).items()
    },
    subset_table=tables.of_subsets(report),
    comparison_tables=tables.of_comparison(report),
    differences=tables.of_differences(report),
    provenance=tables.of_provenance(report),
    tables=tables,
    words=words,
    confusions={'runs': [{'name': run['name'], **run['confusions']} for run in runs if run['confusions']['subsets']]},
  )


def _file(name: str) -> str:
  return (importlib.resources.files('flaxnets.report') / name).read_text(encoding='utf-8')


def _colours() -> str:
  """The plots' colours as CSS variables, for a light and a dark page."""
  light, dark = (
    ''.join(f'--c{number}:{colour};' for number, colour in enumerate(colours))
    for colours in (figures.COLOURS, figures.DARK_COLOURS)
  )
  return f':root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}'

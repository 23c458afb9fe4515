import html
import html.parser
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse

import hypothesis
import hypothesis.strategies as st
import pytest
from PIL import Image

from flaxnets.cli import main
from flaxnets.errors import InputError
from flaxnets.inference.verify import verify
from flaxnets.report import figures, page, plots
from flaxnets.report.gather import gather
from flaxnets.report.write import write
from tests.report.made import begin_run, make_run

ROOT = pathlib.Path(__file__).parents[2]
TABLE = ROOT / 'docs' / 'results' / 'rgb'
HOSTILE = '<script>alert(1)</script>'


class Reader(html.parser.HTMLParser):
  """The tags of a page with their attributes, and the text within each section."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text, self._section = [], {}, ''
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag == 'section':
      self._section = dict(attributes)['id']
      self.text[self._section] = ''

  def handle_data(self, data):
    if self._section:
      self.text[self._section] += data

  def all(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


def made(tmp_path, kind):
  """A folder of each kind that a report can be about."""
  if kind == 'going on':
    begin_run(tmp_path / 'run')
  elif kind == 'just begun':
    begin_run(tmp_path / 'run', steps=0)
  elif kind == 'one subset':
    make_run(tmp_path / 'run', names='R')
  elif kind == 'study':
    for seed, name in enumerate(('one', 'two')):
      make_run(tmp_path / 'run' / name, seed=seed)
  elif kind == 'table':
    return TABLE
  else:
    make_run(tmp_path / 'run')
  return tmp_path / 'run'


KINDS = ('complete', 'going on', 'just begun', 'one subset', 'study', 'table')


@pytest.fixture(scope='module', params=KINDS)
def reader(request, tmp_path_factory):
  """The page about a folder of each kind."""
  return Reader(page.html(gather([made(tmp_path_factory.mktemp('made'), request.param)])))


def test_every_section_is_there_and_says_something(reader):
  assert list(reader.text) == list(page.SECTIONS)
  for name, title in page.SECTIONS.items():
    assert len(reader.text[name].replace(title, '').strip()) > 20, name


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(reader):
  ids = [attributes['id'] for _, attributes in reader.tags if 'id' in attributes]
  assert len(set(ids)) == len(ids)
  links = [value for _, attributes in reader.tags for key, value in attributes.items() if key.endswith('href')]
  assert {link[1:] for link in links if link.startswith('#')} <= set(ids)
  assert all(link.startswith(('#', 'data:')) for link in links)


def test_names_are_escaped_wherever_they_are_shown(tmp_path):
  folder = tmp_path / HOSTILE.replace('/', '|')
  make_run(folder, classes=(HOSTILE, 'dog', '"><img src=x onerror=alert(1)>'), names=('<b>', 'G', '$x$'))
  text = page.html(gather([folder]))
  reader = Reader(text)
  make_run(tmp_path / 'harmless', classes=('cat', 'dog', 'owl'), names='XGY')
  harmless = Reader(page.html(gather([tmp_path / 'harmless'])))
  assert len(reader.all('script')) == 2  # the data and the page's own
  assert not [image for image in reader.all('img') if not image['src'].startswith('data:')]
  assert len(reader.all('b')) == len(harmless.all('b'))
  assert '<b>' in ' '.join(reader.text.values())
  assert HOSTILE not in text
  assert HOSTILE in reader.text['examples']  # shown as it is written


def test_the_policy_admits_no_connection_and_no_other_script(tmp_path):
  reader = Reader(page.html(gather([made(tmp_path, 'complete')])))
  policy = next(tag['content'] for tag in reader.all('meta') if tag.get('http-equiv') == 'Content-Security-Policy')
  assert "default-src 'none'" in policy and "connect-src 'none'" in policy
  assert re.search(r"script-src 'sha256-[\w+/=]+';", policy)
  sources = [value for _, tag in reader.tags for key, value in tag.items() if key in ('src', 'srcset', 'action')]
  assert sources and all(source.startswith('data:') for source in sources)


def test_a_page_of_127_subsets_and_1000_classes_stays_under_20_mb(tmp_path):
  make_run(tmp_path / 'run', names='ABCDEFG', classes=[f'class {n}' for n in range(1000)], examples=10_000)
  path = write([str(tmp_path / 'run')], tmp_path / 'report.html')
  assert path.stat().st_size < 20e6
  report = gather([tmp_path / 'run'])
  assert len(report['runs'][0]['confusions']['subsets']) == 127
  assert report['runs'][0]['confusions']['side'] == 100


def test_a_plot_takes_its_colours_from_the_page():
  report = {'runs': [{'name': 'a $x$ & <b>', 'evaluated': False, 'curves': {
    'train': {'step': [1, 2], 'loss': [2.0, None], 'accuracy': [0.1, 0.2]},
    'validation': {'step': [], 'loss': [], 'accuracy': [], 'subsets': {}},
  }}]}  # fmt: skip
  drawn = plots.of_report(report)['curves']
  svg = figures.svg(drawn[0])
  assert 'var(--c0)' in svg and 'currentColor' in svg
  assert not re.search('#[0-9a-f]{6}', svg.replace('#ffffff', ''))
  assert svg == figures.svg(drawn[0])
  assert figures.png(drawn[0]).startswith(b'\x89PNG')


@pytest.mark.parametrize(
  ('counts', 'said'), [((9, 40), '10 examples or more'), ((9, 1), '10 examples or more, or all bins of a subset')]
)
def test_a_calibration_plot_says_which_bins_it_shows(counts, said):
  bins = [{'count': count, 'confidence': 0.5, 'accuracy': 0.5} for count in counts]
  run = {'name': 'mine', 'subsets': [], 'evaluated': True, 'calibration': {'bins': {'RGB': bins}}}
  run |= {key: {'absent': '', 'command': ''} for key in ('curves', 'worth')}
  (plot,) = plots.of_report({'runs': [run]})['calibration']
  assert said in plot.caption and ('all bins' in plot.caption) == ('all bins' in said)


@pytest.mark.parametrize('name', ['_baseline', 'seed #0072b2', 'url(#a) id="b"'])
def test_a_plot_names_every_run_as_it_is_called(name):
  curve = {'step': [1, 2], 'loss': [2.0, 1.0], 'accuracy': [0.1, 0.2], 'subsets': {}}
  runs = [
    {'name': name, 'evaluated': False, 'curves': {'train': curve, 'validation': curve}} for name in (name, 'other')
  ]
  svg = figures.svg(plots.of_report({'runs': runs})['curves'][0])
  assert {name, 'other'} <= {html.unescape(text).strip('\u200b') for text in re.findall('>([^<]+)</text>', svg)}


@hypothesis.given(st.lists(st.floats(0, 200), min_size=1, max_size=12).map(sorted))
def test_names_that_would_overlap_are_moved_apart_and_others_stay(places):
  moved = plots.spread(places, 9)
  assert all(later - earlier > 9 - 1e-6 for earlier, later in itertools.pairwise(moved))
  assert sum(moved) == pytest.approx(sum(places), abs=1e-6)
  if all(later - earlier >= 9 for earlier, later in itertools.pairwise(places)):
    assert moved == places


def test_markdown_links_pictures_that_exist(tmp_path):
  path = write([str(made(tmp_path, 'complete'))], tmp_path / 'out (1).md')
  text = path.read_text()
  links = re.findall(r'!\[.*?\]\((.*?)\)', text)
  assert len(links) > 10
  for link in links:
    Image.open(tmp_path / urllib.parse.unquote(link)).verify()
  assert [line[3:] for line in text.splitlines() if line.startswith('## ')] == list(page.SECTIONS.values())
  assert '| RGB |' in text


@pytest.mark.parametrize('kind', KINDS)
def test_markdown_has_every_section_for_every_folder(tmp_path, kind):
  text = write([str(made(tmp_path, kind))], tmp_path / 'out.md').read_text()
  parts = re.split(r'^## .*$', text, flags=re.MULTILINE)
  assert len(parts) == len(page.SECTIONS) + 1 and all(part.strip() for part in parts)


def test_markdown_escapes_names(tmp_path):
  make_run(tmp_path / 'run', classes=(HOSTILE, 'a|b', 'owl'))
  text = write([str(tmp_path / 'run')], tmp_path / 'out.md').read_text()
  assert HOSTILE not in text and '&lt;script&gt;' in text and 'a\\|b' in text


def test_markdown_makes_no_picture_or_link_of_a_name(tmp_path):
  make_run(tmp_path / 'run', classes=('![x](https://example.org/x.png)', '[y](https://example.org)', 'o*w*l'))
  text = write([str(tmp_path / 'run')], tmp_path / 'out.md').read_text()
  assert '![x]' not in text and '[y](' not in text and 'o*w*l' not in text
  assert '!\\[x\\](https://example.org/x.png)' in text and 'o\\*w\\*l' in text


def test_markdown_shows_the_command_of_a_folder_with_backticks_whole(tmp_path):
  begin_run(tmp_path / 'a`b``c')
  text = write([str(tmp_path / 'a`b``c')], tmp_path / 'out.md').read_text()
  assert f"``` flaxnets eval --workdir='{tmp_path}/a`b``c'" in text


def test_commands_of_a_folder_with_a_space_can_be_copied(tmp_path):
  begin_run(tmp_path / 'my run', steps=0)
  (tmp_path / 'my run' / 'config.json').unlink()
  text = write([str(tmp_path / 'my run')], tmp_path / 'a (copy).md').read_text()
  folder = f"'{tmp_path}/my run'"
  assert f'`flaxnets train --workdir={folder}`' in text and f'`flaxnets report {folder} OTHER_DIR`' in text
  page = write([str(tmp_path / 'my run')]).read_text()
  assert page.count(html.escape(f'flaxnets train --workdir={folder}').replace('&#x27;', '&#39;')) == 2


def test_the_format_follows_the_ending_unless_it_is_said(tmp_path):
  begin_run(tmp_path / 'run')
  folders = [str(tmp_path / 'run')]
  assert json.loads(write(folders, tmp_path / 'a.json').read_text())['runs'][0]['name'] == 'run'
  assert write(folders, tmp_path / 'a.txt', 'json').read_text().startswith('{')
  assert write(folders, tmp_path / 'a.htm').read_text().startswith('<!DOCTYPE html>')


def test_without_a_file_the_report_of_one_folder_is_written_into_it(tmp_path, monkeypatch):
  for name in ('one', 'two', 'elsewhere'):
    begin_run(tmp_path / name) if name != 'elsewhere' else (tmp_path / name).mkdir()
  one, two = (str(tmp_path / name) for name in ('one', 'two'))
  monkeypatch.chdir(tmp_path / 'elsewhere')
  assert write([one]) == tmp_path / 'one' / 'report.html'
  assert write([one, one], None, 'json') == tmp_path / 'one' / 'report.json'
  assert write([one, two]).resolve() == tmp_path / 'elsewhere' / 'report.html'
  assert write([one], tmp_path / 'two', 'md') == tmp_path / 'two' / 'report.md'
  assert {path.name for path in (tmp_path / 'one').glob('report*')} == {'report.html', 'report.json'}
  outcome = verify(one)
  assert outcome.problems == [] and tmp_path / 'one' / 'report.json' not in outcome.undigested
  write([one])  # the report is no part of the run
  with pytest.raises(InputError, match='no is not a folder; give the folder of a run or of a study'):
    write([str(tmp_path / 'no')])


def test_a_report_into_a_folder_that_does_not_exist_is_an_error(tmp_path):
  begin_run(tmp_path / 'run')
  with pytest.raises(InputError, match='there is no folder'):
    write([str(tmp_path / 'run')], tmp_path / 'missing' / 'report.html')


def test_the_command_prints_the_path_and_imports_no_jax(tmp_path):
  make_run(tmp_path / 'run')
  program = (
    'import sys; from flaxnets.cli import main; code = main.run("report", sys.argv[1:]);'
    'assert not {"jax", "flax"} & set(sys.modules); sys.exit(code)'
  )
  out = tmp_path / 'report.html'
  done = subprocess.run(
    [sys.executable, '-c', program, str(tmp_path / 'run'), f'--out={out}'],
    capture_output=True, text=True, cwd=ROOT,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'{out}\n' and out.exists()


def test_a_run_whose_folder_is_not_utf_8_is_reported_like_any_other(tmp_path, capfd):
  folder = os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9')
  make_run(pathlib.Path(folder))
  for form in ('html', 'md', 'json'):
    assert main.run('report', [folder, f'--format={form}']) == 0
    assert capfd.readouterr().out == f'{tmp_path}/caf\\udce9/report.{form}\n'
    assert 'caf\\udce9' in pathlib.Path(folder, f'report.{form}').read_text('utf-8')


def test_the_package_carries_the_files_of_the_page():
  text = (ROOT / 'pyproject.toml').read_text()
  for path in (ROOT / 'flaxnets' / 'report').iterdir():
    assert path.suffix in ('.py', '') or f'"{path.name}"' in text

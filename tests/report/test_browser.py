"""The page in a real browser: no error, no request, and everything that can be clicked."""

import pytest

from flaxnets.report import page
from flaxnets.report.write import write
from tests.report.chromium import PROGRAM, Page
from tests.report.made import begin_run, make_run
from tests.report.test_page import HOSTILE, TABLE

pytestmark = pytest.mark.skipif(PROGRAM is None, reason='no chromium or google-chrome is installed')


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  opened = Page(tmp_path_factory.mktemp('profile'))
  yield opened
  opened.close()


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
  """A page of each kind."""
  folder = tmp_path_factory.mktemp('pages')
  make_run(folder / 'run', classes=(HOSTILE, 'dog', 'owl'))
  make_run(folder / 'study' / 'one', seed=1)
  make_run(folder / 'study' / 'two', seed=2, names='RGBN', subsets='all')
  begin_run(folder / 'going')
  make_run(folder / 'large', names='ABCDEFG', classes=[f'class {n}' for n in range(1000)], examples=5000)
  make_run(folder / 'binary', classes=('no', 'yes'))
  folders = {name: folder / name for name in ('run', 'study', 'going', 'large', 'binary')} | {'table': TABLE}
  return {name: write([str(path)], folder / f'{name}.html') for name, path in folders.items()}


KINDS = ('run', 'study', 'going', 'large', 'binary', 'table')


def opened(browser, path, *, width=1280, height=900, scheme='light'):
  browser.size(width, height, mobile=width < 600)
  browser.scheme(scheme)
  browser.errors.clear()
  browser.requests.clear()
  browser.open(path)
  return browser


def column(browser, table, place):
  script = f'[...document.querySelectorAll("#{table} tbody tr")].map((row) => row.cells[{place}].textContent.trim())'
  return browser.js(script)


@pytest.mark.parametrize('kind', KINDS)
def test_the_page_opens_without_an_error_and_asks_for_nothing(browser, pages, kind):
  opened(browser, pages[kind])
  sections = browser.js('[...document.querySelectorAll("main section")].map((section) => section.id)')
  assert sections == list(page.SECTIONS)
  assert browser.js('[...document.images].every((image) => image.complete && image.naturalWidth > 0)')
  assert browser.errors == []
  assert browser.requests == [pages[kind].as_uri()]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('width', [390, 820, 1280])
def test_the_page_is_no_wider_than_the_screen(browser, pages, kind, width):
  opened(browser, pages[kind], width=width, height=844)
  browser.js('document.querySelectorAll("details").forEach((details) => { details.open = true; })')
  assert browser.js('document.documentElement.scrollWidth') <= width
  assert browser.js('document.body.scrollHeight') > 844


def test_a_click_sorts_by_a_column_and_another_the_other_way_round(browser, pages):
  opened(browser, pages['run'])
  click = 'document.querySelector("#table-subsets th:nth-child(3) button").click()'
  browser.js(click)
  down = [float(text.split()[0]) for text in column(browser, 'table-subsets', 2)]
  assert down == sorted(down, reverse=True) and len(set(down)) > 2
  assert browser.js('document.querySelector("#table-subsets th:nth-child(3)").ariaSort') == 'descending'
  browser.js(click)
  up = [float(text.split()[0]) for text in column(browser, 'table-subsets', 2)]
  assert up == sorted(up)
  browser.js('document.querySelector("#table-subsets th:nth-child(1) button").click()')
  assert column(browser, 'table-subsets', 0) == ['B', 'G', 'GB', 'R', 'RB', 'RG', 'RGB']
  assert browser.js('document.querySelectorAll("#table-subsets [aria-sort]").length') == 1


def test_empty_cells_sort_last(browser, pages):
  opened(browser, pages['table'])
  for _ in range(2):
    browser.js('document.querySelector("#table-study0 th:nth-child(6) button").click()')
    cells = column(browser, 'table-study0', 5)
    assert '' in cells and '' not in cells[: cells.index('')] and set(cells[cells.index('') :]) == {''}


def test_a_class_called_script_is_shown_and_not_run(browser, pages):
  opened(browser, pages['run'])
  browser.js('window.alert = () => { document.title = "run"; }')
  browser.js('document.getElementById("confusion-subset").dispatchEvent(new Event("change"))')
  assert HOSTILE in browser.js('document.querySelector(".matrix").textContent')
  assert browser.js('document.querySelector(".matrix script") === null')
  assert browser.js('document.title') != 'run'


def test_a_script_that_is_not_the_pages_own_is_refused(browser, pages, tmp_path):
  path = tmp_path / 'changed.html'
  path.write_text(pages['going'].read_text().replace('</main>', '</main><script>document.title = "run"</script>'))
  opened(browser, path)
  assert browser.js('document.title') != 'run'
  assert any('Content Security Policy' in error for error in browser.errors)


def test_a_connection_is_refused(browser, pages):
  opened(browser, pages['going'])
  assert browser.js('fetch("http://localhost:9/").then(() => "connected", () => "refused")') == 'refused'
  assert any('Content Security Policy' in error for error in browser.errors)


def test_the_matrix_shows_counts_and_changes_with_the_subset(browser, pages):
  opened(browser, pages['run'])
  cells = '[...document.querySelectorAll(".matrix td")].map((cell) => cell.textContent)'
  full = browser.js(cells)
  assert sum(int(text or 0) for text in full) == 60
  browser.js(
    'const subset = document.getElementById("confusion-subset"); subset.value = "R";'
    'subset.dispatchEvent(new Event("change"))'
  )
  assert browser.js(cells) != full
  browser.js('document.querySelector(".matrix td").dispatchEvent(new PointerEvent("pointerover", {bubbles: true}))')
  assert f'{HOSTILE} predicted as {HOSTILE}: ' in browser.js('document.getElementById("confusion-cell").textContent')


def test_a_thousand_classes_are_a_picture_that_tells_its_cells_and_a_table_that_can_be_searched(browser, pages):
  opened(browser, pages['large'])
  assert browser.js('document.querySelector("#confusion-matrix canvas").width') == 100
  assert browser.js('document.getElementById("confusion-subset").length') == 127
  browser.js(
    'const canvas = document.querySelector("canvas"); const box = canvas.getBoundingClientRect();'
    'canvas.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 3, clientY: box.top + 3}))'
  )
  said = browser.js('document.getElementById("confusion-cell").textContent')
  assert said.startswith('class 0 … class 9 predicted as class 0 … class 9: ')
  browser.js(
    'const filter = document.getElementById("class-filter"); filter.value = "CLASS 99";'
    'filter.dispatchEvent(new Event("input"))'
  )
  shown = '[...document.querySelectorAll("#table-classes tbody tr")].filter((row) => !row.hidden).length'
  assert browser.js(shown) == 11  # 99 and 990 to 999


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_has_enough_contrast_in_light_and_dark(browser, pages, scheme):
  """At least 4.5 : 1 for the page's ink and notes and 3 : 1 for the plots' colours, WCAG 2.1's level AA."""
  opened(browser, pages['run'], scheme=scheme)
  colours = browser.js(
    '(() => { const style = getComputedStyle(document.documentElement);'
    'const names = ["--paper", "--soft", "--ink", "--faint", "--link", ...[...Array(8).keys()].map((n) => `--c${n}`)];'
    'return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name).trim()])); })()'
  )
  dark = scheme == 'dark'
  assert (luminance(colours['--paper']) < 0.1) == dark
  for paper in ('--paper', '--soft'):
    for ink in ('--ink', '--faint', '--link'):
      assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
  for number in range(8):
    assert contrast(colours[f'--c{number}'], colours['--paper']) >= 3, number


def luminance(colour):
  """Relative luminance of '#rrggbb', as WCAG 2.1 defines it."""
  linear = [
    value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
    for value in (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
  ]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
  low, high = sorted([luminance(one), luminance(other)])
  return (high + 0.05) / (low + 0.05)


def test_paper_is_white_with_the_tables_within_its_width(browser, pages):
  opened(browser, pages['study'], scheme='dark')
  browser.size(720, 1000)
  browser.send(
    'Emulation.setEmulatedMedia', media='print', features=[{'name': 'prefers-color-scheme', 'value': 'dark'}]
  )
  try:
    assert browser.js('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
    assert browser.js('getComputedStyle(document.querySelector("nav")).display') == 'none'
    assert browser.js('document.documentElement.scrollWidth') <= 800  # what is a little wider, the printer shrinks
  finally:
    browser.send('Emulation.setEmulatedMedia', media='')

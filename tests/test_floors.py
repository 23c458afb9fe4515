"""docs/design.md draws the house in floors; arrows point down only."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
HANDS_OVER = {('augment', 'sheet')}  # `python -m flaxnets.augment.geometry`, within a function


def places():
  """For each file or package its (floor, place on it)."""
  text = (ROOT / 'docs' / 'design.md').read_text().split('## Floors')[1].split('##')[0]
  lines = [line for line in text.splitlines() if line.startswith('    ')]
  found = {}
  for floor, line in enumerate(lines):
    for place, name in enumerate(re.findall(r'(\w+)(?:\.py|/)', line)):
      found[name] = floor, place
  return found


def imports():
  """Pairs of the part that imports and the part that is imported."""
  for path in sorted((ROOT / 'flaxnets').rglob('*.py')):
    part = path.relative_to(ROOT / 'flaxnets').parts[0].removesuffix('.py')
    if part == '__init__':
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'flaxnets':
        names = [node.module.split('.')[1]] if '.' in node.module else [alias.name for alias in node.names]
      elif isinstance(node, ast.Import):
        names = [alias.name.split('.')[1] for alias in node.names if alias.name.startswith('flaxnets.')]
      yield from ((part, name) for name in names if name != part)


def test_every_part_stands_on_a_floor():
  parts = {path.stem for path in (ROOT / 'flaxnets').glob('*.py')} - {'__init__'}
  parts |= {path.parent.name for path in (ROOT / 'flaxnets').glob('*/__init__.py')}
  assert parts <= places().keys()


def test_arrows_point_down_or_to_the_right():
  where, pairs = places(), set(imports())
  assert len(pairs) > 50
  up = {(part, name) for part, name in pairs if where[part] >= where[name]}
  assert up - {('study_table', 'study')} == HANDS_OVER  # study_table names Study for its types only


def test_only_checkpoint_imports_orbax():
  lines = re.compile(r'^\s*(import|from) orbax', re.MULTILINE)
  users = [path.name for path in (ROOT / 'flaxnets').rglob('*.py') if lines.search(path.read_text())]
  assert users == ['checkpoint.py']

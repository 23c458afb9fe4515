"""The layout of the package: imports point down, without a cycle, and only one file knows Orbax."""

import ast
import graphlib
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parents[1] / 'flaxnets'

# From the bottom to the top. A module imports from lower tiers; on one tier no package imports another, except that
# analysis may import runtime, which therefore stands below it.
TIERS = (
  {'errors'},
  {'channels', 'config'},
  {'runtime', 'nn'},
  {'analysis'},
  {'data', 'augment', 'models'},
  {'experiment'},
  {'inference'},
  {'evaluation'},
  {'training'},
  {'study', 'report'},
  {'cli'},
)


def modules():
  """Path and dotted name below flaxnets of every module; a package is named as its __init__."""
  for path in sorted(PACKAGE.rglob('*.py')):
    name = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('__init__').rstrip('.')
    yield path, name


class WithoutTypeChecking(ast.NodeTransformer):
  """A module as it runs: without the blocks `if TYPE_CHECKING:`."""

  def visit_If(self, node):
    if isinstance(node.test, ast.Name) and node.test.id == 'TYPE_CHECKING':
      return [self.visit(inner) for inner in node.orelse]
    return self.generic_visit(node)


def imported(path, names, at_run_time=False):
  """The modules of flaxnets that a file imports, within functions too, and for type checkers unless `at_run_time`."""
  tree = ast.parse(path.read_text())
  for node in ast.walk(WithoutTypeChecking().visit(tree) if at_run_time else tree):
    if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'flaxnets':
      base = node.module.removeprefix('flaxnets').lstrip('.')
      for alias in node.names:
        full = f'{base}.{alias.name}'.lstrip('.')
        yield full if full in names else base
    elif isinstance(node, ast.Import):
      yield from (
        alias.name.removeprefix('flaxnets').lstrip('.')
        for alias in node.names
        if alias.name.split('.')[0] == 'flaxnets'
      )
    elif isinstance(node, ast.Constant) and node.value in {f'flaxnets.{name}' for name in names if name}:
      yield node.value.removeprefix('flaxnets.')  # importlib.import_module('flaxnets...')


def graph(at_run_time=False):
  found = dict(modules_by_name())
  return {name: set(imported(path, found, at_run_time)) - {name} for name, path in found.items()}


def modules_by_name():
  return {name: path for path, name in modules()}


def tier_of(name):
  top = name.split('.')[0]
  return next(tier for tier, packages in enumerate(TIERS) if top in packages)


def test_every_module_belongs_to_a_tier():
  names = {name.split('.')[0] for name in modules_by_name()} - {'', '__main__'}
  assert names <= set().union(*TIERS)


def test_no_cycle_between_modules():
  edges = graph(at_run_time=True)
  # The front door imports lazily from everywhere and is imported by the program alone, for its version.
  edges = {name: targets - {''} for name, targets in edges.items() if name}
  assert sum(map(len, edges.values())) > 100
  list(graphlib.TopologicalSorter(edges).static_order())  # CycleError names the cycle


def test_imports_for_type_checkers_do_not_run_and_all_others_do(tmp_path):
  source = """
if TYPE_CHECKING:
  from flaxnets.inference.network import Network
else:
  from flaxnets.inference import predictor
if sys.platform:
  from flaxnets.inference import scale
def function():
  if other:
    from flaxnets.inference import tiles
"""
  (tmp_path / 'a.py').write_text(source)
  names = {f'inference.{name}' for name in ('network', 'predictor', 'scale', 'tiles')}
  assert set(imported(tmp_path / 'a.py', names)) == names
  assert set(imported(tmp_path / 'a.py', names, at_run_time=True)) == names - {'inference.network'}


def test_imports_point_to_lower_tiers():
  for name, targets in graph().items():
    if name in ('', '__main__'):
      continue
    for target in targets - {''}:
      if name.split('.')[0] != target.split('.')[0]:
        assert tier_of(target) < tier_of(name), f'{name} imports {target}'


def test_only_the_program_imports_commands():
  for name, targets in graph().items():
    commands = {target for target in targets if target.startswith('cli.') and target not in ('cli.flags', 'cli.main')}
    assert not commands, f'{name} imports {commands}'


def test_only_checkpoint_imports_orbax():
  lines = re.compile(r'^\s*(import|from) orbax', re.MULTILINE)
  assert [path.name for path, _ in modules() if lines.search(path.read_text())] == ['checkpoint.py']

"""The structure of a checkout in numbers: modules, long files and functions, imports between packages, cycles.

    python benchmarks/structure.py [CHECKOUT]

Reads the source of CHECKOUT/flaxnets and runs nothing of it. An import is a pair of modules; imports inside functions
and for type checkers count too.
"""

from __future__ import annotations

import ast
import graphlib
import pathlib
import sys
from collections.abc import Iterator


def modules(package: pathlib.Path) -> dict[str, ast.Module]:
  """Every module below a package by its dotted name; '' is the package itself."""
  found = {}
  for path in sorted(package.rglob('*.py')):
    parts = path.relative_to(package).with_suffix('').parts
    found['.'.join(part for part in parts if part != '__init__')] = ast.parse(path.read_text())
  return found


def imports(tree: ast.Module, names: set[str]) -> Iterator[str]:
  """The modules of the package that a module imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'flaxnets':
      base = node.module.removeprefix('flaxnets').lstrip('.')
      for alias in node.names:
        full = f'{base}.{alias.name}'.lstrip('.')
        yield full if full in names else base


def cycles(edges: dict[str, set[str]]) -> int:
  """How many imports have to be cut, one after another, until no cycle is left."""
  count, edges = 0, {name: set(targets) for name, targets in edges.items()}
  while True:
    try:
      graphlib.TopologicalSorter(edges).prepare()
      return count
    except graphlib.CycleError as error:
      source, target = error.args[1][1], error.args[1][0]
      edges[source].discard(target)
      count += 1


def report(checkout: pathlib.Path) -> dict[str, int]:
  """The numbers, by what they count."""
  package = checkout / 'flaxnets'
  trees = modules(package)
  edges = {name: set(imports(tree, set(trees))) - {name, ''} for name, tree in trees.items() if name}
  functions = [
    node.end_lineno - node.lineno + 1
    for tree in trees.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
  ]
  lines = [len(path.read_text().splitlines()) for path in package.rglob('*.py')]
  flat = [name for name in edges if '.' not in name and not (package / name).is_dir()]
  return {
    'modules': len(trees),
    'modules outside packages': len(flat),
    'lines': sum(lines),
    'longest file': max(lines),
    'longest function': max(functions),
    'imports between modules': sum(map(len, edges.values())),
    'imports between packages': sum(
      name.split('.')[0] != target.split('.')[0] for name, targets in edges.items() for target in targets
    ),
    'imports in a cycle': cycles(edges),
  }


if __name__ == '__main__':
  for what, number in report(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else '.')).items():
    print(f'{what:26} {number:6,}')

"""Evaluates a trained network: python eval_main.py --workdir=DIR. The same as `flaxnets eval`."""

from flaxnets.cli.main import main

if __name__ == '__main__':
  main('eval')

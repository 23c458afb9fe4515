"""Trains a network: python train_main.py --config=demo --workdir=DIR. The same as `flaxnets train`."""

from flaxnets.cli.main import main

if __name__ == '__main__':
  main('train')

"""`python -m flaxnets COMMAND`, the same as `flaxnets COMMAND`."""

from flaxnets.cli.main import main

if __name__ == '__main__':
  main()

"""Speed benchmarks beside a peer, in one run: `python -m benchmarks.NAME` in the repository root; see --help."""

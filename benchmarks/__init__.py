"""Speed, measured beside a peer in one run: `python -m benchmarks.NAME` in the project's folder; see --help."""

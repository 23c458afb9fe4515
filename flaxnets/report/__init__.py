"""Runs and studies as one page, Markdown or JSON. Needs no JAX, so that results can be read anywhere."""

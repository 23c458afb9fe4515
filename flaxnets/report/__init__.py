"""Runs and studies as one page, Markdown or JSON. Only the contact sheet needs JAX: results can be read anywhere."""

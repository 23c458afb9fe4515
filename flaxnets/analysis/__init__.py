"""Numbers from results. NumPy only, so that reading a result needs no JAX."""

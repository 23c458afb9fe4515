"""Linen layers for inputs with missing channels, and the matrices under them for use with other libraries.

Arrays in, arrays out; mistakes are ValueErrors. The layers know nothing of sharding, files or configs.
"""

from flaxnets.nn.completion import mixing, presence_mixing
from flaxnets.nn.dynamic_conv import DynamicConv
from flaxnets.nn.stem import Standardize, Stem, put_statistics

__all__ = ['DynamicConv', 'Standardize', 'Stem', 'mixing', 'presence_mixing', 'put_statistics']

"""Every field at its default. flaxnets/config.py lists the fields, each with a comment; other configs change some.

flaxnets train --config.data.root=/data/imagenet-mini --workdir=runs/r18
"""

from flaxnets.config import default as get_config

__all__ = ['get_config']

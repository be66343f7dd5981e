"""Pools of polykv in Python: a language model's KV cache for a document, as the specification (spec/) says.

load(path) gives a Pool, checked from the first byte to the last; what is wrong with one is a PoolError.
"""

from .errors import PoolError
from .kv_pool import Pool, load

__all__ = ["Pool", "PoolError", "load"]
__version__ = "0.1.0"

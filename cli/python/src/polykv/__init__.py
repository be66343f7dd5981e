"""Pools of polykv in Python: a language model's KV cache for a document, as the specification (spec/) says.

load(path) gives a Pool, checked from the first byte to the last; what is wrong with one is a PoolError.
Pool.to_dynamic_cache(), from_dynamic_cache() and card_from_dynamic_cache() are the way to transformers and back.
"""

from .errors import PoolError
from .kv_pool import Pool
from .pool_chain import load
from .pool_from_cache import card_from_dynamic_cache, from_dynamic_cache

__all__ = ["Pool", "PoolError", "card_from_dynamic_cache", "from_dynamic_cache", "load"]
__version__ = "0.1.0"

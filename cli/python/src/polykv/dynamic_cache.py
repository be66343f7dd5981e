"""Pools and transformers' DynamicCache. torch and transformers are imported where they are used, and nowhere else."""

from .errors import PoolError


def to_dynamic_cache(pool, dtype=None):
    if pool.drops_positions:
        reason = "the pool drops positions, which a cache of transformers cannot say"
        raise PoolError("kUnsupportedFeature", reason, path=pool.path)
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(pool.num_layers):
        keys, values = (torch.from_numpy(side(layer)).unsqueeze(0) for side in (pool.keys, pool.values))
        cache.update(keys.to(dtype or torch.float32), values.to(dtype or torch.float32), layer)
    return cache

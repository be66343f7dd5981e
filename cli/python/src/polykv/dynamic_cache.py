"""A transformers.DynamicCache of what a pool holds."""

from .errors import PoolError


def to_dynamic_cache(pool, dtype=None):
    for part in pool.chain:
        if part.drops_positions:
            reason = "the pool drops positions, which a cache of transformers cannot say"
            raise PoolError("kUnsupportedFeature", reason, path=part.path)
    import torch  # here and nowhere else: who wants no cache needs neither
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(pool.num_layers):
        keys, values = (torch.from_numpy(side(layer)).unsqueeze(0) for side in (pool.chain_keys, pool.chain_values))
        cache.update(keys.to(dtype or torch.float32), values.to(dtype or torch.float32), layer)
    return cache

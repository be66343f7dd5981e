"""Pools of what a transformers.DynamicCache holds."""

import os

import numpy as np

from .pool_chain import load
from .pool_writer import WRITER, write_pool

# What says which model, tokenizer and template a pool fits; the other groups say how it was made.
FIT_GROUPS = ("model", "rope", "adapters", "tokenizer", "template")
NUMBER_TYPES = {"torch.float32": "f32", "torch.bfloat16": "bf16", "torch.float16": "f16"}


def from_dynamic_cache(cache, *, like, path, tokens=None, text=None, text_ranges=None, force=False):
    """Writes a pool of a transformers.DynamicCache, keys and values in float16, and returns it loaded.

    like: a pool, or its path, that polykv built with the same model: it says which model, tokenizer and template the
    new one fits. Without tokens, text and text_ranges the cache holds like's own tokens. For others give all three:
    tokens, an id for each position of the cache, the template's included; text, all of the documents; text_ranges, for
    each token the bytes of the text (in UTF-8) that it covers, begin and end, begin = end for tokens of the template.
    The text after the last range is tokenized together with each question: tokens end where that does not change them.

    An existing file is refused (FileExistsError) unless force. ValueError where arguments do not go together, PoolError
    (which is one) where values are not finite in float16 or what would be written is not a sound pool.
    """
    like = load(like) if isinstance(like, str | os.PathLike) else like
    given = [part is not None for part in (tokens, text, text_ranges)]
    if any(given) and not all(given):
        raise ValueError("tokens, text and text_ranges go together: give all three or none")
    if all(given):
        text = text.encode("utf-8")
        own = {"document.count": "1", "document.0.name": "text", "document.0.bytes": str(len(text))}
    elif like.parent is not None:
        raise ValueError("like extends another pool: give tokens, text and text_ranges")
    else:
        tokens, text, text_ranges = like.tokens, like.source_bytes, like.text_ranges
        own = {name: value for name, value in like.identity.items() if name.split(".")[0] in ("document", "prompt")}
    tokens, text_ranges = checked_tokens(tokens, text_ranges)
    layers = layers_of(cache, like, len(tokens))
    return write_layers(path, force, identity_of(like, layers) | own, tokens, text_ranges, text, like, layers)


def card_from_dynamic_cache(cache, *, parent, path, tokens, text="", turn=None, force=False):
    """Writes what a transformers.DynamicCache holds after a pool's positions as a pool that extends it, a card, and
    returns it loaded.

    parent: a pool, or its path, with whose chain the cache begins; how it begins is not looked at. tokens: an id for
    each position after those. text: what they stand for, for people. turn: "answer", if they end with an answer, so
    that the next question opens a new turn of the chat; else it goes on with the user's content.

    Errors as of from_dynamic_cache.
    """
    parent = load(parent) if isinstance(parent, str | os.PathLike) else parent
    if turn not in (None, "answer"):
        raise ValueError(f"turn is {turn!r}, not 'answer' or None")
    text = text.encode("utf-8")
    ranges = np.full((len(tokens), 2), [0, len(text)] if len(tokens) == 1 else 0, np.int64)
    ranges[-1:, 1] = len(text)  # all of it is tokenized
    tokens, ranges = checked_tokens(tokens, ranges)
    first = parent.first_position + parent.num_tokens
    layers = layers_of(cache, parent, first + len(tokens))
    layers = [tuple(side[:, :, first:] for side in layer) for layer in layers]
    own = {"parent.name": os.path.basename(parent.path), **({"prompt.turn": turn} if turn else {})}
    return write_layers(path, force, identity_of(parent, layers) | own, tokens, ranges, text, parent, layers, parent)


def checked_tokens(tokens, text_ranges):
    tokens, text_ranges = np.asarray(tokens, np.int64), np.asarray(text_ranges, np.int64)
    if tokens.ndim != 1 or len(tokens) == 0 or text_ranges.shape != (len(tokens), 2):
        raise ValueError(
            f"tokens {tokens.shape} and text_ranges {text_ranges.shape}: expected [n] and [n, 2], n above 0"
        )
    return tokens, text_ranges


def identity_of(like, layers):
    """What the new pool fits, and how it was made."""
    dtype = str(layers[0][0].dtype)
    kept = {name: value for name, value in like.identity.items() if name.split(".")[0] in FIT_GROUPS}
    codec = {name: like.identity[name] for name in ("codec.rotation", "codec.codebooks") if name in like.identity}
    return (
        kept
        | codec
        | {
            "codec.name": "f16",
            "prefill.runner": "DynamicCache",
            "prefill.type": NUMBER_TYPES.get(dtype, dtype),
            "writer.program": WRITER.decode(),
        }
    )


def write_layers(path, force, identity, tokens, text_ranges, text, like, layers, parent=None):
    shape = (like.num_layers, like.num_kv_heads, len(tokens), like.head_dim)
    arrays = (tuple(array_of(side[0]) for side in layer) for layer in layers)
    return write_pool(path, force, identity, tokens, text_ranges, text, shape, arrays, parent)


def layers_of(cache, like, num_tokens):
    """Keys and values of each layer, tensors [1, num_kv_heads, num_tokens, head_dim]."""
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    if len(layers) != like.num_layers:
        raise ValueError(f"the cache has {len(layers)} layers, the model of {like.path} has {like.num_layers}")
    expected = (1, like.num_kv_heads, num_tokens, like.head_dim)
    for number, sides in enumerate(layers):
        for tensor, what in zip(sides, ("keys", "values"), strict=True):
            shape = None if tensor is None else tuple(tensor.shape)
            if shape != expected:
                raise ValueError(
                    f"the cache's {what} of layer {number} have the shape {shape}, expected {expected}: a batch of "
                    "one, with a position for each token (cache.crop takes off what came after them)"
                )
    return layers


def array_of(tensor):
    """bfloat16 is not known to NumPy; float32 holds all of it."""
    tensor = tensor.detach().to("cpu")
    return (tensor if str(tensor.dtype) in ("torch.float16", "torch.float32") else tensor.float()).numpy()

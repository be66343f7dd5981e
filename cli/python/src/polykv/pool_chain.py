"""polykv.load, and of pools that extend others where the parent is and whether it is the right one
(spec/pool-format.md, section 15)."""

import hashlib
import json
import os
import pathlib

from .errors import PoolError
from .kv_pool import load_alone
from .pool_container import MEANS, SUPERBLOCK_BYTES

MOST_POOLS = 256


def has_superblock(path, digest):
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return hashlib.sha256(file.read(SUPERBLOCK_BYTES)).digest() == digest
    except OSError:
        return False


def find_in_folder(folder, name, digest):
    """The pool as it was called when its child was made, or any other."""
    if name and "/" not in name and has_superblock(folder / name, digest):
        return folder / name
    pools = sorted(path for path in folder.glob("*.pkv") if path.is_file())
    return next((path for path in pools if has_superblock(path, digest)), None)


def find_indexed(digest):
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    try:
        path = json.loads(pathlib.Path(home, "polykv/pools.json").read_text())["pools"][digest.hex()]
        return pathlib.Path(path) if has_superblock(path, digest) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_parent(pool, pool_path):
    digest, name = pool._container.superblock.parent_digest, pool.identity.get("parent.name", "")
    folders = [pathlib.Path(pool.path).parent, *map(pathlib.Path, pool_path)]
    found = (find_in_folder(folder, name, digest) for folder in folders)
    path = next((path for path in found if path), None) or find_indexed(digest)
    if path is None:
        shown = f"{name or 'a pool'}, whose superblock has SHA-256 {digest.hex()[:16]}..."
        reason = f"it extends {shown} and which is not found: put it beside it, or name its folder in pool_path"
        raise PoolError("kMismatch", reason, path=pool.path)
    return path


def check_parent(parent, pool):
    above, below = parent._container.superblock, pool._container.superblock
    same = {
        "the superblock": above.digest == below.parent_digest,
        "tokens_fingerprint": above.tokens_fingerprint == below.parent_tokens_fingerprint,
        "model_fingerprint": above.model_fingerprint == below.model_fingerprint,
        "tokenizer_fingerprint": above.tokenizer_fingerprint == below.tokenizer_fingerprint,
        "the shape": (above.num_layers, above.num_kv_heads, above.head_dim)
        == (below.num_layers, below.num_kv_heads, below.head_dim),
        "the end": above.first_position + above.num_tokens == below.first_position,
    }
    for what, holds in same.items():
        if not holds:
            raise PoolError("kMismatch", f"{what} is not that of the pool which extends it", path=parent.path)


def load_parent(pool, pool_path):
    """Sets the parent of `pool`, and those of its parents."""
    child, has_means = pool, MEANS in pool._container.by_kind
    for _ in range(MOST_POOLS - 1):
        parent = load_alone(find_parent(child, pool_path))
        check_parent(parent, child)
        if MEANS in parent._container.by_kind:
            if has_means:
                reason = "it has means, and so has a pool that extends it"
                raise PoolError("kBadSectionTable", reason, path=parent.path)
            has_means = True
        child.parent, child = parent, parent
        if not parent._container.superblock.has_parent:
            return
    raise PoolError("kLimitExceeded", f"more than {MOST_POOLS} pools extend each other", path=pool.path)


def load(path, pool_path=()):
    """Reads a pool and checks it: every checksum, digest and fingerprint, and that everything in it makes sense. Keys
    and values are dequantized, and the text is decompressed, when asked for. A pool that extends another one is loaded
    with it: parents are looked for beside it, in the folders of pool_path, and in the user's index of pools. Raises
    PoolError where the file is not a sound pool or a parent is missing, OSError where it cannot be read."""
    pool = load_alone(path)
    if pool._container.superblock.has_parent:
        load_parent(pool, pool_path)
    return pool

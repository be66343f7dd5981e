"""XXH3-64 with a seed, and XXH64, as the xxHash library's documentation describes them.

Many rows of one length are hashed side by side: a block's products are sums over its stripes, which NumPy makes for all
blocks of all rows at once; only the scramble after each block has to wait for the one before.
"""

import numpy as np

from .xxh3_short import (
    MASK,
    PRIME32_1,
    PRIME32_2,
    PRIME32_3,
    PRIME64_1,
    PRIME64_2,
    PRIME64_3,
    PRIME64_4,
    PRIME64_5,
    SECRET,
    avalanche,
    fold,
    hash_short,
    le64,
)  # fmt: skip

STRIPE_BYTES, STRIPES_PER_BLOCK = 64, 16
SHORT = 240  # longer inputs go by stripes
BATCH_BYTES = 2 << 20  # what is hashed side by side, and its temporaries, stay in the cache
SWAPPED = [1, 0, 3, 2, 5, 4, 7, 6]
LOW = np.uint64(0xFFFFFFFF)
START = np.array(
    [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1], dtype=np.uint64
)


def xxh3_64(data, seed=0):
    """Of anything with the buffer protocol."""
    if len(data) <= SHORT:
        return hash_short(bytes(data), seed)
    return int(hash_rows(np.frombuffer(data, np.uint8)[None, :], [seed])[0])


def xxh3_64_rows(rows, seeds):
    """rows: uint8 [count, length]; a hash of each with its seed."""
    if rows.shape[1] <= SHORT:
        return np.array([hash_short(row.tobytes(), seed) for row, seed in zip(rows, seeds, strict=True)], np.uint64)
    step = max(1, BATCH_BYTES // rows.shape[1])
    parts = [hash_rows(rows[i : i + step], seeds[i : i + step]) for i in range(0, len(rows), step)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def secrets(seeds):
    """uint64 [count, 24]: the seed is added to the words with an even index and taken from the others."""
    words = np.frombuffer(SECRET, "<u8").astype(np.uint64)
    seeds = np.array(seeds, np.uint64)[:, None]
    even = np.arange(len(words)) % 2 == 0
    return np.where(even, words + seeds, words - seeds)


def accumulate(words, keys):
    """What stripes add to the lanes: words and keys [stripes, 8 words, ...], sums [8 lanes, ...]. The long axes come
    last, where NumPy is fast."""
    keyed = words ^ keys
    products = keyed >> np.uint64(32)
    keyed &= LOW
    products *= keyed
    return products.sum(axis=0) + words.sum(axis=0)[SWAPPED]


def hash_rows(rows, seeds):
    count, size = rows.shape
    secret = secrets(seeds)
    keys = np.stack([secret[:, i : i + 8].T for i in range(STRIPES_PER_BLOCK)])  # [stripes, 8, count]
    num_blocks, rest = divmod((size - 1) // STRIPE_BYTES, STRIPES_PER_BLOCK)
    block_bytes = STRIPE_BYTES * STRIPES_PER_BLOCK
    blocks = words_of(rows[:, : num_blocks * block_bytes]).reshape(count, num_blocks, STRIPES_PER_BLOCK, 8)
    sums = accumulate(np.ascontiguousarray(blocks.transpose(2, 3, 1, 0)), keys[:, :, None])
    lanes = np.repeat(START[:, None], count, axis=1)
    scramble = np.ascontiguousarray(secret[:, 16:].T)
    for i in range(num_blocks):
        lanes += sums[:, i]
        lanes = ((lanes ^ (lanes >> np.uint64(47))) ^ scramble) * np.uint64(PRIME32_1)
    left = words_of(rows[:, num_blocks * block_bytes :][:, : rest * STRIPE_BYTES]).reshape(count, rest, 8)
    lanes += accumulate(left.transpose(1, 2, 0), keys[:rest])
    # The last 64 bytes come once more, with words of the secret that are not aligned.
    secret_bytes = secret.astype("<u8").view(np.uint8)
    lanes += accumulate(words_of(rows[:, size - STRIPE_BYTES :]).T[None], words_of(secret_bytes[:, 121:185]).T[None])
    merge_keys = words_of(secret_bytes[:, 11:75]).tolist()
    return np.array([merge(*pair, size) for pair in zip(lanes.T.tolist(), merge_keys, strict=True)], np.uint64)


def words_of(rows):
    return np.ascontiguousarray(rows).view("<u8")


def merge(lanes, keys, size):
    total = size * PRIME64_1
    for i in range(0, 8, 2):
        total += fold(lanes[i] ^ keys[i], lanes[i + 1] ^ keys[i + 1])
    return avalanche(total & MASK)


def xxh64(data):
    """With seed 0: the checksum of a zstd frame is its low half."""
    size = len(data)
    end = size - size % 32
    if size >= 32:
        lanes = [(PRIME64_1 + PRIME64_2) & MASK, PRIME64_2, 0, -PRIME64_1 & MASK]
        # The multiplication of the input does not wait for the lanes.
        inputs = (np.frombuffer(data, "<u8", end // 8) * np.uint64(PRIME64_2)).reshape(-1, 4).tolist()
        for stripe in inputs:
            for lane in range(4):
                lanes[lane] = rotate((lanes[lane] + stripe[lane]) & MASK, 31) * PRIME64_1 & MASK
        total = sum(rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
        for lane in lanes:
            total = ((total ^ round64(lane)) * PRIME64_1 + PRIME64_4) & MASK
    else:
        total = PRIME64_5
    total = (total + size) & MASK
    while end + 8 <= size:
        total = (rotate(total ^ round64(le64(data, end)), 27) * PRIME64_1 + PRIME64_4) & MASK
        end += 8
    if end + 4 <= size:
        four = int.from_bytes(data[end : end + 4], "little")
        total = (rotate(total ^ (four * PRIME64_1 & MASK), 23) * PRIME64_2 + PRIME64_3) & MASK
        end += 4
    for byte in data[end:]:
        total = rotate(total ^ (byte * PRIME64_5 & MASK), 11) * PRIME64_1 & MASK
    total = (total ^ total >> 33) * PRIME64_2 & MASK
    total = (total ^ total >> 29) * PRIME64_3 & MASK
    return total ^ total >> 32


def rotate(value, bits):
    return (value << bits | value >> (64 - bits)) & MASK


def round64(word):
    return rotate(word * PRIME64_2 & MASK, 31) * PRIME64_1 & MASK

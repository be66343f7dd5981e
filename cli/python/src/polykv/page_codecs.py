"""Codecs: from the pages of a run to keys and values, as spec/codecs.md says; and float16 pages, the other way.

Arrays have the dimensions first, [head_dim, positions], so that every step of the arithmetic runs along many positions.
Operations, their order and rounding are the specification's, in float32: results are those of polykv, bit for bit.
"""

import numpy as np

from .pool_container import align

FLOAT16 = 16
PAGE_POSITIONS, TILE = 64, 16
BLOCK = 32  # of q8_0

# Section 3.
FACTORS = {
    8: 0x3EB504F3, 16: 0x3E800000, 32: 0x3E3504F3, 64: 0x3E000000,
    128: 0x3DB504F3, 256: 0x3D800000, 512: 0x3D3504F3,
}  # fmt: skip
SIGNS = np.unpackbits(
    np.frombuffer(
        bytes.fromhex(
            "89fa7a730431cc9ee86ec11ab6055e366b8683be6e2b670b52f6b8538656993c"
            "41a2584a841e861d48d490c0cb3971abd55662b8e5e9d6c8f256821ea69c040a"
        ),
        np.uint8,
    ),
    bitorder="little",
).astype(bool)

# Section 4: steps, and the positive integers of the symmetric lists.
STEPS = {
    1: 0x3C1830D6, 2: 0x3C6D2B50, 3: 0x3C9B5B9F, 4: 0x3CBB1AEA,
    5: 0x3CDB59FF, 6: 0x3CF18260, 7: 0x3D010204, 8: 0x3D010204,
}  # fmt: skip
POSITIVE = {
    1: [41, 127],
    2: [13, 42, 74, 127],
    3: [6, 16, 28, 40, 54, 70, 92, 127],
    4: [3, 7, 12, 16, 21, 26, 31, 37, 43, 49, 57, 65, 75, 87, 103, 127],
    5: [1, 3, 5, 7, 9, 11, 14, 16, 18, 20, 22, 24, 26, 29, 31, 34,
        36, 39, 42, 45, 48, 51, 55, 59, 63, 68, 74, 80, 88, 97, 109, 127],
    6: [1, 3, 6, 8, 10, 13, 15, 17, 20, 22, 24, 27, 30, 32, 35, 38,
        40, 43, 46, 49, 53, 56, 60, 64, 68, 73, 78, 84, 91, 99, 110, 127],
}  # fmt: skip
INTEGERS = {codec: np.array([-i for i in reversed(half)] + half, np.float32) for codec, half in POSITIVE.items()}
INTEGERS[7] = np.arange(-127, 129, 2).astype(np.float32)
INTEGERS[8] = np.arange(256).astype(np.uint8).view(np.int8).astype(np.float32)

# Section 8: bits of a code in each plane, lowest first.
PLANES = {1: [1], 2: [1, 1], 3: [2, 1], 4: [2, 1, 1], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}


def is_known(codec):
    return 1 <= codec <= 8 or codec == FLOAT16


def is_trellis(codec):
    return 1 <= codec <= 5


def allows_exponent(codec, exponent):
    return -64 <= exponent <= 63 if is_trellis(codec) else exponent == 0


def removes_mean(key_codec):
    return 1 <= key_codec <= 7


def float32(bits):
    return np.array(bits, np.uint32).view(np.float32)[()]


class Side:
    """Keys or values in one codec: what they take in a page (section 7)."""

    def __init__(self, codec, head_dim, is_key):
        self.codec, self.head_dim, self.is_key = codec, head_dim, is_key
        self.width = head_dim if is_key else align(head_dim, TILE)
        self.is_q8_0 = is_key and codec == 8
        self.scale_rows = 0 if codec == FLOAT16 else align(head_dim, BLOCK) // BLOCK if self.is_q8_0 else 1
        self.scale_type = np.dtype("u1" if is_trellis(codec) else "<f2")
        self.scales_bytes = self.scale_rows * TILE * self.scale_type.itemsize  # of a tile
        self.tile_bytes = 2 * self.width * codec

    def dequantize(self, scales, tiles, exponent):
        """scales uint8 [tiles, scales_bytes] and tiles uint8 [tiles, tile_bytes]: float32 [head_dim, 16 tiles]."""
        if self.codec == FLOAT16:
            return self.float16_values(tiles)
        codes = self.codes(tiles)
        if self.is_q8_0:
            # [tiles, blocks, 16] -> a scale for each dimension of each position
            by_block = scales.view("<f2").astype(np.float32).reshape(len(tiles), self.scale_rows, TILE)
            factors = np.repeat(by_block.transpose(1, 0, 2).reshape(self.scale_rows, -1), BLOCK, axis=0)
            return factors[: self.head_dim] * INTEGERS[8][codes]
        factors = self.scales(scales, exponent).reshape(-1) * float32(STEPS[self.codec])
        indexes = trellis_indexes(self.codec, codes) if is_trellis(self.codec) else codes
        return unrotate(factors * INTEGERS[self.codec][indexes])

    def scales(self, stored, exponent):
        if not is_trellis(self.codec):
            return stored.view("<f2").astype(np.float32)
        table = ((exponent + 127 << 23) + (np.arange(256) << 18)).astype(np.uint32).view(np.float32)
        table[0] = 0
        return table[stored]

    def float16_values(self, tiles):
        values = tiles.view("<f2")
        if self.is_key:
            values = values.reshape(-1, self.head_dim, TILE).transpose(1, 0, 2)
        else:
            values = values.reshape(-1, TILE, self.width)[..., : self.head_dim].transpose(2, 0, 1)
        return values.astype(np.float32).reshape(self.head_dim, -1)

    def codes(self, tiles):
        """uint8 [head_dim, 16 tiles] (section 8)."""
        num_tiles, groups = len(tiles), self.width // 4
        codes, begin, shift = np.zeros((num_tiles, groups, 64), np.uint8), 0, 0
        for bits in PLANES[self.codec]:
            end = begin + groups * 8 * bits
            plane = tiles[:, begin:end].reshape(num_tiles, groups, 8 * bits)
            codes |= unpack_plane(plane, bits) << np.uint8(shift)
            begin, shift = end, shift + bits
        if self.is_key:  # [tile, dim / 4][position, dim % 4]
            codes = codes.reshape(num_tiles, groups, TILE, 4).transpose(1, 3, 0, 2)
        else:  # [tile, position / 4, dim / 16][dim % 16, position % 4]
            codes = codes.reshape(num_tiles, 4, self.width // 16, 16, 4).transpose(2, 3, 0, 1, 4)
        return codes.reshape(self.width, -1)[: self.head_dim]


def unpack_plane(plane, bits):
    """[..., bytes of a group] to [..., 64]. Codes of 1 bit share a byte with neighbours, others with those 8 * bits
    apart."""
    if bits == 8:
        return plane
    if bits == 1:
        return np.unpackbits(plane, axis=-1, bitorder="little")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (plane[..., None, :] >> shifts[:, None] & np.uint8((1 << bits) - 1)).reshape(*plane.shape[:-1], 64)


def trellis_indexes(codec, codes):
    """Numbers in the alphabet: which quarter of it a code chooses from is said by trellis bits before its own."""
    bits = np.zeros((codes.shape[0] + 3, codes.shape[1]), np.uint8)
    bits[3:] = codes >> np.uint8(codec - 1)
    y1 = bits[3:] ^ bits[2:-1] ^ bits[:-3]
    rank = codes & np.uint8((1 << codec - 1) - 1)
    return rank << np.uint8(2) | y1 << np.uint8(1) | bits[1:-2]


def unrotate(y):
    """Section 3: step 2, step 3, step 1. Takes y over."""
    head_dim, num_positions = y.shape
    block = head_dim & -head_dim
    span = 1
    while span < block:
        pairs = y.reshape(head_dim // (2 * span), 2, span, num_positions)
        low, high = pairs[:, 0], pairs[:, 1]
        y = np.stack([low + high, low - high], axis=1).reshape(head_dim, num_positions)
        span *= 2
    y *= float32(FACTORS[block])
    negative = SIGNS[:head_dim]
    y[negative] = -y[negative]
    return y


def sides_of(key_codec, value_codec, head_dim):
    return Side(key_codec, head_dim, True), Side(value_codec, head_dim, False)


def page_bytes(sides, num_positions):
    tiles = align(num_positions, TILE) // TILE
    return align(sum(tiles * (side.scales_bytes + side.tile_bytes) for side in sides))


def run_bytes(key_codec, value_codec, head_dim, num_positions):
    sides = sides_of(key_codec, value_codec, head_dim)
    full, rest = divmod(num_positions, PAGE_POSITIONS)
    return full * page_bytes(sides, PAGE_POSITIONS) + (page_bytes(sides, rest) if rest else 0)


def split_pages(sides, pages, num_tiles):
    """pages uint8 [pages, bytes], of `num_tiles` each: for each side its scales and its tiles, uint8 [tiles, bytes]."""
    parts, begin = [[], []], 0
    for size_of in (lambda side: side.scales_bytes, lambda side: side.tile_bytes):
        for i, side in enumerate(sides):
            size = size_of(side)
            part = pages[:, begin : begin + num_tiles * size]
            parts[i].append(part.reshape(len(pages) * num_tiles, size))
            begin += num_tiles * size
    return parts


def dequantize_run(pages, key_codec, value_codec, exponents, num_positions, head_dim, transform, want):
    """The keys (want 0) or values (want 1) of a run, float32 [head_dim, num_positions].

    pages: uint8, all of the run's. exponents: the keys' and the values'. transform: float32 [3, head_dim], mean, key
    balance and value balance, or None in a pool without means.
    """
    sides = sides_of(key_codec, value_codec, head_dim)
    side = sides[want]
    full, rest = divmod(num_positions, PAGE_POSITIONS)
    full_bytes = full * page_bytes(sides, PAGE_POSITIONS)
    parts = []
    if full:
        parts.append(split_pages(sides, pages[:full_bytes].reshape(full, -1), PAGE_POSITIONS // TILE)[want])
    if rest:
        parts.append(split_pages(sides, pages[full_bytes:].reshape(1, -1), align(rest, TILE) // TILE)[want])
    scales, tiles = (np.concatenate(column) for column in zip(*parts, strict=True))
    with np.errstate(all="ignore"):  # what scales that no writer writes give is not specified
        x = side.dequantize(scales, tiles, exponents[want])[:, :num_positions]
        return undo_transform(x, side, transform)


def undo_transform(x, side, transform):
    """Section 2. Key codec 8 and float16 have neither mean nor balance; values have a balance in all but float16."""
    balanced = removes_mean(side.codec) if side.is_key else side.codec != FLOAT16
    if transform is None or not balanced:
        return x
    mean, key_balance, value_balance = (vector[:, None] for vector in transform)
    return x / key_balance + mean if side.is_key else x / value_balance


def float16_pages(keys, values):
    """The pages of a run in float16: keys and values float16 [positions, head_dim]. Section 8: keys [head_dim][16],
    values [16][head_dim, padded]."""
    sides = sides_of(FLOAT16, FLOAT16, keys.shape[1])
    pages = []
    for begin in range(0, len(keys), PAGE_POSITIONS):
        own = [part[begin : begin + PAGE_POSITIONS] for part in (keys, values)]
        positions = align(len(own[0]), TILE)
        padded = [np.zeros((positions, side.width), "<f2") for side in sides]
        for target, source in zip(padded, own, strict=True):
            target[: source.shape[0], : source.shape[1]] = source
        tiles = padded[0].reshape(-1, TILE, keys.shape[1]).transpose(0, 2, 1).tobytes() + padded[1].tobytes()
        pages.append(tiles + bytes(page_bytes(sides, len(own[0])) - len(tiles)))
    return b"".join(pages)

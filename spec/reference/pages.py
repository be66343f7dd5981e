"""Pages: from bytes to keys and values, as spec/codecs.md says, one value at a time, in binary32.

page_bytes(key_codec, value_codec, head_dim, positions) -> size of one page
read_page(page, ..., exponents, transform) -> keys, values: lists of array('f'), one a position
first_unused_bit_set(page, ...) -> offset in the page of the first byte that should be zero and is not, or None
"""

import struct
from array import array

F16 = 16
PAGE_POSITIONS = 64
TILE = 16

# Section 3.
FACTORS = {
    8: 0x3EB504F3, 16: 0x3E800000, 32: 0x3E3504F3, 64: 0x3E000000,
    128: 0x3DB504F3, 256: 0x3D800000, 512: 0x3D3504F3,
}  # fmt: skip
SIGNS = bytes.fromhex(
    "89fa7a730431cc9ee86ec11ab6055e366b8683be6e2b670b52f6b8538656993c"
    "41a2584a841e861d48d490c0cb3971abd55662b8e5e9d6c8f256821ea69c040a"
)

# Section 4.
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

# Section 8: bits of a code in each plane, lowest first.
PLANES = {1: [1], 2: [1, 1], 3: [2, 1], 4: [2, 1, 1], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}


def known_codec(codec):
    return 1 <= codec <= 8 or codec == F16


def is_trellis(codec):
    return 1 <= codec <= 5


def known_exponent(codec, exponent):
    return -64 <= exponent <= 63 if is_trellis(codec) else exponent == 0


def removes_mean(key_codec):
    return 1 <= key_codec <= 7


def float32(bits):
    return struct.unpack("<f", bits.to_bytes(4, "little"))[0]


def rounded(values):
    """Each double to the nearest float. A double holds the exact sum, difference or product before: one rounding."""
    return array("f", values)


def float16s(data):
    return list(struct.unpack(f"<{len(data) // 2}e", data))


def align(size, to):
    return -(-size // to) * to


def integers(codec):
    """The integer of each code, of trellis codes the alphabet: section 4."""
    if codec == 8:
        return [code - 256 if code > 127 else code for code in range(256)]
    if codec == 7:
        return [2 * code - 127 for code in range(128)]
    return [-integer for integer in reversed(POSITIVE[codec])] + POSITIVE[codec]


def trellis_integers(codec, codes):
    """Section 4: the integers of a vector's codes."""
    alphabet, out = integers(codec), []
    u1 = u2 = u3 = 0
    for code in codes:
        u, rank = code >> codec - 1, code & (1 << codec - 1) - 1
        out.append(alphabet[4 * rank + 2 * (u ^ u1 ^ u3) + u2])
        u1, u2, u3 = u, u1, u2
    return out


def scale_of_byte(byte, exponent):
    return float32((exponent + 127 << 23) + (byte << 18)) if byte else 0.0


def unrotate(y):
    """Section 3: step 2, step 3, step 1."""
    head_dim = len(y)
    block = head_dim & -head_dim
    span = 1
    while span < block:
        y = rounded(y[d] + y[d + span] if d // span % 2 == 0 else y[d - span] - y[d] for d in range(head_dim))
        span *= 2
    factor = float32(FACTORS[block])
    y = rounded(value * factor for value in y)
    return array("f", (-value if SIGNS[d // 8] >> d % 8 & 1 else value for d, value in enumerate(y)))


class Part:
    """One side of a page, keys or values: section 7."""

    def __init__(self, codec, head_dim, is_key):
        self.codec, self.head_dim, self.is_key = codec, head_dim, is_key
        self.width = head_dim if is_key else align(head_dim, TILE)
        self.q8_0 = is_key and codec == 8
        self.scale_rows = 0 if codec == F16 else align(head_dim, 32) // 32 if self.q8_0 else 1
        self.scale_bytes = 1 if is_trellis(codec) else 2
        self.tile_bytes = 2 * self.width * codec

    def locate(self, position, dim):
        """Group and place in it of a code: section 8."""
        if self.is_key:
            return dim // 4, position * 4 + dim % 4
        return position // 4 * (self.width // 16) + dim // 16, dim % 16 * 4 + position % 4

    def code(self, tile, position, dim):
        group, e = self.locate(position, dim)
        groups = TILE * self.width // 64
        code = shift = plane_begin = 0
        for bits in PLANES[self.codec]:
            per_byte = 8 // bits
            group_bytes = 64 // per_byte
            # 8, 4 and 2 bits: code e shares a byte with those 64 / per_byte apart; 1 bit: with its neighbours.
            at, place = (e // 8, e % 8) if bits == 1 else (e % group_bytes, e // group_bytes)
            byte = tile[plane_begin + group * group_bytes + at]
            code |= (byte >> bits * place & (1 << bits) - 1) << shift
            shift += bits
            plane_begin += groups * group_bytes
        return code

    def float16_index(self, position, dim):
        return dim * TILE + position if self.is_key else position * self.width + dim

    def row_bytes(self):
        """The scales of a tile."""
        return self.scale_rows * TILE * self.scale_bytes

    def vector(self, scales, exponent, tile, position):
        """Dequantized, before the mean: sections 4, 5, 6."""
        if self.codec == F16:
            at = [2 * self.float16_index(position, dim) for dim in range(self.head_dim)]
            return array("f", (float16s(tile[i : i + 2])[0] for i in at))
        codes = [self.code(tile, position, dim) for dim in range(self.head_dim)]
        step = float32(STEPS[self.codec])
        if is_trellis(self.codec):
            factor = rounded([scale_of_byte(scales[position], exponent) * step])[0]
            return unrotate(rounded(factor * integer for integer in trellis_integers(self.codec, codes)))
        scale = [float16s(scales[2 * (TILE * row + position) :][:2])[0] for row in range(self.scale_rows)]
        values = integers(self.codec)
        if self.q8_0:
            return rounded(scale[dim // 32] * values[code] for dim, code in enumerate(codes))
        factor = rounded([scale[0] * step])[0]
        return unrotate(rounded(factor * values[code] for code in codes))


def split(key_codec, value_codec, head_dim, positions):
    """The parts of a page and where each begins: [(part, scales offset, tiles offset)], and its size."""
    tiles = align(positions, TILE) // TILE
    parts = [Part(key_codec, head_dim, True), Part(value_codec, head_dim, False)]
    offset, places = 0, []
    for part in parts:
        places.append([part, offset])
        offset += tiles * part.row_bytes()
    for place in places:
        place.append(offset)
        offset += tiles * place[0].tile_bytes
    return places, align(offset, 64)


def page_bytes(key_codec, value_codec, head_dim, positions):
    return split(key_codec, value_codec, head_dim, positions)[1]


def read_page(page, key_codec, value_codec, head_dim, positions, exponents, transform):
    """`transform`: mean, key balance, value balance; None without means."""
    sides = []
    places = split(key_codec, value_codec, head_dim, positions)[0]
    for (part, scales, tiles), exponent in zip(places, exponents, strict=True):
        vectors = []
        for p in range(positions):
            tile = tiles + p // TILE * part.tile_bytes
            scale = scales + p // TILE * part.row_bytes()
            scales_of_tile = page[scale : scale + part.row_bytes()]
            x = part.vector(scales_of_tile, exponent, page[tile : tile + part.tile_bytes], p % TILE)
            if transform is not None and (removes_mean(part.codec) if part.is_key else part.codec <= 8):
                balance = transform[1 if part.is_key else 2]
                x = rounded(a / b for a, b in zip(x, balance, strict=True))
            if part.is_key and removes_mean(part.codec):
                x = rounded(a + b for a, b in zip(x, transform[0], strict=True))
            vectors.append(x)
        sides.append(vectors)
    return sides


def used_bits(part, positions):
    """One tile's bytes with a 1 for every bit that may be set, where its first `positions` are used."""
    mask = bytearray(part.tile_bytes)
    for position in range(positions):
        for dim in range(part.head_dim):
            if part.codec == F16:
                at = 2 * part.float16_index(position, dim)
                mask[at : at + 2] = b"\xff\xff"
                continue
            group, e = part.locate(position, dim)
            plane_begin = 0
            for bits in PLANES[part.codec]:
                group_bytes = 8 * bits
                at, place = (e // 8, e % 8) if bits == 1 else (e % group_bytes, e // group_bytes)
                mask[plane_begin + group * group_bytes + at] |= ((1 << bits) - 1) << bits * place
                plane_begin += TILE * part.width // 64 * group_bytes
    return mask


def used_bits_of_page(key_codec, value_codec, head_dim, positions):
    """A page's bytes with a 1 for every bit that may be set."""
    places, size = split(key_codec, value_codec, head_dim, positions)
    mask = bytearray(size)
    for part, scales, tiles in places:
        for tile in range(align(positions, TILE) // TILE):
            in_tile = min(TILE, positions - tile * TILE)
            for row in range(part.scale_rows):
                size = part.scale_bytes * in_tile
                begin = scales + part.scale_bytes * TILE * (tile * part.scale_rows + row)
                mask[begin : begin + size] = b"\xff" * size
            begin = tiles + tile * part.tile_bytes
            mask[begin : begin + part.tile_bytes] = used_bits(part, in_tile)
    return mask


def first_unused_bit_set(page, key_codec, value_codec, head_dim, positions):
    mask = used_bits_of_page(key_codec, value_codec, head_dim, positions)
    return next((i for i, byte in enumerate(page) if byte & ~mask[i] & 0xFF), None)

#!/usr/bin/env python3
"""spec/codecs.md in numpy, from the specification alone and in its order: quantizes and lays out pages.

codec_reference.py vectors    the table of spec/test-vectors.md (SHA-256 of the pages of generated inputs)
codec_reference.py signs      the rotation's signs as hex
codec_reference.py example    the worked example of spec/codecs.md
"""

import hashlib
import math
import sys

import numpy as np

f32 = np.float32
# Of 1 to 5 bits the alphabet of a trellis code, of 6 bits a codebook.
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
STEP_BITS = {
    1: 0x3C1830D6,
    2: 0x3C6D2B50,
    3: 0x3C9B5B9F,
    4: 0x3CBB1AEA,
    5: 0x3CDB59FF,
    6: 0x3CF18260,
    7: 0x3D010204,
    8: 0x3D010204,
}
F16 = 16


def both_signs(bits):
    return np.array([-c for c in reversed(POSITIVE[bits])] + POSITIVE[bits])


def centroids(bits):
    """Ascending integers and their codes, 6 to 8 bits."""
    if bits == 8:
        integers = np.arange(-127, 128)
        return integers, (integers % 256).astype(np.uint8)
    if bits == 7:
        integers = 2 * np.arange(128) - 127
    else:
        integers = both_signs(bits)
    return integers, np.arange(2**bits).astype(np.uint8)


def step(bits):
    return np.array([STEP_BITS[bits]], np.uint32).view(f32)[0]


def splitmix64(seed, count):
    """The first `count` outputs of SplitMix64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


NEGATIVE = (splitmix64(0, 512) >> np.uint64(63)).astype(bool)


def rotate(x):
    """x [positions][head_dim] float32."""
    head_dim = x.shape[1]
    block = head_dim & -head_dim
    y = np.where(NEGATIVE[:head_dim], -x, x).astype(f32)
    span = 1
    while span < block:
        pairs = y.reshape(len(y), -1, 2, span)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        y = np.stack([a + b, a - b], axis=2).reshape(x.shape)
        span *= 2
    return y * f32(1 / math.sqrt(block))


def sum_of_products(a, b):
    """16 partial sums, then halves onto halves. a, b [positions][head_dim] float32."""
    partial = np.zeros((len(a), 16), f32)
    for d in range(a.shape[1]):
        partial[:, d % 16] += a[:, d] * b[:, d]
    for half in (8, 4, 2, 1):
        partial = partial[:, :half] + partial[:, half : 2 * half]
    return partial[:, 0]


def quantize_trellis(x, bits, is_key):
    """x [positions][head_dim] float32, mean removed -> codes [positions][head_dim], scales [positions] float32."""
    count, head_dim = x.shape
    y = rotate(x)
    total = sum_of_products(y, y)
    used = total > 0
    rms = np.sqrt(total[used] / f32(head_dim))
    u = y[used] * (f32(1) / (rms * step(bits)))[:, None]
    alphabet = both_signs(bits)
    nearest = np.empty((head_dim, 4, len(u)), int)  # indices into the alphabet
    for i in range(4):
        points = alphabet[i::4]
        boundaries = ((points[:-1] + points[1:]) / 2).astype(f32)
        nearest[:, i] = 4 * np.searchsorted(boundaries, u.T, side="right") + i
    # State: bit i is the trellis bit of i dimensions ago. Into it come two, which differ in the bit that falls out.
    cost = np.full((8, len(u)), np.inf, f32)
    cost[0] = 0
    second = np.empty((head_dim, 8, len(u)), bool)
    for d in range(head_dim):
        errors = (u[:, d] - alphabet[nearest[d]].astype(f32)) ** 2
        new = np.empty_like(cost)
        for state in range(8):
            u0, u1, u2 = state & 1, state >> 1 & 1, state >> 2
            a, b = (cost[state >> 1 | u3 << 2] + errors[2 * (u0 ^ u1 ^ u3) + u2] for u3 in (0, 1))
            second[d, state], new[state] = b < a, np.where(b < a, b, a)
        cost = new
    state, lanes = cost.argmin(axis=0), np.arange(len(u))
    chosen, trellis_bits = np.empty(u.shape, int), np.empty(u.shape, int)
    for d in range(head_dim - 1, -1, -1):
        u3 = second[d, state, lanes].astype(int)
        chosen[:, d] = nearest[d, 2 * ((state ^ state >> 1) & 1 ^ u3) + (state >> 2), lanes]
        trellis_bits[:, d] = state & 1
        state = state >> 1 | u3 << 2
    integers = alphabet[chosen]
    squares = (integers**2).sum(axis=1).astype(f32)
    norm = np.sqrt(total[used] / squares) / step(bits)
    product = sum_of_products(y[used], integers.astype(f32))
    with np.errstate(divide="ignore", invalid="ignore"):
        projection = total[used] / product / step(bits)
    codes, scales = np.zeros((count, head_dim), np.uint8), np.zeros(count, f32)
    codes[used] = trellis_bits << bits - 1 | chosen >> 2
    scales[used] = norm if is_key else np.where(product > 0, projection, norm)
    return codes, scales


def scale_bytes(scales, exponent):
    """Bytes of scales, as they would be for any exponent: may be above 255."""
    above = scales.view(np.uint32).astype(np.int64) - (exponent + 127 << 23)
    return np.where(above + (1 << 17) >> 18 >= 1, above + (1 << 17) >> 18, above >= -(1 << 23))


def quantize_rotated(x, bits):
    """6 to 8 bits. x [positions][head_dim] float32 -> codes [positions][head_dim], scales [1][positions] float16."""
    count, head_dim = x.shape
    integers, code_of = centroids(bits)
    y = rotate(x)
    total = sum_of_products(y, y)
    codes, scales = np.zeros((count, head_dim), np.uint8), np.zeros(count, np.float16)
    boundaries = ((integers[:-1] + integers[1:]) / 2).astype(f32)
    for p in np.nonzero(total > 0)[0]:
        rms = np.sqrt(total[p] / f32(head_dim))
        inverse = f32(1) / (rms * step(bits))
        rank = np.searchsorted(boundaries, y[p] * inverse, side="right")  # boundaries that are <= u
        squares = int((integers[rank].astype(np.int64) ** 2).sum())
        scales[p] = np.float16(np.sqrt(total[p] / f32(squares)) / step(bits))
        if scales[p] != 0:
            codes[p] = code_of[rank]
    return codes, scales.reshape(1, count)


def quantize_q8(x):
    """x [positions][head_dim] float32 -> codes, scales [blocks][positions] float16."""
    count, head_dim = x.shape
    codes, scales = np.zeros((count, head_dim), np.uint8), []
    for begin in range(0, head_dim, 32):
        block = x[:, begin : begin + 32]
        scale = (np.abs(block).max(1) / f32(127)).astype(np.float16)
        scales.append(scale)
        used = scale != 0
        rounded = np.rint(block[used] / scale[used].astype(f32)[:, None])
        codes[used, begin : begin + 32] = np.clip(rounded, -127, 127).astype(np.int8).view(np.uint8)
    return codes, np.stack(scales)


def pack(groups, bits):
    """groups [num_groups][64] codes -> bytes of one tile, plane after plane."""
    out, shift = [], 0
    trellis = bits <= 5
    for width in [width for width in (8, 4, 2, 1) if bits - trellis & width] + [1] * trellis:
        part = (groups >> shift) & (2**width - 1)
        if width == 1:
            planes = np.packbits(part, axis=1, bitorder="little")
        else:
            size = 8 * width
            planes = np.zeros((len(groups), size), np.uint8)
            for j in range(8 // width):
                planes |= part[:, j * size : (j + 1) * size] << (j * width)
        out.append(planes.astype(np.uint8).tobytes())
        shift += width
    return b"".join(out)


def tile_groups(codes, is_key):
    """codes [16][width] -> [num_groups][64]."""
    width = codes.shape[1]
    if is_key:
        return codes.reshape(16, width // 4, 4).transpose(1, 0, 2).reshape(-1, 64)
    return codes.reshape(4, 4, width // 16, 16).transpose(0, 2, 3, 1).reshape(-1, 64)


def quantize_side(x, mean, bits, is_key):
    """Keys or values of a run, float16 bits [positions][head_dim] -> codes, scales [rows][positions], exponent."""
    values = x.view(np.float16).astype(f32)
    if is_key and bits <= 7:
        values = values - mean.view(np.float16).astype(f32)
    if bits > 5:
        return *(quantize_q8(values) if is_key and bits == 8 else quantize_rotated(values, bits)), 0
    codes, scales = quantize_trellis(values, bits, is_key)
    exponent = 0
    if scales.any():
        exponent = next(e for e in range(-64, 64) if scale_bytes(scales, e).max() <= 255)
    stored = np.where(scales > 0, scale_bytes(scales, exponent), 0).astype(np.uint8)
    codes[stored == 0] = 0
    return codes, stored.reshape(1, -1), exponent


def side_of_page(codes, scales, bits, is_key):
    """One side of one page: (bytes of scales, bytes of tiles)."""
    count, head_dim = codes.shape
    tiles, width = (count + 15) // 16, head_dim if is_key else (head_dim + 15) // 16 * 16
    padded = np.zeros((tiles * 16, width), codes.dtype)
    padded[:count, :head_dim] = codes
    padded = padded.reshape(tiles, 16, width)
    if bits == F16:
        return b"", (padded.transpose(0, 2, 1) if is_key else padded).astype("<u2").tobytes()
    padded_scales = np.zeros((len(scales), tiles * 16), scales.dtype)
    padded_scales[:, :count] = scales
    return (
        padded_scales.reshape(-1, tiles, 16).transpose(1, 0, 2).astype(scales.dtype.newbyteorder("<")).tobytes(),
        b"".join(pack(tile_groups(tile, is_key), bits) for tile in padded),
    )


def quantize_run(keys, values, mean, key_bits, value_bits):
    """The run's pages and the exponents of its scales."""
    sides = [
        (x, np.zeros((0, len(x)), np.uint16), 0) if bits == F16 else quantize_side(x, mean, bits, is_key)
        for x, bits, is_key in ((keys, key_bits, True), (values, value_bits, False))
    ]
    pages = b""
    for begin in range(0, len(keys), 64):
        (key_scales, key_tiles), (value_scales, value_tiles) = (
            side_of_page(codes[begin : begin + 64], scales[:, begin : begin + 64], bits, is_key)
            for (codes, scales, _), bits, is_key in zip(sides, (key_bits, value_bits), (True, False), strict=True)
        )
        page = key_scales + value_scales + key_tiles + value_tiles
        pages += page + bytes(-len(page) % 64)
    return pages, sides[0][2], sides[1][2]


def mean_of_keys(keys):
    total = np.zeros(keys.shape[1])
    for row in keys.view(np.float16).astype(np.float64):
        total += row
    return (total / len(keys)).astype(f32).astype(np.float16).view(np.uint16)


def generated(seed, count, head_dim):
    """The input of the test vectors: float16 bits [count][head_dim]."""
    z = splitmix64(seed, count * head_dim).reshape(count, head_dim)
    integers = z.astype("<u8").view(np.int8).reshape(count, head_dim, 8)[:, :, :4].sum(axis=2, dtype=np.int32)
    out = (integers / 64).astype(np.float16)
    for p in range(count):
        if p % 29 == 5:
            out[p] = 0
        if p % 29 == 11:
            out[p] = (integers[p] * 2.0**-24).astype(np.float16)
        if p % 29 == 17:
            out[p] = (integers[p] * 64).astype(np.float16)
    return out.view(np.uint16)


def cases():
    """(key bits, value bits), head_dim, positions. The long ones are for the order of operations: one rounding done
    otherwise moves about one float16 scale in 10,000, one scale byte in 300,000, and one code in a million."""
    for count in (1, 15, 16, 17, 63, 64, 65, 200):
        yield (5, 4), 64, count
    for head_dim in (8, 16, 24, 40, 80, 96, 128, 256, 512):
        yield (5, 4), head_dim, 65
    for bits in ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (7, 7), (8, 8), (8, 3), (F16, F16)):
        for head_dim, count in ((64, 65), (40, 17)):
            yield bits, head_dim, count
    yield (6, 8), 64, 20000
    yield (7, 8), 80, 50000
    yield (8, 2), 24, 20000
    yield (5, 3), 64, 50000
    yield (4, 1), 80, 20000


def name(bits):
    return "f16" if bits == (F16, F16) else f"k{bits[0]}v{bits[1]}"


def main():
    command = sys.argv[1] if len(sys.argv) == 2 else ""
    if command == "vectors":
        for bits, head_dim, count in cases():
            keys, values = generated(1, count, head_dim), generated(2, count, head_dim)
            pages, *exponents = quantize_run(keys, values, mean_of_keys(keys), *bits)
            digest = hashlib.sha256(pages).hexdigest()
            print(f"| {name(bits)} | {head_dim} | {count} | {exponents[0]} {exponents[1]} | {len(pages)} | {digest} |")
    elif command == "signs":
        packed = np.packbits(NEGATIVE, bitorder="little").tobytes()
        print("\n".join(packed[i : i + 16].hex(" ") for i in range(0, 64, 16)))
    elif command == "example":
        x = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], np.float16)
        codes, scales = quantize_trellis(x.astype(f32), 2, False)
        print("rotated", rotate(x.astype(f32)), "codes", codes, "scale", scales)
        print("k8", *quantize_q8(x.astype(f32)))
        page, *exponents = quantize_run(x.view(np.uint16), x.view(np.uint16), np.zeros(8, np.uint16), 8, 2)
        print("exponents", exponents)
        for i in range(0, len(page), 16):
            print(f"{i:04x}  {page[i:i + 16].hex(' ')}")
    else:
        sys.exit(__doc__)


main()

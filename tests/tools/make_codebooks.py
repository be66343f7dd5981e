#!/usr/bin/env python3
"""Prints the tables of spec/codecs.md, section 4: the alphabets of the trellis codes of 1 to 5 bits, and the codebooks.

make_codebooks.py             everything (about ten minutes)
make_codebooks.py BITS        one of 1 to 8 bits

Trellis codes: alphabets of least square error for vectors uniform on the sphere of radius sqrt(64) in 64 dimensions,
by Lloyd's iteration with the encoder of the specification (free end), started from Gaussian quantiles spread more or
less widely; then integers, where single ones are moved by 1 while that lowers the error. NumPy; the seeds are fixed.
6 bits: Lloyd-Max for N(0, 1), scaled so that the largest centroid is 127. It converges in double precision to about
1e-14; the closest that any centroid comes to a rounding boundary is 0.012 of an integer, so the integers are certain.
"""

import math
import struct
import sys

import numpy as np

DIM = 64
STATES = 8


def float_bits(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


# ---- trellis codes


def sphere(count, seed):
    x = np.random.Generator(np.random.PCG64(seed)).standard_normal((count, DIM))
    return (x * (math.sqrt(DIM) / np.sqrt((x * x).sum(axis=1, keepdims=True)))).astype(np.float32)


def branches(state):
    """The two ways into a state (bit i is the trellis bit of i dimensions ago): (state before, subset of this step)."""
    u, u1, u2 = state & 1, state >> 1 & 1, state >> 2
    return [(state >> 1 | u3 << 2, 2 * (u ^ u1 ^ u3) + u2) for u3 in (0, 1)]


def encode(x, alphabet):
    """x [count][DIM] -> indices into the alphabet [count][DIM] and the mean square error."""
    count, rows = len(x), np.arange(len(x))
    subsets = [alphabet[i::4] for i in range(4)]
    edges = [(subset[1:] + subset[:-1]) / 2 for subset in subsets]
    nearest = np.empty((DIM, 4, count), np.int16)
    second = np.empty((DIM, STATES, count), bool)
    cost = np.full((STATES, count), np.inf, np.float32)
    cost[0] = 0
    for d in range(DIM):
        values = np.ascontiguousarray(x[:, d])
        errors = []
        for i in range(4):
            nearest[d, i] = 4 * np.searchsorted(edges[i], values, side="right") + i
            errors.append((values - alphabet[nearest[d, i]]) ** 2)
        new = np.empty_like(cost)
        for state in range(STATES):
            (before, subset), (other_before, other_subset) = branches(state)
            a, b = cost[before] + errors[subset], cost[other_before] + errors[other_subset]
            second[d, state], new[state] = b < a, np.minimum(a, b)
        cost = new
    state, out = cost.argmin(axis=0), np.empty((count, DIM), np.int16)
    for d in range(DIM - 1, -1, -1):
        u3 = second[d, state, rows]
        out[:, d] = nearest[d, 2 * ((state ^ state >> 1) & 1 ^ u3) + (state >> 2), rows]
        state = state >> 1 | u3 << 2
    return out, float(cost.min(axis=0).astype(np.float64).mean()) / DIM


def lloyd(x, alphabet, rounds):
    """Every point to the mean of what it stands for, the same on both sides of zero."""
    size, last = len(alphabet), math.inf
    for _ in range(rounds):
        indices, error = encode(x, alphabet)
        if error > last * (1 - 2e-6):
            break
        last = error
        count = np.bincount(indices.ravel(), minlength=size)
        total = np.bincount(indices.ravel(), weights=x.ravel(), minlength=size)
        both = count + count[::-1]
        means = np.where(both > 0, (total - total[::-1]) / np.maximum(both, 1), alphabet)
        alphabet = np.sort(means).astype(np.float32)
    return alphabet, error


def fitted_step(x, integers, step):
    """The step of least error for what the encoder chooses, and that error."""
    for _ in range(4):
        chosen = integers[encode(x / np.float32(step), integers)[0]].astype(np.float64)
        step = float((x * chosen).sum() / (chosen * chosen).sum())
    return step, encode(x / np.float32(step), integers)[1] * step * step


def search_integers(x, alphabet):
    """Integers up to 127 and their step: the alphabet rounded, then moved."""
    half = len(alphabet) // 2
    step = float(alphabet[-1]) / 127
    positive = np.round(alphabet[half:] / step)
    both = lambda positive: np.concatenate([-positive[::-1], positive]).astype(np.float32)  # noqa: E731
    step, best = fitted_step(x, both(positive), step)
    moved = True
    while moved:
        moved = False
        for i in range(half - 1):
            for by in (-1, 1):
                tried = positive.copy()
                tried[i] += by
                if tried[0] < 1 or tried[i] == tried[i + 1] or (i > 0 and tried[i] == tried[i - 1]):
                    continue
                error = encode(x / np.float32(step), both(tried))[1] * step * step
                if error < best:
                    positive, best, moved = tried, error, True
        step, best = fitted_step(x, both(positive), step)
    return both(positive), step


def trellis_alphabet(bits):
    size = 2 ** (bits + 1)
    few, many = sphere(2000, 1), sphere(10000, 2)
    quantiles = np.quantile(few.ravel(), (np.arange(size) + 0.5) / size)
    starts = [quantiles * spread for spread in (1.0, 1.15, 1.3, 1.4, 1.5, 1.6)]
    starts = [((start - start[::-1]) / 2).astype(np.float32) for start in starts]
    start, _ = min((lloyd(few, start, 40) for start in starts), key=lambda result: result[1])
    alphabet, unrounded = lloyd(many, start, 300)
    integers, step = search_integers(sphere(4000, 3), alphabet)
    step = struct.unpack("<f", struct.pack("<f", step))[0]
    test = sphere(20000, 4)
    error = encode(test / np.float32(step), integers)[1] * step * step
    print(f"{bits} bits: step 0x{float_bits(step):08x} {step:.9g}, positive integers of the alphabet", end="")
    print("".join(f" {integer:.0f}" for integer in integers[size // 2 :]))
    print(f"        square error {error:.6f} (float alphabet {encode(test, alphabet)[1]:.6f})", flush=True)


# ---- Lloyd-Max


def density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def upper_tail(x):
    return math.erfc(x / math.sqrt(2)) / 2


def positive_centroids(bits):
    """The positive half of the optimal 2**bits-level quantizer of N(0, 1), by Lloyd's iteration in closed form."""
    half = 2 ** (bits - 1)
    centroids = [(i + 0.5) / half * (1.2 + 0.45 * bits) for i in range(half)]
    while True:
        edges = [0.0] + [(centroids[i] + centroids[i + 1]) / 2 for i in range(half - 1)] + [math.inf]
        moved = [
            (density(edges[i]) - density(edges[i + 1])) / (upper_tail(edges[i]) - upper_tail(edges[i + 1]))
            for i in range(half)
        ]
        change = max(abs(moved[i] - centroids[i]) for i in range(half))
        centroids = moved
        if change < 1e-14:
            return centroids


def codebook(bits):
    if bits == 6:
        centroids = positive_centroids(bits)
        integers = [round(c / centroids[-1] * 127) for c in centroids]
        print(f"6 bits: step 0x{float_bits(centroids[-1] / 127):08x}, integers {integers}")
    else:
        print(f"{bits} bits: step 0x{float_bits(4 / 127):08x}")


def main():
    for bits in [int(sys.argv[1])] if len(sys.argv) == 2 else range(1, 9):
        trellis_alphabet(bits) if bits <= 5 else codebook(bits)


main()

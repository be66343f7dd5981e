#!/usr/bin/env python3
"""Prints the codebooks of spec/codecs.md: Lloyd-Max for N(0, 1), scaled so that the largest centroid is 127.

Standard library only. Converges in double precision to about 1e-14; the closest that any centroid comes to a rounding
boundary is 0.012 of an integer (6 bits), so the integers are certain.
"""

import math
import struct


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


for bits in range(1, 7):
    centroids = positive_centroids(bits)
    integers = [round(c / centroids[-1] * 127) for c in centroids]
    step = struct.unpack("<I", struct.pack("<f", centroids[-1] / 127))[0]
    print(f"{bits} bits: step 0x{step:08x}, largest {centroids[-1]:.9f}, integers {integers}")
step = struct.unpack("<I", struct.pack("<f", 4 / 127))[0]
print(f"7 and 8 bits: step 0x{step:08x}")

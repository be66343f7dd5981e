#!/usr/bin/env python3
"""Makes tests/unit/core/weight_vectors.inc: rows quantized and dequantized by the gguf package (0.19.0).

Usage: python3 tests/tools/make_weight_vectors.py > tests/unit/core/weight_vectors.inc
"""

import gguf
import numpy as np

NUM_COLS = 96
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]


def random_row(rng):
    """Three blocks: ordinary weights, weights whose scale is a float16 subnormal, and one-sided large ones."""
    blocks = [
        rng.normal(0.0, 0.05, 32),
        rng.normal(0.0, 2.0e-6, 32),
        np.abs(rng.normal(0.0, 30.0, 32)) + 100.0,
    ]
    return np.concatenate(blocks).astype(np.float32)[None, :]


def extreme_blocks(name):
    """A block with every code, a negative scale and, for Q4_1, a negative minimum; None for float types."""
    scale = np.array([-0.37], dtype=np.float16).tobytes()
    minimum = np.array([-1.9], dtype=np.float16).tobytes()
    nibbles = bytes((15 - i) << 4 | i for i in range(16))
    codes = bytes([0x80, 0x7F, 0x00, 0xFF] + list(range(1, 225, 8)))
    return {"Q8_0": scale + codes, "Q4_0": scale + nibbles, "Q4_1": scale + minimum + nibbles}.get(name)


def print_array(ctype, name, texts):
    print(f"constexpr {ctype} {name}[] = {{")
    for i in range(0, len(texts), 12):
        print("    " + ", ".join(texts[i : i + 12]) + ",")
    print("};")


def main():
    rng = np.random.default_rng(20240607)
    print("// Made by tests/tools/make_weight_vectors.py with gguf 0.19.0; do not edit.")
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        stored = gguf.quants.quantize(random_row(rng), kind).view(np.uint8).reshape(1, -1)
        extreme = extreme_blocks(name)
        if extreme is not None:
            stored = np.concatenate([stored, np.frombuffer(extreme, np.uint8)[None, :]], axis=1)
        values = gguf.quants.dequantize(stored.view({"F32": np.float32, "F16": np.float16}.get(name, np.uint8)), kind)
        bits = values.astype(np.float32).reshape(-1).view(np.uint32)
        assert len(bits) == NUM_COLS + (32 if extreme is not None else 0)
        print_array("std::uint8_t", f"k{name}Stored", [f"0x{byte:02x}" for byte in stored.reshape(-1)])
        print_array("std::uint32_t", f"k{name}ValueBits", [f"0x{value:08x}" for value in bits])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Mutated pools: `polykv verify --digest` and the specification's reader must agree on which to refuse, and why.

    differential_test.py POLYKV MAKE_FIXTURES [SEED [COUNT]]

Without a seal nearly every mutation is a wrong checksum; sealed again (by seal.py, on the reference's hashes) it
reaches the rule behind. Prints the seed, what was refused for what, and every disagreement.
"""

import collections
import json
import pathlib
import random
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "spec" / "reference"))

import read_pool  # noqa: E402
from container import CODES, Refused  # noqa: E402
from seal import seal, seal_ends, table_of  # noqa: E402

POOLS = ("one-token", "three-tokens", "one-position", "runs", "by-hand")
INTERESTING = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129, 254, 255)


def mutate(noise, pool):
    """Changes a few bytes, rarely in the padding of sections or in pages, which have few rules."""
    entries = [entry for entry in table_of(pool) if entry[1] not in (64, 65)]
    places = [(0, 512), (512, 1920), (len(pool) - 4096, 64)]
    places += [(offset, size) for _, kind, offset, size, _ in entries if kind in (1, 2, 3, 4, 8)] * 2
    places += [(offset, padded) for _, _, offset, _, padded in entries]
    for _ in range(noise.choice((1, 1, 1, 2, 3))):
        begin, size = noise.choice(places)
        at = begin + noise.randrange(size)
        if noise.random() < 0.3:
            at -= at % 4
        how = noise.randrange(4)
        if how == 0:
            pool[at] ^= 1 << noise.randrange(8)
        elif how == 1:
            pool[at] = noise.choice(INTERESTING)
        elif how == 2:
            pool[at] = (pool[at] + noise.choice((1, 255))) % 256
        else:
            other = begin + noise.randrange(size)
            width = min(noise.choice((1, 4, 8)), begin + size - max(at, other))
            pool[at : at + width] = pool[other : other + width]


def make(noise, goods):
    original, text = noise.choice(goods)
    pool = bytearray(original)
    mutate(noise, pool)
    how = noise.random()
    if how < 0.65:
        seal(pool, text)
    elif how < 0.85:
        seal_ends(pool)
    return bytes(pool)


def refusal(pool):
    try:
        read_pool.read(pool)
    except Refused as refused:
        return CODES[refused.code], refused.offset
    return None


def main():
    polykv = sys.argv[1]
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 300
    noise = random.Random(seed)
    goods = []
    for name in POOLS:
        data = (ROOT / "fixtures" / "pools" / "v0" / f"{name}.pkv").read_bytes()
        goods.append((data, read_pool.read(data)["text"].encode()))
        sealed = bytearray(data)
        seal(sealed, goods[-1][1])
        assert bytes(sealed) == data, f"seal.py changes {name}"
    counts, disagreements = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / f"{number}.pkv" for number in range(count)]
        for path in paths:
            path.write_bytes(make(noise, goods))
        done = subprocess.run(
            [polykv, "verify", "--digest", "--json", "--trust", *paths], capture_output=True, text=True
        )
        said = {line["pool"]: line for line in map(json.loads, done.stdout.splitlines())}
        for path in paths:
            line = said.get(str(path), {"ok": False, "error": {"code": f"no answer, status {done.returncode}"}})
            mine = None if line["ok"] else (line["error"]["code"], line["error"].get("offset"))
            reference = refusal(path.read_bytes())
            counts[reference[0] if reference else "accepted"] += 1
            if mine != reference:
                disagreements += 1
                print(f"seed {seed}, {path.name}: polykv {mine or 'accepts'}, reference {reference or 'accepts'}")
    print(f"seed {seed}: {count} files, {disagreements} disagreements;", dict(counts.most_common()))
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())

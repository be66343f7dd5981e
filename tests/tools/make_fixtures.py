#!/usr/bin/env python3
"""Remakes fixtures/pools/v0 and fixtures/broken, whole.

    make_fixtures.py [BUILD_FOLDER]      default: build; it has polykv and tests/tools/polykv_make_fixtures

Beside each pool NAME.pkv: NAME.json, what `polykv inspect --json` says (less the path), and NAME.tsv, the SHA-256 of
keys and values of each (layer, kv_head) as the specification's reader computes them. SHA256SUMS lists all pools.
Look at what changes before it is committed: a change of bytes is a change of the format.
"""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
sys.path.insert(0, str(ROOT / "spec" / "reference"))

import read_pool  # noqa: E402

COLUMNS = ("layer", "kv_head", "num_positions", "keys_sha256", "values_sha256")


def inspect(polykv, path):
    """What the program says of a pool, without the path it was found at."""
    done = subprocess.run([polykv, "inspect", "--trust", "--json", path], capture_output=True, check=True)
    said = json.loads(done.stdout)
    del said["pool"]
    return said


def values_table(path):
    rows = read_pool.read(path.read_bytes(), with_values=True)["values"]
    return "".join("\t".join(str(cell) for cell in line) + "\n" for line in [COLUMNS, *(row.values() for row in rows)])


def sums(folder):
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("*.pkv"))
    )


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build")
    good, broken = FIXTURES / "pools" / "v0", FIXTURES / "broken"
    for folder in (good, broken):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([build / "tests" / "tools" / "polykv_make_fixtures", FIXTURES], check=True)
    subprocess.run([sys.executable, ROOT / "tests" / "tools" / "write_by_hand.py", good / "by-hand.pkv"], check=True)
    for path in sorted(good.glob("*.pkv")):
        said = json.dumps(inspect(build / "polykv", path), ensure_ascii=False, indent=1)
        path.with_suffix(".json").write_text(said + "\n")
        path.with_suffix(".tsv").write_text(values_table(path))
    for folder in (good, broken):
        (folder / "SHA256SUMS").write_text(sums(folder))


if __name__ == "__main__":
    main()

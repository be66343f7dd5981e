#!/usr/bin/env python3
"""The specification's reader by itself: its own parts against published or printed values, and every fixture.

reference_reader_test.py POLYKV MAKE_FIXTURES      (as ctest calls it; neither is used)
"""

import csv
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
SPEC = ROOT / "spec"
sys.path.insert(0, str(SPEC / "reference"))

import pages  # noqa: E402
import read_pool  # noqa: E402
from container import Refused  # noqa: E402
from xxh3 import xxh3_64  # noqa: E402


def sanity_buffer(size):
    """The input of xxHash's own sanity check (tests/sanity_test.c)."""
    out, generator = bytearray(), 0x9E3779B1
    for _ in range(size):
        out.append(generator >> 56)
        generator = generator * 0x9E3779B185EBCA8D & 2**64 - 1
    return bytes(out)


class Hash(unittest.TestCase):
    # (length, XXH3-64 with seed 0, with seed PRIME64): one or more of each branch.
    PRIME64 = 0x9E3779B185EBCA8D
    VECTORS = (
        (0, 0x2D06800538D394C2, 0xA8A6B918B2F0364A),
        (1, 0xC44BDFF4074EECDB, 0x032BE332DD766EF8),
        (6, 0x27B56A84CD2D7325, 0x84589C116AB59AB9),
        (12, 0xA713DAF0DFBB77E7, 0xE7303E1B2336DE0E),
        (24, 0xA3FE70BF9D3510EB, 0x850E80FC35BDD690),
        (48, 0x397DA259ECBA1F11, 0xADC2CBAA44ACC616),
        (80, 0xBCDEFBBB2C47C90A, 0xC6DD0CB699532E73),
        (195, 0xCD94217EE362EC3A, 0xBA68003D370CB3D9),
        (403, 0xCDEB804D65C6DEA4, 0x6259F6ECFD6443FD),
        (512, 0x617E49599013CB6B, 0x3CE457DE14C27708),
        (2048, 0xDD59E2C3A5F038E0, 0x66F81670669ABABC),
        (2240, 0x6E73A90539CF2948, 0x757BA8487D1B5247),
        (2367, 0xCB37AEB9E5D361ED, 0xD2DB3415B942B42A),
    )

    def test_published_vectors(self):
        data = sanity_buffer(max(length for length, _, _ in self.VECTORS))
        for length, unseeded, seeded in self.VECTORS:
            with self.subTest(length=length):
                self.assertEqual(xxh3_64(data[:length]), unseeded)
                self.assertEqual(xxh3_64(data[:length], self.PRIME64), seeded)


class WorkedExamples(unittest.TestCase):
    def test_page_of_codecs_md(self):
        """codecs.md, section 9."""
        text = (SPEC / "codecs.md").read_text()
        page = bytearray(pages.page_bytes(8, 2, 8, 1))
        for offset, data in re.findall(r"^    ([0-9a-f]{4})  ((?:[0-9a-f]{2} )+)  ", text, re.MULTILINE):
            data = bytes.fromhex(data)
            page[int(offset, 16) : int(offset, 16) + len(data)] = data
        self.assertEqual(sum(map(bool, page)), 16)
        [key], [value] = pages.read_page(page, 8, 2, 8, 1, (0, -5), None)
        scale = 0.06298828125
        self.assertEqual(list(key), [scale * code for code in (16, 32, 48, 64, 79, 95, 111, 127)])
        # The projection on itself is kept, but for the rounding of the scale to a byte.
        product = sum(x * (i + 1) for i, x in enumerate(value))
        self.assertAlmostEqual(product, 204, delta=2**-6 * 204)
        factor = 5.25 * pages.float32(pages.STEPS[2])
        expected = pages.unrotate(pages.rounded(factor * i for i in (74, 74, 42, -127, -42, -74, -42, 13)))
        for found, wanted in zip(value, expected, strict=True):
            self.assertAlmostEqual(found, wanted, delta=1e-5)
        self.assertIsNone(pages.first_unused_bit_set(page, 8, 2, 8, 1))

    def test_superblock_of_pool_format_md(self):
        """pool-format.md, section 18: the checksum of a superblock whose rows are printed but for its table."""
        text = (SPEC / "pool-format.md").read_text()
        self.assertEqual(hashlib.sha256(b"polykv/tokenizer/1").hexdigest()[:12], "28e8f99163ce")
        rows = re.findall(r"^    ([0-9a-f]{8}): ((?:[0-9a-f]{4} )+)  ", text, re.MULTILINE)
        dump = {int(offset, 16): bytes.fromhex(data) for offset, data in rows}
        file_id = dump[0x30][8:] + dump[0x40][:8]
        seeds = re.findall(r"seed\((\d)\) = 0x([0-9a-f]{16})", text)
        self.assertEqual(len(seeds), 2)
        for number, seed in seeds:
            self.assertEqual(xxh3_64(file_id + int(number).to_bytes(8, "little")), int(seed, 16))


class Fixtures(unittest.TestCase):
    def test_good_pools(self):
        paths = sorted((FIXTURES / "pools" / "v0").glob("*.pkv"))
        self.assertGreaterEqual(len(paths), 10)
        for path in paths:
            with self.subTest(path.name):
                found = read_pool.read(path.read_bytes(), with_values=True)
                with path.with_suffix(".tsv").open() as table:
                    expected = list(csv.DictReader(table, delimiter="\t"))
                self.assertEqual([{k: str(v) for k, v in row.items()} for row in found["values"]], expected)
                self.compare_with_inspect(found, json.loads(path.with_suffix(".json").read_text()))

    def compare_with_inspect(self, found, said):
        """What `polykv inspect --json` says, from the other reader."""
        header = found["header"]
        sections = [{k: v for k, v in s.items() if k != "flags"} for s in found["sections"]]
        for section in sections:
            section["name"] = section["name"].replace("_", " ")
        self.assertEqual([dict(section) for section in said["sections"]], sections)
        self.assertEqual(said["identity"], found["identity"])
        self.assertEqual(said["pool_bytes"], header["file_bytes"])
        self.assertEqual(said["tokens"], header["num_tokens"])
        self.assertEqual(said["created"] or 0, header["created"])
        self.assertEqual(said["num_position_sets"], len(found["layout"]["position_sets"]))
        self.assertEqual(said["text_bytes"], len(found["text"].encode()))
        self.assertEqual(said["open_text_bytes"], said["text_bytes"] - found["tokens"]["text_end"][-1])
        self.assertEqual(said["fidelity_measured"], bool(found["fidelity"]))
        for name in ("writer", "min_reader", "file_id", "first_position", "num_sinks", "num_chunks"):
            self.assertEqual(said[name], header[name], name)
        for name, value in said["shape"].items():
            self.assertEqual(value, header[name], name)
        for name, value in said["fingerprints"].items():
            self.assertEqual(value, header[f"{name}_fingerprint"], name)
        for name, value in said["features"].items():
            self.assertEqual(value, header[f"features_{name}"], name)
        num_kv_heads, position_sets = header["num_kv_heads"], found["layout"]["position_sets"]
        plan = [
            {
                "layer": index // num_kv_heads,
                "kv_head": index % num_kv_heads,
                "key": "f16" if run["key_codec"] == 16 else f"k{run['key_codec']}",
                "value": "f16" if run["value_codec"] == 16 else f"v{run['value_codec']}",
                "positions": sum(high - low for low, high in position_sets[run["position_set"]]),
            }
            for index, head in enumerate(found["layout"]["heads"])
            for run in head
        ]
        self.assertEqual(said["plan"], plan)
        kept = {}
        for run in (run for head in found["layout"]["heads"] for run in head):
            pair = (run["key_codec"], run["value_codec"])
            ranges = found["layout"]["position_sets"][run["position_set"]]
            kept[pair] = kept.get(pair, 0) + sum(high - low for low, high in ranges)
        name = {(key, value): "f16" if key == value == 16 else f"k{key}v{value}" for key, value in kept}
        said_kept = {row["codec"]: row["positions"] for row in said["codecs"]}
        if not any(
            16 in pair and pair != (16, 16) for pair in kept
        ):  # the program's name of a half-raw pair is its own
            self.assertEqual(said_kept, {name[pair]: positions for pair, positions in kept.items()})

    def test_broken_pools(self):
        with (FIXTURES / "broken" / "expected.tsv").open() as table:
            rows = list(csv.DictReader(table, delimiter="\t"))
        self.assertEqual({row["file"] for row in rows}, {path.name for path in (FIXTURES / "broken").glob("*.pkv")})
        for row in rows:
            with self.subTest(row["file"]):
                with self.assertRaises(Refused) as caught:
                    read_pool.read((FIXTURES / "broken" / row["file"]).read_bytes())
                said = caught.exception
                self.assertEqual((said.code, said.offset), (row["error"], int(row["offset"])), said.reason)
                self.assertEqual(said.exit_status, int(row["exit_status"]))

    def test_program(self):
        """read_pool.py from outside: JSON and status 0, or a line on stderr and the status."""
        program = [sys.executable, "-B", SPEC / "reference" / "read_pool.py"]
        good = subprocess.run([*program, "--values", FIXTURES / "pools/v0/by-hand.pkv"], capture_output=True)
        self.assertEqual(good.returncode, 0, good.stderr)
        self.assertEqual(len(json.loads(good.stdout)["values"]), 4)
        broken = subprocess.run([*program, FIXTURES / "broken/start-minor.pkv"], capture_output=True, text=True)
        self.assertEqual((broken.returncode, broken.stdout), (6, ""))
        self.assertIn("kUnsupportedVersion at 0xc", broken.stderr)
        self.assertEqual(subprocess.run(program, capture_output=True).returncode, 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

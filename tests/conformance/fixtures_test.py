#!/usr/bin/env python3
"""The program on every fixture: `inspect --json` of good pools, exit status and error of `verify` on broken ones.

fixtures_test.py POLYKV MAKE_FIXTURES
"""

import csv
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
sys.path.insert(0, str(ROOT / "spec" / "reference"))

import read_pool  # noqa: E402
from container import Refused  # noqa: E402

POLYKV, MAKE_FIXTURES = sys.argv[1:3]
EXTEND = ("card",)  # pools whose parent is not there


def run(*arguments):
    return subprocess.run([POLYKV, *arguments, "--trust", "--json"], capture_output=True, text=True)


class GoodPools(unittest.TestCase):
    def test_inspect(self):
        for path in sorted((FIXTURES / "pools" / "v0").glob("*.pkv")):
            with self.subTest(path.name):
                done = run("inspect", path)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                said = json.loads(done.stdout)
                self.assertEqual(said.pop("pool"), str(path))
                self.assertEqual(said, json.loads(path.with_suffix(".json").read_text()))

    def test_verify(self):
        pools = sorted((FIXTURES / "pools" / "v0").glob("*.pkv"))
        done = run("verify", "--digest", *[path for path in pools if path.stem not in EXTEND])
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(all(json.loads(line)["ok"] for line in done.stdout.splitlines()))

    def test_verify_without_parent(self):
        """Every byte is good, and of no use."""
        for name in EXTEND:
            done = run("verify", "--digest", FIXTURES / "pools" / "v0" / f"{name}.pkv")
            self.assertEqual(done.returncode, 10)
            self.assertEqual(json.loads(done.stdout)["error"]["code"], 1000)
            self.assertIn("which is not found", done.stderr)


class BrokenPools(unittest.TestCase):
    def check(self, folder):
        with (folder / "expected.tsv").open() as table:
            rows = list(csv.DictReader(table, delimiter="\t"))
        for row in rows:
            with self.subTest(row["file"]):
                done = run("verify", "--digest", folder / row["file"])
                self.assertEqual(done.returncode, int(row["exit_status"]))
                said = json.loads(done.stdout)
                self.assertFalse(said["ok"])
                self.assertEqual(said["error"]["code"], int(row["number"]))
                self.assertEqual(said["error"]["offset"], int(row["offset"]))
                self.assertIn(row["file"], done.stderr)
        return rows

    def test_kept(self):
        self.assertGreater(len(self.check(FIXTURES / "broken")), 100)

    def test_not_kept(self):
        """Those that are too many or too large for fixtures: the program and the specification's reader."""
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([MAKE_FIXTURES, folder, "--all"], check=True)
            broken = pathlib.Path(folder) / "broken"
            for path in broken.glob("*.pkv"):
                if (FIXTURES / "broken" / path.name).exists():
                    path.unlink()
            rows = (broken / "expected.tsv").read_text().splitlines()
            kept = [row for row in rows[1:] if (broken / row.split("\t")[0]).exists()]
            (broken / "expected.tsv").write_text("\n".join([rows[0], *kept]))
            self.assertGreater(len(kept), 40)
            for row in self.check(broken):
                with self.subTest(row["file"]):
                    with self.assertRaises(Refused) as caught:
                        read_pool.read((broken / row["file"]).read_bytes())
                    self.assertEqual(
                        (caught.exception.code, caught.exception.offset), (row["error"], int(row["offset"]))
                    )


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

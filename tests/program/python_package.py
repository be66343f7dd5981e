"""The Python package (cli/python) reads and writes what the specification and the program do.

python_package.py POLYKV MAKE_MODEL_POOL. Needs NumPy: of this Python, or of the one that ./dev test sets up.
"""

import csv
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import stat
import subprocess
import sys

from program import MODEL, ROOT, Workplace, expect

try:
    import numpy as np
except ImportError:
    other = ROOT / ".deps/python/bin/python"
    if not other.exists() or pathlib.Path(sys.prefix) == other.parent.parent:
        sys.exit("SKIPPED: needs NumPy")
    os.execv(other, [other, *sys.argv])

sys.path[:0] = [str(ROOT / folder) for folder in ("cli/python/src", "spec/reference", "tests/conformance")]

import differential_test  # noqa: E402
import pages as reference_pages  # noqa: E402
import polykv  # noqa: E402
import read_pool  # noqa: E402
import xxh3 as reference_xxh3  # noqa: E402
from polykv import hashes, kv_pool, page_codecs, pool_container, pool_writer, zstd  # noqa: E402

POOLS = ROOT / "fixtures/pools/v0"
BROKEN = ROOT / "fixtures/broken"
CODECS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
BAD_PADDING = polykv.errors.CODES["kBadPadding"]  # of pages: not looked for, as what is there reaches nobody


def refusal(contents):
    """As differential_test's: number and offset, or None."""
    try:
        polykv.Pool(contents).source_text  # noqa: B018
    except polykv.PoolError as error:
        return error.number, error.offset
    return None


def check_hashes():
    noise = random.Random(1)
    for size in [*range(260), 511, 512, 513, 1023, 1024, 1025, 1088, 1089, 2048, 5000]:
        data, seed = noise.randbytes(size), noise.getrandbits(64)
        expect(hashes.xxh3_64(data, seed) == reference_xxh3.xxh3_64(data, seed), f"XXH3 of {size} bytes")
    rows, seeds = np.frombuffer(noise.randbytes(9 * 1100), np.uint8).reshape(9, 1100), list(range(9))
    one_by_one = [reference_xxh3.xxh3_64(row.tobytes(), seed) for row, seed in zip(rows, seeds, strict=True)]
    expect(hashes.xxh3_64_rows(rows, seeds).tolist() == one_by_one, "XXH3 of rows")


def check_zstd():
    """Frames of the zstd program, and frames of ours by it."""
    noise = random.Random(2)
    words = [noise.choice(("keeper", "light", "lamp", "harbour", "of", "the", "a")) for _ in range(40000)]
    texts = [
        b"",
        b"a",
        b"z" * 300000,
        noise.randbytes(5000),
        (ROOT / "README.md").read_bytes(),
        " ".join(words).encode(),
    ]
    texts += [bytes(int(noise.gauss(100, 12)) & 255 for _ in range(size)) for size in (20, 70, 300, 1500, 140000)]
    texts += [texts[4][:size] for size in (200, 600, 1500)]  # short ones have the default tables
    program = shutil.which("zstd")
    for text in texts:
        expect(zstd.decompress(zstd.store(text)) == text, f"a stored text of {len(text)} bytes")
        if program is None:
            continue
        stored = subprocess.run([program, "-dcq"], input=zstd.store(text), capture_output=True).stdout
        expect(stored == text, f"zstd on a stored text of {len(text)} bytes")
        for level in (1, 3, 9, 19):
            command = [program, "-cq", f"-{level}", f"--stream-size={len(text)}"]
            frame = subprocess.run(command, input=text, capture_output=True).stdout
            expect(zstd.decompress(frame) == text, f"{len(text)} bytes of zstd -{level}")
            for _ in range(20):  # whatever is in a frame, it is a text or a ValueError
                broken = bytearray(frame)
                broken[noise.randrange(4, len(frame))] ^= 1 << noise.randrange(8)
                try:
                    zstd.decompress(bytes(broken[: noise.choice((len(frame), noise.randrange(len(frame))))]))
                except ValueError:
                    pass


def check_pages():
    """Pages of random bytes in every codec, against the specification's reader, bit for bit."""
    noise = np.random.default_rng(3)
    for codec in CODECS:
        for head_dim, positions in ((64, 66), (40, 21), (8, 3)):
            size = page_codecs.run_bytes(codec, codec, head_dim, positions)
            # Bit 6 of every second byte clear: no float16 among them is infinite or NaN.
            pages = noise.integers(0, 256, size, np.uint8) & np.tile(np.array([255, 191], np.uint8), size)[:size]
            transform = noise.normal(1, 0.1, (3, head_dim)).astype(np.float16).astype(np.float32)
            exponents = (-3, 2) if page_codecs.is_trellis(codec) else (0, 0)
            expected, offset = ([], []), 0
            for begin in range(0, positions, 64):
                in_page = min(64, positions - begin)
                end = offset + reference_pages.page_bytes(codec, codec, head_dim, in_page)
                page = pages[offset:end].tobytes()
                kind = (codec, codec, head_dim, in_page)
                sides = reference_pages.read_page(page, *kind, exponents, transform.tolist())
                for side, vectors in zip(expected, sides, strict=True):
                    side.extend(vectors)
                offset = end
            for want in (0, 1):
                arguments = (pages, codec, codec, exponents, positions, head_dim, transform, want)
                got = page_codecs.dequantize_run(*arguments).T
                same = np.array_equal(got, np.array(expected[want], np.float32))
                expect(same, f"codec {codec}, head_dim {head_dim}: {('keys', 'values')[want]}")


def splitmix(index, seed):
    z = seed + (index + 1) * 0x9E3779B97F4A7C15 & 2**64 - 1
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    z = (z ^ z >> 27) * 0x94D049BB133111EB & 2**64 - 1
    return z ^ z >> 31


def check_vectors():
    """spec/test-vectors.md: the pages of float16, which the package writes."""
    rows = re.findall(
        r"^\| f16 \| (\d+) \| (\d+) \|.*\| ([0-9a-f]{64}) \|$", (ROOT / "spec/test-vectors.md").read_text(), re.M
    )
    expect(len(rows) == 2, f"{len(rows)} rows of f16 in test-vectors.md")
    for head_dim, positions, digest in rows:
        sides = []
        for seed in (1, 2):
            sums = [
                sum(np.frombuffer(splitmix(i, seed).to_bytes(8, "little"), np.int8)[:4].tolist())
                for i in range(int(positions) * int(head_dim))
            ]
            values = np.array(sums, np.float64).reshape(int(positions), int(head_dim)) / 64
            place = np.arange(int(positions)) % 29
            values[place == 5], values[place == 11], values[place == 17] = (
                0,
                values[place == 11] * 64 * 2.0**-24,
                values[place == 17] * 64 * 64,
            )
            sides.append(values.astype("<f2"))
        got = hashlib.sha256(page_codecs.float16_pages(*sides)).hexdigest()
        expect(got == digest, f"f16 pages of head_dim {head_dim}")


def check_good_pools():
    """Every head's values, bit for bit; and the rest of what the program's inspect says."""
    for path in sorted(POOLS.glob("*.pkv")):
        pool = kv_pool.load_alone(path)
        said = json.loads(path.with_suffix(".json").read_text())
        shape = {name: getattr(pool, name) for name in ("num_layers", "num_kv_heads", "head_dim", "num_tokens")}
        expect(said["shape"] == shape and said["file_id"] == pool.file_id, f"{path.name}: {shape}")
        expect(said["identity"] == pool.identity, f"{path.name}: {pool.identity}")
        expect(said["text_bytes"] == len(pool.source_bytes), f"{path.name}: the text")
        expect(said["open_text_bytes"] == len(pool.open_text), f"{path.name}: the open text")
        expect(said["fidelity_measured"] == (pool.fidelity is not None), f"{path.name}: fidelity")
        with path.with_suffix(".tsv").open() as table:
            rows = list(csv.DictReader(table, delimiter="\t"))
        expect(len(rows) == pool.num_layers * pool.num_kv_heads, f"{path.name}: {len(rows)} heads")
        for row in rows:
            layer, kv_head = int(row["layer"]), int(row["kv_head"])
            kept = pool.kept(layer)[kv_head]
            expect(kept.sum() == int(row["num_positions"]), f"{path.name}: positions of {layer}, {kv_head}")
            for name, side in (("keys", pool.keys), ("values", pool.values)):
                array = side(layer, dropped=np.nan)[kv_head]
                expect(np.isnan(array[~kept]).all(), f"{path.name}: dropped {name}")
                # Adding 0 takes the sign off a zero, which depends on the order of operations.
                digest = hashlib.sha256((array[kept] + np.float32(0)).astype("<f4").tobytes()).hexdigest()
                expect(digest == row[f"{name}_sha256"], f"{path.name}: {name} of {layer}, {kv_head}")


def check_broken_pools():
    with (BROKEN / "expected.tsv").open() as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    for row in rows:
        wanted = (int(row["number"]), int(row["offset"]))
        wanted = None if wanted[0] == BAD_PADDING else wanted
        got = refusal((BROKEN / row["file"]).read_bytes())
        expect(got == wanted, f"{row['file']}: {got}, expected {wanted}")
    for version in ("v0.1", "v0.2"):
        try:
            polykv.load(ROOT / "fixtures/pools" / version / "k5v4.pkv")
            expect(False, f"{version} was taken")
        except polykv.PoolError as error:
            expect(error.code == "kUnsupportedVersion" and "polykv build" in str(error), str(error))
            expect("k5v4.pkv" in str(error), str(error))


def check_every_section():
    """The first byte of every section, of superblock and trailer; the file cut at, before and after each."""
    contents = (POOLS / "k5v4.pkv").read_bytes()
    places = [(section.name, section.offset) for section in pool_container.Container(contents).sections]
    expect(len(places) == 10, f"{places}")
    for name, offset in [("superblock", 0), *places, ("trailer", len(contents) - 4096)]:
        broken = bytearray(contents)
        broken[offset] ^= 1
        got = refusal(bytes(broken))
        # What is wrong is where it was changed, or is the magic's.
        expect(got is not None and got[1] == offset, f"first byte of {name}, at {offset}: {got}")
        for size in (offset - 1, offset, offset + 1):
            expect(refusal(contents[: max(size, 0)]) is not None, f"cut to {size} bytes")
    expect(refusal(contents + b"\0") is not None, "a byte more")


def check_mutations():
    """Changed and sealed again, so that the rule behind the checksum is met: as the specification's reader says."""
    noise, goods = random.Random(4), []
    for name in differential_test.POOLS:
        contents = (POOLS / f"{name}.pkv").read_bytes()
        goods.append((contents, polykv.Pool(contents).source_bytes))
    refused = 0
    for number in range(250):
        contents = differential_test.make(noise, goods)
        wanted, got = differential_test.refusal(contents), refusal(contents)
        if wanted is not None and wanted[0] == BAD_PADDING:
            wanted = None
        expect(got == wanted, f"mutation {number}: {got}, the specification's reader {wanted}")
        refused += got is not None
    expect(refused > 150, f"only {refused} of 250 mutations were refused")


def tensors_of(export):
    """A safetensors file: {name: array}."""
    data = export.read_bytes()
    size = int.from_bytes(data[:8], "little")
    kinds = {"F16": "<f2", "F32": "<f4", "I64": "<i8"}
    result = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            result[name] = np.frombuffer(data[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return result


def check_export(place, path):
    """What `polykv export` writes, bit for bit; it rounds to float16 where that holds all values."""
    export = place.path / "work/exported.safetensors"
    command = ("export", path, "-o", export, "--trust", "--force")
    try:
        pool = polykv.load(path)
    except polykv.PoolError as error:
        expect(error.code == "kMismatch" and "extends" in str(error), str(error))
        return place.run(*command, status=10)
    if pool.drops_positions:
        place.run(*command, status=6)
        try:
            pool.keys(0), [pool.keys(layer) for layer in range(pool.num_layers)]
            expect(False, f"{path.name}: a pool that drops positions gave all keys")
        except polykv.PoolError as error:
            expect(error.code == "kUnsupportedFeature", str(error))
        return
    place.run(*command)
    tensors = tensors_of(export)
    expect(np.array_equal(tensors["tokens"], pool.chain_tokens), f"{path.name}: tokens")
    for layer in range(pool.num_layers):
        for name, side in (("keys", pool.chain_keys), ("values", pool.chain_values)):
            theirs = tensors[f"layers.{layer}.{name}"]
            same = np.array_equal(theirs[0], side(layer).astype(theirs.dtype))
            expect(same, f"{path.name}: {name} of layer {layer} are not those of export")


def write(pool, path, force=False, change=lambda layer, array: array):
    """The pool again, in float16."""
    shape = (pool.num_layers, pool.num_kv_heads, pool.num_tokens, pool.head_dim)
    layers = ((change(layer, pool.keys(layer)), pool.values(layer)) for layer in range(pool.num_layers))
    identity = {**pool.identity, "codec.name": "f16"}
    return pool_writer.write_pool(
        path, force, identity, pool.tokens, pool.text_ranges, pool.source_bytes, shape, layers
    )


def check_writer(place):
    work = place.path / "work"
    # A pool of float16 written again has the same file_id: every section that it is made of has the same bytes.
    for name in ("f16", "sinks-only", "one-token", "three-tokens"):
        pool = polykv.load(POOLS / f"{name}.pkv")
        again = write(pool, work / f"{name}.pkv")
        same_codec = pool.identity.get("codec.name") == "f16"
        expect((again.file_id == pool.file_id) == same_codec, f"{name}: {again.file_id} after {pool.file_id}")
        place.run("verify", "--digest", f"{name}.pkv")
        read_pool.read((work / f"{name}.pkv").read_bytes())
    expect(stat.S_IMODE((work / "f16.pkv").stat().st_mode) == 0o600, "its mode is not 0600")
    # Refused: what exists, without force; values that float16 does not hold. Nothing is changed or left behind.
    before, files = (work / "f16.pkv").read_bytes(), place.files()
    pool = polykv.load(POOLS / "k5v4.pkv")

    def with_nan(layer, array):
        return np.where(np.arange(array.size).reshape(array.shape) == 70, np.nan, array) if layer == 1 else array

    for error, arguments in (
        (FileExistsError, {}),
        (polykv.PoolError, {"force": True, "change": with_nan}),
        (polykv.PoolError, {"force": True, "change": lambda layer, array: array + 70000}),
        (ValueError, {"force": True, "change": lambda layer, array: array[:, 1:]}),
    ):
        try:
            write(pool, work / "f16.pkv", **arguments)
            expect(False, f"{error.__name__} was not raised")
        except error as caught:
            expect(str(caught).count("\n") == 0, str(caught))
    expect((work / "f16.pkv").read_bytes() == before and place.files() == files, f"left: {place.files()}")
    write(pool, work / "f16.pkv", force=True)
    expect(polykv.load(work / "f16.pkv").num_tokens == 64 and place.files() == files, "it was not replaced")


def check_with_a_model(place):
    """A pool that fits a model, written again, is one that `ask` takes."""
    model = MODEL if MODEL.exists() else ROOT / "fixtures/models/llama-gqa-q8_0.gguf"
    work = place.path / "work"
    subprocess.run([sys.argv[2], model, work / "model.pkv", "150", "1"], check=True)
    check_export(place, work / "model.pkv")
    write(polykv.load(work / "model.pkv"), work / "again.pkv")
    out, err = place.run("ask", "again.pkv", "What?", "-n", "4", "-m", model, "--json")
    expect(json.loads(out)["cached_tokens"] == 150 and err == "", out + err)


def refused(what, *arguments, **options):
    try:
        polykv.load(*arguments, **options)
        expect(False, f"{arguments} was taken")
    except polykv.PoolError as error:
        expect(what in str(error), str(error))


def check_cards(place):
    """Pools that extend others: found, checked, and values of the whole chain; and one of our own on them."""
    model, work = MODEL if MODEL.exists() else ROOT / "fixtures/models/llama-gqa-q8_0.gguf", place.path / "work"
    for card, parent, bits in (("first", "model", "4"), ("second", "first", "16")):
        place.run(*("ask", f"{parent}.pkv", "What?", "-n", "20", "-m", model, "--bits", bits, "--save", f"{card}.pkv"))
        check_export(place, work / f"{card}.pkv")
    second = polykv.load(work / "second.pkv")
    expect([pool.first_position for pool in second.chain][:2] == [0, 150] and second.num_tokens > 20, "the chain")
    count = len(second.chain_tokens)
    expect(second.chain_keys(0).shape[1] == count == second.first_position + second.num_tokens, "chain_keys")
    # Written again it has the same bytes, for what is in it is float16.
    shape = (second.num_layers, second.num_kv_heads, second.num_tokens, second.head_dim)
    layers = [(second.keys(layer), second.values(layer)) for layer in range(second.num_layers)]
    parts = (second.identity, second.tokens, second.text_ranges, second.source_bytes, shape, layers, second.parent)
    again = pool_writer.write_pool(work / "second-again.pkv", False, *parts)
    expect(again.file_id == second.file_id, "a card written again has another file_id")
    place.run("verify", "--digest", "second-again.pkv")
    answers = [place.run("ask", name, "And?", "-n", "5", "-m", model)[0] for name in ("second.pkv", "second-again.pkv")]
    expect(answers[0] == answers[1], str(answers))
    # Elsewhere, without, with another.
    away = place.path / "away"
    away.mkdir()
    (work / "second.pkv").rename(away / "second.pkv")
    refused("first.pkv, whose superblock has SHA-256", away / "second.pkv")
    expect(polykv.load(away / "second.pkv", pool_path=[work]).file_id == second.file_id, "pool_path")
    index = place.path / "data/polykv/pools.json"
    expect(index.exists(), "the program keeps no index of pools")
    os.environ["XDG_DATA_HOME"] = str(place.path / "data")
    expect(polykv.load(away / "second.pkv").parent.path == str(work / "first.pkv"), "the user's index")
    (work / "first.pkv").write_bytes((work / "model.pkv").read_bytes())
    refused("which is not found", away / "second.pkv", pool_path=[work])


check_hashes()
check_zstd()
check_pages()
check_vectors()
check_good_pools()
check_broken_pools()
check_every_section()
check_mutations()
with Workplace() as place:
    for path in sorted(POOLS.glob("*.pkv")):
        check_export(place, path)
    check_writer(place)
    check_with_a_model(place)
    check_cards(place)

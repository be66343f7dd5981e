#!/usr/bin/env python3
"""Writes a pool that the specification allows and our writer would never write: every freedom it leaves is used.

    write_by_hand.py POOL

Unknown optional features and sections; a zstd frame of several blocks without checksum; position sets that are in the
other form, not in order of use and twice in the file; runs that do not ascend; tokens that overlap and leave gaps;
means that are no means; -128 as a code of k8. Nothing of ours is used but the specification's own reference.
"""

import hashlib
import pathlib
import random
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "spec" / "reference"))

import pages  # noqa: E402
from xxh3 import xxh3_64  # noqa: E402

NUM_LAYERS, NUM_KV_HEADS, HEAD_DIM, NUM_TOKENS, NUM_SINKS = 2, 2, 24, 150, 4
CHUNK_TABLE, DIGESTS = 64, 65
SUPERBLOCK_BYTES = TRAILER_BYTES = 4096

TEXT = "Der Wärter löscht die Lampe.\n\n灯台守は夜明けに灯を消す。" + "=" * 100


def le(number, size):
    return number.to_bytes(size, "little")


def sha256(data):
    return hashlib.sha256(data).digest()


def field(name, value):
    return le(len(name), 4) + le(len(value), 4) + name + value


# Names ascend as bytes: capitals come first.
FIELDS = sorted(
    (name.encode(), value.encode())
    for name, value in {
        "Note.by": "hand",
        "model.": "a name may end with the dot",
        "model.name": "模型",
        "rope.theta": "",
        "x.y.z": "a\nb\0c",
    }.items()
)


def fingerprint(domain, *groups):
    return sha256(domain + b"".join(field(*pair) for pair in FIELDS if pair[0].split(b".")[0].decode() in groups))


def tokens():
    """Begins and ends do not descend; else anything goes: they overlap, cut characters, leave much to the open text."""
    size = len(TEXT.encode())
    begins = [min(i // 2, size) for i in range(NUM_TOKENS)]
    ends = [min(i // 2 + 3 * (i % 2), size - 1) for i in range(NUM_TOKENS)]
    for i in range(1, NUM_TOKENS):
        ends[i] = max(ends[i], ends[i - 1], begins[i])
    return [2**31 - 1 - i for i in range(NUM_TOKENS)], begins, ends


def source():
    """A frame with a window, 8 bytes of content size, a raw block, an empty one, and a last one of a repeated byte."""
    text = TEXT.encode()
    raw = text[:-100]
    frame = bytes.fromhex("28b52ffd") + b"\xc0" + b"\x00" + le(len(text), 8)
    frame += le(len(raw) << 3, 3) + raw + le(0, 3) + le(100 << 3 | 1 << 1 | 1, 3) + b"="
    return le(len(text), 8) + le(xxh3_64(text), 8) + frame


def bitmap(positions):
    begin, count = min(positions), max(positions) - min(positions) + 1
    bits = sum(1 << position - begin for position in positions)
    return struct.pack("<4I", 1, len(positions), begin, count) + le(bits, 4 * pages.align(count, 32) // 32)


def ranges(positions):
    pairs = []
    for position in sorted(positions):
        if pairs and pairs[-1][1] == position:
            pairs[-1][1] += 1
        else:
            pairs.append([position, position + 1])
    flat = [number for pair in pairs for number in pair]
    return struct.pack("<4I", 0, len(positions), min(positions), len(pairs)) + struct.pack(f"<{len(flat)}I", *flat)


# Our writer would give sets 0, 2 and 3 the other form, number the sets by first use, and merge 1 and 2.
SETS = [
    (ranges, list(range(5, 60, 2))),
    (ranges, list(range(70, 150))),
    (bitmap, list(range(70, 150))),
    (bitmap, [4, 149]),
]
# (position set, key codec, value codec, their exponents) of each head; a head that keeps nothing, and runs from back to
# front. Exponents are greater than their scales need, or as small as can be.
HEADS = [[(2, 8, 1, 0, 3), (0, 3, 8, -9, 0)], [], [(1, 7, 2, 0, -3)], [(3, 4, 6, -64, 0)]]


def layout():
    runs = [run for head in HEADS for run in head]
    out = struct.pack(f"<{2 + len(HEADS)}I", len(SETS), len(runs), *(len(head) for head in HEADS))
    return out + b"".join(struct.pack("<IBBbb", *run) for run in runs) + b"".join(form(s) for form, s in SETS)


def float16(value):
    return struct.pack("<e", value)


def page(noise, key_codec, value_codec, positions):
    kind = (key_codec, value_codec, HEAD_DIM, positions)
    data = bytearray(noise.randrange(256) & used for used in pages.used_bits_of_page(*kind))
    for part, scales, tiles in pages.split(*kind)[0]:
        in_tiles = -(-positions // pages.TILE)
        if part.scale_bytes == 1:
            continue  # any byte is a scale
        for at in range(scales, scales + in_tiles * part.scale_rows * 32, 2):
            data[at : at + 2] = float16(noise.randrange(1, 64) / 16) if any(data[at : at + 2]) else b"\0\0"
        if part.codec == 8:
            codes = range(tiles, tiles + in_tiles * part.tile_bytes)
            for at in codes:  # only as a key's code has -128 a meaning
                data[at] = 0x7F if data[at] == 0x80 else data[at]
            if part.is_key:
                data[tiles] = 0x80
    return bytes(data)


def sections():
    noise = random.Random(2024)
    numbers = [number for column in tokens() for number in column]
    all_pages = b"".join(
        page(noise, key_codec, value_codec, min(64, len(SETS[number][1]) - first))
        for head in HEADS
        for number, key_codec, value_codec, *_ in head
        for first in range(0, len(SETS[number][1]), 64)
    )
    num_heads = NUM_LAYERS * NUM_KV_HEADS
    sinks = b"".join(float16(noise.randrange(-99, 99) / 8) for _ in range(num_heads * 2 * NUM_SINKS * HEAD_DIM))
    means = b"".join(
        float16(noise.randrange(-9, 9) / 4 if vector == 0 else noise.randrange(4, 40) / 16)
        for _ in range(num_heads)
        for vector in range(3)  # mean, balances of keys and values
        for _ in range(HEAD_DIM)
    )
    return [
        (1, 1, le(len(FIELDS), 4) + b"".join(field(*pair) for pair in FIELDS)),
        (2, 1, struct.pack(f"<{3 * NUM_TOKENS}I", *numbers)),
        (3, 1, source()),
        (4, 1, layout()),
        (5, 1, all_pages),
        (6, 1, sinks),
        (7, 1, means),
        (8, 0, '{ "note" : "手書き" }\n'.encode()),
        (9, 0, b"a section of a later version, not critical"),
        (63, 2, b"and one that is safe to copy"),
    ]


def place(parts):
    """Kind, flags, offset, bytes, padded bytes of each section; no section here has more than one chunk."""
    num_chunks = len(parts)
    parts = parts + [(CHUNK_TABLE, 1, bytes(8 * num_chunks)), (DIGESTS, 1, bytes(32 * num_chunks))]
    offset, placed = SUPERBLOCK_BYTES, []
    for kind, flags, data in parts:
        end = pages.align(offset + len(data), 64)
        placed.append((kind, flags, offset, data.ljust(end - offset, b"\0"), len(data)))
        offset = end
    return placed, offset + TRAILER_BYTES


def pool():
    placed, file_bytes = place(sections())
    chunks = [padded for kind, _, _, padded, _ in placed if kind not in (CHUNK_TABLE, DIGESTS)]
    digest_of = {kind: sha256(sha256(padded)) for kind, _, _, padded, _ in placed}
    ids = tokens()[0]
    model = fingerprint(b"polykv/model/1", "model", "rope", "adapters")
    tokenizer = fingerprint(b"polykv/tokenizer/1", "tokenizer", "template")
    codec = fingerprint(b"polykv/codec/1", "codec")
    of_tokens = sha256(b"polykv/tokens/1" + bytes(32) + struct.pack(f"<{2 + NUM_TOKENS}I", 0, NUM_TOKENS, *ids))
    of_values = b"".join(digest_of[kind] for kind in (2, 4, 6, 7, 5))
    file_id = sha256(b"polykv/file/1" + model + tokenizer + of_tokens + codec + of_values)[:16]
    document = sha256(b"polykv/document/1" + file_id + TEXT.encode())

    def seed(number):
        return xxh3_64(file_id + le(number, 8))

    tables = {
        CHUNK_TABLE: b"".join(le(xxh3_64(chunk, seed(i)), 8) for i, chunk in enumerate(chunks)),
        DIGESTS: b"".join(map(sha256, chunks)),
    }
    table, body = b"", b""
    for kind, flags, offset, padded, size in placed:
        checksum = 0
        if kind in tables:
            padded = tables[kind].ljust(len(padded), b"\0")
            checksum, digest_of[kind] = xxh3_64(padded, seed(2**32 + kind)), sha256(padded)
        table += struct.pack("<IIQQQQ", kind, flags, offset, size, len(padded), checksum) + digest_of[kind] + bytes(56)
        body += padded
    head = bytes.fromhex("89504B560D0A1A0A") + struct.pack("<IHHIIQ", 0x01020304, 0, 3, 4096, len(placed), file_bytes)
    head += struct.pack("<QQQ", 1 << 63 | 1, 2, 0) + file_id + model + tokenizer + document + of_tokens + codec
    head += struct.pack("<8I", NUM_LAYERS, NUM_KV_HEADS, HEAD_DIM, NUM_TOKENS, len(chunks), 262144, 0, NUM_SINKS)
    head += b"\x01\x01" + bytes(6) + le(2**36, 8) + b"by hand, from the specification~" + bytes(32) + bytes(168)
    head = (head + table).ljust(4088, b"\0")
    head += le(xxh3_64(head), 8)
    trailer = le(file_bytes, 8) + file_id + sha256(head) + bytes(4024) + bytes.fromhex("0A1A0A0D564B5089")
    return head + body + le(xxh3_64(trailer), 8) + trailer


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    pathlib.Path(sys.argv[1]).write_bytes(pool())

"""Seals a pool again after a mutation: digests, fingerprints, checksums, superblock, trailer, by the specification.

Written on the reference reader's hashes alone. Tables and fields are taken as they are: what does not make sense any
more is left as it is, and sealed anyway.
"""

import hashlib
import struct

from xxh3 import xxh3_64

CHUNK_BYTES, CHUNK_TABLE, DIGESTS = 262144, 64, 65


def sha256(data):
    return hashlib.sha256(data).digest()


def table_of(pool):
    """(entry's offset, kind, offset, bytes, padded bytes) of each entry that lies in the file."""
    entries = []
    for i in range(min(int.from_bytes(pool[20:24], "little"), 24)):
        at = 512 + 128 * i
        kind, _, offset, size, padded = struct.unpack_from("<IIQQQ", pool, at)
        if offset + padded <= len(pool) and size <= padded:
            entries.append((at, kind, offset, size, padded))
    return entries


def section(pool, entries, kind):
    return next((bytes(pool[o : o + size]) for _, k, o, size, _ in entries if k == kind), b"")


def identity_fields(data):
    fields, offset = [], 4
    while offset + 8 <= len(data):
        name_bytes, value_bytes = struct.unpack_from("<II", data, offset)
        end = offset + 8 + name_bytes + value_bytes
        fields.append((data[offset + 8 : offset + 8 + name_bytes], data[offset:end]))
        offset = end
    return sorted(fields)


def seal_fingerprints(pool, entries):
    fields = identity_fields(section(pool, entries, 1))

    def of(domain, *groups):
        return sha256(domain + b"".join(field for name, field in fields if name.split(b".")[0] in groups))

    tokens = section(pool, entries, 2)
    first_position, num_tokens = pool[256:260], pool[244:248]
    pool[72:104] = of(b"polykv/model/1", b"model", b"rope", b"adapters")
    pool[104:136] = of(b"polykv/tokenizer/1", b"tokenizer", b"template")
    pool[168:200] = sha256(b"polykv/tokens/1" + bytes(32) + first_position + num_tokens + tokens[: len(tokens) // 3])
    pool[200:232] = of(b"polykv/codec/1", b"codec")
    digests = {kind: bytes(pool[at + 40 : at + 72]) for at, kind, *_ in entries}
    of_values = b"".join(digests.get(kind, bytes(32)) for kind in (2, 4, 6, 7, 5))
    known = bytes(pool[72:136]) + bytes(pool[168:232])
    pool[56:72] = sha256(b"polykv/file/1" + known + of_values)[:16]


def seal(pool, text):
    """`pool` is a bytearray, `text` the source text, from which the document's fingerprint is made."""
    entries = table_of(pool)
    chunks = []
    for at, kind, offset, _, padded in entries:
        if kind in (CHUNK_TABLE, DIGESTS):
            continue
        mine = [
            bytes(pool[b : min(b + CHUNK_BYTES, offset + padded)]) for b in range(offset, offset + padded, CHUNK_BYTES)
        ]
        pool[at + 40 : at + 72] = sha256(b"".join(map(sha256, mine)))
        chunks += mine
    seal_fingerprints(pool, entries)
    file_id = bytes(pool[56:72])
    pool[136:168] = sha256(b"polykv/document/1" + file_id + text)

    def seed(number):
        return xxh3_64(file_id + number.to_bytes(8, "little"))

    for at, kind, offset, size, padded in entries:
        if kind == CHUNK_TABLE:
            table = b"".join(xxh3_64(chunk, seed(i)).to_bytes(8, "little") for i, chunk in enumerate(chunks))
        elif kind == DIGESTS:
            table = b"".join(map(sha256, chunks))
        else:
            continue
        pool[offset : offset + size] = table[:size].ljust(size, b"\0")
        contents = bytes(pool[offset : offset + padded])
        pool[at + 32 : at + 40] = xxh3_64(contents, seed(2**32 + kind)).to_bytes(8, "little")
        pool[at + 40 : at + 72] = sha256(contents)
    seal_ends(pool)


def seal_ends(pool):
    """Superblock and trailer only."""
    trailer = len(pool) - 4096
    pool[4088:4096] = xxh3_64(pool[:4088]).to_bytes(8, "little")
    pool[trailer + 8 : trailer + 32] = bytes(pool[24:32]) + bytes(pool[56:72])
    pool[trailer + 32 : trailer + 64] = sha256(pool[:4096])
    pool[trailer : trailer + 8] = xxh3_64(pool[trailer + 8 :]).to_bytes(8, "little")

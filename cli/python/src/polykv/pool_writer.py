"""A pool of float16 keys and values: every section of spec/pool-format.md, and a file that comes to be whole or not at
all. What polykv writes for the same identity, tokens and values is the same but for the text's zstd frame."""

import contextlib
import os
import struct
import tempfile
from dataclasses import dataclass

import numpy as np

from .errors import PoolError
from .hashes import xxh3_64
from .kv_pool import Pool
from .page_codecs import FLOAT16, float16_pages
from .pool_container import (
    BYTE_ORDER,
    CHUNK_BYTES,
    CHUNK_TABLE,
    DIGESTS,
    ENTRY,
    ENTRY_BYTES,
    IDENTITY,
    LAYOUT,
    MAGIC,
    MAJOR,
    MINOR,
    PAGES,
    PARENT,
    SINKS,
    SOURCE,
    SUPERBLOCK,
    SUPERBLOCK_BYTES,
    TABLE_OFFSET,
    TOKENS,
    TRAILER_BYTES,
    align,
    chunk_checksums,
    chunk_digests,
    flags_of,
    seed_of,
    sha256,
)
from .pool_contents import document_fingerprint, fingerprints, serialize_identity, serialize_source

WRITER = b"polykv-python 0.1.0"
MIN_READER = b"polykv 0.1.0"
MOST_SINKS = 4


def serialize_layout(num_heads, num_sinks, num_tokens, first_position):
    """Every head keeps all positions, in one run of float16: a position set, as ranges or as a bitmap."""
    count, begin = num_tokens - num_sinks, first_position + num_sinks
    if count == 0:
        return struct.pack("<II", 0, 0) + bytes(4 * num_heads)
    head = struct.pack("<II", 1, num_heads) + struct.pack("<I", 1) * num_heads
    runs = struct.pack("<I2B2b", 0, FLOAT16, FLOAT16, 0, 0) * num_heads
    if align(count, 32) // 8 < 8:  # the smaller form; a range takes 8 bytes
        bits = ((1 << count) - 1).to_bytes(align(count, 32) // 8, "little")
        return head + runs + struct.pack("<4I", 1, count, begin, count) + bits
    return head + runs + struct.pack("<6I", 0, count, begin, 1, begin, begin + count)


def float16_of(array, shape, what):
    array = np.asarray(array)
    if array.shape != shape:
        raise ValueError(f"{what} have the shape {array.shape}, expected {shape}")
    with np.errstate(over="ignore"):
        halves = array.astype("<f2")
    if not np.isfinite(halves).all():
        raise PoolError("kNotFinite", f"{what} have a value that is not finite or too large for float16")
    return halves


def serialize_values(layers, shape, num_sinks):
    """Pages and sinks of all layers; layers gives keys and values [num_kv_heads, num_tokens, head_dim] of each."""
    num_layers, *layer_shape = shape
    pages, sinks = [], []
    for number, sides in zip(range(num_layers), layers, strict=True):
        keys, values = (
            float16_of(array, tuple(layer_shape), f"{what} of layer {number}")
            for array, what in zip(sides, ("keys", "values"), strict=True)
        )
        for kv_head in range(layer_shape[0]):
            sinks.append(keys[kv_head, :num_sinks].tobytes() + values[kv_head, :num_sinks].tobytes())
            pages.append(float16_pages(keys[kv_head, num_sinks:], values[kv_head, num_sinks:]))
    return b"".join(pages), b"".join(sinks)


@dataclass(frozen=True)
class Start:
    """Where a pool begins, and after what."""

    num_sinks: int
    first_position: int = 0
    features: int = 0
    parent_tokens: bytes = bytes(32)
    parent_digest: bytes = bytes(32)


def start_of(num_tokens, parent):
    if parent is None:
        return Start(min(MOST_SINKS, num_tokens))
    above = parent._container.superblock
    end = above.first_position + above.num_tokens
    return Start(0, end, PARENT, above.tokens_fingerprint, above.digest)


def serialize_pool(identity, tokens, text_ranges, text, shape, layers, parent=None):
    """The bytes of a pool. shape: num_layers, num_kv_heads, num_tokens, head_dim; text: bytes; parent: a Pool."""
    num_layers, num_kv_heads, num_tokens, head_dim = shape
    start = start_of(num_tokens, parent)
    num_sinks = start.num_sinks
    columns = np.stack([tokens, text_ranges[:, 0], text_ranges[:, 1]])
    if columns.min() < 0 or columns.max() >= 1 << 32:
        raise ValueError("a token or a text range is negative or too large")
    pages, sinks = serialize_values(layers, shape, num_sinks)
    contents = {
        IDENTITY: serialize_identity(identity),
        TOKENS: columns.astype("<u4").tobytes(),
        SOURCE: serialize_source(text),
        LAYOUT: serialize_layout(num_layers * num_kv_heads, num_sinks, num_tokens, start.first_position),
        **({PAGES: pages} if pages else {}),
        **({SINKS: sinks} if num_sinks else {}),
    }
    padded = {kind: data + bytes(-len(data) % 64) for kind, data in contents.items()}
    chunk_digest_lists = {kind: chunk_digests(data) for kind, data in padded.items()}
    digests = {kind: sha256(data) for kind, data in chunk_digest_lists.items()}
    prints = fingerprints(
        identity, tokens, lambda kind: digests.get(kind, bytes(32)), start.first_position, start.parent_tokens
    )
    prints["document_fingerprint"] = document_fingerprint(prints["file_id"], text)

    checksums, num_chunks = [], 0
    for data in padded.values():
        checksums.append(chunk_checksums(data, prints["file_id"], num_chunks).astype("<u8").tobytes())
        num_chunks += align(len(data), CHUNK_BYTES) // CHUNK_BYTES
    contents |= {CHUNK_TABLE: b"".join(checksums), DIGESTS: b"".join(chunk_digest_lists.values())}
    entries, offset = b"", SUPERBLOCK_BYTES
    for kind, data in contents.items():
        checksum = 0
        if kind in (CHUNK_TABLE, DIGESTS):
            padded[kind] = data + bytes(-len(data) % 64)
            digests[kind] = sha256(padded[kind])
            checksum = xxh3_64(padded[kind], seed_of(prints["file_id"], (1 << 32) + kind))
        size = len(padded[kind])
        entries += ENTRY.pack(kind, flags_of(kind), offset, len(data), size, checksum, digests[kind], b"")
        offset += size
    file_bytes = offset + TRAILER_BYTES
    superblock = serialize_superblock(entries, file_bytes, prints, shape, num_chunks, start)
    trailer = serialize_trailer(superblock, file_bytes, prints["file_id"])
    return b"".join([superblock, *padded.values(), trailer])


def serialize_superblock(entries, file_bytes, prints, shape, num_chunks, start):
    num_layers, num_kv_heads, num_tokens, head_dim = shape
    names = ("file_id", "model_fingerprint", "tokenizer_fingerprint", "document_fingerprint", "tokens_fingerprint")
    created = os.environ.get("SOURCE_DATE_EPOCH", "0")
    fields = SUPERBLOCK.pack(
        MAGIC,
        BYTE_ORDER,
        *(MAJOR, MINOR, SUPERBLOCK_BYTES, len(entries) // ENTRY_BYTES, file_bytes),
        *(0, 0, start.features),
        *(prints[name] for name in (*names, "codec_fingerprint")),
        *(num_layers, num_kv_heads, head_dim, num_tokens, num_chunks, CHUNK_BYTES),
        *(start.first_position, start.num_sinks),
        *(1, 1, b""),  # XXH3-64, SHA-256
        int(created) if created.isdecimal() and len(created) < 20 else 0,
        *(WRITER, MIN_READER, start.parent_tokens, start.parent_digest),
    )
    block = (fields + bytes(TABLE_OFFSET - len(fields)) + entries).ljust(SUPERBLOCK_BYTES - 8, b"\0")
    return block + xxh3_64(block).to_bytes(8, "little")


def serialize_trailer(superblock, file_bytes, file_id):
    body = struct.pack("<Q16s32s", file_bytes, file_id, sha256(superblock)).ljust(TRAILER_BYTES - 16, b"\0")
    body += MAGIC[::-1]
    return xxh3_64(body).to_bytes(8, "little") + body


def write_pool(path, force, identity, tokens, text_ranges, text, shape, layers, parent=None):
    """Writes and publishes; returns the new Pool. An existing file is replaced only with `force`."""
    path = os.fspath(path)
    check_target(path, force)
    contents = serialize_pool(identity, tokens, text_ranges, text, shape, layers, parent)
    try:
        pool = Pool(contents, path)  # what was made is read before anybody else can
        pool.parent = parent
    except PoolError as error:
        error.path = path
        raise
    publish(path, force, contents)
    return pool


def check_target(path, force):
    if os.path.lexists(path) and not force:
        raise FileExistsError(f"{path} exists: force=True replaces it")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder")


def publish(path, force, contents):
    """A temporary file beside the path, mode 0600, and then its name: there is the old file or the whole new one."""
    folder, name = os.path.split(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name[:200]}.tmp.", dir=folder or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # fails where a file has come to be meanwhile
            os.unlink(temporary)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

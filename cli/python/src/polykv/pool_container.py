"""The container: superblock, trailer, section table, chunks, digests (spec/pool-format.md, sections 2 to 7).

The order of checks is that of its section 16, so that every reader gives the same reason.
"""

import hashlib
import struct
from dataclasses import dataclass, field

import numpy as np

from .errors import refuse_if
from .hashes import xxh3_64, xxh3_64_rows

MAGIC = bytes.fromhex("89504B560D0A1A0A")
MAJOR, MINOR = 0, 3
BYTE_ORDER = 0x01020304
SUPERBLOCK_BYTES = TRAILER_BYTES = 4096
TABLE_OFFSET, ENTRY_BYTES, MOST_SECTIONS = 512, 128, 24
CHUNK_BYTES = 262144
PARENT = 1  # of features_incompat: the pool extends another one (section 15)
ALIGNMENT = 64
MEBIBYTE = 1 << 20

IDENTITY, TOKENS, SOURCE, LAYOUT, PAGES, SINKS, MEANS, FIDELITY, CHUNK_TABLE, DIGESTS = (*range(1, 9), 64, 65)
NAMES = {
    IDENTITY: "identity", TOKENS: "tokens", SOURCE: "source", LAYOUT: "layout", PAGES: "pages", SINKS: "sinks",
    MEANS: "means", FIDELITY: "fidelity", CHUNK_TABLE: "chunk table", DIGESTS: "digests",
}  # fmt: skip
ALWAYS_THERE = (IDENTITY, TOKENS, SOURCE, LAYOUT, SINKS, CHUNK_TABLE, DIGESTS)

# Section 3, from offset 0 to 408.
SUPERBLOCK = struct.Struct("<8s I 2H 2I Q 3Q 16s 32s 32s 32s 32s 32s 4I 2I 2I 2B 6s Q 32s 32s 32s 32s")
ENTRY = struct.Struct("<2I 4Q 32s 56s")  # section 5


def align(size, to=ALIGNMENT):
    return -(-size // to) * to


def sha256(data):
    return hashlib.sha256(data).digest()


def flags_of(kind):
    return 0 if kind == FIDELITY else 1


def refuse_nonzero(data, offset, code="kBadReserved", reason="a reserved or padding byte is not zero"):
    if any(data):
        refuse_if(True, code, reason, offset + next(i for i, byte in enumerate(data) if byte))


def first_difference(data, expected):
    return next((i for i, pair in enumerate(zip(data, expected, strict=False)) if pair[0] != pair[1]), None)


@dataclass
class Superblock:
    """The fields of section 3 that say something."""

    num_sections: int
    file_bytes: int
    file_id: bytes
    model_fingerprint: bytes
    tokenizer_fingerprint: bytes
    document_fingerprint: bytes
    tokens_fingerprint: bytes
    codec_fingerprint: bytes
    num_layers: int
    num_kv_heads: int
    head_dim: int
    num_tokens: int
    num_chunks: int
    num_sinks: int
    created: int
    writer: str
    min_reader: str
    first_position: int
    has_parent: bool
    parent_tokens_fingerprint: bytes
    parent_digest: bytes
    digest: bytes  # of the block: what pools that extend this one call it

    @property
    def num_heads(self):
        return self.num_layers * self.num_kv_heads


@dataclass
class Section:
    kind: int
    offset: int
    bytes: int
    padded_bytes: int
    checksum: int
    digest: bytes
    entry_offset: int
    chunks: range = field(default=range(0))  # numbers through the file

    @property
    def name(self):
        return NAMES.get(self.kind, f"section {self.kind}")


def check_kind_of_file(block):
    """Whether the other fields of the superblock mean anything."""
    _, byte_order, major, minor, _, _, _, _, _, incompat = SUPERBLOCK.unpack_from(block)[:10]
    refuse_if(byte_order == 0x04030201, "kForeignByteOrder", "the pool was written on a big-endian machine", 8)
    refuse_if(byte_order != BYTE_ORDER, "kMalformed", "byte_order is unknown", 8)
    refuse_if(
        (major, minor) != (MAJOR, MINOR),
        "kUnsupportedVersion",
        f"the pool has format version {major}.{minor}, this reads {MAJOR}.{MINOR}: polykv build makes it again",
        12,
    )
    refuse_if(incompat > PARENT, "kUnsupportedFeature", "an unknown feature", 48)
    checksum = int.from_bytes(block[4088:], "little")
    refuse_if(checksum != xxh3_64(block[:4088]), "kBadChecksum", "the superblock's checksum differs", 4088)


def parse_superblock(file):
    """`file`: bytes-like, the whole pool."""
    start = bytes(file[:8])
    refuse_if(not start, "kNotAPool", "the file is empty", 0)
    refuse_if(not any(start), "kUnfinished", "the file starts with zeros: its build did not finish", 0)
    wrong = first_difference(start, MAGIC)
    refuse_if(wrong is not None, "kNotAPool", "the file does not start as a pool does", wrong)
    refuse_if(len(file) < SUPERBLOCK_BYTES, "kTruncated", "the superblock is cut off", len(file))
    block = bytes(file[:SUPERBLOCK_BYTES])
    check_kind_of_file(block)
    fields = SUPERBLOCK.unpack_from(block)
    superblock_bytes, num_sections, file_bytes, *rest = fields[4:7] + fields[10:]
    (file_id, model, tokenizer, document, tokens, codec, *rest) = rest
    (num_layers, num_kv_heads, head_dim, num_tokens, num_chunks, chunk_bytes, first_position, num_sinks, *rest) = rest
    (checksum_algorithm, digest_algorithm, _, created, writer, min_reader, parent_tokens, parent_digest) = rest
    refuse_if(checksum_algorithm != 1, "kUnknownAlgorithm", "checksum_algorithm", 264)
    refuse_if(digest_algorithm != 1, "kUnknownAlgorithm", "digest_algorithm", 265)
    refuse_if(superblock_bytes != SUPERBLOCK_BYTES, "kMalformed", "superblock_bytes is not 4096", 16)
    refuse_if(chunk_bytes != CHUNK_BYTES, "kMalformed", "chunk_bytes is not 262144", 252)
    refuse_if(file_bytes > 1 << 46, "kLimitExceeded", "file_bytes is above 2^46", 24)
    refuse_if(file_bytes < SUPERBLOCK_BYTES + TRAILER_BYTES, "kMalformed", "file_bytes is below 8192", 24)
    size = f"the file has {len(file)} bytes, it should have {file_bytes}"
    refuse_if(file_bytes != len(file), "kTruncated", size, min(file_bytes, len(file)))
    superblock = Superblock(
        num_sections, file_bytes, file_id, model, tokenizer, document, tokens, codec, num_layers, num_kv_heads,
        head_dim, num_tokens, num_chunks, num_sinks, created, parse_ascii(writer, 280), parse_ascii(min_reader, 312),
        first_position, fields[9] == PARENT, parent_tokens, parent_digest, sha256(block),
    )  # fmt: skip
    check_limits(superblock)
    if superblock.has_parent:
        inside = 1 <= first_position <= (1 << 30) - num_tokens
        refuse_if(not inside, "kMalformed", "first_position is not where a parent can end", 256)
        refuse_if(num_sinks != 0, "kMalformed", "a pool with a parent has sinks", 260)
    else:
        refuse_if(first_position != 0, "kMalformed", "first_position is not 0", 256)
        refuse_if(num_sinks != min(4, num_tokens), "kMalformed", "num_sinks is not min(4, num_tokens)", 260)
        refuse_nonzero(parent_tokens + parent_digest, 344, "kMalformed", "a pool without a parent names one")
    table_end = TABLE_OFFSET + ENTRY_BYTES * num_sections
    for begin, end in ((266, 272), (408, TABLE_OFFSET), (table_end, 4088)):
        refuse_nonzero(block[begin:end], begin)
    return superblock


def parse_ascii(data, offset):
    text = data.split(b"\0")[0]
    wrong = next((i for i, byte in enumerate(text) if not 0x20 <= byte <= 0x7E), None)
    refuse_if(wrong is not None, "kMalformed", "a byte that is not printable ASCII", offset + (wrong or 0))
    refuse_if(any(data[len(text) :]), "kMalformed", "bytes after the final zero", offset + len(text))
    return text.decode("ascii")


def check_limits(superblock):
    for name, offset, least, most in (
        ("num_sections", 20, len(ALWAYS_THERE), MOST_SECTIONS),
        ("num_layers", 232, 1, 1024),
        ("num_kv_heads", 236, 1, 1024),
        ("head_dim", 240, 1, 512),
        ("num_tokens", 244, 1, 1 << 30),
        ("num_chunks", 248, 0, 1 << 26),
    ):
        value = getattr(superblock, name)
        refuse_if(not least <= value <= most, "kLimitExceeded", f"{name} is {value}, not {least} to {most}", offset)
    refuse_if(superblock.head_dim % 8, "kMalformed", "head_dim is not a multiple of 8", 240)


def check_trailer(file, superblock):
    begin = len(file) - TRAILER_BYTES
    trailer = bytes(file[begin:])
    wrong = first_difference(trailer[4088:], MAGIC[::-1])
    refuse_if(wrong is not None, "kTruncated", "the end magic is missing", begin + 4088 + (wrong or 0))
    checksum, file_bytes, file_id, digest = struct.unpack_from("<2Q16s32s", trailer)
    refuse_if(checksum != xxh3_64(trailer[8:]), "kBadChecksum", "the trailer's checksum differs", begin)
    refuse_if(file_bytes != superblock.file_bytes, "kMalformed", "the trailer's file_bytes differs", begin + 8)
    refuse_if(file_id != superblock.file_id, "kMalformed", "the trailer's file_id differs", begin + 16)
    differs = digest != sha256(bytes(file[:SUPERBLOCK_BYTES]))
    refuse_if(differs, "kBadDigest", "the superblock's digest differs", begin + 32)
    refuse_nonzero(trailer[64:4088], begin + 64)


def parse_section_table(file, superblock):
    sections = []
    for at in range(TABLE_OFFSET, TABLE_OFFSET + ENTRY_BYTES * superblock.num_sections, ENTRY_BYTES):
        kind, flags, offset, size, padded, checksum, digest, reserved = ENTRY.unpack(bytes(file[at : at + ENTRY_BYTES]))
        refuse_if(flags > 3, "kBadReserved", "an unknown flag", at + 4)
        unknown = f"a critical section of unknown kind {kind}"
        refuse_if(kind not in NAMES and flags & 1, "kUnknownSection", unknown, at)
        refuse_if(kind in NAMES and flags != flags_of(kind), "kBadSectionTable", f"flags of {NAMES.get(kind)}", at + 4)
        refuse_if(size == 0, "kBadSectionTable", "a section without bytes", at + 16)
        chunked = kind not in (CHUNK_TABLE, DIGESTS)
        refuse_if(chunked and checksum, "kBadReserved", "a section of chunks has a checksum", at + 32)
        refuse_nonzero(reserved, at + 72)
        ascends = not sections or kind > sections[-1].kind
        refuse_if(not ascends, "kBadSectionTable", "the sections' kinds do not ascend", at)
        sections.append(Section(kind, offset, size, padded, checksum, digest, at))
    kinds = {section.kind for section in sections}
    for kind in ALWAYS_THERE:
        if kind == SINKS and superblock.has_parent:
            continue
        refuse_if(kind not in kinds, "kBadSectionTable", f"there is no section {NAMES[kind]}", TABLE_OFFSET)
    last = sections[-1].kind
    refuse_if(last != DIGESTS, "kBadSectionTable", "the digests are not the last section", TABLE_OFFSET)
    check_tiling(sections, superblock.file_bytes - TRAILER_BYTES)
    return sections


def check_tiling(sections, end):
    expected = SUPERBLOCK_BYTES
    for section in sections:
        at = section.entry_offset
        refuse_if(section.offset != expected, "kBadSectionTable", f"{section.name}: a gap or an overlap", at + 8)
        expected = align(section.offset + section.bytes)
        refuse_if(expected > end, "kBadSectionTable", f"{section.name}: more bytes than the file has", at + 16)
        padded = expected - section.offset
        refuse_if(section.padded_bytes != padded, "kBadSectionTable", f"{section.name}: padded_bytes", at + 24)
    refuse_if(expected != end, "kBadSectionTable", "bytes before the trailer are in no section", expected)


def number_chunks(sections):
    """Gives each section its chunks; returns how many there are."""
    count = 0
    for section in sections:
        if section.kind not in (CHUNK_TABLE, DIGESTS):
            size = align(section.padded_bytes, CHUNK_BYTES) // CHUNK_BYTES
            section.chunks = range(count, count + size)
            count += size
    return count


def seed_of(file_id, number):
    return xxh3_64(file_id + number.to_bytes(8, "little"))


def chunk_checksums(data, file_id, first):
    """Of a section's padded bytes, whose first chunk has the number `first`: uint64 [chunks]."""
    data = np.frombuffer(data, np.uint8)
    whole = len(data) // CHUNK_BYTES
    rest = data[whole * CHUNK_BYTES :]
    seeds = [seed_of(file_id, first + i) for i in range(whole + (len(rest) > 0))]
    checksums = xxh3_64_rows(data[: whole * CHUNK_BYTES].reshape(whole, CHUNK_BYTES), seeds[:whole])
    return np.append(checksums, np.array([xxh3_64(rest, seed) for seed in seeds[whole:]], np.uint64))


def chunk_digests(data):
    """Of a section's padded bytes: those of its chunks, concatenated."""
    return b"".join(sha256(data[i : i + CHUNK_BYTES]) for i in range(0, len(data), CHUNK_BYTES))


class Container:
    """The sections of a file. Those that the reader needs to open it are checked by the reader, in its order;
    `check_rest` does what is left, so that no byte is used that was not checked."""

    def __init__(self, file):
        self.file = memoryview(file)
        self.superblock = parse_superblock(self.file)
        check_trailer(self.file, self.superblock)
        self.sections = parse_section_table(self.file, self.superblock)
        self.by_kind = {section.kind: section for section in self.sections}
        self.check_sizes(number_chunks(self.sections))
        self.check_whole(CHUNK_TABLE)
        self.stored_checksums = np.frombuffer(self.contents(CHUNK_TABLE), "<u8")

    def check_sizes(self, num_chunks):
        superblock, heads = self.superblock, self.superblock.num_heads
        refuse_if(superblock.num_chunks != num_chunks, "kBadSectionSize", "num_chunks is not the chunks' number", 248)
        expected = {
            TOKENS: 12 * superblock.num_tokens,
            SINKS: 4 * heads * superblock.num_sinks * superblock.head_dim,
            MEANS: 6 * heads * superblock.head_dim,
            CHUNK_TABLE: 8 * num_chunks,
            DIGESTS: 32 * num_chunks,
        }
        for section in self.sections:
            too_long = section.kind in (IDENTITY, FIDELITY) and section.bytes > MEBIBYTE
            refuse_if(too_long, "kLimitExceeded", f"{section.name} is above 1 MiB", section.offset)
            differs = section.bytes != expected.get(section.kind, section.bytes)
            refuse_if(differs, "kBadSectionSize", f"{section.name} has another size", section.offset)

    def padded(self, section):
        return self.file[section.offset : section.offset + section.padded_bytes]

    def contents(self, kind):
        section = self.by_kind[kind]
        return self.file[section.offset : section.offset + section.bytes]

    def offset(self, kind):
        return self.by_kind[kind].offset

    def digest(self, kind):
        return self.by_kind[kind].digest if kind in self.by_kind else bytes(32)

    def check_padding(self, section):
        end = section.offset + section.bytes
        refuse_nonzero(self.padded(section)[section.bytes :], end, reason=f"{section.name}: a padding byte is not zero")

    def check_whole(self, kind):
        """Checksum and padding of the chunk table or the digests."""
        section = self.by_kind[kind]
        checksum = xxh3_64(self.padded(section), seed_of(self.superblock.file_id, (1 << 32) + kind))
        differs = checksum != section.checksum
        refuse_if(differs, "kBadChecksum", f"{section.name}: the checksum differs", section.offset)
        self.check_padding(section)

    def check_chunks(self, section, count=None):
        """Checksums of its first `count` chunks, or of all, and then its padding."""
        data = self.padded(section)[: None if count is None else count * CHUNK_BYTES]
        first = section.chunks.start
        checksums = chunk_checksums(data, self.superblock.file_id, first)
        wrong = np.flatnonzero(checksums != self.stored_checksums[first : first + len(checksums)])
        if len(wrong):
            where = section.offset + int(wrong[0]) * CHUNK_BYTES
            refuse_if(True, "kBadChecksum", f"{section.name}: a chunk's checksum differs", where)
        if count is None:
            self.check_padding(section)

    def check_rest(self):
        """Digests of everything, checksums of what was not needed for opening."""
        self.check_whole(DIGESTS)
        stored = bytes(self.contents(DIGESTS))
        for section in self.sections:
            own = stored[32 * section.chunks.start : 32 * section.chunks.stop]
            digest = sha256(own if section.chunks else self.padded(section))
            differs = digest != section.digest
            refuse_if(differs, "kBadDigest", f"{section.name}: the digest differs", section.entry_offset + 40)
        for section in self.sections:
            if not section.chunks:
                continue
            self.check_chunks(section)
            computed = chunk_digests(self.padded(section))
            wrong = first_difference(computed, stored[32 * section.chunks.start : 32 * section.chunks.stop])
            where = section.offset + (wrong or 0) // 32 * CHUNK_BYTES
            refuse_if(wrong is not None, "kBadDigest", f"{section.name}: a chunk's digest differs", where)

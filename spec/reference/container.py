"""The container: superblock, trailer, section table, chunks, digests (../pool-format.md, sections 1 to 7 and 17)."""

import hashlib

from pages import align
from xxh3 import xxh3_64

MAGIC = bytes.fromhex("89504B560D0A1A0A")
SUPERBLOCK_BYTES = TRAILER_BYTES = 4096
CHUNK_BYTES = 262144
MEBIBYTE = 2**20

# Section 17.
CODES = {
    "kNotAPool": 400, "kUnfinished": 401, "kTruncated": 402, "kBadChecksum": 500, "kMalformed": 501,
    "kLimitExceeded": 502, "kBadReserved": 503, "kBadSectionTable": 504, "kBadSectionSize": 505, "kBadIdentity": 506,
    "kBadFingerprint": 507, "kBadTokens": 508, "kBadLayout": 509, "kBadSource": 510, "kBadPadding": 511,
    "kBadDigest": 512, "kUnsupportedVersion": 600, "kUnsupportedFeature": 601, "kForeignByteOrder": 602,
    "kUnknownSection": 603, "kUnknownAlgorithm": 604, "kUnknownCodec": 605,
}  # fmt: skip

# Section 5: name and flags of each kind.
KINDS = {
    1: ("identity", 1), 2: ("tokens", 1), 3: ("source", 1), 4: ("layout", 1), 5: ("pages", 1), 6: ("sinks", 1),
    7: ("means", 1), 8: ("fidelity", 0), 64: ("chunk_table", 1), 65: ("digests", 1),
}  # fmt: skip
ALWAYS_THERE = [1, 2, 3, 4, 6, 64, 65]
SINKS, CHUNK_TABLE, DIGESTS = 6, 64, 65


class Refused(Exception):
    def __init__(self, code, offset, reason):
        super().__init__(f"{code} at {offset:#x}: {reason}")
        self.code, self.offset, self.reason = code, offset, reason

    @property
    def exit_status(self):
        return CODES[self.code] // 100


def refuse_if(condition, code, offset, reason):
    if condition:
        raise Refused(code, offset, reason)


def refuse_nonzero(data, offset, code="kBadReserved", reason="a reserved or padding byte is not zero"):
    at = next((i for i, byte in enumerate(data) if byte), None)
    refuse_if(at is not None, code, offset + (at or 0), reason)


def u16(data, offset):
    return int.from_bytes(data[offset : offset + 2], "little")


def u32(data, offset):
    return int.from_bytes(data[offset : offset + 4], "little")


def u64(data, offset):
    return int.from_bytes(data[offset : offset + 8], "little")


def u32s(data):
    return [u32(data, i) for i in range(0, len(data), 4)]


def sha256(data):
    return hashlib.sha256(data).digest()


def first_invalid_utf8(data):
    """Where text stops being UTF-8, or None."""
    try:
        data.decode("utf-8", "strict")
        return None
    except UnicodeDecodeError as error:
        return error.start


def first_difference(data, expected):
    return next((i for i, pair in enumerate(zip(data, expected, strict=False)) if pair[0] != pair[1]), None)


def read_superblock(file):
    """Section 3, in the order of section 16."""
    refuse_if(not file, "kNotAPool", 0, "the file is empty")
    refuse_if(not any(file[:8]), "kUnfinished", 0, "the file starts with zeros")
    wrong = first_difference(file[:8], MAGIC)
    refuse_if(wrong is not None, "kNotAPool", wrong, "the file does not start as a pool does")
    refuse_if(len(file) < SUPERBLOCK_BYTES, "kTruncated", len(file), "the superblock is cut off")
    block = file[:SUPERBLOCK_BYTES]
    refuse_if(u32(block, 8) == 0x04030201, "kForeignByteOrder", 8, "the file is big-endian")
    refuse_if(u32(block, 8) != 0x01020304, "kMalformed", 8, "byte_order")
    refuse_if((u16(block, 12), u16(block, 14)) != (0, 3), "kUnsupportedVersion", 12, "major and minor")
    refuse_if(u64(block, 48) > 1, "kUnsupportedFeature", 48, "features_incompat")
    refuse_if(u64(block, 4088) != xxh3_64(block[:4088]), "kBadChecksum", 4088, "checksum of the superblock")
    refuse_if(block[264] != 1, "kUnknownAlgorithm", 264, "checksum_algorithm")
    refuse_if(block[265] != 1, "kUnknownAlgorithm", 265, "digest_algorithm")
    refuse_if(u32(block, 16) != SUPERBLOCK_BYTES, "kMalformed", 16, "superblock_bytes")
    refuse_if(u32(block, 252) != CHUNK_BYTES, "kMalformed", 252, "chunk_bytes")
    refuse_if(u64(block, 24) > 2**46, "kLimitExceeded", 24, "file_bytes")
    refuse_if(u64(block, 24) < 8192, "kMalformed", 24, "file_bytes")
    end = min(u64(block, 24), len(file))
    refuse_if(u64(block, 24) != len(file), "kTruncated", end, "file_bytes is not the size of the file")
    header = {
        "major": 0,
        "minor": 3,
        "num_sections": u32(block, 20),
        "file_bytes": u64(block, 24),
        "features_compat": u64(block, 32),
        "features_rewrite": u64(block, 40),
        "features_incompat": u64(block, 48),
        "file_id": block[56:72],
        "model_fingerprint": block[72:104],
        "tokenizer_fingerprint": block[104:136],
        "document_fingerprint": block[136:168],
        "tokens_fingerprint": block[168:200],
        "codec_fingerprint": block[200:232],
        "num_layers": u32(block, 232),
        "num_kv_heads": u32(block, 236),
        "head_dim": u32(block, 240),
        "num_tokens": u32(block, 244),
        "num_chunks": u32(block, 248),
        "first_position": u32(block, 256),
        "num_sinks": u32(block, 260),
        "created": u64(block, 272),
        "writer": ascii_field(block, 280),
        "min_reader": ascii_field(block, 312),
        "parent_tokens_fingerprint": block[344:376],
        "parent_digest": block[376:408],
    }
    check_limits(header)
    if header["features_incompat"] == 1:  # section 15
        most = 2**30 - header["num_tokens"]
        refuse_if(not 1 <= header["first_position"] <= most, "kMalformed", 256, "first_position")
        refuse_if(header["num_sinks"] != 0, "kMalformed", 260, "num_sinks")
    else:
        refuse_if(header["first_position"] != 0, "kMalformed", 256, "first_position")
        refuse_if(header["num_sinks"] != min(4, header["num_tokens"]), "kMalformed", 260, "num_sinks")
        refuse_nonzero(block[344:408], 344, "kMalformed", "a pool without a parent names one")
    table_end = 512 + 128 * header["num_sections"]
    for begin, end in ((266, 272), (408, 512), (table_end, 3584), (3584, 4088)):
        refuse_nonzero(block[begin:end], begin)
    return header


def ascii_field(block, offset):
    field = block[offset : offset + 32]
    text = field.split(b"\0")[0]
    at = next((i for i, byte in enumerate(text) if not 0x20 <= byte <= 0x7E), None)
    refuse_if(at is not None, "kMalformed", offset + (at or 0), "a byte that is not printable ASCII")
    refuse_if(any(field[len(text) :]), "kMalformed", offset + len(text), "bytes after the final zero")
    return text.decode("ascii")


def check_limits(header):
    for name, offset, least, most in (
        ("num_sections", 20, 7, 24),
        ("num_layers", 232, 1, 1024),
        ("num_kv_heads", 236, 1, 1024),
        ("head_dim", 240, 1, 512),
        ("num_tokens", 244, 1, 2**30),
        ("num_chunks", 248, 0, 2**26),
    ):
        refuse_if(not least <= header[name] <= most, "kLimitExceeded", offset, name)
    refuse_if(header["head_dim"] % 8 != 0, "kMalformed", 240, "head_dim is not a multiple of 8")


def check_trailer(file, header):
    """Section 4."""
    begin = len(file) - TRAILER_BYTES
    trailer = file[begin:]
    wrong = first_difference(trailer[4088:], MAGIC[::-1])
    refuse_if(wrong is not None, "kTruncated", begin + 4088 + (wrong or 0), "end magic")
    refuse_if(u64(trailer, 0) != xxh3_64(trailer[8:]), "kBadChecksum", begin, "checksum of the trailer")
    refuse_if(u64(trailer, 8) != header["file_bytes"], "kMalformed", begin + 8, "file_bytes")
    refuse_if(trailer[16:32] != header["file_id"], "kMalformed", begin + 16, "file_id")
    refuse_if(trailer[32:64] != sha256(file[:SUPERBLOCK_BYTES]), "kBadDigest", begin + 32, "superblock_digest")
    refuse_nonzero(trailer[64:4088], begin + 64)


def read_section_table(file, header):
    """Section 5. Adds `at`, the entry's offset."""
    sections, last_kind = [], -1
    for i in range(header["num_sections"]):
        at = 512 + 128 * i
        entry = file[at : at + 128]
        kind, flags = u32(entry, 0), u32(entry, 4)
        refuse_if(flags > 3, "kBadReserved", at + 4, "an unknown flag")
        refuse_if(kind not in KINDS and flags & 1, "kUnknownSection", at, f"critical section of unknown kind {kind}")
        refuse_if(kind in KINDS and flags != KINDS[kind][1], "kBadSectionTable", at + 4, "flags")
        section = {
            "kind": kind,
            "name": KINDS[kind][0] if kind in KINDS else "unknown",
            "flags": flags,
            "offset": u64(entry, 8),
            "bytes": u64(entry, 16),
            "padded_bytes": u64(entry, 24),
            "checksum": u64(entry, 32),
            "digest": entry[40:72],
            "at": at,
        }
        refuse_if(section["bytes"] == 0, "kBadSectionTable", at + 16, "a section without bytes")
        chunked = kind not in (CHUNK_TABLE, DIGESTS)
        refuse_if(chunked and section["checksum"], "kBadReserved", at + 32, "a chunked section has a checksum")
        refuse_nonzero(entry[72:], at + 72)
        refuse_if(kind <= last_kind, "kBadSectionTable", at, "kinds do not ascend")
        sections.append(section)
        last_kind = kind
    for kind in ALWAYS_THERE:
        if kind == SINKS and header["features_incompat"] == 1:
            continue
        refuse_if(kind not in [s["kind"] for s in sections], "kBadSectionTable", 512, f"no {KINDS[kind][0]}")
    refuse_if(sections[-1]["kind"] != DIGESTS, "kBadSectionTable", 512, "the digests are not last")
    check_tiling(sections, header["file_bytes"] - TRAILER_BYTES)
    return sections


def check_tiling(sections, trailer_offset):
    expected = SUPERBLOCK_BYTES
    for section in sections:
        refuse_if(section["offset"] != expected, "kBadSectionTable", section["at"] + 8, "offset: a gap or an overlap")
        expected = align(section["offset"] + section["bytes"], 64)
        padded = expected - section["offset"]
        refuse_if(expected > trailer_offset, "kBadSectionTable", section["at"] + 16, "a section is in the trailer")
        refuse_if(section["padded_bytes"] != padded, "kBadSectionTable", section["at"] + 24, "padded_bytes")
    refuse_if(expected != trailer_offset, "kBadSectionTable", expected, "no section up to the trailer")


class Pool:
    """The sections of a file, and their checksums and digests: sections 6 and 7."""

    def __init__(self, file, header, sections):
        self.file, self.header, self.sections = file, header, sections
        self.by_kind = {section["kind"]: section for section in sections}
        self.chunks = []  # (offset, bytes) of each chunk of the file
        for section in sections:
            section["chunks"] = []
            if section["kind"] in (CHUNK_TABLE, DIGESTS):
                continue
            for begin in range(0, section["padded_bytes"], CHUNK_BYTES):
                section["chunks"].append(len(self.chunks))
                size = min(CHUNK_BYTES, section["padded_bytes"] - begin)
                self.chunks.append((section["offset"] + begin, size))

    def seed(self, number):
        return xxh3_64(self.header["file_id"] + number.to_bytes(8, "little"))

    def padded(self, section):
        return self.file[section["offset"] : section["offset"] + section["padded_bytes"]]

    def contents(self, kind):
        section = self.by_kind[kind]
        return self.file[section["offset"] : section["offset"] + section["bytes"]]

    def offset(self, kind):
        return self.by_kind[kind]["offset"]

    def chunk(self, number):
        offset, size = self.chunks[number]
        return self.file[offset : offset + size]

    def check_padding(self, section):
        end = section["offset"] + section["bytes"]
        refuse_nonzero(self.file[end : section["offset"] + section["padded_bytes"]], end)

    def check_whole(self, kind):
        """The checksum and the padding of the chunk table or the digests."""
        section = self.by_kind[kind]
        checksum = xxh3_64(self.padded(section), self.seed(2**32 + kind))
        refuse_if(checksum != section["checksum"], "kBadChecksum", section["offset"], f"checksum of {section['name']}")
        self.check_padding(section)

    def check_chunk(self, number):
        stored = u64(self.contents(CHUNK_TABLE), 8 * number)
        checksum = xxh3_64(self.chunk(number), self.seed(number))
        refuse_if(checksum != stored, "kBadChecksum", self.chunks[number][0], f"checksum of chunk {number}")

    def check_chunks(self, section):
        for number in section["chunks"]:
            self.check_chunk(number)
        self.check_padding(section)

    def stored_digest(self, number):
        return self.contents(DIGESTS)[32 * number :][:32]

    def check_section_digests(self):
        for section in self.sections:
            digests = b"".join(self.stored_digest(number) for number in section["chunks"])
            digest = sha256(digests) if section["chunks"] else sha256(self.padded(section))
            refuse_if(digest != section["digest"], "kBadDigest", section["at"] + 40, f"digest of {section['name']}")

    def check_every_chunk(self):
        """Checksums and digests, and the padding of each section after its chunks."""
        for section in self.sections:
            for number in section["chunks"]:
                self.check_chunk(number)
                differs = sha256(self.chunk(number)) != self.stored_digest(number)
                refuse_if(differs, "kBadDigest", self.chunks[number][0], f"digest of chunk {number}")
            self.check_padding(section)


def check_sizes(pool):
    """Section 5: the sizes that follow from the superblock."""
    header = pool.header
    heads = header["num_layers"] * header["num_kv_heads"]
    refuse_if(header["num_chunks"] != len(pool.chunks), "kBadSectionSize", 248, "num_chunks")
    expected = {
        2: 12 * header["num_tokens"],
        6: 4 * heads * header["num_sinks"] * header["head_dim"],
        7: 3 * 2 * heads * header["head_dim"],
        CHUNK_TABLE: 8 * header["num_chunks"],
        DIGESTS: 32 * header["num_chunks"],
    }
    for section in pool.sections:
        size, kind = section["bytes"], section["kind"]
        refuse_if(kind in (1, 8) and size > MEBIBYTE, "kLimitExceeded", section["offset"], section["name"])
        refuse_if(expected.get(kind, size) != size, "kBadSectionSize", section["offset"], section["name"])

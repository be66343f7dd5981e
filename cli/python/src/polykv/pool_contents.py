"""What is in the sections: identity, tokens, source, layout, fingerprints (spec/pool-format.md, sections 8 to 14)."""

import struct
from dataclasses import dataclass

import numpy as np

from . import page_codecs as codecs
from . import zstd
from .errors import PoolError, refuse_if
from .hashes import xxh3_64
from .pool_container import LAYOUT, MEANS, PAGES, SINKS, TABLE_OFFSET, TOKENS, align, sha256

# Section 14: what the groups of the identity's fields go into.
FINGERPRINT_GROUPS = {
    "model_fingerprint": (b"polykv/model/1", ("model", "rope", "adapters")),
    "tokenizer_fingerprint": (b"polykv/tokenizer/1", ("tokenizer", "template")),
    "codec_fingerprint": (b"polykv/codec/1", ("codec",)),
}
MOST_NAME_BYTES, MOST_VALUE_BYTES = 256, 65536
MOST_TEXT_BYTES = 1 << 30
MOST_RANGES, MOST_PAGES_BYTES = 1 << 26, 1 << 46


def decode_utf8(data, code, reason, offset):
    """As text; `offset` is where the data is in the file."""
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PoolError(code, f"{reason} is not UTF-8", offset + error.start) from None


def parse_identity(data, base):
    """Section 8: {name: value}, both text, in the file's order."""
    data = bytes(data)
    refuse_if(len(data) < 4, "kBadIdentity", "the identity is cut off", base)
    fields, offset, last = {}, 4, b""
    for _ in range(int.from_bytes(data[:4], "little")):
        refuse_if(len(data) - offset < 8, "kBadIdentity", "a field of the identity is cut off", base + offset)
        name_bytes, value_bytes = struct.unpack_from("<II", data, offset)
        refuse_if(not 1 <= name_bytes <= MOST_NAME_BYTES, "kLimitExceeded", "identity: name_bytes", base + offset)
        refuse_if(value_bytes > MOST_VALUE_BYTES, "kLimitExceeded", "identity: value_bytes", base + offset + 4)
        begin = offset + 8
        middle, end = begin + name_bytes, begin + name_bytes + value_bytes
        refuse_if(end > len(data), "kBadIdentity", "a field of the identity is cut off", base + offset)
        name = data[begin:middle]
        printable = all(0x21 <= byte <= 0x7E for byte in name)
        refuse_if(not printable, "kBadIdentity", "a name of the identity is not printable ASCII", base + begin)
        refuse_if(name.find(b".") <= 0, "kBadIdentity", "a name of the identity has no group", base + begin)
        value = decode_utf8(data[middle:end], "kBadIdentity", f"identity: {name.decode()}", base + middle)
        refuse_if(name <= last, "kBadIdentity", "the identity's names do not ascend", base + begin)
        fields[name.decode()] = value
        offset, last = end, name
    refuse_if(offset != len(data), "kBadIdentity", "bytes after the identity's fields", base + offset)
    return fields


def canonical(fields):
    """Section 14, ascending by name: all names are ASCII, so text sorts as bytes do."""
    pairs = [(name.encode("ascii"), value.encode("utf-8")) for name, value in sorted(fields.items())]
    return b"".join(struct.pack("<II", len(name), len(value)) + name + value for name, value in pairs)


def serialize_identity(fields):
    return struct.pack("<I", len(fields)) + canonical(fields)


def fingerprints(fields, ids, digest_of, first_position=0, parent_tokens=bytes(32)):
    """All of section 14 but the document's. `digest_of(kind)` is a section's digest, 32 zero bytes for none."""
    result = {}
    for name, (domain, groups) in FINGERPRINT_GROUPS.items():
        chosen = {field: value for field, value in fields.items() if field.split(".")[0] in groups}
        result[name] = sha256(domain + canonical(chosen))
    numbers = struct.pack("<II", first_position, len(ids)) + np.asarray(ids).astype("<u4").tobytes()
    result["tokens_fingerprint"] = sha256(b"polykv/tokens/1" + parent_tokens + numbers)
    order = ("model_fingerprint", "tokenizer_fingerprint", "tokens_fingerprint", "codec_fingerprint")
    digests = b"".join(digest_of(kind) for kind in (TOKENS, LAYOUT, SINKS, MEANS, PAGES))
    result["file_id"] = sha256(b"polykv/file/1" + b"".join(result[name] for name in order) + digests)[:16]
    return result


def document_fingerprint(file_id, text):
    return sha256(b"polykv/document/1" + file_id + text)


def parse_tokens(data, base, num_tokens, text_bytes):
    """Section 9: ids and byte ranges, int64 [num_tokens] and [num_tokens, 2]."""
    columns = np.frombuffer(data, "<u4").reshape(3, num_tokens).astype(np.int64)
    ids, begins, ends = columns
    before = np.concatenate([np.zeros((2, 1), np.int64), columns[1:, :-1]], axis=1)
    # Of each token, in the order of section 16.
    faults = [
        (0, "id is 2^31 or more", ids >= 1 << 31),
        (1, "text_begin descends", begins < before[0]),
        (2, "text_end is before text_begin", ends < begins),
        (2, "text_end descends", ends < before[1]),
        (2, "text_end is after the text", ends > text_bytes),
    ]
    wrong = np.array([fault for *_, fault in faults])
    if wrong.any():
        token = int(np.flatnonzero(wrong.any(axis=0))[0])
        column, reason, _ = faults[int(np.flatnonzero(wrong[:, token])[0])]
        raise PoolError("kBadTokens", f"token {token}: {reason}", base + 4 * (num_tokens * column + token))
    return ids, np.stack([begins, ends], axis=1)


def parse_source_start(data, base):
    """Section 10, as far as its first chunk: the length of the text."""
    refuse_if(len(data) < 20, "kBadSource", "the source is cut off", base)
    text_bytes = int.from_bytes(data[:8], "little")
    refuse_if(text_bytes > MOST_TEXT_BYTES, "kLimitExceeded", "text_bytes is above 2^30", base)
    try:
        declared = zstd.content_size(bytes(data[16:64]))
    except ValueError as error:
        raise PoolError("kBadSource", str(error), base + 16) from None
    refuse_if(declared != text_bytes, "kBadSource", "the zstd frame declares another size", base + 16)
    return text_bytes


def parse_source(data, base):
    """The text, as bytes."""
    try:
        text = zstd.decompress(data[16:])
    except ValueError as error:
        raise PoolError("kBadSource", str(error), base + 16) from None
    stored = int.from_bytes(data[8:16], "little")
    refuse_if(xxh3_64(text) != stored, "kBadSource", "the text's checksum differs", base + 8)
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise PoolError("kBadSource", "the text is not UTF-8", base) from None
    return text


def serialize_source(text):
    return struct.pack("<QQ", len(text), xxh3_64(text)) + zstd.store(text)


@dataclass
class Run:
    position_set: int
    key_codec: int
    value_codec: int
    key_exponent: int
    value_exponent: int
    num_positions: int = 0
    pages_offset: int = 0  # in the section
    pages_bytes: int = 0


class Layout:
    """Section 11: `sets` are ranges of positions, int64 [ranges, 2]; `heads` the runs of each (layer, kv_head)."""

    def __init__(self, data, base, superblock):
        self.data, self.base, self.superblock = bytes(data), base, superblock
        self.end_position = superblock.first_position + superblock.num_tokens
        num_heads = superblock.num_heads
        offset = 8 + 4 * num_heads
        refuse_if(len(data) < offset, "kBadLayout", "the layout is cut off", base)
        num_sets, num_runs = struct.unpack_from("<II", self.data)
        runs_of_head = np.frombuffer(self.data, "<u4", num_heads, 8).astype(np.int64)
        refuse_if(num_runs != runs_of_head.sum(), "kBadLayout", "num_runs is not the sum of the heads'", base + 4)
        runs = self.parse_runs(offset, num_runs, num_sets)
        self.sets = self.parse_sets(offset + 8 * num_runs, num_sets)
        unused = len({run.position_set for run in runs}) != num_sets
        refuse_if(unused, "kBadLayout", "a position set is in no run", base)
        for run in runs:
            run.num_positions = int(np.diff(self.sets[run.position_set]).sum())
        ends = np.cumsum(runs_of_head).tolist()
        self.heads = [runs[end - count : end] for end, count in zip(ends, runs_of_head.tolist(), strict=True)]
        self.check_heads()
        self.pages_bytes = self.place_pages(runs)

    def parse_runs(self, offset, num_runs, num_sets):
        base = self.base
        refuse_if(offset + 8 * num_runs > len(self.data), "kBadLayout", "the layout's runs are cut off", base + offset)
        refuse_if(num_sets > num_runs, "kBadLayout", "more position sets than runs", base)
        runs = []
        for at in range(offset, offset + 8 * num_runs, 8):
            run = Run(*struct.unpack_from("<I2B2b", self.data, at))
            refuse_if(run.position_set >= num_sets, "kBadLayout", "a run's position_set is unknown", base + at)
            for place, codec in ((4, run.key_codec), (5, run.value_codec)):
                refuse_if(not codecs.is_known(codec), "kUnknownCodec", f"codec {codec} is unknown", base + at + place)
            for place, codec, exponent in (
                (6, run.key_codec, run.key_exponent),
                (7, run.value_codec, run.value_exponent),
            ):
                allowed = codecs.allows_exponent(codec, exponent)
                refuse_if(not allowed, "kBadLayout", f"exponent {exponent} of codec {codec}", base + at + place)
            runs.append(run)
        return runs

    def parse_sets(self, offset, count):
        sets, num_ranges = [], 0
        for _ in range(count):
            ranges, end = self.parse_set(offset)
            num_ranges += len(ranges)
            refuse_if(num_ranges > MOST_RANGES, "kLimitExceeded", "more than 2^26 ranges", self.base + offset)
            sets.append(ranges)
            offset = end
        refuse_if(offset != len(self.data), "kBadLayout", "bytes after the position sets", self.base + offset)
        return sets

    def parse_set(self, offset):
        data, base = self.data, self.base
        refuse_if(len(data) - offset < 16, "kBadLayout", "a position set is cut off", base + offset)
        form, num_positions, begin, count = struct.unpack_from("<4I", data, offset)
        refuse_if(form > 1, "kBadLayout", "a position set's form is unknown", base + offset)
        at = offset + 16
        end = at + (8 * count if form == 0 else align(count, 32) // 8)
        refuse_if(end > len(data), "kBadLayout", "a position set is cut off", base + at)
        ranges = self.parse_ranges(at, count) if form == 0 else self.parse_bitmap(at, begin, count)
        refuse_if(len(ranges) == 0, "kBadLayout", "a position set is empty", base + offset + 12)
        refuse_if(ranges[0, 0] != begin, "kBadLayout", "a position set's begin is another", base + offset + 8)
        least, most = self.superblock.first_position + self.superblock.num_sinks, self.end_position
        outside = begin < least or ranges[-1, 1] > most
        refuse_if(outside, "kBadLayout", "a position set has positions that are sinks or not the pool's", base + at)
        differs = np.diff(ranges).sum() != num_positions
        refuse_if(differs, "kBadLayout", "a position set's num_positions is another", base + offset + 4)
        return ranges, end

    def parse_ranges(self, at, count):
        ranges = np.frombuffer(self.data, "<u4", 2 * count, at).astype(np.int64).reshape(count, 2)
        wrong = ranges[:, 0] >= ranges[:, 1]
        wrong[1:] |= ranges[1:, 0] <= ranges[:-1, 1]
        if wrong.any():
            where = self.base + at + 8 * int(np.flatnonzero(wrong)[0])
            raise PoolError("kBadLayout", "a position set's ranges do not ascend with gaps between them", where)
        return ranges

    def parse_bitmap(self, at, begin, count):
        past = begin + count > self.end_position
        refuse_if(past, "kBadLayout", "a position set has positions past the pool's", self.base + at - 8)
        stored = np.frombuffer(self.data, np.uint8, align(count, 32) // 8, at)
        bits = np.unpackbits(stored, bitorder="little").astype(np.int8)
        after = np.flatnonzero(bits[count:])
        if len(after):
            where = self.base + at + (count + int(after[0])) // 8
            raise PoolError("kBadLayout", "a bit past a position set's last one is set", where)
        ends_with_one = count == 0 or bits[count - 1] == 1
        where = self.base + at + max(count - 1, 0) // 8
        refuse_if(not ends_with_one, "kBadLayout", "a position set's last bit is not set", where)
        changes = np.flatnonzero(np.diff(bits, prepend=np.int8(0), append=np.int8(0)))
        return begin + changes.reshape(-1, 2).astype(np.int64)

    def check_heads(self):
        """No position is in two runs of a head. Heads often have the same sets: each combination is looked at once."""
        seen, work = set(), 0
        most = (1 << 24) + 4 * sum(len(ranges) for ranges in self.sets)
        for head in self.heads:
            numbers = tuple(sorted(run.position_set for run in head))
            if len(numbers) < 2 or numbers in seen:
                continue
            seen.add(numbers)
            work += sum(len(self.sets[number]) for number in numbers)
            refuse_if(work > most, "kLimitExceeded", "heads combine ranges too many times", self.base)
            ranges = np.concatenate([self.sets[number] for number in numbers])
            ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
            twice = bool((ranges[1:, 0] < ranges[:-1, 1]).any())
            refuse_if(twice, "kBadLayout", "a position is in two runs of a head", self.base)

    def place_pages(self, runs):
        """Section 12. Returns the bytes of all pages."""
        offset = 0
        for run in runs:
            run.pages_offset = offset
            codecs_of_run = (run.key_codec, run.value_codec)
            run.pages_bytes = codecs.run_bytes(*codecs_of_run, self.superblock.head_dim, run.num_positions)
            offset += run.pages_bytes
            refuse_if(offset > MOST_PAGES_BYTES, "kLimitExceeded", "pages have more than 2^46 bytes", self.base)
        return offset

    def check_sections(self, container):
        """Section 5, column "there": pages and means."""
        size = container.by_kind[PAGES].bytes if PAGES in container.by_kind else 0
        reason = f"the layout's pages have {self.pages_bytes} bytes, the section has {size}"
        refuse_if(size != self.pages_bytes, "kBadLayout", reason, self.base)
        needed = any(codecs.removes_mean(run.key_codec) for head in self.heads for run in head)
        there = MEANS in container.by_kind
        inherited = needed and not there and self.superblock.has_parent
        refuse_if(there != needed and not inherited, "kBadSectionTable", "means are missing or surplus", TABLE_OFFSET)

    def positions(self, run):
        """All positions of a run, ascending, counted from the pool's first one."""
        ranges = self.sets[run.position_set] - self.superblock.first_position
        lengths = ranges[:, 1] - ranges[:, 0]
        starts = np.cumsum(lengths) - lengths
        return np.repeat(ranges[:, 0] - starts, lengths) + np.arange(lengths.sum())

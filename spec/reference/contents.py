"""What is in the sections: identity, tokens, source, layout (../pool-format.md, sections 8 to 12)."""

import struct

import pages
import zstd_frame
from container import Refused, first_invalid_utf8, refuse_if, u32, u32s, u64
from xxh3 import xxh3_64


def read_identity(data, base):
    """Section 8: a dict from names to values, both bytes."""
    refuse_if(len(data) < 4, "kBadIdentity", base, "no number of fields")
    fields, offset, last = {}, 4, b""
    for _ in range(u32(data, 0)):
        refuse_if(len(data) - offset < 8, "kBadIdentity", base + offset, "a field is cut off")
        name_bytes, value_bytes = u32(data, offset), u32(data, offset + 4)
        refuse_if(not 1 <= name_bytes <= 256, "kLimitExceeded", base + offset, "name_bytes")
        refuse_if(value_bytes > 65536, "kLimitExceeded", base + offset + 4, "value_bytes")
        begin = offset + 8
        end = begin + name_bytes + value_bytes
        refuse_if(end > len(data), "kBadIdentity", base + offset, "a field is cut off")
        name, value = data[begin : begin + name_bytes], data[begin + name_bytes : end]
        refuse_if(not all(0x21 <= byte <= 0x7E for byte in name), "kBadIdentity", base + begin, "a name's bytes")
        refuse_if(name.find(b".") <= 0, "kBadIdentity", base + begin, "a name without a group")
        wrong = first_invalid_utf8(value)
        refuse_if(wrong is not None, "kBadIdentity", base + begin + name_bytes + (wrong or 0), "a value is not UTF-8")
        refuse_if(name <= last, "kBadIdentity", base + begin, "names do not ascend")
        fields[name] = value
        offset, last = end, name
    refuse_if(offset != len(data), "kBadIdentity", base + offset, "bytes after the fields")
    return fields


def read_tokens(data, base, num_tokens, text_bytes):
    """Section 9: the three columns."""
    ids, begins, ends = (u32s(data[4 * num_tokens * i : 4 * num_tokens * (i + 1)]) for i in range(3))
    for i in range(num_tokens):
        at_begin, at_end = base + 4 * (num_tokens + i), base + 4 * (2 * num_tokens + i)
        refuse_if(ids[i] >= 2**31, "kBadTokens", base + 4 * i, "id")
        refuse_if(i > 0 and begins[i] < begins[i - 1], "kBadTokens", at_begin, "text_begin descends")
        refuse_if(ends[i] < begins[i], "kBadTokens", at_end, "text_end is before text_begin")
        refuse_if(i > 0 and ends[i] < ends[i - 1], "kBadTokens", at_end, "text_end descends")
        refuse_if(ends[i] > text_bytes, "kBadTokens", at_end, "text_end is after the text")
    return ids, begins, ends


def source_text_bytes(data, base):
    """Section 10, as far as the first chunk."""
    refuse_if(len(data) < 20, "kBadSource", base, "the source is cut off")
    text_bytes = u64(data, 0)
    refuse_if(text_bytes > 2**30, "kLimitExceeded", base, "text_bytes")
    try:
        declared = zstd_frame.content_size(data[16:])
    except ValueError as error:
        raise Refused("kBadSource", base + 16, str(error)) from error
    refuse_if(declared != text_bytes, "kBadSource", base + 16, "the frame declares another size")
    return text_bytes


def read_source(data, base):
    text_bytes, frame = source_text_bytes(data, base), data[16:]
    try:
        size = zstd_frame.frame_bytes(frame)
        refuse_if(size != len(frame), "kBadSource", base + 16, "the frame does not end with the section")
        text = zstd_frame.decompress(frame)
    except ValueError as error:
        raise Refused("kBadSource", base + 16, str(error)) from error
    refuse_if(len(text) != text_bytes, "kBadSource", base + 16, "the text has another size")
    refuse_if(xxh3_64(text) != u64(data, 8), "kBadSource", base + 8, "text_checksum")
    refuse_if(first_invalid_utf8(text) is not None, "kBadSource", base, "the text is not UTF-8")
    return text


def ranges_of_bits(bits, begin):
    """Maximal runs of ones, as ranges from `begin`."""
    ranges, bit = [], 0
    while rest := bits >> bit:
        bit += (rest & -rest).bit_length() - 1
        ones = ~(bits >> bit)
        length = (ones & -ones).bit_length() - 1
        ranges.append((begin + bit, begin + bit + length))
        bit += length
    return ranges


def read_ranges(data, base, at, count):
    numbers = u32s(data[at : at + 8 * count])
    ranges = list(zip(numbers[::2], numbers[1::2], strict=True))
    for i, (low, high) in enumerate(ranges):
        sound = low < high and (i == 0 or low > ranges[i - 1][1])
        refuse_if(not sound, "kBadLayout", base + at + 8 * i, "ranges do not ascend with gaps between them")
    return ranges


def read_bitmap(data, base, at, begin, count, most):
    refuse_if(begin + count > most, "kBadLayout", base + at - 8, "positions past the pool's")
    bits = int.from_bytes(data[at : at + 4 * pages.align(count, 32) // 32], "little")
    past = bits >> count
    if past:
        first = count + (past & -past).bit_length() - 1
        raise Refused("kBadLayout", base + at + first // 8, "a bit past the last one is set")
    last = max(count - 1, 0)
    refuse_if(count and not bits >> last & 1, "kBadLayout", base + at + last // 8, "the last bit is not set")
    return ranges_of_bits(bits, begin)


def read_position_set(data, base, offset, header):
    """Section 11: ranges, and where the next set starts."""
    refuse_if(len(data) - offset < 16, "kBadLayout", base + offset, "a position set is cut off")
    form, num_positions, begin, count = u32s(data[offset : offset + 16])
    refuse_if(form > 1, "kBadLayout", base + offset, "form")
    at = offset + 16
    end = at + (8 * count if form == 0 else 4 * pages.align(count, 32) // 32)
    refuse_if(end > len(data), "kBadLayout", base + at, "a position set is cut off")
    least = header["first_position"] + header["num_sinks"]
    most = header["first_position"] + header["num_tokens"]
    ranges = read_ranges(data, base, at, count) if form == 0 else read_bitmap(data, base, at, begin, count, most)
    refuse_if(not ranges, "kBadLayout", base + offset + 12, "count")
    refuse_if(ranges[0][0] != begin, "kBadLayout", base + offset + 8, "begin")
    refuse_if(begin < least or ranges[-1][1] > most, "kBadLayout", base + at, "positions that are not the pool's")
    total = sum(high - low for low, high in ranges)
    refuse_if(total != num_positions, "kBadLayout", base + offset + 4, "num_positions")
    return ranges, end


def read_runs(data, base, offset, num_runs, num_sets):
    refuse_if(offset + 8 * num_runs > len(data), "kBadLayout", base + offset, "the runs are cut off")
    refuse_if(num_sets > num_runs, "kBadLayout", base, "more position sets than runs")
    runs = []
    for at in range(offset, offset + 8 * num_runs, 8):
        run = {"position_set": u32(data, at), "key_codec": data[at + 4], "value_codec": data[at + 5]}
        refuse_if(run["position_set"] >= num_sets, "kBadLayout", base + at, "position_set")
        for place, side in ((4, "key_codec"), (5, "value_codec")):
            refuse_if(not pages.known_codec(run[side]), "kUnknownCodec", base + at + place, side)
        run["key_exponent"], run["value_exponent"] = struct.unpack_from("<bb", data, at + 6)
        for place, side in ((6, "key"), (7, "value")):
            known = pages.known_exponent(run[f"{side}_codec"], run[f"{side}_exponent"])
            refuse_if(not known, "kBadLayout", base + at + place, f"{side}_exponent")
        runs.append(run)
    return runs


def check_heads(sets, heads, base):
    """No position in two runs of a head."""
    seen, work = set(), 0
    most = 2**24 + 4 * sum(len(ranges) for ranges in sets)
    for head in heads:
        numbers = tuple(sorted(run["position_set"] for run in head))
        if len(numbers) < 2 or numbers in seen:
            continue
        seen.add(numbers)
        work += sum(len(sets[number]) for number in numbers)
        refuse_if(work > most, "kLimitExceeded", base, "heads combine the same ranges too many times")
        kept = sorted(r for number in numbers for r in sets[number])
        twice = any(kept[i][0] < kept[i - 1][1] for i in range(1, len(kept)))
        refuse_if(twice, "kBadLayout", base, "a position is in two runs of a head")


def read_layout(data, base, header):
    """Section 11: position sets as lists of ranges, and for each head its runs."""
    num_heads = header["num_layers"] * header["num_kv_heads"]
    offset = 8 + 4 * num_heads
    refuse_if(len(data) < offset, "kBadLayout", base, "the layout is cut off")
    num_sets, num_runs = u32(data, 0), u32(data, 4)
    runs_of_head = u32s(data[8:offset])
    refuse_if(num_runs != sum(runs_of_head), "kBadLayout", base + 4, "num_runs")
    runs = read_runs(data, base, offset, num_runs, num_sets)
    offset += 8 * num_runs
    sets, num_ranges = [], 0
    for _ in range(num_sets):
        ranges, end = read_position_set(data, base, offset, header)
        num_ranges += len(ranges)
        refuse_if(num_ranges > 2**26, "kLimitExceeded", base + offset, "too many ranges")
        sets.append(ranges)
        offset = end
    refuse_if(offset != len(data), "kBadLayout", base + offset, "bytes after the position sets")
    unused = set(range(num_sets)) - {run["position_set"] for run in runs}
    refuse_if(unused, "kBadLayout", base, "a position set that is in no run")
    heads, first = [], 0
    for count in runs_of_head:
        heads.append(runs[first : first + count])
        first += count
    check_heads(sets, heads, base)
    return sets, heads


def place_pages(sets, heads, head_dim, base):
    """Section 12: gives each run its pages, (offset in the section, bytes, positions); returns the section's bytes."""
    offset = 0
    for run in (run for head in heads for run in head):
        left = sum(high - low for low, high in sets[run["position_set"]])
        run["pages"] = []
        while left:
            positions = min(pages.PAGE_POSITIONS, left)
            size = pages.page_bytes(run["key_codec"], run["value_codec"], head_dim, positions)
            run["pages"].append((offset, size, positions))
            offset += size
            left -= positions
            refuse_if(offset > 2**46, "kLimitExceeded", base, "pages have too many bytes")
    return offset


def check_optional_sections(pool, heads, pages_bytes):
    """Section 5, column "there", for pages and means."""
    size = pool.by_kind[5]["bytes"] if 5 in pool.by_kind else 0
    refuse_if(size != pages_bytes, "kBadLayout", pool.offset(4), "the runs' pages are not those of the section")
    needs_means = any(pages.removes_mean(run["key_codec"]) for head in heads for run in head)
    of_parent = needs_means and pool.header["features_incompat"] == 1 and 7 not in pool.by_kind
    refuse_if(
        (7 in pool.by_kind) != needs_means and not of_parent, "kBadSectionTable", 512, "means: missing or surplus"
    )

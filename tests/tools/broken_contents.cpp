// Identity, tokens, source, layout, pages, fidelity: spec/pool-format.md, sections 8 to 13, and spec/codecs.md,
// section 7.
#include <utility>

#include "tests/tools/broken_maker.h"

namespace polykv::tests {
namespace {

Bytes field(std::string_view name, std::string_view value) {
  Bytes out = le32({static_cast<std::uint32_t>(name.size()), static_cast<std::uint32_t>(value.size())});
  append(out, bytes_of(name));
  append(out, bytes_of(value));
  return out;
}

Bytes fields(std::uint32_t num_fields, std::initializer_list<Bytes> all) {
  Bytes out = le32({num_fields});
  for (const Bytes& one : all) append(out, one);
  return out;
}

void break_identity(BrokenMaker& maker) {
  const auto add = [&](const char* name, ErrorCode code, std::uint64_t offset, Bytes bytes) {
    maker.section(std::string("identity-") + name, code, maker.bare(), SectionKind::kIdentity, offset,
                  std::move(bytes));
  };
  const auto bad = ErrorCode::kBadIdentity, limit = ErrorCode::kLimitExceeded;
  const Bytes one = field("a.b", "c");  // 12 bytes
  add("no-count", bad, 0, Bytes(3));
  add("fewer-fields", bad, 16, fields(2, {one}));
  add("bytes-after", bad, 16, fields(1, {one, Bytes(1)}));
  add("name-0", limit, 4, fields(1, {field("", "c")}));
  add("name-257", limit, 4, fields(1, {field("a." + std::string(255, 'b'), "c")}));
  add("value-65537", limit, 8, fields(1, {le32({3, 65537}), bytes_of("a.bc")}));
  add("value-cut", bad, 4, fields(1, {le32({3, 2}), bytes_of("a.bc")}));
  add("name-space", bad, 12, fields(1, {field("a. b", "c")}));
  add("name-not-ascii", bad, 12, fields(1, {field("a.\xc3\xa9", "c")}));
  add("name-without-dot", bad, 12, fields(1, {field("ab", "c")}));
  add("name-dot-first", bad, 12, fields(1, {field(".b", "c")}));
  add("value-not-utf8", bad, 16, fields(1, {field("a.b", "c\xc3")}));
  add("value-overlong", bad, 15, fields(1, {field("a.b", "\xc0\x80")}));
  add("value-surrogate", bad, 15, fields(1, {field("a.b", "\xed\xa0\x80")}));
  add("names-descend", bad, 24, fields(2, {field("b.b", "c"), one}));
  add("names-equal", bad, 24, fields(2, {one, one}));
}

// The bare pool has 4 tokens: ids at 0, text_begin at 16, text_end at 32.
void break_tokens(BrokenMaker& maker) {
  const Bytes good = section_bytes(maker.bare(), SectionKind::kTokens);
  const auto add = [&](const char* name, std::uint64_t offset, std::initializer_list<std::uint32_t> begins,
                       std::initializer_list<std::uint32_t> ends) {
    Bytes bytes(good.begin(), good.begin() + 16);
    append(bytes, le32(begins));
    append(bytes, le32(ends));
    maker.section(std::string("tokens-") + name, ErrorCode::kBadTokens, maker.bare(), SectionKind::kTokens, offset,
                  std::move(bytes));
  };
  Bytes bytes = good;
  poke32(bytes, 8, 0x80000000u);
  maker.section("tokens-id", ErrorCode::kBadTokens, maker.bare(), SectionKind::kTokens, 8, std::move(bytes));
  add("begin-descends", 16 + 8, {0, 3, 2, 4}, {3, 3, 4, 5});
  add("end-before-begin", 32 + 4, {0, 4, 4, 4}, {3, 3, 5, 5});
  add("end-descends", 32 + 8, {0, 1, 1, 4}, {3, 4, 3, 5});
  const auto text_bytes =
      static_cast<std::uint32_t>(format::load_le64(section_bytes(maker.bare(), SectionKind::kSource).data()));
  add("end-past-text", 32 + 12, {0, 1, 2, 3}, {1, 2, 3, text_bytes + 1});
}

// A zstd frame of one raw block; `descriptor` and what follows it can be chosen.
Bytes frame(const Bytes& head, std::string_view text, std::uint32_t block_type = 0) {
  Bytes out = le32({0xfd2fb528u});
  append(out, head);
  const auto block = static_cast<std::uint32_t>(text.size() << 3 | block_type << 1 | 1);
  append(out, Bytes{std::byte(block & 0xff), std::byte(block >> 8 & 0xff), std::byte(block >> 16)});
  append(out, bytes_of(text));
  return out;
}

Bytes head_of(std::initializer_list<std::size_t> values) {
  Bytes out;
  for (const std::size_t value : values) out.push_back(std::byte(value));
  return out;
}

Bytes source(std::uint64_t text_bytes, std::string_view text, const Bytes& frames) {
  Bytes out = le64(text_bytes);
  append(out, le64(format::xxh3_64(format::as_bytes(text))));
  append(out, frames);
  return out;
}

void break_source(BrokenMaker& maker) {
  const std::string text = "The keeper of the lighthouse trims the lamp at dusk and at dawn.";
  const std::size_t size = text.size();
  const auto add = [&](const char* name, ErrorCode code, std::uint64_t offset, Bytes bytes) {
    maker.section(std::string("source-") + name, code, maker.bare(), SectionKind::kSource, offset, std::move(bytes));
  };
  const auto bad = ErrorCode::kBadSource;
  const Bytes good = frame(head_of({0x20, size}), text);
  const auto joined = [](Bytes first, const Bytes& second) {
    append(first, second);
    return first;
  };
  Bytes skippable = le32({0x184d2a50u, 4});
  append(skippable, bytes_of("hide"));
  add("text-bytes-limit", ErrorCode::kLimitExceeded, 0, source((1u << 30) + 1, text, good));
  add("text-bytes", bad, 16, source(size - 1, text, good));
  add("text-checksum", bad, 8, source(size, "another text", good));
  add("cut-off", bad, 0, Bytes(15));
  add("no-frame", bad, 16, source(size, text, bytes_of(text)));
  add("frame-cut-off", bad, 16, source(size, text, Bytes(good.begin(), good.end() - 1)));
  add("skippable-before", bad, 16, source(size, text, joined(skippable, good)));
  add("skippable-after", bad, 16, source(size, text, joined(good, skippable)));
  add("two-frames", bad, 16, source(size, text, joined(good, frame(head_of({0x20, 0}), ""))));
  add("byte-after", bad, 16, source(size, text, joined(good, Bytes(1))));
  add("no-content-size", bad, 16, source(size, text, frame(head_of({0, 0x58}), text)));
  add("content-size", bad, 16, source(size, text, frame(head_of({0x20, size + 1}), text)));
  add("content-shorter", bad, 16, source(size + 1, text, frame(head_of({0x20, size + 1}), text)));
  add("dictionary", bad, 16, source(size, text, frame(head_of({0x21, 7, size}), text)));
  add("reserved-bit", bad, 16, source(size, text, frame(head_of({0x28, size}), text)));
  add("reserved-block", bad, 16, source(size, text, frame(head_of({0x20, size}), text, 3)));
  add("frame-checksum", bad, 16, source(size, text, joined(frame(head_of({0x24, size}), text), Bytes(4))));
  const std::string latin1 = "caf\xe9 at dusk, and again at dawn, when the lamp is out, says the log";
  add("not-utf8", bad, 0, source(latin1.size(), latin1, frame(head_of({0x20, latin1.size()}), latin1)));
}

// The layout of the paged pool: one head of one run in k5v4, one position set.
struct Run {
  std::uint32_t position_set = 0;
  std::uint8_t key_codec = 5, value_codec = 4;
  std::int8_t key_exponent = 0, value_exponent = 0;
};
Bytes layout(std::uint32_t num_sets, std::uint32_t num_runs, std::uint32_t runs_of_head,
             std::initializer_list<Run> runs, std::initializer_list<std::uint32_t> sets) {
  Bytes out = le32({num_sets, num_runs, runs_of_head});
  for (const Run& run : runs) {
    append(out, le32({run.position_set}));
    append(out, Bytes{std::byte{run.key_codec}, std::byte{run.value_codec}, static_cast<std::byte>(run.key_exponent),
                      static_cast<std::byte>(run.value_exponent)});
  }
  append(out, le32(sets));
  return out;
}

void break_layout(BrokenMaker& maker) {
  const auto add = [&](const char* name, std::uint64_t offset, Bytes bytes, ErrorCode code = ErrorCode::kBadLayout) {
    maker.section(std::string("layout-") + name, code, maker.paged(), SectionKind::kLayout, offset, std::move(bytes));
  };
  // Offsets: counts 0, 4, 8; runs from 12; the set after one run: form 20, num_positions 24, begin 28, count 32,
  // data 36.
  const Run run;
  add("cut-in-heads", 0, le32({1, 1}));
  add("more-sets-than-runs", 0, layout(2, 1, 1, {run}, {0, 17, 4, 1, 4, 21, 0, 17, 4, 1, 4, 21}));
  add("num-runs", 4, layout(1, 2, 1, {run}, {0, 17, 4, 1, 4, 21}));
  add("cut-in-runs", 12, layout(1, 1, 1, {}, {0}));
  add("run-position-set", 12, layout(1, 1, 1, {{1}}, {0, 17, 4, 1, 4, 21}));
  add("bytes-after", 44, layout(1, 1, 1, {run}, {0, 17, 4, 1, 4, 21, 0}));
  add("key-codec-0", 16, layout(1, 1, 1, {{0, 0, 4}}, {0, 17, 4, 1, 4, 21}), ErrorCode::kUnknownCodec);
  add("key-codec-9", 16, layout(1, 1, 1, {{0, 9, 4}}, {0, 17, 4, 1, 4, 21}), ErrorCode::kUnknownCodec);
  add("value-codec-0", 17, layout(1, 1, 1, {{0, 5, 0}}, {0, 17, 4, 1, 4, 21}), ErrorCode::kUnknownCodec);
  add("value-codec-17", 17, layout(1, 1, 1, {{0, 5, 17}}, {0, 17, 4, 1, 4, 21}), ErrorCode::kUnknownCodec);
  add("key-exponent", 18, layout(1, 1, 1, {{0, 5, 4, 64, 0}}, {0, 17, 4, 1, 4, 21}));
  add("value-exponent", 19, layout(1, 1, 1, {{0, 5, 4, 63, -65}}, {0, 17, 4, 1, 4, 21}));
  add("key-exponent-of-float16-scales", 18, layout(1, 1, 1, {{0, 6, 4, -1, 0}}, {0, 17, 4, 1, 4, 21}));
  add("value-exponent-of-none", 19, layout(1, 1, 1, {{0, 5, 16, 0, 1}}, {0, 17, 4, 1, 4, 21}));
  add("set-cut-off", 20, layout(1, 1, 1, {run}, {0, 17, 4}));
  add("set-form", 20, layout(1, 1, 1, {run}, {2, 17, 4, 1, 4, 21}));
  add("set-num-positions", 24, layout(1, 1, 1, {run}, {0, 16, 4, 1, 4, 21}));
  add("set-begin", 28, layout(1, 1, 1, {run}, {0, 17, 5, 1, 4, 21}));
  add("set-empty-ranges", 32, layout(1, 1, 1, {run}, {0, 0, 4, 0}));
  add("set-empty-bitmap", 32, layout(1, 1, 1, {run}, {1, 0, 4, 0}));
  add("ranges-cut-off", 36, layout(1, 1, 1, {run}, {0, 17, 4, 2, 4, 21}));
  add("range-empty", 44, layout(1, 1, 1, {run}, {0, 16, 4, 2, 4, 20, 21, 21}));
  add("range-reversed", 36, layout(1, 1, 1, {run}, {0, 17, 21, 1, 21, 4}));
  add("ranges-touch", 44, layout(1, 1, 1, {run}, {0, 17, 4, 2, 4, 10, 10, 21}));
  add("ranges-overlap", 44, layout(1, 1, 1, {run}, {0, 18, 4, 2, 4, 11, 10, 21}));
  add("ranges-descend", 44, layout(1, 1, 1, {run}, {0, 16, 12, 2, 12, 21, 4, 11}));
  add("bitmap-cut-off", 36, layout(1, 1, 1, {run}, {1, 17, 4, 17}));
  add("bitmap-first-bit", 28, layout(1, 1, 1, {run}, {1, 16, 4, 17, 0x1fffe}));
  add("bitmap-last-bit", 38, layout(1, 1, 1, {run}, {1, 16, 4, 17, 0x0ffff}));
  add("bitmap-bit-past-end", 39, layout(1, 1, 1, {run}, {1, 17, 4, 17, 0x8001ffff}));
  add("bitmap-past-pool", 28, layout(1, 1, 1, {run}, {1, 18, 4, 18, 0x3ffff}));
  add("position-in-sinks", 36, layout(1, 1, 1, {run}, {0, 17, 3, 1, 3, 20}));
  add("position-past-end", 36, layout(1, 1, 1, {run}, {0, 17, 5, 1, 5, 22}));
  add("set-unused", 0, layout(2, 2, 2, {run, run}, {0, 17, 4, 1, 4, 21, 0, 1, 4, 1, 4, 5}));
  add("set-twice-in-head", 0, layout(1, 2, 2, {run, run}, {0, 17, 4, 1, 4, 21}));
  add("position-in-two-runs", 0, layout(2, 2, 2, {run, {1}}, {0, 10, 4, 1, 4, 14, 0, 8, 13, 1, 13, 21}));
  add("pages-sum", 0, layout(1, 1, 1, {run}, {0, 16, 4, 1, 4, 20}));
}

// The page of the paged pool holds 17 positions in two tiles. Offsets in it (codecs.md, section 7): key scales 0, value
// scales 32, key tiles 64 (80 bytes each), value tiles 224 (128 bytes each), padding 480 to 511.
void break_pages(BrokenMaker& maker) {
  const auto add = [&](const char* name, std::uint64_t offset, std::uint8_t value) {
    maker.byte(std::string("page-") + name, ErrorCode::kBadPadding, maker.paged(), SectionKind::kPages, offset, value);
  };
  const Bytes page = section_bytes(maker.paged(), SectionKind::kPages);
  const auto with = [&](std::uint64_t offset, std::uint8_t bits) {
    return static_cast<std::uint8_t>(std::to_integer<std::uint8_t>(page[offset]) | bits);
  };
  add("key-scale", 16 + 1, 1);                                        // of position 17
  add("value-scale", 32 + 16 + 15, 1);                                // of position 31
  add("key-code", 64 + 80 + 4, 1);                                    // 4-bit plane, position 17, dimension 0
  add("key-code-1-bit", 64 + 80 + 64 + 1, 0x80);                      // trellis bits, position 19, dimension 3
  add("value-code", 224 + 128 + 1, with(224 + 128 + 1, 1));           // position 17, dimension 0
  add("value-dim", 224, with(224, 0x10));                             // dimension 8 of position 0
  add("value-dim-trellis-bit", 224 + 96 + 4, with(224 + 96 + 4, 1));  // the same
  add("end", 511, 1);
  PoolParts parts = take_apart(maker.paged());
  parts.at(SectionKind::kPages).bytes.resize(576);
  Bytes pool = put_together(parts);
  const std::uint64_t at = entry_of(pool, SectionKind::kLayout).offset;
  maker.add("page-surplus-bytes", ErrorCode::kBadLayout, at, std::move(pool));
}

void break_fidelity(BrokenMaker& maker) {
  PoolParts parts = take_apart(maker.bare());
  parts.add({SectionKind::kFidelity, 0, bytes_of("{\"a\": \"\xff\"}")});
  Bytes pool = put_together(parts);
  const std::uint64_t at = entry_of(pool, SectionKind::kFidelity).offset + 7;
  maker.add("fidelity-not-utf8", ErrorCode::kMalformed, at, std::move(pool));
}

}  // namespace

void break_contents(BrokenMaker& maker) {
  break_identity(maker);
  break_tokens(maker);
  break_source(maker);
  break_layout(maker);
  break_pages(maker);
  break_fidelity(maker);
}

}  // namespace polykv::tests

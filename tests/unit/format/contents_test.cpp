// One input per rejecting statement of the parsers of identity, tokens, source and layout, with code and offset.
#include <sys/mman.h>

#include <string>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/identity.h"
#include "format/layout.h"
#include "format/page_layout.h"
#include "format/reader.h"
#include "format/tokens.h"
#include "tests/support/catch.h"
#include "tests/support/reseal.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::format;

namespace {

template <typename Outcome>
void expect(const Outcome& outcome, ErrorCode code, std::uint64_t offset) {
  REQUIRE_FALSE(outcome.has_value());
  CHECK(static_cast<std::uint32_t>(outcome.error().code) == static_cast<std::uint32_t>(code));
  CHECK(outcome.error().offset == offset);
}

void append_field(std::vector<std::byte>& out, std::string_view name, std::string_view value) {
  append_le32(out, static_cast<std::uint32_t>(name.size()));
  append_le32(out, static_cast<std::uint32_t>(value.size()));
  append_bytes(out, as_bytes(name));
  append_bytes(out, as_bytes(value));
}

std::vector<std::byte> identity_of(std::initializer_list<std::pair<std::string_view, std::string_view>> fields) {
  std::vector<std::byte> out;
  append_le32(out, static_cast<std::uint32_t>(fields.size()));
  for (const auto& [name, value] : fields) append_field(out, name, value);
  return out;
}

// ---- layout, as words ----

struct Words {
  std::vector<std::byte> bytes;
  Words(std::initializer_list<std::uint32_t> words) {
    for (const std::uint32_t word : words) append_le32(bytes, word);
  }
};

constexpr KvShape kOneHead{1, 1, 8, 40};
constexpr KvShape kTwoHeads{1, 2, 8, 40};
constexpr std::uint32_t kK5V4 = 5 | 4 << 8;

std::uint64_t k5v4_bytes(std::size_t num_positions) { return run_bytes(5, 4, 8, num_positions); }

Result<Layout> parse_layout(const Words& words, const KvShape& shape, std::uint64_t pages_bytes) {
  return Layout::parse(words.bytes, shape, 0, pages_bytes);
}

}  // namespace

TEST_CASE("identity: what it refuses") {
  const auto parse = [](const std::vector<std::byte>& bytes) { return Identity::parse(bytes); };
  REQUIRE(parse(identity_of({{"a.b", "1"}, {"a.c", ""}})).has_value());
  REQUIRE(parse(identity_of({})).has_value());
  expect(parse({}), ErrorCode::kBadIdentity, 0);
  expect(parse(std::vector<std::byte>(3)), ErrorCode::kBadIdentity, 0);
  expect(parse(std::vector<std::byte>((1 << 20) + 1)), ErrorCode::kLimitExceeded, 0);
  expect(parse(identity_of({{"a.c", "1"}, {"a.b", "2"}})), ErrorCode::kBadIdentity, 4 + 12 + 8);
  expect(parse(identity_of({{"a.b", "1"}, {"a.b", "2"}})), ErrorCode::kBadIdentity, 4 + 12 + 8);
  for (const std::string_view name : {"ab", ".ab", "a b.c", "a.\x7f", "a.\n", "a.\xc3\xa9"}) {
    expect(parse(identity_of({{name, "1"}})), ErrorCode::kBadIdentity, 12);
  }
  expect(parse(identity_of({{std::string_view("a.b\0", 4), "1"}})), ErrorCode::kBadIdentity, 12);
  expect(parse(identity_of({{"a.b", "x\xff"}})), ErrorCode::kBadIdentity, 4 + 8 + 3 + 1);
  expect(parse(identity_of({{"", "1"}})), ErrorCode::kLimitExceeded, 4);
  const std::string long_name = "a." + std::string(255, 'n'), long_value(64 * 1024 + 1, 'v');
  REQUIRE(parse(identity_of({{long_name.substr(0, 256), long_value.substr(1)}})).has_value());
  expect(parse(identity_of({{long_name, "1"}})), ErrorCode::kLimitExceeded, 4);
  expect(parse(identity_of({{"a.b", long_value}})), ErrorCode::kLimitExceeded, 8);
  std::vector<std::byte> bytes = identity_of({{"a.b", "1"}});
  for (std::size_t size = 4; size < bytes.size(); ++size) {
    expect(parse({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)}), ErrorCode::kBadIdentity, 4);
  }
  bytes.push_back(std::byte{0});
  expect(parse(bytes), ErrorCode::kBadIdentity, bytes.size() - 1);
  bytes = identity_of({{"a.b", "1"}});
  store_le32(bytes.data(), 2);
  expect(parse(bytes), ErrorCode::kBadIdentity, bytes.size());
  store_le32(bytes.data(), 0xffffffffu);
  expect(parse(bytes), ErrorCode::kBadIdentity, bytes.size());
}

TEST_CASE("identity: the first difference, in the order of the groups") {
  Identity mine, theirs;
  for (Identity* identity : {&mine, &theirs}) {
    identity->set("model.name", "m");
    identity->set("tokenizer.hash", "t");
    identity->set("codec.name", "k5v4");
  }
  CHECK_FALSE(mine.first_difference(theirs).has_value());
  theirs.set("codec.name", "k8v3");
  theirs.set("document.name", "d");
  theirs.set("prefill.type", "bf16");
  CHECK_FALSE(mine.first_difference(theirs).has_value());  // need not match
  theirs.set("tokenizer.hash", "u");
  CHECK(mine.first_difference(theirs)->name == "tokenizer.hash");
  theirs.set("rope.theta", "10000");
  const auto difference = mine.first_difference(theirs);
  CHECK(difference->name == "rope.theta");
  CHECK(difference->mine == "(absent)");
  CHECK(difference->theirs == "10000");
  CHECK(theirs.first_difference(mine)->mine == "10000");
  mine.set("model.architecture", "llama");
  CHECK(mine.first_difference(theirs)->name == "model.architecture");
}

TEST_CASE("identity: fields do not run into each other, nor into the domain") {
  const auto model = [](std::initializer_list<std::pair<std::string, std::string>> fields) {
    Identity identity;
    for (const auto& [name, value] : fields) identity.set(name, value);
    return identity.model_fingerprint();
  };
  CHECK(model({{"model.ab", "c"}}) != model({{"model.a", "bc"}}));
  CHECK(model({{"model.a", "b"}, {"model.c", ""}}) != model({{"model.a", "bmodel.c"}}));
  CHECK(model({{"model.a", "1"}, {"model.b", "2"}}) == model({{"model.b", "2"}, {"model.a", "1"}}));
  CHECK(model({{"model.a", "1"}, {"model.b", "2"}}) != model({{"model.a", "2"}, {"model.b", "1"}}));
  CHECK(model({{"model.a", "1"}, {"writer.b", "2"}}) == model({{"model.a", "1"}}));
  CHECK(model({{"model.a", "1"}, {"rope.b", "2"}}) != model({{"model.a", "1"}}));
  CHECK(model({{"model.a", "1"}, {"modelx.b", "2"}}) == model({{"model.a", "1"}}));
  Identity empty;
  CHECK(to_hex(empty.model_fingerprint()) == to_hex(sha256(as_bytes("polykv/model/1"))));
  CHECK(empty.model_fingerprint() != empty.tokenizer_fingerprint());
  CHECK(empty.tokenizer_fingerprint() != empty.codec_fingerprint());
}

TEST_CASE("tokens: what they refuse") {
  Tokens tokens;
  tokens.ids = {1, 0x7fffffff, 3};
  tokens.text_begin = {0, 0, 2};
  tokens.text_end = {0, 2, 5};
  const auto parse = [&](std::uint32_t num_tokens, std::uint64_t text_bytes) {
    Tokens out;
    return parse_tokens(serialize_tokens(tokens), num_tokens, text_bytes, out);
  };
  REQUIRE(parse(3, 5).has_value());
  expect(parse(2, 5), ErrorCode::kBadSectionSize, 0);
  expect(parse(4, 5), ErrorCode::kBadSectionSize, 0);
  expect(parse(3, 4), ErrorCode::kBadTokens, 4 * (6 + 2));
  tokens.ids[1] = 0x80000000u;
  expect(parse(3, 5), ErrorCode::kBadTokens, 4);
  tokens.ids[1] = 2;
  tokens.text_begin = {0, 3, 2};
  tokens.text_end = {0, 3, 5};
  expect(parse(3, 5), ErrorCode::kBadTokens, 4 * (3 + 2));
  tokens.text_begin = {0, 2, 2};
  tokens.text_end = {0, 1, 5};
  expect(parse(3, 5), ErrorCode::kBadTokens, 4 * (6 + 1));
  tokens.text_begin = {0, 1, 2};
  tokens.text_end = {0, 5, 4};
  expect(parse(3, 5), ErrorCode::kBadTokens, 4 * (6 + 2));
  tokens.text_end = {0, 4, 4};
  CHECK(parse(3, 5).has_value());  // tokens of one character may overlap
}

TEST_CASE("source: what it refuses") {
  const std::string text = "Tenant pays for insurance, landlord for the roof. \xc3\xa9";
  const std::vector<std::byte> good = serialize_source(text).value();
  REQUIRE(*parse_source(good) == text);
  REQUIRE(*source_text_bytes(good) == text.size());
  CHECK(*source_text_bytes(std::span(good).first(40)) == text.size());
  for (std::size_t size = 0; size < 20; ++size)
    expect(parse_source(std::span(good).first(size)), ErrorCode::kBadSource, 0);
  for (std::size_t size = 20; size < good.size(); ++size) {
    const std::vector<std::byte> cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    expect(parse_source(cut), ErrorCode::kBadSource, 16);
  }
  std::vector<std::byte> bytes = good;
  bytes.push_back(std::byte{0});
  expect(parse_source(bytes), ErrorCode::kBadSource, 16);
  bytes = good;  // a second frame
  bytes.insert(bytes.end(), good.begin() + 16, good.end());
  expect(parse_source(bytes), ErrorCode::kBadSource, 16);
  bytes = good;  // a second frame of nothing
  const std::vector<std::byte> empty = serialize_source("").value();
  bytes.insert(bytes.end(), empty.begin() + 16, empty.end());
  expect(parse_source(bytes), ErrorCode::kBadSource, 16);
  bytes = good;  // the frame's own checksum
  bytes.back() ^= std::byte{1};
  expect(parse_source(bytes), ErrorCode::kBadSource, 16);
  bytes = good;  // a skippable frame in front of it
  const std::byte skippable[8] = {std::byte{0x50}, std::byte{0x2a}, std::byte{0x4d}, std::byte{0x18}};
  bytes.insert(bytes.begin() + 16, std::begin(skippable), std::end(skippable));
  expect(parse_source(bytes), ErrorCode::kBadSource, 16);
  bytes.assign(empty.begin(), empty.begin() + 16);  // nothing but a skippable frame, for no text
  bytes.insert(bytes.end(), std::begin(skippable), std::end(skippable));
  expect(parse_source(bytes), ErrorCode::kBadSource, 16);
  for (const std::uint64_t raw : {std::uint64_t{0}, std::uint64_t{text.size() - 1}, std::uint64_t{1} << 30}) {
    bytes = good;
    store_le64(bytes.data(), raw);
    expect(parse_source(bytes), ErrorCode::kBadSource, 16);
    expect(source_text_bytes(bytes), ErrorCode::kBadSource, 16);
  }
  for (const std::uint64_t raw : {(std::uint64_t{1} << 30) + 1, ~std::uint64_t{0}}) {
    bytes = good;
    store_le64(bytes.data(), raw);
    expect(parse_source(bytes), ErrorCode::kLimitExceeded, 0);
  }
  bytes = good;
  bytes[8] ^= std::byte{1};
  expect(parse_source(bytes), ErrorCode::kBadSource, 8);
  // A frame that is right, of a text that is not UTF-8: serialize_source refuses to make one, so one is patched. zstd
  // stores a text this short as it is; its own checksum is dropped from the frame's descriptor.
  bytes = good;
  const std::size_t at = bytes.size() - 4 - 2;
  REQUIRE(bytes[at] == std::byte{0xc3});
  bytes[at + 1] = std::byte{'x'};
  bytes[16 + 4] &= ~std::byte{4};
  bytes.resize(bytes.size() - 4);
  std::string bad = text;
  bad.back() = 'x';
  store_le64(bytes.data() + 8, xxh3_64(as_bytes(bad)));
  expect(parse_source(bytes), ErrorCode::kBadSource, kNoOffset);
}

TEST_CASE("source: what is not text is not written") {
  expect(serialize_source("a\xff"), ErrorCode::kUnusableText, kNoOffset);
  // More than 1 GiB is refused by its size: nothing can be read here.
  const std::size_t too_large = (std::size_t{1} << 30) + 1;
  void* const nothing = ::mmap(nullptr, too_large, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(nothing != MAP_FAILED);
  expect(serialize_source({static_cast<const char*>(nothing), too_large}), ErrorCode::kUnusableText, kNoOffset);
  ::munmap(nothing, too_large);
  CHECK(*parse_source(serialize_source("").value()) == "");
  const std::string large(3'000'000, 'x');
  CHECK(*parse_source(serialize_source(large).value()) == large);
}

TEST_CASE("layout: what it refuses") {
  const std::uint64_t all = k5v4_bytes(36);
  // One run, one set: form, positions, begin, count, range.
  const auto one = [&](std::uint32_t codecs, std::uint32_t form, std::uint32_t positions, std::uint32_t begin,
                       std::uint32_t count, std::uint32_t first, std::uint32_t end) {
    return parse_layout({1, 1, 1, 0, codecs, form, positions, begin, count, first, end}, kOneHead, all);
  };
  REQUIRE(one(kK5V4, 0, 36, 4, 1, 4, 40).has_value());
  CHECK(parse_layout({0, 0, 0}, kOneHead, 0).has_value());
  expect(parse_layout({}, kOneHead, 0), ErrorCode::kBadLayout, 0);
  expect(parse_layout({1, 1}, kOneHead, 0), ErrorCode::kBadLayout, 0);
  expect(parse_layout({1, 2, 1, 0, kK5V4}, kOneHead, 0), ErrorCode::kBadLayout, 4);
  expect(parse_layout({0, 0, 0xffffffff, 1}, kTwoHeads, 0), ErrorCode::kBadLayout, 4);  // a sum that wraps 32 bits
  expect(parse_layout({1, 1, 1, 0}, kOneHead, 0), ErrorCode::kBadLayout, 12);
  expect(parse_layout({1, 0xffffffff, 0xffffffff, 0, kK5V4}, kOneHead, 0), ErrorCode::kBadLayout, 12);
  expect(parse_layout({2, 1, 1, 0, kK5V4}, kOneHead, 0), ErrorCode::kBadLayout, 0);
  expect(parse_layout({1, 1, 1, 1, kK5V4}, kOneHead, 0), ErrorCode::kBadLayout, 12);
  for (const std::uint32_t codec : {0u, 9u, 15u, 17u, 255u}) {
    expect(one(codec | 4 << 8, 0, 36, 4, 1, 4, 40), ErrorCode::kUnknownCodec, 16);
    expect(one(5 | codec << 8, 0, 36, 4, 1, 4, 40), ErrorCode::kUnknownCodec, 17);
  }
  const auto exponents = [&](std::uint32_t codecs, int key, int value) {
    return one(codecs | (key & 0xffu) << 16 | (value & 0xffu) << 24, 0, 36, 4, 1, 4, 40);
  };
  CHECK(exponents(kK5V4, -64, 63)->runs[0][0].exponents == format::ScaleExponents{-64, 63});
  for (const int bad : {-128, -65, 64, 127}) {
    expect(exponents(kK5V4, bad, 0), ErrorCode::kBadLayout, 18);
    expect(exponents(kK5V4, 0, bad), ErrorCode::kBadLayout, 19);
  }
  for (const std::uint32_t codec : {6u, 7u, 8u, 16u}) {  // whose scales are float16, or none
    expect(exponents(codec | 4 << 8, -1, 0), ErrorCode::kBadLayout, 18);
    expect(exponents(5 | codec << 8, 0, 1), ErrorCode::kBadLayout, 19);
  }
  expect(parse_layout({1, 1, 1, 0, kK5V4, 0, 36, 4}, kOneHead, all), ErrorCode::kBadLayout, 20);  // set cut off
  expect(one(kK5V4, 2, 36, 4, 1, 4, 40), ErrorCode::kBadLayout, 20);                              // form
  expect(one(kK5V4, 0, 35, 4, 1, 4, 40), ErrorCode::kBadLayout, 24);                              // positions
  expect(one(kK5V4, 0, 36, 5, 1, 4, 40), ErrorCode::kBadLayout, 28);                              // begin
  expect(one(kK5V4, 0, 36, 4, 2, 4, 40), ErrorCode::kBadLayout, 36);                              // ranges cut off
  expect(one(kK5V4, 0, 36, 4, 0x20000000, 4, 40), ErrorCode::kBadLayout, 36);
  expect(one(kK5V4, 0, 0, 4, 1, 4, 4), ErrorCode::kBadLayout, 36);    // an empty range
  expect(one(kK5V4, 0, 0, 4, 1, 6, 4), ErrorCode::kBadLayout, 36);    // a range that descends
  expect(one(kK5V4, 0, 37, 3, 1, 3, 40), ErrorCode::kBadLayout, 36);  // a sink
  expect(one(kK5V4, 0, 37, 4, 1, 4, 41), ErrorCode::kBadLayout, 36);  // past the end
  expect(one(kK5V4, 0, 0xffffffff - 4, 4, 1, 4, 0xffffffff), ErrorCode::kBadLayout, 36);
  expect(parse_layout({1, 1, 1, 0, kK5V4, 0, 0, 0, 0}, kOneHead, 0), ErrorCode::kBadLayout, 32);  // no range
  expect(parse_layout({1, 1, 1, 0, kK5V4, 0, 36, 4, 1, 4, 40, 0}, kOneHead, all), ErrorCode::kBadLayout, 44);
}

TEST_CASE("layout: ranges ascend with gaps") {
  const auto two = [](std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    return parse_layout({1, 1, 1, 0, kK5V4, 0, b - a + d - c, a, 2, a, b, c, d}, kOneHead, k5v4_bytes(b - a + d - c));
  };
  CHECK(two(4, 6, 7, 9).has_value());
  expect(two(4, 6, 6, 9), ErrorCode::kBadLayout, 44);  // touching: not maximal
  expect(two(4, 6, 5, 9), ErrorCode::kBadLayout, 44);
  expect(two(7, 9, 4, 6), ErrorCode::kBadLayout, 44);
}

TEST_CASE("layout: bitmaps") {
  const auto bitmap = [](std::uint32_t positions, std::uint32_t begin, std::uint32_t bits, std::uint32_t low,
                         std::uint32_t high) {
    return parse_layout({1, 1, 1, 0, kK5V4, 1, positions, begin, bits, low, high}, kOneHead, k5v4_bytes(positions));
  };
  const auto good = bitmap(3, 4, 36, 5, 8);
  REQUIRE(good.has_value());
  CHECK(good->position_sets[0].ranges == std::vector<PositionRange>{{4, 5}, {6, 7}, {39, 40}});
  expect(bitmap(2, 4, 36, 5, 8), ErrorCode::kBadLayout, 24);
  expect(bitmap(3, 4, 37, 5, 16), ErrorCode::kBadLayout, 28);  // past the end
  expect(bitmap(3, 0xfffffff0, 36, 5, 8), ErrorCode::kBadLayout, 28);
  expect(bitmap(2, 4, 36, 4, 8), ErrorCode::kBadLayout, 28);           // the first bit is not set
  expect(bitmap(2, 4, 36, 5, 0), ErrorCode::kBadLayout, 36 + 4);       // the last bit is not set
  expect(bitmap(3, 4, 36, 5, 8 | 16), ErrorCode::kBadLayout, 36 + 4);  // a bit after it is
  expect(bitmap(3, 4, 36, 5, 8 | 1u << 31), ErrorCode::kBadLayout, 36 + 7);
  expect(bitmap(3, 3, 36, 5, 8), ErrorCode::kBadLayout, 36);                                          // a sink
  expect(parse_layout({1, 1, 1, 0, kK5V4, 1, 3, 4, 36, 5}, kOneHead, 0), ErrorCode::kBadLayout, 36);  // cut off
  expect(parse_layout({1, 1, 1, 0, kK5V4, 1, 0, 4, 0}, kOneHead, 0), ErrorCode::kBadLayout, 32);      // no bit
}

TEST_CASE("layout: every set is used, no position is twice in a head, runs fill the pages") {
  const std::uint64_t ten = k5v4_bytes(10);
  // Two heads with two runs each, of sets 0 (4 to 14) and 1 (14 to 24).
  const auto two_runs = [&](std::uint32_t a, std::uint32_t b, std::uint32_t begin, std::uint64_t pages_bytes) {
    return parse_layout(
        {2, 4, 2, 2, a, kK5V4, b, kK5V4, a, kK5V4, b, kK5V4, 0, 10, 4, 1, 4, 14, 0, 10, begin, 1, begin, begin + 10},
        kTwoHeads, pages_bytes);
  };
  CHECK(two_runs(0, 1, 14, 4 * ten).has_value());
  CHECK(two_runs(1, 0, 14, 4 * ten).has_value());
  expect(two_runs(0, 0, 14, 4 * ten), ErrorCode::kBadLayout, kNoOffset);  // set 1 is in no run
  expect(two_runs(0, 1, 13, 4 * ten), ErrorCode::kBadLayout, kNoOffset);  // position 13 twice
  expect(parse_layout({1, 2, 2, 0, 0, kK5V4, 0, kK5V4, 0, 10, 4, 1, 4, 14}, kTwoHeads, 2 * ten), ErrorCode::kBadLayout,
         kNoOffset);  // one set twice in a head
  CHECK(parse_layout({1, 2, 1, 1, 0, kK5V4, 0, kK5V4, 0, 10, 4, 1, 4, 14}, kTwoHeads, 2 * ten).has_value());
  expect(parse_layout({2, 2, 1, 1, 0, kK5V4, 0, kK5V4, 0, 10, 4, 1, 4, 14, 0, 10, 14, 1, 14, 24}, kTwoHeads, 2 * ten),
         ErrorCode::kBadLayout, kNoOffset);  // set 1 is in no run, and nothing else is wrong
  expect(two_runs(0, 1, 14, 4 * ten - 64), ErrorCode::kBadLayout, kNoOffset);
  expect(two_runs(0, 1, 14, 4 * ten + 64), ErrorCode::kBadLayout, kNoOffset);
  expect(two_runs(0, 1, 14, 0), ErrorCode::kBadLayout, kNoOffset);
}

TEST_CASE("layout: hostile numbers of ranges are bounded") {
  // A bitmap of alternating bits, 16 MiB, stands for 2^26 ranges, 512 MiB: with one more it is refused before they are
  // made.
  const KvShape shape{1, 1, 8, kMaxTokens};
  const std::uint32_t num_bits = 1u << 27;
  Words words{2, 2, 2, 0, kK5V4, 1, kK5V4, 0, 1, 5, 1, 5, 6, 1, num_bits / 2, 4, num_bits - 1};
  const std::size_t offset = words.bytes.size();
  words.bytes.resize(offset + num_bits / 8, std::byte{0x55});
  expect(parse_layout(words, shape, 0), ErrorCode::kLimitExceeded, offset);
}

TEST_CASE("layout: a large set in many combinations is refused") {
  // Set 0 has 2^14 ranges; every head combines it with another of one position.
  const KvShape shape{2, 1024, 8, 40000};
  const std::uint32_t num_heads = 2048;
  Words words{num_heads + 1, 2 * num_heads};
  for (std::uint32_t head = 0; head < num_heads; ++head) append_le32(words.bytes, 2);
  for (std::uint32_t head = 0; head < num_heads; ++head) {
    for (const std::uint32_t word : {0u, kK5V4, head + 1, kK5V4}) append_le32(words.bytes, word);
  }
  for (const std::uint32_t word : {1u, 1u << 14, 4u, (1u << 15) - 1}) append_le32(words.bytes, word);
  words.bytes.resize(words.bytes.size() + (1u << 15) / 8, std::byte{0x55});
  for (std::uint32_t head = 0; head < num_heads; ++head) {
    for (const std::uint32_t word : {0u, 1u, 35000 + head, 1u, 35000 + head, 35001 + head})
      append_le32(words.bytes, word);
  }
  expect(parse_layout(words, shape, 0), ErrorCode::kLimitExceeded, kNoOffset);
}

TEST_CASE("layout: placing runs") {
  Layout layout = Layout::uniform(kTwoHeads, 0, 5, 4);
  CHECK(layout.place(kTwoHeads).value() == 2 * k5v4_bytes(36));
  CHECK(layout.runs[1][0].pages_offset == k5v4_bytes(36));
  CHECK(layout.position_sets[0].ranges == std::vector<PositionRange>{{4, 40}});
  expect(layout.place(kOneHead), ErrorCode::kBadLayout, kNoOffset);
  layout.runs[1][0].position_set = 1;
  expect(layout.place(kTwoHeads), ErrorCode::kBadLayout, kNoOffset);
  const KvShape large{1024, 1024, 512, kMaxTokens};
  Layout huge = Layout::uniform(large, 0, 16, 16);
  expect(huge.place(large), ErrorCode::kLimitExceeded, kNoOffset);
  CHECK(Layout::uniform(kOneHead, 40, 5, 4).position_sets[0].ranges == std::vector<PositionRange>{{40, 80}});
}

TEST_CASE("contents: errors of a section's parser count from the start of the file") {
  using polykv::tests::take_apart;
  const std::vector<std::byte> good = polykv::tests::pool_bytes(polykv::tests::tiny_sample());
  const auto offset_of = [&](SectionKind kind) {
    const auto reader = PoolReader::open(good);
    return find_section(reader->sections(), kind)->offset;
  };
  const auto check = [&](SectionKind kind, std::size_t at, std::uint32_t value, ErrorCode code) {
    tests::PoolParts parts = take_apart(good);
    store_le32(parts.at(kind).bytes.data() + at, value);
    INFO(section_name(kind));
    expect(tests::open_and_verify(tests::put_together(parts)), code, offset_of(kind) + at);
  };
  check(SectionKind::kIdentity, 4, 0, ErrorCode::kLimitExceeded);
  check(SectionKind::kTokens, 0, 0x80000000u, ErrorCode::kBadTokens);
  check(SectionKind::kSource, 16, 0, ErrorCode::kBadSource);
  check(SectionKind::kLayout, 20, 7, ErrorCode::kBadLayout);
  tests::PoolParts parts = take_apart(good);
  parts.at(SectionKind::kSource).bytes[8] ^= std::byte{1};
  expect(tests::open_and_verify(tests::put_together(parts)), ErrorCode::kBadSource,
         offset_of(SectionKind::kSource) + 8);
  // Found only when the runs are placed: the section's start stands for the whole.
  parts = take_apart(good);
  parts.at(SectionKind::kPages).bytes.resize(parts.at(SectionKind::kPages).bytes.size() + 64);
  expect(tests::open_and_verify(tests::put_together(parts)), ErrorCode::kBadLayout, offset_of(SectionKind::kLayout));
  parts = take_apart(good);
  parts.drop(SectionKind::kPages);
  expect(tests::open_and_verify(tests::put_together(parts)), ErrorCode::kBadLayout, offset_of(SectionKind::kLayout));
}

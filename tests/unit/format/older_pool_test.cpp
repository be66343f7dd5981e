// The text of a pool of an earlier minor version: what is checked of it, and that nothing else matters.
#include "format/older_pool.h"

#include "format/bytes.h"
#include "format/section.h"
#include "tests/support/catch.h"
#include "tests/support/reseal.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::tests;
using format::ErrorCode;

namespace {

constexpr Seal kEnds{.fingerprints = false, .digests = false, .checksums = false, .trailer = true};
constexpr std::uint64_t kSource = 2;  // its entry in the section table

std::vector<std::byte> older_pool() {
  std::vector<std::byte> pool = pool_bytes(tiny_sample());
  poke32(pool, 12, format::kOldestMinor << 16 | format::kFormatMajor);
  reseal(pool, kEnds);
  return pool;
}

std::uint32_t code_of_text(std::span<const std::byte> pool) {
  const auto text = format::older_source_text(pool);
  return text ? 0 : static_cast<std::uint32_t>(text.error().code);
}

// A field of the source's entry, changed under right checksums.
void expect_entry(std::uint64_t field, std::uint64_t value, ErrorCode code, std::uint64_t offset) {
  INFO("field " << field << " = " << value);
  std::vector<std::byte> pool = older_pool();
  poke64(pool, entry_offset(kSource, field), value);
  reseal(pool, kEnds);
  const auto text = format::older_source_text(pool);
  REQUIRE_FALSE(text.has_value());
  CHECK(text.error().code == code);
  CHECK(text.error().offset == offset);
}

}  // namespace

TEST_CASE("the text of an older pool, whatever its other sections are") {
  std::vector<std::byte> pool = older_pool();
  REQUIRE(code_of(open_and_verify(pool)) == static_cast<std::uint32_t>(ErrorCode::kUnsupportedVersion));
  REQUIRE(code_of_text(pool) == 0);
  CHECK(*format::older_source_text(pool) == tiny_sample().spec.tokens.text);
  const std::uint64_t begin = format::load_le64(pool.data() + entry_offset(kSource, 8));
  const std::uint64_t end = begin + format::load_le64(pool.data() + entry_offset(kSource, 16));
  for (std::uint64_t at = 4096; at < pool.size() - 4096; ++at) {
    if (at < begin || at >= end) pool[at] ^= std::byte{0xff};
  }
  CHECK(code_of_text(pool) == 0);
}

TEST_CASE("the text of an older pool: no version but those from the oldest to ours") {
  for (const std::uint32_t version : {0u, 4u << 16, 1u | 1u << 16}) {
    std::vector<std::byte> pool = older_pool();
    poke32(pool, 12, version);
    reseal(pool, kEnds);
    CHECK(code_of_text(pool) == static_cast<std::uint32_t>(ErrorCode::kUnsupportedVersion));
  }
  CHECK(code_of_text(pool_bytes(tiny_sample())) == 0);
}

TEST_CASE("the text of an older pool: superblock, trailer and source have no byte that may change") {
  std::vector<std::byte> pool = older_pool();
  const std::uint64_t begin = format::load_le64(pool.data() + entry_offset(kSource, 8));
  const std::uint64_t end = begin + format::load_le64(pool.data() + entry_offset(kSource, 16));
  const auto sweep = [&](std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t at = from; at < to; ++at) {
      pool[at] ^= std::byte{1};
      INFO("byte " << at);
      REQUIRE(code_of_text(pool) != 0);
      pool[at] ^= std::byte{1};
    }
  };
  sweep(0, 4096);
  sweep(begin, end);
  sweep(pool.size() - 4096, pool.size());
}

TEST_CASE("the text of an older pool: cut off anywhere") {
  const std::vector<std::byte> pool = older_pool();
  for (std::size_t size = 0; size < pool.size(); size += size < 5000 ? 1 : 37) {
    // A copy of exactly this size, so that a read past it is seen.
    const std::vector<std::byte> cut(pool.begin(), pool.begin() + static_cast<std::ptrdiff_t>(size));
    REQUIRE(code_of_text(cut) != 0);
  }
}

TEST_CASE("the text of an older pool: a section table that lies") {
  const std::vector<std::byte> pool = older_pool();
  const std::uint64_t begin = format::load_le64(pool.data() + entry_offset(kSource, 8));
  const std::uint64_t at = entry_offset(kSource, 8);
  for (const std::uint64_t value : {pool.size() + 1, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    expect_entry(8, value, ErrorCode::kBadSectionTable, at);
    expect_entry(16, value, ErrorCode::kBadSectionTable, at);
  }
  expect_entry(16, pool.size() - begin + 1, ErrorCode::kBadSectionTable, at);
  expect_entry(8, pool.size() - 10, ErrorCode::kBadSectionTable, at);
  expect_entry(0, 9, ErrorCode::kBadSectionTable, 512);  // no source at all
  expect_entry(16, 0, ErrorCode::kBadSource, begin);
  expect_entry(16, 30, ErrorCode::kBadSource, begin + 16);
}

TEST_CASE("the text of an older pool: another text in its place") {
  PoolParts parts = take_apart(older_pool());
  parts.at(format::SectionKind::kSource).bytes = *format::serialize_source("another text");
  const auto text = format::older_source_text(put_together(parts, {.fingerprints = false}));
  REQUIRE_FALSE(text.has_value());
  CHECK(text.error().code == ErrorCode::kBadFingerprint);
  CHECK(text.error().offset == 136);
}

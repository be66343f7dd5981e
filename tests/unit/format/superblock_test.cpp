// One re-sealed pool per rejecting statement of superblock.cpp, with the exact code and offset.
#include "format/superblock.h"

#include <string>

#include "format/bytes.h"
#include "format/reader.h"
#include "tests/support/catch.h"
#include "tests/support/reseal.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::tests;
using format::ErrorCode;

namespace {

void expect(std::span<const std::byte> pool, ErrorCode code, std::uint64_t offset) {
  const format::Status status = open_and_verify(pool);
  REQUIRE(code_of(status) == static_cast<std::uint32_t>(code));
  CHECK(status.error().offset == offset);
  CHECK_FALSE(status.error().message.empty());
}

// Stores `size` bytes of `value` at `offset` of the pool, seals it, and expects it refused there.
void expect_field_of(std::vector<std::byte> pool, std::uint64_t offset, std::size_t size, std::uint64_t value,
                     ErrorCode code, std::uint64_t error_offset) {
  INFO("field at " << offset << " = " << value);
  for (std::size_t i = 0; i < size; ++i) pool[offset + i] = static_cast<std::byte>(value >> (8 * i) & 0xff);
  reseal(pool, {.fingerprints = false, .digests = false, .checksums = false, .trailer = true});
  expect(pool, code, error_offset);
}

// The same of a fresh pool.
void expect_field(std::uint64_t offset, std::size_t size, std::uint64_t value, ErrorCode code,
                  std::uint64_t error_offset) {
  static const std::vector<std::byte> good = pool_bytes(tiny_sample());
  expect_field_of(good, offset, size, value, code, error_offset);
}
void expect_field(std::uint64_t offset, std::size_t size, std::uint64_t value, ErrorCode code) {
  expect_field(offset, size, value, code, offset);
}

constexpr std::uint64_t kBoundaries[] = {0,           0x7fffffff, 0x80000000,       0x80000001, 0xffffffff,
                                         0x100000000, 1ull << 62, (1ull << 63) - 1, 1ull << 63, ~0ull};

}  // namespace

TEST_CASE("superblock: magic, byte order, version, features") {
  for (std::uint64_t i = 0; i < 8; ++i) expect_field(i, 1, 0xee, ErrorCode::kNotAPool);
  expect_field(0, 8, 0, ErrorCode::kUnfinished);
  expect_field(8, 4, 0x04030201, ErrorCode::kForeignByteOrder);
  expect_field(8, 4, 0x01020305, ErrorCode::kMalformed);
  expect_field(12, 2, 1, ErrorCode::kUnsupportedVersion);
  expect_field(14, 2, 0, ErrorCode::kUnsupportedVersion, 12);
  expect_field(14, 2, 1, ErrorCode::kUnsupportedVersion, 12);
  expect_field(14, 2, 2, ErrorCode::kUnsupportedVersion, 12);
  expect_field(14, 2, 4, ErrorCode::kUnsupportedVersion, 12);
  for (int bit = 1; bit < 64; ++bit) expect_field(48, 8, std::uint64_t{1} << bit, ErrorCode::kUnsupportedFeature);
}

TEST_CASE("superblock: a file that is no pool names the remedy") {
  const auto message = [](std::string_view start, ErrorCode code = ErrorCode::kNotAPool) {
    const format::Status status = format::check_magic(format::as_bytes(start));
    REQUIRE(code_of(status) == static_cast<std::uint32_t>(code));
    return status.error().message;
  };
  CHECK(message("").ends_with("polykv build FILE -o POOL"));
  CHECK(message(std::string(1, '\0'), ErrorCode::kUnfinished).ends_with("polykv build FILE -o POOL"));
  CHECK(message("A document.").ends_with("polykv build FILE -o POOL"));
  CHECK(message("\x89PNG\r\n\x1a\n").ends_with("polykv build FILE -o POOL"));
  CHECK(message("\x89PKV\n\x1a\n").ends_with("copy it again, as binary"));
}

TEST_CASE("superblock: an unsupported version names the remedy") {
  std::vector<std::byte> pool = pool_bytes(tiny_sample());
  const auto message = [&](int major, int minor) {
    pool[12] = static_cast<std::byte>(major);
    pool[14] = static_cast<std::byte>(minor);
    const format::Status status = open_and_verify(pool);
    REQUIRE(code_of(status) == static_cast<std::uint32_t>(ErrorCode::kUnsupportedVersion));
    return status.error().message;
  };
  CHECK(message(0, 1) == "superblock: format version is 0.1, expected 0.3; rebuild with: polykv build POOL -o NEW");
  CHECK(message(0, 2) == "superblock: format version is 0.2, expected 0.3; rebuild with: polykv build POOL -o NEW");
  CHECK(message(0, 4) == "superblock: format version is 0.4, expected 0.3; it needs a newer polykv");
  CHECK(message(1, 1) == "superblock: format version is 1.1, expected 0.3; it needs a newer polykv");
}

TEST_CASE("superblock: its own checksum") {
  std::vector<std::byte> pool = pool_bytes(tiny_sample());
  pool[272] ^= std::byte{1};
  expect(pool, ErrorCode::kBadChecksum, 4088);
}

TEST_CASE("superblock: algorithms and fixed sizes") {
  expect_field(264, 1, 0, ErrorCode::kUnknownAlgorithm);
  expect_field(264, 1, 2, ErrorCode::kUnknownAlgorithm);
  expect_field(265, 1, 0, ErrorCode::kUnknownAlgorithm);
  expect_field(265, 1, 2, ErrorCode::kUnknownAlgorithm);
  expect_field(16, 4, 8192, ErrorCode::kMalformed);
  expect_field(252, 4, 262143, ErrorCode::kMalformed);
}

TEST_CASE("superblock: the file's size") {
  const std::vector<std::byte> good = pool_bytes(tiny_sample());
  expect_field(24, 8, (1ull << 46) + 1, ErrorCode::kLimitExceeded);
  expect_field(24, 8, ~0ull, ErrorCode::kLimitExceeded);
  expect_field(24, 8, 8191, ErrorCode::kMalformed);
  expect_field(24, 8, 0, ErrorCode::kMalformed);
  expect_field(24, 8, good.size() + 64, ErrorCode::kTruncated, good.size());
  expect_field(24, 8, good.size() - 64, ErrorCode::kTruncated, good.size() - 64);
  expect_field(24, 8, 1ull << 46, ErrorCode::kTruncated, good.size());
}

TEST_CASE("superblock: names are printable ASCII, then zeros") {
  expect_field(280, 1, 0x1f, ErrorCode::kMalformed);
  expect_field(281, 1, 0x7f, ErrorCode::kMalformed);
  expect_field(281, 1, 0, ErrorCode::kMalformed);  // and letters after it
  expect_field(311, 1, 'x', ErrorCode::kMalformed, 280 + std::string(format::kWriterName).size());
  expect_field(312, 1, 0xff, ErrorCode::kMalformed);
  expect_field(343, 1, 'x', ErrorCode::kMalformed, 312 + std::string(format::kMinReader).size());
}

TEST_CASE("superblock: limits") {
  for (const std::uint64_t n : {0, 1, 6, 25}) expect_field(20, 4, n, ErrorCode::kLimitExceeded);
  expect_field(248, 4, (1u << 26) + 1, ErrorCode::kLimitExceeded);
  for (const std::uint64_t value : kBoundaries) {
    const auto low = static_cast<std::uint32_t>(value);
    if (low == 0 || low > 1024) expect_field(232, 4, low, ErrorCode::kLimitExceeded);
    if (low == 0 || low > 1024) expect_field(236, 4, low, ErrorCode::kLimitExceeded);
    if (low == 0 || low > 512) expect_field(240, 4, low, ErrorCode::kLimitExceeded);
    if (low == 0 || low > (1u << 30)) expect_field(244, 4, low, ErrorCode::kLimitExceeded);
    if (low > 24) expect_field(20, 4, low, ErrorCode::kLimitExceeded);
  }
  expect_field(232, 4, 1025, ErrorCode::kLimitExceeded);
  expect_field(236, 4, 1025, ErrorCode::kLimitExceeded);
  expect_field(240, 4, 520, ErrorCode::kLimitExceeded);
  expect_field(244, 4, (1u << 30) + 1, ErrorCode::kLimitExceeded);
  for (const std::uint64_t head_dim : {1, 4, 7, 9, 511}) expect_field(240, 4, head_dim, ErrorCode::kMalformed);
}

TEST_CASE("superblock: a base pool has no parent and its own sinks") {
  expect_field(256, 4, 1, ErrorCode::kMalformed);
  for (const std::uint64_t sinks : {0, 3, 5}) expect_field(260, 4, sinks, ErrorCode::kMalformed);
  for (const std::uint64_t at : {344, 375, 376, 407}) expect_field(at, 1, 1, ErrorCode::kMalformed);
}

TEST_CASE("superblock: a pool with a parent begins where that ends, and has no sinks") {
  expect_field(48, 8, 1, ErrorCode::kMalformed, 256);  // first_position 0
  SamplePool sample = tiny_sample();
  sample.spec.parent = format::ParentLink{{1}, {2}, 100, false};
  sample.spec.layout = format::Layout::uniform(sample.spec.shape, 100, 5, 4);
  std::mt19937_64 random(1);
  fill_values(sample, random);
  const std::vector<std::byte> good = pool_bytes(sample);
  INFO((open_and_verify(good) ? "" : open_and_verify(good).error().message));
  REQUIRE(code_of(open_and_verify(good)) == 0);
  for (const std::uint64_t first : {0ull, (1ull << 30) - 20, 0xffffffffull})
    expect_field_of(good, 256, 4, first, ErrorCode::kMalformed, 256);
  for (const std::uint64_t sinks : {1, 4}) expect_field_of(good, 260, 4, sinks, ErrorCode::kMalformed, 260);
  expect_field_of(good, 48, 8, 0, ErrorCode::kMalformed, 256);
  // The parent's tokens and where they end are part of what the tokens are.
  expect_field_of(good, 344, 1, 7, ErrorCode::kBadFingerprint, 168);
}

TEST_CASE("superblock: every reserved byte is zero") {
  const std::vector<std::byte> good = pool_bytes(tiny_sample());
  const std::uint64_t table_end = entry_offset(format::load_le32(good.data() + 20), 0);
  for (std::uint64_t at = 266; at < 272; ++at) expect_field(at, 1, 1, ErrorCode::kBadReserved);
  for (std::uint64_t at = 408; at < 512; ++at) expect_field(at, 1, 0x80, ErrorCode::kBadReserved);
  for (std::uint64_t at = table_end; at < 4088; at += 7) expect_field(at, 1, 1, ErrorCode::kBadReserved);
  expect_field(4087, 1, 1, ErrorCode::kBadReserved);
  for (std::uint64_t entry = 0; entry < 10; ++entry) {
    for (std::uint64_t at = 72; at < 128; ++at) {
      expect_field(entry_offset(entry, at), 1, 1, ErrorCode::kBadReserved);
    }
  }
}

TEST_CASE("trailer: each of its fields") {
  const std::vector<std::byte> good = pool_bytes(tiny_sample());
  const std::uint64_t start = good.size() - 4096;
  const auto broken = [&](std::uint64_t at, bool checksum) {
    std::vector<std::byte> pool = good;
    pool[start + at] ^= std::byte{1};
    if (checksum) poke64(pool, start, format::xxh3_64(std::span<const std::byte>(pool).subspan(start + 8)));
    return pool;
  };
  for (std::uint64_t at = 4088; at < 4096; ++at) expect(broken(at, true), ErrorCode::kTruncated, start + at);
  expect(broken(0, false), ErrorCode::kBadChecksum, start);
  expect(broken(100, false), ErrorCode::kBadChecksum, start);
  expect(broken(8, true), ErrorCode::kMalformed, start + 8);
  expect(broken(16, true), ErrorCode::kMalformed, start + 16);
  expect(broken(31, true), ErrorCode::kMalformed, start + 16);
  for (std::uint64_t at = 32; at < 64; ++at) expect(broken(at, true), ErrorCode::kBadDigest, start + 32);
  for (std::uint64_t at = 64; at < 4088; at += 61) expect(broken(at, true), ErrorCode::kBadReserved, start + at);
}

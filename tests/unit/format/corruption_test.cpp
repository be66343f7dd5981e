// Damage without repair: whatever is done to the bytes of a pool, open or verify refuses it.
#include <algorithm>
#include <map>
#include <set>

#include "format/reader.h"
#include "tests/support/catch.h"
#include "tests/support/reseal.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::tests;
using format::ErrorCode;
using format::PoolReader;

namespace {

format::Status open_only(std::span<const std::byte> pool) {
  const auto reader = PoolReader::open(pool);
  return reader ? format::Status() : format::Status(reader.error());
}

}  // namespace

TEST_CASE("every flipped bit is refused") {
  std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  REQUIRE(code_of(open_and_verify(bytes)) == 0);
  // Before its checksum is looked at, a superblock may be somebody else's: magic, byte order, version, features.
  const std::set<ErrorCode> before_checksum = {ErrorCode::kNotAPool, ErrorCode::kMalformed,
                                               ErrorCode::kUnsupportedVersion, ErrorCode::kUnsupportedFeature};
  std::map<ErrorCode, int> counts;
  for (std::size_t i = 0; i < bytes.size() * 8; ++i) {
    const std::byte bit{static_cast<std::uint8_t>(1u << (i % 8))};
    bytes[i / 8] ^= bit;
    const auto reader = PoolReader::open(bytes);
    const format::Status status = reader ? reader->verify(false, {}) : format::Status(reader.error());
    bytes[i / 8] ^= bit;
    if (status) FAIL("bit " << i << " may be flipped unnoticed");
    const bool in_start = i / 8 < 56, in_trailer_magic = i / 8 >= bytes.size() - 8;
    const ErrorCode code = status.error().code;
    const bool expected = code == ErrorCode::kBadChecksum || (in_start && before_checksum.contains(code)) ||
                          (in_trailer_magic && code == ErrorCode::kTruncated);
    if (!expected) FAIL("bit " << i << ": code " << static_cast<std::uint32_t>(code) << ", " << status.error().message);
    ++counts[code];
  }
  CHECK(counts[ErrorCode::kNotAPool] == 64);
  CHECK(counts[ErrorCode::kMalformed] == 32);
  CHECK(counts[ErrorCode::kUnsupportedVersion] == 32);
  CHECK(counts[ErrorCode::kUnsupportedFeature] == 63);
  CHECK(counts[ErrorCode::kTruncated] == 64);
}

TEST_CASE("every truncation is refused at open") {
  const std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<std::byte> cut(bytes.begin(),
                                     bytes.begin() + static_cast<std::ptrdiff_t>(size));  // of exactly that size
    const format::Status status = open_only(cut);
    if (code_of(status) != static_cast<std::uint32_t>(size == 0 ? ErrorCode::kNotAPool : ErrorCode::kTruncated)) {
      FAIL("length " << size << ": code " << code_of(status));
    }
  }
}

TEST_CASE("every extension is refused at open") {
  const std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  for (const std::size_t more : {1, 2, 8, 63, 64, 512, 4095, 4096, 8192, 70000}) {
    std::vector<std::byte> longer = bytes;
    longer.resize(bytes.size() + more);
    CHECK(code_of(open_only(longer)) == static_cast<std::uint32_t>(ErrorCode::kTruncated));
    std::copy_n(bytes.end() - static_cast<std::ptrdiff_t>(std::min(more, bytes.size())), std::min(more, bytes.size()),
                longer.begin() + static_cast<std::ptrdiff_t>(bytes.size()));
    CHECK(code_of(open_only(longer)) == static_cast<std::uint32_t>(ErrorCode::kTruncated));
  }
}

TEST_CASE("every zero tail is refused at open") {
  std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  for (std::size_t size = bytes.size(); size-- > 0;) {
    bytes[size] = std::byte{0};
    const format::Status status = open_only(bytes);
    // A tail that reaches into the superblock is another thing than a pool, or a later version of one.
    const std::uint32_t code = code_of(status);
    const bool expected = size >= 4096 ? code == static_cast<std::uint32_t>(ErrorCode::kTruncated) : code != 0;
    if (!expected) FAIL("zeros from " << size << ": code " << code);
  }
  CHECK(code_of(open_only(bytes)) == static_cast<std::uint32_t>(ErrorCode::kUnfinished));
}

TEST_CASE("a file of zeros is an unfinished build, an empty or foreign one is no pool") {
  CHECK(code_of(open_only({})) == static_cast<std::uint32_t>(ErrorCode::kNotAPool));
  for (const std::size_t size : {1, 7, 8, 4096, 100000}) {
    CHECK(code_of(open_only(std::vector<std::byte>(size))) == static_cast<std::uint32_t>(ErrorCode::kUnfinished));
    CHECK(code_of(open_only(std::vector<std::byte>(size, std::byte{'x'}))) ==
          static_cast<std::uint32_t>(ErrorCode::kNotAPool));
  }
}

TEST_CASE("any two chunks of equal size exchanged are refused") {
  std::mt19937_64 random(3);
  SamplePool sample = tiny_sample();
  sample.spec.shape = {1, 1, 128, 4000};
  for (std::vector<std::uint32_t>* column :
       {&sample.spec.tokens.ids, &sample.spec.tokens.text_begin, &sample.spec.tokens.text_end}) {
    column->resize(4000, column->back());
  }
  sample.spec.layout = format::Layout::uniform(sample.spec.shape, 0, 16, 16);
  fill_values(sample, random);
  std::vector<std::byte> bytes = pool_bytes(sample);
  std::uint64_t offset = 0;
  {
    const auto reader = PoolReader::open(bytes);
    REQUIRE(reader.has_value());
    offset = static_cast<std::uint64_t>(reader->pages().data() - bytes.data());
    REQUIRE(reader->pages().size() / format::kChunkBytes >= 7);
  }
  for (std::size_t i = 0; i < 7; ++i) {
    for (std::size_t j = i + 1; j < 7; ++j) {
      const auto swap = [&] {
        std::swap_ranges(bytes.begin() + static_cast<std::ptrdiff_t>(offset + i * format::kChunkBytes),
                         bytes.begin() + static_cast<std::ptrdiff_t>(offset + (i + 1) * format::kChunkBytes),
                         bytes.begin() + static_cast<std::ptrdiff_t>(offset + j * format::kChunkBytes));
      };
      swap();
      CHECK(code_of(open_and_verify(bytes)) == static_cast<std::uint32_t>(ErrorCode::kBadChecksum));
      swap();
    }
  }
  CHECK(code_of(open_and_verify(bytes)) == 0);
}

TEST_CASE("a chunk that was exchanged together with its checksum is refused") {
  // Salts: the checksum of chunk i is of no use at j, even where all other bytes agree.
  std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  const auto reader = PoolReader::open(bytes);
  REQUIRE(reader.has_value());
  const format::SectionEntry* table = format::find_section(reader->sections(), format::SectionKind::kChunkTable);
  const std::uint64_t first = format::load_le64(bytes.data() + table->offset);
  poke64(bytes, table->offset, format::load_le64(bytes.data() + table->offset + 8));
  poke64(bytes, table->offset + 8, first);
  reseal(bytes, {.fingerprints = false, .digests = false, .checksums = false, .trailer = true});
  CHECK(code_of(open_and_verify(bytes)) == static_cast<std::uint32_t>(ErrorCode::kBadChecksum));
}

TEST_CASE("parts of another build of the same size are refused") {
  const std::vector<std::byte> a = pool_bytes(tiny_sample(1));
  std::vector<std::byte> b;
  for (std::uint64_t seed = 2; b.size() != a.size(); ++seed) b = pool_bytes(tiny_sample(seed));
  const auto reader = PoolReader::open(a);
  REQUIRE(reader.has_value());
  std::vector<std::pair<std::uint64_t, std::uint64_t>> extents = {{0, 4096}, {a.size() - 4096, 4096}};
  for (const format::SectionEntry& section : reader->sections())
    extents.push_back({section.offset, section.padded_bytes});
  int mixes = 0;
  // Every subset of the parts taken from the other file, but none and all.
  for (std::uint32_t subset = 1; subset + 1 < (1u << extents.size()); ++subset) {
    std::vector<std::byte> mixed = a;
    for (std::size_t i = 0; i < extents.size(); ++i) {
      if ((subset >> i & 1) == 0) continue;
      std::copy_n(b.begin() + static_cast<std::ptrdiff_t>(extents[i].first), extents[i].second,
                  mixed.begin() + static_cast<std::ptrdiff_t>(extents[i].first));
    }
    if (mixed == a || mixed == b) continue;
    if (open_and_verify(mixed)) FAIL("mix " << subset << " is taken for a pool");
    ++mixes;
  }
  CHECK(mixes > 1000);
}

// One re-sealed pool per rejecting statement of section.cpp and of the sections' contents as reader.cpp checks them.
#include "format/section.h"

#include <functional>
#include <string>

#include "format/reader.h"
#include "tests/support/catch.h"
#include "tests/support/reseal.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::tests;
using format::ErrorCode;
using format::SectionKind;

namespace {

constexpr Seal kTable{.fingerprints = false, .digests = false, .checksums = false, .trailer = true};

const std::vector<std::byte>& good() {
  static const std::vector<std::byte> pool = pool_bytes(tiny_sample());
  return pool;
}

// Entries of the tiny pool's section table.
enum Entry : std::uint64_t {
  kIdentity,
  kTokens,
  kSource,
  kLayout,
  kPages,
  kSinks,
  kMeans,
  kFidelity,
  kChunkTable,
  kDigests
};

format::SectionEntry entry_of(SectionKind kind) {
  const auto reader = format::PoolReader::open(good());
  return *format::find_section(reader->sections(), kind);
}

void expect(std::span<const std::byte> pool, ErrorCode code, std::uint64_t offset) {
  const format::Status status = open_and_verify(pool);
  REQUIRE(code_of(status) == static_cast<std::uint32_t>(code));
  CHECK(status.error().offset == offset);
  CHECK_FALSE(status.error().message.empty());
}

void expect_entry32(std::uint64_t entry, std::uint64_t field, std::uint32_t value, ErrorCode code) {
  INFO("entry " << entry << ", field " << field << " = " << value);
  std::vector<std::byte> pool = good();
  poke32(pool, entry_offset(entry, field), value);
  reseal(pool, kTable);
  expect(pool, code, entry_offset(entry, field));
}

void expect_entry64(std::uint64_t entry, std::uint64_t field, std::uint64_t value, ErrorCode code,
                    std::uint64_t error_field) {
  INFO("entry " << entry << ", field " << field << " = " << value);
  std::vector<std::byte> pool = good();
  poke64(pool, entry_offset(entry, field), value);
  reseal(pool, kTable);
  expect(pool, code, entry_offset(entry, error_field));
}

// The pool put together again after `change`.
std::vector<std::byte> changed(const std::function<void(PoolParts&)>& change, const Seal& seal = {}) {
  PoolParts parts = take_apart(good());
  change(parts);
  return put_together(parts, seal);
}

// A source section whose zstd frame holds the text as it is, in raw blocks.
std::vector<std::byte> raw_source(std::string_view text) {
  constexpr std::size_t kBlockBytes = 128 * 1024;
  std::vector<std::byte> out;
  format::append_le64(out, text.size());
  format::append_le64(out, format::xxh3_64(format::as_bytes(text)));
  format::append_le32(out, 0xfd2fb528);
  out.push_back(std::byte{0xa0});  // one segment, four bytes of content size
  format::append_le32(out, static_cast<std::uint32_t>(text.size()));
  for (std::size_t at = 0; at < text.size(); at += kBlockBytes) {
    const std::string_view block = text.substr(at, kBlockBytes);
    const std::uint32_t header = static_cast<std::uint32_t>(block.size() << 3) | (at + kBlockBytes >= text.size());
    for (int i = 0; i < 3; ++i) out.push_back(static_cast<std::byte>(header >> (8 * i) & 0xff));
    format::append_bytes(out, format::as_bytes(block));
  }
  return out;
}

constexpr std::uint64_t kBoundaries[] = {1,          63,         64,         0x7fffffff,        0x80000000,
                                         0xffffffff, 1ull << 32, 1ull << 62, (1ull << 63) - 64, 1ull << 63,
                                         ~0ull - 62, ~0ull - 63, ~0ull};

}  // namespace

TEST_CASE("section table: kinds and flags") {
  expect_entry32(kFidelity, 4, 4, ErrorCode::kBadReserved);
  expect_entry32(kFidelity, 4, 0x80000000u, ErrorCode::kBadReserved);
  expect_entry32(kFidelity, 4, 1, ErrorCode::kBadSectionTable);
  expect_entry32(kPages, 4, 0, ErrorCode::kBadSectionTable);
  expect_entry32(kPages, 4, 3, ErrorCode::kBadSectionTable);
  expect_entry32(kSource, 0, 1, ErrorCode::kBadSectionTable);
  std::vector<std::byte> pool = good();
  poke32(pool, entry_offset(kFidelity, 0), 63);
  poke32(pool, entry_offset(kFidelity, 4), 1);
  reseal(pool, kTable);
  expect(pool, ErrorCode::kUnknownSection, entry_offset(kFidelity, 0));
}

TEST_CASE("section table: a duplicate, a disorder, a missing section") {
  std::vector<std::byte> pool = good();
  poke32(pool, entry_offset(kSinks, 0), static_cast<std::uint32_t>(SectionKind::kPages));
  reseal(pool, kTable);
  expect(pool, ErrorCode::kBadSectionTable, entry_offset(kSinks, 0));
  for (const SectionKind kind : {SectionKind::kIdentity, SectionKind::kTokens, SectionKind::kSource,
                                 SectionKind::kLayout, SectionKind::kSinks}) {
    expect(changed([&](PoolParts& parts) { parts.drop(kind); }), ErrorCode::kBadSectionTable,
           format::kSectionTableOffset);
  }
  for (const std::uint32_t kind : {66u, 1000u, 0xffffffffu}) {
    pool = good();
    poke32(pool, entry_offset(kDigests, 0), kind);
    poke32(pool, entry_offset(kDigests, 4), 0);
    poke64(pool, entry_offset(kDigests, 32), 0);
    reseal(pool, kTable);
    expect(pool, ErrorCode::kBadSectionTable, format::kSectionTableOffset);
  }
  // All there, and one more after the digests.
  PoolParts parts = take_apart(good());
  parts.drop(SectionKind::kFidelity);
  pool = put_together(parts);
  std::memcpy(pool.data() + entry_offset(9, 0), pool.data() + entry_offset(8, 0), 128);
  poke32(pool, entry_offset(9, 0), 66);
  poke32(pool, entry_offset(9, 4), 0);
  poke64(pool, entry_offset(9, 32), 0);
  poke32(pool, 20, 10);
  reseal(pool, kTable);
  expect(pool, ErrorCode::kBadSectionTable, format::kSectionTableOffset);
}

TEST_CASE("section table: sections tile the file") {
  for (const std::uint64_t entry : {kIdentity, kPages, kSinks, kDigests}) {
    const std::uint64_t offset = format::load_le64(good().data() + entry_offset(entry, 8));
    const std::uint64_t padded = format::load_le64(good().data() + entry_offset(entry, 24));
    for (const std::uint64_t value : kBoundaries) expect_entry64(entry, 8, value, ErrorCode::kBadSectionTable, 8);
    expect_entry64(entry, 8, offset + 64, ErrorCode::kBadSectionTable, 8);
    expect_entry64(entry, 8, offset - 64, ErrorCode::kBadSectionTable, 8);
    expect_entry64(entry, 16, 0, ErrorCode::kBadSectionTable, 16);
    for (const std::uint64_t value : kBoundaries) {
      if (value > good().size()) expect_entry64(entry, 16, value, ErrorCode::kBadSectionTable, 16);
      if (value != padded) expect_entry64(entry, 24, value, ErrorCode::kBadSectionTable, 24);
    }
    expect_entry64(entry, 24, padded + 64, ErrorCode::kBadSectionTable, 24);
    expect_entry64(entry, 24, padded - 64, ErrorCode::kBadSectionTable, 24);
  }
}

TEST_CASE("section table: the last section ends where the trailer starts") {
  // 64 bytes too many in front of the trailer.
  std::vector<std::byte> pool = good();
  const std::uint64_t end = pool.size() - 4096;
  pool.insert(pool.begin() + static_cast<std::ptrdiff_t>(end), 64, std::byte{0});
  poke64(pool, 24, pool.size());
  reseal(pool, kTable);
  expect(pool, ErrorCode::kBadSectionTable, end);
}

TEST_CASE("section table: chunked sections carry no checksum of their own") {
  for (std::uint64_t entry = kIdentity; entry <= kFidelity; ++entry) {
    expect_entry64(entry, 32, 1, ErrorCode::kBadReserved, 32);
  }
}

TEST_CASE("section table: too many chunks") {
  // A file of 17 TiB would be needed: the parser alone, told that there is one.
  std::vector<std::byte> page(good().begin(), good().begin() + 4096);
  const std::uint64_t more = (format::kMaxChunks + 1) * format::kChunkBytes;
  poke64(page, entry_offset(kPages, 16), format::load_le64(page.data() + entry_offset(kPages, 16)) + more);
  poke64(page, entry_offset(kPages, 24), format::load_le64(page.data() + entry_offset(kPages, 24)) + more);
  for (std::uint64_t entry = kSinks; entry <= kDigests; ++entry) {
    poke64(page, entry_offset(entry, 8), format::load_le64(page.data() + entry_offset(entry, 8)) + more);
  }
  const auto sections = format::parse_section_table(page, 10, good().size() + more, true);
  REQUIRE_FALSE(sections.has_value());
  CHECK(sections.error().code == ErrorCode::kLimitExceeded);
}

TEST_CASE("sections: sizes follow from the superblock") {
  const auto resized = [](SectionKind kind, int by) {
    return changed([&](PoolParts& parts) {
      std::vector<std::byte>& bytes = parts.at(kind).bytes;
      bytes.resize(static_cast<std::size_t>(static_cast<int>(bytes.size()) + by));
    });
  };
  for (const SectionKind kind : {SectionKind::kTokens, SectionKind::kSinks, SectionKind::kMeans}) {
    for (const int by : {-1, 1, -2, 64}) {
      INFO(format::section_name(kind) << " by " << by);
      // Sections before it keep their sizes, so it starts where it started.
      expect(resized(kind, by), ErrorCode::kBadSectionSize, entry_of(kind).offset);
    }
  }
  // Lengths within the same padding: only the table says them.
  const std::uint64_t table_bytes = entry_of(SectionKind::kChunkTable).bytes;
  const std::uint64_t digests_bytes = entry_of(SectionKind::kDigests).bytes;
  std::vector<std::byte> pool = good();
  poke64(pool, entry_offset(kChunkTable, 16), table_bytes - 1);
  reseal(pool, kTable);
  expect(pool, ErrorCode::kBadSectionSize, entry_of(SectionKind::kChunkTable).offset);
  pool = good();
  poke64(pool, entry_offset(kDigests, 16), digests_bytes - 1);
  reseal(pool, kTable);
  expect(pool, ErrorCode::kBadSectionSize, entry_of(SectionKind::kDigests).offset);
  pool = good();
  poke32(pool, 248, format::load_le32(pool.data() + 248) + 1);
  reseal(pool, kTable);
  expect(pool, ErrorCode::kBadSectionSize, 248);
}

TEST_CASE("sections: fidelity is UTF-8 of at most 1 MiB") {
  const std::uint64_t offset = entry_of(SectionKind::kFidelity).offset;
  const auto with = [&](std::size_t size, char fill) {
    return changed(
        [&](PoolParts& parts) { parts.at(SectionKind::kFidelity).bytes.assign(size, static_cast<std::byte>(fill)); });
  };
  CHECK(code_of(open_and_verify(with(1 << 20, ' '))) == 0);
  expect(with((1 << 20) + 1, ' '), ErrorCode::kLimitExceeded, offset);
  expect(with(10, '\xff'), ErrorCode::kMalformed, offset);
  CHECK(code_of(open_and_verify(changed([](PoolParts& parts) { parts.drop(SectionKind::kFidelity); }))) == 0);
}

TEST_CASE("sections: means are there exactly if a codec needs them") {
  expect(changed([](PoolParts& parts) { parts.drop(SectionKind::kMeans); }), ErrorCode::kBadSectionTable,
         format::kSectionTableOffset);
  SamplePool sample = tiny_sample();
  std::mt19937_64 random(1);
  sample.spec.layout = format::Layout::uniform(sample.spec.shape, 0, 8, 3);
  fill_values(sample, random);
  PoolParts parts = take_apart(pool_bytes(sample));
  parts.add({SectionKind::kMeans, format::kSectionCritical, std::vector<std::byte>(48)});
  expect(put_together(parts), ErrorCode::kBadSectionTable, format::kSectionTableOffset);
}

TEST_CASE("sections: the chunk table and the digests have a checksum of their own") {
  for (const SectionKind kind : {SectionKind::kChunkTable, SectionKind::kDigests}) {
    std::vector<std::byte> pool = good();
    pool[entry_of(kind).offset] ^= std::byte{1};
    expect(pool, ErrorCode::kBadChecksum, entry_of(kind).offset);
  }
}

TEST_CASE("sections: padding is zero, in every section") {
  for (const SectionKind kind : {SectionKind::kIdentity, SectionKind::kTokens, SectionKind::kSource,
                                 SectionKind::kLayout, SectionKind::kMeans, SectionKind::kFidelity}) {
    const format::SectionEntry section = entry_of(kind);
    INFO(format::section_name(kind));
    REQUIRE(section.padded_bytes > section.bytes);
    for (const std::uint64_t at : {section.bytes, section.padded_bytes - 1}) {
      std::vector<std::byte> pool = good();
      pool[section.offset + at] = std::byte{1};
      reseal(pool);
      expect(pool, ErrorCode::kBadReserved, section.offset + at);
    }
  }
  // The tiny pool's chunk table and digests fill theirs: eight chunks. Here are seven.
  const std::vector<std::byte> seven = changed([](PoolParts& parts) { parts.drop(SectionKind::kFidelity); });
  const auto reader = format::PoolReader::open(seven);
  for (const SectionKind kind : {SectionKind::kChunkTable, SectionKind::kDigests}) {
    const format::SectionEntry section = *format::find_section(reader->sections(), kind);
    REQUIRE(section.padded_bytes > section.bytes);
    std::vector<std::byte> pool = seven;
    pool[section.offset + section.bytes] = std::byte{1};
    reseal(pool);
    expect(pool, ErrorCode::kBadReserved, section.offset + section.bytes);
  }
}

TEST_CASE("fingerprints are those of the fields and tokens") {
  for (const std::uint64_t at : {72, 104, 168, 200}) {
    for (const std::uint64_t byte : {0, 31}) {
      std::vector<std::byte> pool = good();
      pool[at + byte] ^= std::byte{1};
      reseal(pool, kTable);
      expect(pool, ErrorCode::kBadFingerprint, at);
    }
  }
  // The document's is checked where the text is read: the pool opens.
  std::vector<std::byte> pool = good();
  pool[136] ^= std::byte{1};
  reseal(pool, kTable);
  CHECK(format::PoolReader::open(pool).has_value());
  expect(pool, ErrorCode::kBadFingerprint, 136);
}

TEST_CASE("the file's id is that of the contents") {
  std::vector<std::byte> pool = good();
  pool[56] ^= std::byte{1};
  reseal(pool, {.fingerprints = false, .digests = false, .checksums = true, .trailer = true});
  expect(pool, ErrorCode::kBadFingerprint, 56);
}

TEST_CASE("the file's id and the digests do not depend on the bytes that zstd makes of the text") {
  // What follows the source moves by less than an os_page, by more, and by a chunk.
  for (const std::size_t text_bytes : {500, 5000, 300000}) {
    INFO(text_bytes << " bytes of text");
    SamplePool sample = tiny_sample();
    sample.spec.tokens.text.resize(text_bytes, '=');
    const std::vector<std::byte> pool = pool_bytes(sample);
    PoolParts parts = take_apart(pool);
    parts.at(SectionKind::kSource).bytes = raw_source(sample.spec.tokens.text);
    const std::vector<std::byte> other = put_together(parts);
    REQUIRE(code_of(open_and_verify(other)) == 0);
    CHECK(other.size() > pool.size() + text_bytes / 2);
    const auto reader = format::PoolReader::open(pool), other_reader = format::PoolReader::open(other);
    CHECK(other_reader->superblock().file_id == reader->superblock().file_id);
    CHECK(other_reader->superblock().document_fingerprint == reader->superblock().document_fingerprint);
    CHECK(*other_reader->source_text() == *reader->source_text());
    REQUIRE(other_reader->sections().size() == reader->sections().size());
    for (std::size_t i = 0; i < reader->sections().size(); ++i) {
      const format::SectionEntry &section = reader->sections()[i], &other_section = other_reader->sections()[i];
      if (!format::is_chunked(section.kind)) continue;
      INFO(format::section_name(section.kind));
      CHECK((other_section.digest == section.digest) == (section.kind != SectionKind::kSource));
    }
  }
}

TEST_CASE("verify with digests checks the tree from the table to the chunks") {
  // A digest in the table.
  for (std::uint64_t entry = kIdentity; entry <= kDigests; ++entry) {
    // Those of tokens and values are in the file's id too.
    const bool in_file_id = entry == kTokens || (entry >= kLayout && entry <= kMeans);
    std::vector<std::byte> pool = good();
    pool[entry_offset(entry, 40)] ^= std::byte{1};
    reseal(pool, kTable);
    INFO("entry " << entry);
    expect(pool, in_file_id ? ErrorCode::kBadFingerprint : ErrorCode::kBadDigest,
           in_file_id ? 56 : entry_offset(entry, 40));
  }
  // A digest of a chunk, its section's and the table's own made to match.
  const format::SectionEntry digests = entry_of(SectionKind::kDigests), identity = entry_of(SectionKind::kIdentity);
  std::vector<std::byte> pool = good();
  pool[digests.offset] ^= std::byte{1};
  const format::Digest wrong = format::sha256(std::span<const std::byte>(pool).subspan(digests.offset, 32));
  std::memcpy(pool.data() + entry_offset(kIdentity, 40), wrong.data(), wrong.size());
  reseal(pool, {.fingerprints = false, .digests = false, .checksums = true, .trailer = true});
  expect(pool, ErrorCode::kBadDigest, identity.offset);
  const auto reader = format::PoolReader::open(pool);
  REQUIRE(reader.has_value());
  CHECK(code_of(reader->verify(false, {})) == 0);  // checksums alone do not see it
}

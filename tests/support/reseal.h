// Makes damaged pools whose checksums are right, so that a test reaches the check behind them.
//
// Two ways. Change bytes of a pool in place, then reseal() it. Or take it apart, change, add or drop whole sections,
// and put it together again. Fixtures in fixtures/broken are made the same way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "format/bytes.h"
#include "format/fingerprint.h"
#include "format/identity.h"
#include "format/section.h"
#include "format/superblock.h"
#include "format/tokens.h"

namespace polykv::tests {

// What reseal() computes anew, in this order; a test that breaks one of them leaves it out.
struct Seal {
  bool fingerprints = true;  // model, tokenizer, tokens, codec, file_id, document
  bool digests = true;       // of the chunks and of the sections
  bool checksums = true;     // of the chunks, the chunk table and the digests
  bool trailer = true;       // its fields and its checksum
};

// A pool taken apart. Sections come in file order, without the chunk table and the digests, which are always made anew.
struct PoolParts {
  struct Section {
    format::SectionKind kind;
    std::uint32_t flags;
    std::vector<std::byte> bytes;
  };
  std::vector<std::byte> superblock;  // 4096 bytes; its fields may be changed, its table is made anew
  std::vector<Section> sections;

  Section& at(format::SectionKind kind) {
    return *std::find_if(sections.begin(), sections.end(),
                         [&](const Section& section) { return section.kind == kind; });
  }
  void drop(format::SectionKind kind) {
    std::erase_if(sections, [&](const Section& section) { return section.kind == kind; });
  }
  // In its place by number, whether or not there is one already.
  void add(Section section) {
    const auto after = [&](const Section& other) { return other.kind > section.kind; };
    sections.insert(std::find_if(sections.begin(), sections.end(), after), std::move(section));
  }
};

PoolParts take_apart(std::span<const std::byte> pool);
std::vector<std::byte> put_together(const PoolParts& parts, const Seal& seal = {});
void reseal(std::vector<std::byte>& pool, const Seal& seal = {});

// Field access for in-place changes.
inline void poke32(std::vector<std::byte>& pool, std::uint64_t offset, std::uint32_t value) {
  format::store_le32(pool.data() + offset, value);
}
inline void poke64(std::vector<std::byte>& pool, std::uint64_t offset, std::uint64_t value) {
  format::store_le64(pool.data() + offset, value);
}
// Offset of a field of the i-th entry of the section table.
inline std::uint64_t entry_offset(std::uint64_t i, std::uint64_t field) {
  return format::kSectionTableOffset + i * format::kSectionEntryBytes + field;
}

// ---- how it is done ----

namespace reseal_detail {

inline constexpr std::uint64_t kFileIdOffset = 56;

// The table as stored, without any check, and without entries that lie outside the file: a broken pool is sealed as far
// as it makes sense.
inline std::vector<format::SectionEntry> load_table(std::span<const std::byte> pool) {
  std::vector<format::SectionEntry> sections;
  const std::uint32_t num_sections = std::min(format::load_le32(pool.data() + 20), format::kMaxSections);
  for (std::uint32_t i = 0; i < num_sections; ++i) {
    const std::byte* at = pool.data() + entry_offset(i, 0);
    format::SectionEntry entry;
    entry.kind = static_cast<format::SectionKind>(format::load_le32(at));
    entry.flags = format::load_le32(at + 4);
    entry.offset = format::load_le64(at + 8);
    entry.bytes = format::load_le64(at + 16);
    entry.padded_bytes = format::load_le64(at + 24);
    std::memcpy(entry.digest.data(), at + 40, entry.digest.size());
    if (entry.offset > pool.size() || entry.padded_bytes > pool.size() - entry.offset) entry.padded_bytes = 0;
    if (entry.bytes > entry.padded_bytes) entry.bytes = entry.padded_bytes;
    sections.push_back(entry);
  }
  format::number_chunks(sections);
  return sections;
}

template <typename Bytes>
void store(std::vector<std::byte>& pool, std::uint64_t offset, const Bytes& bytes) {
  std::memcpy(pool.data() + offset, bytes.data(), bytes.size());
}

// fn(chunk number in the file, the chunk's bytes).
template <typename Function>
void for_each_chunk(std::span<const std::byte> pool, std::span<const format::SectionEntry> sections, Function fn) {
  for (const format::SectionEntry& section : sections) {
    for (std::uint64_t i = 0; i < section.num_chunks; ++i) {
      const format::ChunkExtent chunk = format::chunk_extent(section, i);
      fn(chunk.index, pool.subspan(chunk.offset, chunk.bytes));
    }
  }
}

inline void seal_digests(std::vector<std::byte>& pool, std::vector<format::SectionEntry>& sections) {
  const format::SectionEntry* digests = format::find_section(sections, format::SectionKind::kDigests);
  std::vector<format::Digest> all;
  for_each_chunk(pool, sections, [&](std::uint64_t index, std::span<const std::byte> bytes) {
    all.push_back(format::sha256(bytes));
    if (digests != nullptr && (index + 1) * 32 <= digests->bytes) store(pool, digests->offset + index * 32, all.back());
  });
  for (std::size_t i = 0; i < sections.size(); ++i) {
    format::SectionEntry& section = sections[i];
    if (!format::is_chunked(section.kind)) continue;
    section.digest = format::sha256(std::as_bytes(std::span(all).subspan(section.first_chunk, section.num_chunks)));
    store(pool, entry_offset(i, 40), section.digest);
  }
}

inline void seal_fingerprints(std::vector<std::byte>& pool, std::span<const format::SectionEntry> sections) {
  const auto bytes_of = [&](format::SectionKind kind) {
    const format::SectionEntry* section = format::find_section(sections, kind);
    return section != nullptr ? std::span<const std::byte>(pool).subspan(section->offset, section->bytes)
                              : std::span<const std::byte>();
  };
  format::Superblock superblock;
  if (const auto identity = format::Identity::parse(bytes_of(format::SectionKind::kIdentity))) {
    superblock.model_fingerprint = identity->model_fingerprint();
    superblock.tokenizer_fingerprint = identity->tokenizer_fingerprint();
    superblock.codec_fingerprint = identity->codec_fingerprint();
  }
  const std::span<const std::byte> tokens = bytes_of(format::SectionKind::kTokens);
  std::vector<std::uint32_t> ids(tokens.size() / format::kTokenBytes);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = format::load_le32(tokens.data() + 4 * i);
  format::Digest parent;  // its tokens' fingerprint
  std::memcpy(parent.data(), pool.data() + 344, parent.size());
  superblock.tokens_fingerprint = format::tokens_fingerprint(ids, format::load_le32(pool.data() + 256), parent);
  store(pool, 72, superblock.model_fingerprint);
  store(pool, 104, superblock.tokenizer_fingerprint);
  store(pool, 168, superblock.tokens_fingerprint);
  store(pool, 200, superblock.codec_fingerprint);
  const format::FileId file_id = format::compute_file_id(superblock, sections);
  store(pool, kFileIdOffset, file_id);
  if (const auto text = format::parse_source(bytes_of(format::SectionKind::kSource))) {
    store(pool, 136, format::document_fingerprint(file_id, *text));
  }
}

inline void seal_checksums(std::vector<std::byte>& pool, std::span<const format::SectionEntry> sections) {
  format::FileId file_id;
  std::memcpy(file_id.data(), pool.data() + kFileIdOffset, file_id.size());
  const format::SectionEntry* table = format::find_section(sections, format::SectionKind::kChunkTable);
  for_each_chunk(pool, sections, [&](std::uint64_t index, std::span<const std::byte> bytes) {
    if (table == nullptr || (index + 1) * 8 > table->bytes) return;
    poke64(pool, table->offset + index * 8, format::xxh3_64(bytes, format::chunk_seed(file_id, index)));
  });
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const format::SectionEntry& section = sections[i];
    if (format::is_chunked(section.kind)) continue;
    const auto padded = std::span<const std::byte>(pool).subspan(section.offset, section.padded_bytes);
    poke64(pool, entry_offset(i, 32), format::xxh3_64(padded, format::section_seed(file_id, section.kind)));
    store(pool, entry_offset(i, 40), format::sha256(padded));
  }
}

inline void seal_trailer(std::vector<std::byte>& pool) {
  std::byte* const trailer = pool.data() + pool.size() - format::kTrailerBytes;
  std::memcpy(trailer + 8, pool.data() + 24, 8);
  std::memcpy(trailer + 16, pool.data() + kFileIdOffset, 16);
  const format::Digest digest = format::sha256(std::span(pool).first(format::kSuperblockBytes));
  std::memcpy(trailer + 32, digest.data(), digest.size());
  format::store_le64(trailer, format::xxh3_64({trailer + 8, format::kTrailerBytes - 8}));
}

}  // namespace reseal_detail

inline void reseal(std::vector<std::byte>& pool, const Seal& seal) {
  std::vector<format::SectionEntry> sections = reseal_detail::load_table(pool);
  if (seal.digests) reseal_detail::seal_digests(pool, sections);
  if (seal.fingerprints) reseal_detail::seal_fingerprints(pool, sections);
  if (seal.checksums) reseal_detail::seal_checksums(pool, sections);
  poke64(pool, 4088, format::xxh3_64(std::span<const std::byte>(pool).first(4088)));
  if (seal.trailer) reseal_detail::seal_trailer(pool);
}

inline PoolParts take_apart(std::span<const std::byte> pool) {
  PoolParts parts;
  parts.superblock.assign(pool.begin(), pool.begin() + format::kSuperblockBytes);
  for (const format::SectionEntry& section : reseal_detail::load_table(pool)) {
    if (!format::is_chunked(section.kind)) continue;
    const auto bytes = pool.subspan(section.offset, section.bytes);
    parts.sections.push_back({section.kind, section.flags, {bytes.begin(), bytes.end()}});
  }
  return parts;
}

inline std::vector<std::byte> put_together(const PoolParts& parts, const Seal& seal) {
  std::vector<std::byte> pool = parts.superblock;
  std::fill(pool.begin() + format::kSectionTableOffset, pool.begin() + 3584, std::byte{0});
  std::uint32_t num_sections = 0;
  const auto place = [&](format::SectionKind kind, std::uint32_t flags, std::span<const std::byte> bytes) {
    poke32(pool, entry_offset(num_sections, 0), static_cast<std::uint32_t>(kind));
    poke32(pool, entry_offset(num_sections, 4), flags);
    poke64(pool, entry_offset(num_sections, 8), pool.size());
    poke64(pool, entry_offset(num_sections, 16), bytes.size());
    pool.insert(pool.end(), bytes.begin(), bytes.end());
    const std::size_t padded_bytes = (bytes.size() + 63) / 64 * 64;
    pool.resize(pool.size() + padded_bytes - bytes.size());
    poke64(pool, entry_offset(num_sections, 24), padded_bytes);
    ++num_sections;
    poke32(pool, 20, num_sections);
  };
  for (const PoolParts::Section& section : parts.sections) place(section.kind, section.flags, section.bytes);
  std::uint64_t num_chunks = 0;
  for (const format::SectionEntry& section : reseal_detail::load_table(pool)) num_chunks += section.num_chunks;
  place(format::SectionKind::kChunkTable, format::kSectionCritical, std::vector<std::byte>(num_chunks * 8));
  place(format::SectionKind::kDigests, format::kSectionCritical, std::vector<std::byte>(num_chunks * 32));
  pool.resize(pool.size() + format::kTrailerBytes);
  for (std::size_t i = 0; i < 8; ++i) pool[pool.size() - 1 - i] = std::byte{format::kMagic[i]};
  poke64(pool, 24, pool.size());
  poke32(pool, 248, static_cast<std::uint32_t>(num_chunks));
  reseal(pool, seal);
  return pool;
}

}  // namespace polykv::tests

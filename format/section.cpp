#include "format/section.h"

#include <algorithm>

#include "format/bytes.h"
#include "format/messages.h"

namespace polykv::format {
namespace {

struct KnownSection {
  SectionKind kind;
  std::string_view name;
  std::uint32_t flags;
};

constexpr KnownSection kKnownSections[] = {
    {SectionKind::kIdentity, "identity", kSectionCritical},
    {SectionKind::kTokens, "tokens", kSectionCritical},
    {SectionKind::kSource, "source", kSectionCritical},
    {SectionKind::kLayout, "layout", kSectionCritical},
    {SectionKind::kPages, "pages", kSectionCritical},
    {SectionKind::kSinks, "sinks", kSectionCritical},
    {SectionKind::kMeans, "means", kSectionCritical},
    {SectionKind::kFidelity, "fidelity", 0},
    {SectionKind::kChunkTable, "chunk table", kSectionCritical},
    {SectionKind::kDigests, "digests", kSectionCritical},
};

const KnownSection* find_known(SectionKind kind) {
  const auto* found = std::find_if(std::begin(kKnownSections), std::end(kKnownSections),
                                   [&](const KnownSection& known) { return known.kind == kind; });
  return found == std::end(kKnownSections) ? nullptr : found;
}

std::uint64_t salted_seed(const FileId& file_id, std::uint64_t number) {
  std::byte salt[24];
  for (std::size_t i = 0; i < file_id.size(); ++i) salt[i] = std::byte{file_id[i]};
  store_le64(salt + 16, number);
  return xxh3_64(salt);
}

std::string entry_name(std::uint32_t i, SectionKind kind) {
  return "section table, entry " + std::to_string(i) + " (" + std::string(section_name(kind)) + ")";
}

SectionEntry load_entry(const std::byte* at) {
  SectionEntry entry;
  entry.kind = static_cast<SectionKind>(load_le32(at));
  entry.flags = load_le32(at + 4);
  entry.offset = load_le64(at + 8);
  entry.bytes = load_le64(at + 16);
  entry.padded_bytes = load_le64(at + 24);
  entry.checksum = load_le64(at + 32);
  for (std::size_t i = 0; i < entry.digest.size(); ++i) entry.digest[i] = std::to_integer<std::uint8_t>(at[40 + i]);
  return entry;
}

// What can be said of an entry by itself. `at` is its offset.
Status check_entry(const SectionEntry& entry, std::uint32_t i, std::uint64_t at, std::span<const std::byte> stored) {
  const std::string name = entry_name(i, entry.kind);
  if ((entry.flags & ~(kSectionCritical | kSectionSafeToCopy)) != 0) {
    return Error{ErrorCode::kBadReserved, at + 4, name + ": unknown flags " + hex_offset(entry.flags)};
  }
  if (!is_known_section(entry.kind) && (entry.flags & kSectionCritical) != 0) {
    return Error{ErrorCode::kUnknownSection, at,
                 name + ": kind " + std::to_string(static_cast<std::uint32_t>(entry.kind)) + " needs a newer polykv"};
  }
  if (is_known_section(entry.kind) && entry.flags != section_flags(entry.kind)) {
    return wrong_value(ErrorCode::kBadSectionTable, at + 4, name + ": flags", std::to_string(entry.flags),
                       std::to_string(section_flags(entry.kind)));
  }
  if (entry.bytes == 0) return Error{ErrorCode::kBadSectionTable, at + 16, name + ": it is empty"};
  if (is_chunked(entry.kind) && entry.checksum != 0) {
    return Error{ErrorCode::kBadReserved, at + 32, name + ": a checksum where its chunks have theirs"};
  }
  if (const std::size_t used = find_nonzero(stored.subspan(72)); used != stored.size() - 72) {
    return Error{ErrorCode::kBadReserved, at + 72 + used, name + ": reserved bytes are not zero"};
  }
  return {};
}

Error bad_extent(std::uint64_t at, const std::string& name, const char* field, std::uint64_t found,
                 std::uint64_t expected) {
  return wrong_value(ErrorCode::kBadSectionTable, at, name + ": " + field, hex_offset(found), hex_offset(expected));
}

// No gap, no overlap, no more padding than the alignment asks for.
Status check_tiling(std::span<const SectionEntry> sections, std::uint64_t file_bytes) {
  const std::uint64_t end = file_bytes - kTrailerBytes;
  std::uint64_t expected_offset = kSuperblockBytes;
  for (std::uint32_t i = 0; i < sections.size(); ++i) {
    const SectionEntry& entry = sections[i];
    const std::uint64_t at = kSectionTableOffset + i * kSectionEntryBytes;
    const std::string name = entry_name(i, entry.kind);
    if (entry.offset != expected_offset) return bad_extent(at + 8, name, "offset", entry.offset, expected_offset);
    const std::optional<std::uint64_t> data_end = checked_add(entry.offset, entry.bytes);
    const std::optional<std::uint64_t> padded_end =
        data_end ? checked_align(*data_end, kSectionAlignment) : std::nullopt;
    if (!padded_end || *padded_end > end) {
      return Error{ErrorCode::kBadSectionTable, at + 16,
                   name + ": it ends past the trailer's start " + hex_offset(end)};
    }
    if (entry.padded_bytes != *padded_end - entry.offset) {
      return bad_extent(at + 24, name, "padded length", entry.padded_bytes, *padded_end - entry.offset);
    }
    expected_offset = *padded_end;
  }
  if (expected_offset != end) {
    return Error{ErrorCode::kBadSectionTable, expected_offset,
                 "section table: the sections end at " + hex_offset(expected_offset) + ", the trailer starts at " +
                     hex_offset(end)};
  }
  return {};
}

}  // namespace

std::string_view section_name(SectionKind kind) {
  const KnownSection* known = find_known(kind);
  return known != nullptr ? known->name : "unknown";
}

bool is_known_section(SectionKind kind) { return find_known(kind) != nullptr; }

std::uint32_t section_flags(SectionKind kind) {
  const KnownSection* known = find_known(kind);
  return known != nullptr ? known->flags : 0;
}

bool is_chunked(SectionKind kind) { return kind != SectionKind::kChunkTable && kind != SectionKind::kDigests; }

ChunkExtent chunk_extent(const SectionEntry& section, std::uint64_t i) {
  const std::uint64_t begin = i * kChunkBytes;
  return {section.first_chunk + i, section.offset + begin, std::min(kChunkBytes, section.padded_bytes - begin)};
}

std::uint64_t chunk_seed(const FileId& file_id, std::uint64_t chunk_index) { return salted_seed(file_id, chunk_index); }

std::uint64_t section_seed(const FileId& file_id, SectionKind kind) {
  return salted_seed(file_id, (std::uint64_t{1} << 32) + static_cast<std::uint32_t>(kind));
}

const SectionEntry* find_section(std::span<const SectionEntry> sections, SectionKind kind) {
  for (const SectionEntry& section : sections) {
    if (section.kind == kind) return &section;
  }
  return nullptr;
}

std::uint64_t number_chunks(std::span<SectionEntry> sections) {
  std::uint64_t num_chunks = 0;
  for (SectionEntry& section : sections) {
    section.first_chunk = num_chunks;
    section.num_chunks = is_chunked(section.kind) ? (section.padded_bytes + kChunkBytes - 1) / kChunkBytes : 0;
    num_chunks += section.num_chunks;
  }
  return num_chunks;
}

Result<std::vector<SectionEntry>> parse_section_table(std::span<const std::byte> superblock, std::uint32_t num_sections,
                                                      std::uint64_t file_bytes, bool has_sinks) {
  std::vector<SectionEntry> sections;
  for (std::uint32_t i = 0; i < num_sections; ++i) {
    const std::uint64_t at = kSectionTableOffset + i * kSectionEntryBytes;
    const std::span<const std::byte> stored = superblock.subspan(at, kSectionEntryBytes);
    const SectionEntry entry = load_entry(stored.data());
    POLYKV_CHECK_STATUS(check_entry(entry, i, at, stored));
    if (!sections.empty() && entry.kind <= sections.back().kind) {
      return Error{ErrorCode::kBadSectionTable, at, entry_name(i, entry.kind) + ": kinds do not ascend"};
    }
    sections.push_back(entry);
  }
  for (const KnownSection& known : kKnownSections) {
    const bool optional = known.kind == SectionKind::kPages || known.kind == SectionKind::kMeans ||
                          known.kind == SectionKind::kFidelity || (known.kind == SectionKind::kSinks && !has_sinks);
    if (!optional && find_section(sections, known.kind) == nullptr) {
      return Error{ErrorCode::kBadSectionTable, kSectionTableOffset,
                   "section table: there is no section " + std::string(known.name)};
    }
  }
  if (sections.back().kind != SectionKind::kDigests) {
    return Error{ErrorCode::kBadSectionTable, kSectionTableOffset, "section table: the last section is not digests"};
  }
  POLYKV_CHECK_STATUS(check_tiling(sections, file_bytes));
  if (const std::uint64_t num_chunks = number_chunks(sections); num_chunks > kMaxChunks) {
    return Error{ErrorCode::kLimitExceeded, kSectionTableOffset,
                 "section table: " + std::to_string(num_chunks) + " chunks, expected at most 2^26"};
  }
  return sections;
}

void serialize_section_table(std::span<const SectionEntry> sections, std::span<std::byte> superblock) {
  std::byte* at = superblock.data() + kSectionTableOffset;
  for (const SectionEntry& entry : sections) {
    store_le32(at, static_cast<std::uint32_t>(entry.kind));
    store_le32(at + 4, entry.flags);
    store_le64(at + 8, entry.offset);
    store_le64(at + 16, entry.bytes);
    store_le64(at + 24, entry.padded_bytes);
    store_le64(at + 32, entry.checksum);
    for (std::size_t i = 0; i < entry.digest.size(); ++i) at[40 + i] = std::byte{entry.digest[i]};
    at += kSectionEntryBytes;
  }
}

}  // namespace polykv::format

// The section table and the chunks of a section. spec/pool-format.md, "Sections" and "Chunks".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "format/checksum.h"
#include "format/status.h"

namespace polykv::format {

// Sections lie in the file in ascending order of their numbers, each at most once. 9 to 63 are for later kinds.
enum class SectionKind : std::uint32_t {
  kIdentity = 1,
  kTokens = 2,
  kSource = 3,
  kLayout = 4,
  kPages = 5,
  kSinks = 6,
  kMeans = 7,
  kFidelity = 8,
  kChunkTable = 64,
  kDigests = 65,
};

inline constexpr std::uint32_t kSectionCritical = 1;  // a reader that does not know the kind refuses the file
inline constexpr std::uint32_t kSectionSafeToCopy =
    2;  // a tool that does not know the kind may copy it into a new file

struct SectionEntry {
  SectionKind kind{};
  std::uint32_t flags = 0;
  std::uint64_t offset = 0;        // from the start of the file
  std::uint64_t bytes = 0;         // without padding; at least 1
  std::uint64_t padded_bytes = 0;  // up to where the next section, or the trailer, starts
  std::uint64_t checksum = 0;      // salted XXH3-64 of the padded bytes: chunk table and digests only, else 0
  Digest digest{};                 // of a chunked section: SHA-256 of its chunks' digests; else of the padded bytes
  // Not stored: which chunks of the file are this section's. None for the chunk table and the digests.
  std::uint64_t first_chunk = 0;
  std::uint64_t num_chunks = 0;
};

inline constexpr std::uint64_t kSuperblockBytes = 4096;
inline constexpr std::uint64_t kTrailerBytes = 4096;
// Sections start at multiples of it and are padded to one: a cache line, what tiles of pages need. One number for all
// of them, so that the padding, which is digested, follows from the section alone and not from where the file puts it.
inline constexpr std::uint64_t kSectionAlignment = 64;
inline constexpr std::uint64_t kChunkBytes = 256 * 1024;
inline constexpr std::uint32_t kMinSections = 7;
inline constexpr std::uint32_t kMaxSections = 24;
inline constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 46;
inline constexpr std::uint64_t kMaxChunks = std::uint64_t{1} << 26;
inline constexpr std::uint64_t kMaxFidelityBytes = 1024 * 1024;
inline constexpr std::uint64_t kSectionTableOffset = 512;
inline constexpr std::uint64_t kSectionEntryBytes = 128;

// "identity", "tokens", "source", "layout", "pages", "sinks", "means", "fidelity", "chunk table", "digests", or
// "unknown".
std::string_view section_name(SectionKind kind);
bool is_known_section(SectionKind kind);
// The flags that a section of a known kind carries.
std::uint32_t section_flags(SectionKind kind);
bool is_chunked(SectionKind kind);

// A section's i-th chunk, 0 <= i < num_chunks: consecutive extents of kChunkBytes, the last one shorter.
struct ChunkExtent {
  std::uint64_t index;  // in the file
  std::uint64_t offset;
  std::uint64_t bytes;
};
ChunkExtent chunk_extent(const SectionEntry& section, std::uint64_t i);

using FileId = std::array<std::uint8_t, 16>;

// The seed of a chunk's XXH3-64: a valid chunk of another file, or at another place, does not pass.
std::uint64_t chunk_seed(const FileId& file_id, std::uint64_t chunk_index);
// The same for the chunk table and the digests.
std::uint64_t section_seed(const FileId& file_id, SectionKind kind);

const SectionEntry* find_section(std::span<const SectionEntry> sections, SectionKind kind);

// Sets first_chunk and num_chunks of every section; returns the number of chunks in the file.
std::uint64_t number_chunks(std::span<SectionEntry> sections);

// `superblock` is kSuperblockBytes long; num_sections is at most kMaxSections. Checks that the kinds are known or may
// be skipped, ascend, and that the sections, padded to kSectionAlignment and no further, tile the file from the
// superblock to the trailer. Chunks are numbered. `has_sinks`: as a pool without a parent. Errors: kUnknownSection,
// kBadSectionTable, kBadReserved, kLimitExceeded.
Result<std::vector<SectionEntry>> parse_section_table(std::span<const std::byte> superblock, std::uint32_t num_sections,
                                                      std::uint64_t file_bytes, bool has_sinks);
void serialize_section_table(std::span<const SectionEntry> sections, std::span<std::byte> superblock);

}  // namespace polykv::format

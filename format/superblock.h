// The first 4096 bytes of a pool and the last. spec/pool-format.md, "Superblock" and "Trailer".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "format/checksum.h"
#include "format/section.h"
#include "format/shape.h"
#include "format/status.h"

namespace polykv::format {

// While the major is 0 a reader takes only its own minor.
inline constexpr std::uint16_t kFormatMajor = 0;
inline constexpr std::uint16_t kFormatMinor = 3;
// Of pools from this minor on the text can be read, to build them again (older_pool.h).
inline constexpr std::uint16_t kOldestMinor = 1;
inline constexpr char kWriterName[] = "polykv 0.1.0";
inline constexpr char kMinReader[] = "polykv 0.1.0";

// Bits of features_incompat.
inline constexpr std::uint64_t kFeatureParent = 1;  // the pool extends another one
inline constexpr std::uint64_t kKnownIncompatFeatures = kFeatureParent;

inline constexpr std::array<std::uint8_t, 8> kMagic = {0x89, 'P', 'K', 'V', '\r', '\n', 0x1a, '\n'};

struct Superblock {
  std::uint16_t format_major = kFormatMajor;
  std::uint16_t format_minor = kFormatMinor;
  std::uint32_t num_sections = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t features_compat = 0;    // unknown bits: ignore
  std::uint64_t features_rewrite = 0;   // unknown bits: read, do not rewrite
  std::uint64_t features_incompat = 0;  // unknown bits: refuse
  FileId file_id{};
  Digest model_fingerprint{};
  Digest tokenizer_fingerprint{};
  Digest document_fingerprint{};
  Digest tokens_fingerprint{};
  Digest codec_fingerprint{};
  KvShape shape;
  std::uint32_t num_chunks = 0;
  std::uint32_t first_position = 0;  // 0 for a base pool, where its parent ends for another
  std::uint32_t num_sinks = 0;       // min(4, num_tokens) for a base pool, 0 for another
  std::uint64_t created = 0;         // seconds since 1970, or 0
  std::string writer = kWriterName;
  std::string min_reader = kMinReader;
  Digest parent_tokens_fingerprint{};  // zero for a base pool, like the next one
  Digest parent_digest{};              // SHA-256 of the parent's superblock

  bool has_parent() const { return (features_incompat & kFeatureParent) != 0; }
};

using Page = std::array<std::byte, kSuperblockBytes>;

Page serialize_superblock(const Superblock& superblock, std::span<const SectionEntry> sections);

// `page` is a private copy of the file's first kSuperblockBytes bytes; `file_bytes` is the file's true size.
// In this order: kUnfinished or kNotAPool, kForeignByteOrder, kUnsupportedVersion, kUnsupportedFeature, kBadChecksum,
// kUnknownAlgorithm, kTruncated, then limits and reserved bytes (kLimitExceeded, kMalformed, kBadReserved).
// Minors from `oldest_minor` on are taken: the superblock is the same in all of them.
Result<Superblock> parse_superblock(std::span<const std::byte> page, std::uint64_t file_bytes,
                                    std::uint16_t oldest_minor = kFormatMinor);

// kUnfinished or kNotAPool, for a file of any length: `start` is what there is of its first 8 bytes.
Status check_magic(std::span<const std::byte> start);

// What the shape of a pool must be, whoever says so: kLimitExceeded, kMalformed.
Status check_shape(const KvShape& shape);

Page serialize_trailer(const Superblock& superblock, std::span<const std::byte> superblock_page);

// `page` is a private copy of the last kTrailerBytes bytes: kTruncated, kBadChecksum, kBadReserved, kBadDigest.
Status check_trailer(std::span<const std::byte> page, const Superblock& superblock,
                     std::span<const std::byte> superblock_page);

// The superblock of a whole file, of any length, after both ends of the file were checked. `page` gets a private copy
// of the superblock: what was checked, even if the file changes meanwhile.
Result<Superblock> parse_ends(std::span<const std::byte> file, Page& page, std::uint16_t oldest_minor = kFormatMinor);

}  // namespace polykv::format

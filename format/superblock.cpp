#include "format/superblock.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "format/bytes.h"
#include "format/messages.h"

namespace polykv::format {
namespace {

constexpr std::uint32_t kByteOrderMark = 0x01020304;
constexpr std::uint32_t kForeignByteOrderMark = 0x04030201;
constexpr std::uint8_t kChecksumXxh3 = 1;
constexpr std::uint8_t kDigestSha256 = 1;

// Offsets in the superblock.
constexpr std::size_t kByteOrderOffset = 8;
constexpr std::size_t kMajorOffset = 12;
constexpr std::size_t kMinorOffset = 14;
constexpr std::size_t kSuperblockBytesOffset = 16;
constexpr std::size_t kNumSectionsOffset = 20;
constexpr std::size_t kFileBytesOffset = 24;
constexpr std::size_t kCompatOffset = 32;
constexpr std::size_t kRewriteOffset = 40;
constexpr std::size_t kIncompatOffset = 48;
constexpr std::size_t kFileIdOffset = 56;
constexpr std::size_t kModelOffset = 72;
constexpr std::size_t kTokenizerOffset = 104;
constexpr std::size_t kDocumentOffset = 136;
constexpr std::size_t kTokensOffset = 168;
constexpr std::size_t kCodecOffset = 200;
constexpr std::size_t kNumLayersOffset = 232;
constexpr std::size_t kNumKvHeadsOffset = 236;
constexpr std::size_t kHeadDimOffset = 240;
constexpr std::size_t kNumTokensOffset = 244;
constexpr std::size_t kNumChunksOffset = 248;
constexpr std::size_t kChunkBytesOffset = 252;
constexpr std::size_t kFirstPositionOffset = 256;
constexpr std::size_t kNumSinksOffset = 260;
constexpr std::size_t kChecksumAlgorithmOffset = 264;
constexpr std::size_t kDigestAlgorithmOffset = 265;
constexpr std::size_t kReservedOffset = 266;
constexpr std::size_t kCreatedOffset = 272;
constexpr std::size_t kWriterOffset = 280;
constexpr std::size_t kMinReaderOffset = 312;
constexpr std::size_t kNameBytes = 32;
constexpr std::size_t kParentTokensOffset = 344;
constexpr std::size_t kParentDigestOffset = 376;
constexpr std::size_t kReserved2Offset = 408;
constexpr std::size_t kAfterTableOffset = kSectionTableOffset + kMaxSections * kSectionEntryBytes;
constexpr std::size_t kChecksumOffset = 4088;

// Offsets in the trailer. The magic comes last: whatever part of a file's end is missing or zero, it is.
constexpr std::size_t kTrailerChecksumOffset = 0;
constexpr std::size_t kTrailerFileBytesOffset = 8;
constexpr std::size_t kTrailerFileIdOffset = 16;
constexpr std::size_t kTrailerDigestOffset = 32;
constexpr std::size_t kTrailerReservedOffset = 64;
constexpr std::size_t kTrailerMagicOffset = 4088;

static_assert(kAfterTableOffset == 3584);
static_assert(kSuperblockBytes == kTrailerBytes);

template <std::size_t N>
void store_array(Page& page, std::size_t offset, const std::array<std::uint8_t, N>& value) {
  std::memcpy(page.data() + offset, value.data(), N);
}

template <std::size_t N>
void load_array(std::span<const std::byte> page, std::size_t offset, std::array<std::uint8_t, N>& value) {
  std::memcpy(value.data(), page.data() + offset, N);
}

void store_name(Page& page, std::size_t offset, std::string_view name) {
  std::memcpy(page.data() + offset, name.data(), std::min(name.size(), kNameBytes));
}

// Printable ASCII, then zeros.
Result<std::string> load_name(std::span<const std::byte> page, std::size_t offset, const char* what) {
  const std::span<const std::byte> field = page.subspan(offset, kNameBytes);
  std::size_t length = 0;
  while (length < kNameBytes && field[length] >= std::byte{' '} && field[length] <= std::byte{'~'}) ++length;
  const std::size_t zeros = find_nonzero(field.subspan(length));
  if (length + zeros != kNameBytes) {
    return Error{ErrorCode::kMalformed, offset + length,
                 std::string("superblock: ") + what + " is not printable ASCII followed by zeros"};
  }
  return std::string(as_text(field.first(length)));
}

Error wrong_field(ErrorCode code, std::size_t offset, const char* field, std::uint64_t found,
                  const std::string& expected) {
  return wrong_value(code, offset, std::string("superblock: ") + field, std::to_string(found), expected);
}

Status check_zero(std::span<const std::byte> page, std::size_t begin, std::size_t end, const char* where) {
  const std::size_t used = find_nonzero(page.subspan(begin, end - begin));
  if (begin + used == end) return {};
  return Error{ErrorCode::kBadReserved, begin + used,
               std::string(where) + ": reserved byte at " + hex_offset(begin + used) + " is not zero"};
}

Error unsupported_version(std::uint16_t major, std::uint16_t minor) {
  const bool older = major == kFormatMajor && minor >= kOldestMinor && minor < kFormatMinor;
  Error error = wrong_value(ErrorCode::kUnsupportedVersion, kMajorOffset, "superblock: format version",
                            std::to_string(major) + "." + std::to_string(minor),
                            std::to_string(kFormatMajor) + "." + std::to_string(kFormatMinor));
  error.message += older ? "; rebuild with: polykv build POOL -o NEW" : "; it needs a newer polykv";
  return error;
}

// Everything that decides whether this reader may look at the other fields.
Status check_start(std::span<const std::byte> page, std::uint16_t oldest_minor) {
  POLYKV_CHECK_STATUS(check_magic(page.first(kMagic.size())));
  const std::uint32_t byte_order = load_le32(page.data() + kByteOrderOffset);
  if (byte_order == kForeignByteOrderMark) {
    return Error{ErrorCode::kForeignByteOrder, kByteOrderOffset, "superblock: it was written on a big-endian machine"};
  }
  if (byte_order != kByteOrderMark) {
    return wrong_value(ErrorCode::kMalformed, kByteOrderOffset, "superblock: byte-order mark", hex_offset(byte_order),
                       "0x1020304");
  }
  const std::uint16_t major = load_le16(page.data() + kMajorOffset), minor = load_le16(page.data() + kMinorOffset);
  if (major != kFormatMajor || minor < oldest_minor || minor > kFormatMinor) return unsupported_version(major, minor);
  const std::uint64_t unknown = load_le64(page.data() + kIncompatOffset) & ~kKnownIncompatFeatures;
  if (unknown != 0) {
    const int bit = __builtin_ctzll(unknown);
    return Error{ErrorCode::kUnsupportedFeature, kIncompatOffset,
                 "superblock: features_incompat has bit " + std::to_string(bit) + ", which needs a newer polykv"};
  }
  const std::uint64_t expected = load_le64(page.data() + kChecksumOffset);
  const std::uint64_t found = xxh3_64(page.first(kChecksumOffset));
  if (found != expected) {
    return wrong_value(ErrorCode::kBadChecksum, kChecksumOffset, "superblock at 0x0: checksum", hex_checksum(found),
                       hex_checksum(expected));
  }
  return {};
}

Status check_constants(std::span<const std::byte> page) {
  const auto algorithm = [&](std::size_t offset) { return std::to_integer<std::uint8_t>(page[offset]); };
  if (algorithm(kChecksumAlgorithmOffset) != kChecksumXxh3) {
    return wrong_field(ErrorCode::kUnknownAlgorithm, kChecksumAlgorithmOffset, "checksum_algorithm",
                       algorithm(kChecksumAlgorithmOffset), "1");
  }
  if (algorithm(kDigestAlgorithmOffset) != kDigestSha256) {
    return wrong_field(ErrorCode::kUnknownAlgorithm, kDigestAlgorithmOffset, "digest_algorithm",
                       algorithm(kDigestAlgorithmOffset), "1");
  }
  if (const std::uint32_t bytes = load_le32(page.data() + kSuperblockBytesOffset); bytes != kSuperblockBytes) {
    return wrong_field(ErrorCode::kMalformed, kSuperblockBytesOffset, "superblock_bytes", bytes, "4096");
  }
  if (const std::uint32_t bytes = load_le32(page.data() + kChunkBytesOffset); bytes != kChunkBytes) {
    return wrong_field(ErrorCode::kMalformed, kChunkBytesOffset, "chunk_bytes", bytes, "262144");
  }
  return {};
}

Status check_file_bytes(std::uint64_t declared, std::uint64_t file_bytes) {
  if (declared > kMaxFileBytes) {
    return wrong_field(ErrorCode::kLimitExceeded, kFileBytesOffset, "file_bytes", declared, "at most 2^46");
  }
  if (declared < kSuperblockBytes + kTrailerBytes) {
    return wrong_field(ErrorCode::kMalformed, kFileBytesOffset, "file_bytes", declared, "at least 8192");
  }
  if (declared != file_bytes) {
    return wrong_bytes(ErrorCode::kTruncated, std::min(declared, file_bytes), "the file", file_bytes,
                       std::to_string(declared));
  }
  return {};
}

// A base pool: no parent, first position 0, its first positions kept raw. Another: a parent, and where it ends.
Status check_positions(const Superblock& superblock, std::span<const std::byte> page) {
  const std::uint32_t first = superblock.first_position, most = kMaxTokens - superblock.shape.num_tokens;
  if (superblock.has_parent() ? first == 0 || first > most : first != 0) {
    return wrong_field(ErrorCode::kMalformed, kFirstPositionOffset, "first_position", first,
                       superblock.has_parent() ? "1 to " + std::to_string(most) + ", after a parent" : "0");
  }
  const std::uint32_t num_sinks = superblock.has_parent() ? 0 : std::min(kNumSinks, superblock.shape.num_tokens);
  if (superblock.num_sinks != num_sinks) {
    return wrong_field(ErrorCode::kMalformed, kNumSinksOffset, "num_sinks", superblock.num_sinks,
                       std::to_string(num_sinks));
  }
  const std::size_t used = find_nonzero(page.subspan(kParentTokensOffset, kReserved2Offset - kParentTokensOffset));
  if (!superblock.has_parent() && used != kReserved2Offset - kParentTokensOffset) {
    return Error{ErrorCode::kMalformed, kParentTokensOffset + used,
                 "superblock: a parent is named without its feature bit"};
  }
  return {};
}

Status check_limits(const Superblock& superblock, std::span<const std::byte> page) {
  if (superblock.num_sections < kMinSections || superblock.num_sections > kMaxSections) {
    return wrong_field(ErrorCode::kLimitExceeded, kNumSectionsOffset, "num_sections", superblock.num_sections,
                       "7 to 24");
  }
  if (superblock.num_chunks > kMaxChunks) {
    return wrong_field(ErrorCode::kLimitExceeded, kNumChunksOffset, "num_chunks", superblock.num_chunks,
                       "at most 2^26");
  }
  POLYKV_CHECK_STATUS(check_shape(superblock.shape));
  POLYKV_CHECK_STATUS(check_positions(superblock, page));
  POLYKV_CHECK_STATUS(check_zero(page, kReservedOffset, kCreatedOffset, "superblock"));
  POLYKV_CHECK_STATUS(check_zero(page, kReserved2Offset, kSectionTableOffset, "superblock"));
  const std::size_t table_end = kSectionTableOffset + superblock.num_sections * kSectionEntryBytes;
  return check_zero(page, table_end, kChecksumOffset, "superblock");
}

}  // namespace

Status check_magic(std::span<const std::byte> start) {
  const std::size_t known = std::min(start.size(), kMagic.size());
  if (known > 0 && find_nonzero(start.first(known)) == known) {
    return Error{ErrorCode::kUnfinished, 0, "its build did not finish; build it again with: polykv build FILE -o POOL"};
  }
  for (std::size_t i = 0; i < known; ++i) {
    if (start[i] == std::byte{kMagic[i]}) continue;
    // The bytes from the fifth on are those that a transfer as text changes.
    return Error{ErrorCode::kNotAPool, i,
                 i < 4 ? "it does not start as a pool does; make a pool of a document with: polykv build FILE -o POOL"
                       : "it starts as a pool does that was transferred as text; copy it again, as binary"};
  }
  if (known == 0)
    return Error{ErrorCode::kNotAPool, 0, "it is empty; make a pool of a document with: polykv build FILE -o POOL"};
  return {};
}

Status check_shape(const KvShape& shape) {
  const auto limit = [](std::size_t offset, const char* field, std::uint32_t found, std::uint32_t max) -> Status {
    if (found >= 1 && found <= max) return {};
    return wrong_field(ErrorCode::kLimitExceeded, offset, field, found, "1 to " + std::to_string(max));
  };
  POLYKV_CHECK_STATUS(limit(kNumLayersOffset, "num_layers", shape.num_layers, kMaxLayers));
  POLYKV_CHECK_STATUS(limit(kNumKvHeadsOffset, "num_kv_heads", shape.num_kv_heads, kMaxKvHeads));
  POLYKV_CHECK_STATUS(limit(kHeadDimOffset, "head_dim", shape.head_dim, kMaxHeadDim));
  POLYKV_CHECK_STATUS(limit(kNumTokensOffset, "num_tokens", shape.num_tokens, kMaxTokens));
  if (shape.head_dim % 8 != 0) {
    return wrong_field(ErrorCode::kMalformed, kHeadDimOffset, "head_dim", shape.head_dim, "a multiple of 8");
  }
  return {};
}

Page serialize_superblock(const Superblock& superblock, std::span<const SectionEntry> sections) {
  Page page{};
  std::byte* const at = page.data();
  store_array(page, 0, kMagic);
  store_le32(at + kByteOrderOffset, kByteOrderMark);
  store_le16(at + kMajorOffset, superblock.format_major);
  store_le16(at + kMinorOffset, superblock.format_minor);
  store_le32(at + kSuperblockBytesOffset, static_cast<std::uint32_t>(kSuperblockBytes));
  store_le32(at + kNumSectionsOffset, static_cast<std::uint32_t>(sections.size()));
  store_le64(at + kFileBytesOffset, superblock.file_bytes);
  store_le64(at + kCompatOffset, superblock.features_compat);
  store_le64(at + kRewriteOffset, superblock.features_rewrite);
  store_le64(at + kIncompatOffset, superblock.features_incompat);
  store_array(page, kFileIdOffset, superblock.file_id);
  store_array(page, kModelOffset, superblock.model_fingerprint);
  store_array(page, kTokenizerOffset, superblock.tokenizer_fingerprint);
  store_array(page, kDocumentOffset, superblock.document_fingerprint);
  store_array(page, kTokensOffset, superblock.tokens_fingerprint);
  store_array(page, kCodecOffset, superblock.codec_fingerprint);
  store_le32(at + kNumLayersOffset, superblock.shape.num_layers);
  store_le32(at + kNumKvHeadsOffset, superblock.shape.num_kv_heads);
  store_le32(at + kHeadDimOffset, superblock.shape.head_dim);
  store_le32(at + kNumTokensOffset, superblock.shape.num_tokens);
  store_le32(at + kNumChunksOffset, superblock.num_chunks);
  store_le32(at + kChunkBytesOffset, static_cast<std::uint32_t>(kChunkBytes));
  store_le32(at + kFirstPositionOffset, superblock.first_position);
  store_le32(at + kNumSinksOffset, superblock.num_sinks);
  page[kChecksumAlgorithmOffset] = std::byte{kChecksumXxh3};
  page[kDigestAlgorithmOffset] = std::byte{kDigestSha256};
  store_le64(at + kCreatedOffset, superblock.created);
  store_name(page, kWriterOffset, superblock.writer);
  store_name(page, kMinReaderOffset, superblock.min_reader);
  store_array(page, kParentTokensOffset, superblock.parent_tokens_fingerprint);
  store_array(page, kParentDigestOffset, superblock.parent_digest);
  serialize_section_table(sections, page);
  store_le64(at + kChecksumOffset, xxh3_64(std::span<const std::byte>(page).first(kChecksumOffset)));
  return page;
}

Result<Superblock> parse_superblock(std::span<const std::byte> page, std::uint64_t file_bytes,
                                    std::uint16_t oldest_minor) {
  POLYKV_CHECK_STATUS(check_start(page, oldest_minor));
  POLYKV_CHECK_STATUS(check_constants(page));
  const std::byte* const at = page.data();
  Superblock superblock;
  superblock.format_major = load_le16(at + kMajorOffset);
  superblock.format_minor = load_le16(at + kMinorOffset);
  superblock.num_sections = load_le32(at + kNumSectionsOffset);
  superblock.file_bytes = load_le64(at + kFileBytesOffset);
  POLYKV_CHECK_STATUS(check_file_bytes(superblock.file_bytes, file_bytes));
  superblock.features_compat = load_le64(at + kCompatOffset);
  superblock.features_rewrite = load_le64(at + kRewriteOffset);
  superblock.features_incompat = load_le64(at + kIncompatOffset);
  load_array(page, kFileIdOffset, superblock.file_id);
  load_array(page, kModelOffset, superblock.model_fingerprint);
  load_array(page, kTokenizerOffset, superblock.tokenizer_fingerprint);
  load_array(page, kDocumentOffset, superblock.document_fingerprint);
  load_array(page, kTokensOffset, superblock.tokens_fingerprint);
  load_array(page, kCodecOffset, superblock.codec_fingerprint);
  superblock.shape = {load_le32(at + kNumLayersOffset), load_le32(at + kNumKvHeadsOffset),
                      load_le32(at + kHeadDimOffset), load_le32(at + kNumTokensOffset)};
  superblock.num_chunks = load_le32(at + kNumChunksOffset);
  superblock.first_position = load_le32(at + kFirstPositionOffset);
  superblock.num_sinks = load_le32(at + kNumSinksOffset);
  superblock.created = load_le64(at + kCreatedOffset);
  POLYKV_TRY(superblock.writer, load_name(page, kWriterOffset, "writer"));
  POLYKV_TRY(superblock.min_reader, load_name(page, kMinReaderOffset, "min_reader"));
  load_array(page, kParentTokensOffset, superblock.parent_tokens_fingerprint);
  load_array(page, kParentDigestOffset, superblock.parent_digest);
  POLYKV_CHECK_STATUS(check_limits(superblock, page));
  return superblock;
}

Page serialize_trailer(const Superblock& superblock, std::span<const std::byte> superblock_page) {
  Page page{};
  store_le64(page.data() + kTrailerFileBytesOffset, superblock.file_bytes);
  store_array(page, kTrailerFileIdOffset, superblock.file_id);
  store_array(page, kTrailerDigestOffset, sha256(superblock_page));
  for (std::size_t i = 0; i < kMagic.size(); ++i) {
    page[kTrailerMagicOffset + i] = std::byte{kMagic[kMagic.size() - 1 - i]};
  }
  store_le64(page.data() + kTrailerChecksumOffset, xxh3_64(std::span<const std::byte>(page).subspan(8)));
  return page;
}

Status check_trailer(std::span<const std::byte> page, const Superblock& superblock,
                     std::span<const std::byte> superblock_page) {
  const std::uint64_t start = superblock.file_bytes - kTrailerBytes;
  for (std::size_t i = 0; i < kMagic.size(); ++i) {
    if (page[kTrailerMagicOffset + i] == std::byte{kMagic[kMagic.size() - 1 - i]}) continue;
    return Error{ErrorCode::kTruncated, start + kTrailerMagicOffset + i,
                 "trailer at " + hex_offset(start) + ": the end of the file is missing"};
  }
  const std::uint64_t expected = load_le64(page.data()), found = xxh3_64(page.subspan(8));
  if (found != expected) {
    return wrong_value(ErrorCode::kBadChecksum, start, "trailer at " + hex_offset(start) + ": checksum",
                       hex_checksum(found), hex_checksum(expected));
  }
  if (const std::uint64_t bytes = load_le64(page.data() + kTrailerFileBytesOffset); bytes != superblock.file_bytes) {
    return wrong_value(ErrorCode::kMalformed, start + kTrailerFileBytesOffset, "trailer: file_bytes",
                       std::to_string(bytes), std::to_string(superblock.file_bytes));
  }
  FileId file_id;
  load_array(page, kTrailerFileIdOffset, file_id);
  if (file_id != superblock.file_id) {
    return Error{ErrorCode::kMalformed, start + kTrailerFileIdOffset, "trailer: file_id is not the superblock's"};
  }
  Digest digest;
  load_array(page, kTrailerDigestOffset, digest);
  if (digest != sha256(superblock_page)) {
    return Error{ErrorCode::kBadDigest, start + kTrailerDigestOffset,
                 "trailer: the digest of the superblock is not that of the superblock"};
  }
  const std::size_t used =
      find_nonzero(page.subspan(kTrailerReservedOffset, kTrailerMagicOffset - kTrailerReservedOffset));
  if (kTrailerReservedOffset + used != kTrailerMagicOffset) {
    return Error{ErrorCode::kBadReserved, start + kTrailerReservedOffset + used,
                 "trailer: reserved byte at " + hex_offset(start + kTrailerReservedOffset + used) + " is not zero"};
  }
  return {};
}

Result<Superblock> parse_ends(std::span<const std::byte> file, Page& page, std::uint16_t oldest_minor) {
  POLYKV_CHECK_STATUS(check_magic(file.first(std::min(file.size(), kMagic.size()))));
  if (file.size() < kSuperblockBytes) {
    return wrong_bytes(ErrorCode::kTruncated, file.size(), "the file", file.size(), "at least 8192");
  }
  std::memcpy(page.data(), file.data(), page.size());
  POLYKV_TRY(const Superblock superblock, parse_superblock(page, file.size(), oldest_minor));
  Page trailer;
  std::memcpy(trailer.data(), file.data() + file.size() - trailer.size(), trailer.size());
  POLYKV_CHECK_STATUS(check_trailer(trailer, superblock, page));
  return superblock;
}

}  // namespace polykv::format

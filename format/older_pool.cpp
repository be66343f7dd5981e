#include "format/older_pool.h"

#include "format/bytes.h"
#include "format/fingerprint.h"
#include "format/section.h"
#include "format/superblock.h"
#include "format/tokens.h"

namespace polykv::format {
namespace {

// The bytes of the source section, whose entry in the table, name and contents are the same in all minor versions. How
// sections are padded is not, so the table is not parsed as a whole.
Result<std::span<const std::byte>> find_source(std::span<const std::byte> file, const Page& page,
                                               std::uint32_t num_sections) {
  for (std::uint32_t i = 0; i < num_sections; ++i) {
    const std::uint64_t at = kSectionTableOffset + i * kSectionEntryBytes;
    if (load_le32(page.data() + at) != static_cast<std::uint32_t>(SectionKind::kSource)) continue;
    const std::uint64_t offset = load_le64(page.data() + at + 8), bytes = load_le64(page.data() + at + 16);
    if (offset > file.size() || bytes > file.size() - offset) {
      return Error{ErrorCode::kBadSectionTable, at + 8, "section table: the source ends past the end of the file"};
    }
    return file.subspan(offset, bytes);
  }
  return Error{ErrorCode::kBadSectionTable, kSectionTableOffset, "section table: there is no section source"};
}

}  // namespace

Result<std::string> older_source_text(std::span<const std::byte> file) {
  Page page;
  POLYKV_TRY(const Superblock superblock, parse_ends(file, page, kOldestMinor));
  POLYKV_TRY(const std::span<const std::byte> source, find_source(file, page, superblock.num_sections));
  auto text = parse_source(source);
  if (!text) {
    Error error = std::move(text).error();
    const auto offset = static_cast<std::uint64_t>(source.data() - file.data());
    error.offset = error.offset == kNoOffset ? offset : offset + error.offset;
    return error;
  }
  if (document_fingerprint(superblock.file_id, *text) != superblock.document_fingerprint) {
    return Error{ErrorCode::kBadFingerprint, 136, "superblock: document_fingerprint is not that of the source text"};
  }
  return text;
}

}  // namespace polykv::format

#include "format/fingerprint.h"

#include <algorithm>
#include <vector>

#include "format/bytes.h"

namespace polykv::format {
namespace {

void append_array(std::vector<std::byte>& out, std::span<const std::uint8_t> bytes) {
  append_bytes(out, std::as_bytes(bytes));
}

}  // namespace

Digest tokens_fingerprint(std::span<const std::uint32_t> ids, std::uint32_t first_position,
                          const Digest& parent_tokens_fingerprint) {
  std::vector<std::byte> canonical;
  append_bytes(canonical, as_bytes("polykv/tokens/1"));
  append_array(canonical, parent_tokens_fingerprint);
  append_le32(canonical, first_position);
  append_le32(canonical, static_cast<std::uint32_t>(ids.size()));
  canonical.reserve(canonical.size() + ids.size() * 4);
  for (const std::uint32_t id : ids) append_le32(canonical, id);
  return sha256(canonical);
}

Digest document_fingerprint(const FileId& file_id, std::string_view text) {
  Sha256 hash;
  hash.update(as_bytes("polykv/document/1"));
  hash.update(std::as_bytes(std::span(file_id)));
  hash.update(as_bytes(text));
  return hash.finish();
}

FileId compute_file_id(const Superblock& superblock, std::span<const SectionEntry> sections) {
  std::vector<std::byte> canonical;
  append_bytes(canonical, as_bytes("polykv/file/1"));
  append_array(canonical, superblock.model_fingerprint);
  append_array(canonical, superblock.tokenizer_fingerprint);
  append_array(canonical, superblock.tokens_fingerprint);
  append_array(canonical, superblock.codec_fingerprint);
  for (const SectionKind kind :
       {SectionKind::kTokens, SectionKind::kLayout, SectionKind::kSinks, SectionKind::kMeans, SectionKind::kPages}) {
    const SectionEntry* section = find_section(sections, kind);
    append_array(canonical, section != nullptr ? section->digest : Digest{});
  }
  const Digest digest = sha256(canonical);
  FileId file_id;
  std::copy_n(digest.begin(), file_id.size(), file_id.begin());
  return file_id;
}

}  // namespace polykv::format

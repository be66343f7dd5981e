// The fingerprints that do not come from the identity's fields, and the file's id. spec/pool-format.md, "Fingerprints".
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "format/checksum.h"
#include "format/section.h"
#include "format/superblock.h"

namespace polykv::format {

// Token ids, where they start, and everything before them: the values of a token depend on all of it.
Digest tokens_fingerprint(std::span<const std::uint32_t> ids, std::uint32_t first_position,
                          const Digest& parent_tokens_fingerprint);

// Salted with the file's id: whoever holds pool and document can check it, nobody can ask which pools hold a document.
Digest document_fingerprint(const FileId& file_id, std::string_view text);

// From the superblock's fingerprints (not the document's) and the digests of the sections that hold tokens and values.
FileId compute_file_id(const Superblock& superblock, std::span<const SectionEntry> sections);

}  // namespace polykv::format

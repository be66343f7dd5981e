// What is still read of pools of earlier minor versions, which PoolReader refuses.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "format/status.h"

namespace polykv::format {

// The source text of a pool of any minor version from kOldestMinor to ours, so that it can be built again. `file` is
// the whole file, untrusted, and does not change meanwhile. Superblock, trailer, the text and its fingerprint are
// checked; other sections are not looked at. Errors: those of parse_ends and parse_source, kBadSectionTable,
// kBadFingerprint.
Result<std::string> older_source_text(std::span<const std::byte> file);

}  // namespace polykv::format

// SHA-256 of a model's weights, and a cache of it that notices when the file is another one.
#pragma once

#include <string>

#include "cli/runtime/weights/model_file.h"
#include "format/status.h"

namespace polykv::runtime {

enum class DigestPolicy {
  kFull,    // hash every byte (what `build` does), and remember the result
  kCached,  // take the remembered result where device, inode, size, mtime and ctime agree and the header and 64 sampled
            // blocks still hash to what they did; else as kFull
};

// Hex. One file: its SHA-256. Several shards: SHA-256 over "NAME\0" and the digest of each, in order.
// The cache ($XDG_CACHE_HOME/polykv/digests) is a convenience: if it cannot be read or written, the file is hashed.
format::Result<std::string> weights_digest(const ModelFile& model, DigestPolicy policy);

}  // namespace polykv::runtime

// SHA-256 of the chunks of a section that is being written front to back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "format/checksum.h"

namespace polykv::format {

class ChunkDigests {
 public:
  void update(std::span<const std::byte> bytes);
  // Zeros up to the section's padded length, and the end of the last chunk.
  void finish(std::uint64_t padded_bytes);

  std::uint64_t bytes() const { return bytes_; }
  const std::vector<Digest>& digests() const { return digests_; }
  // What the section table holds: SHA-256 of the digests.
  Digest section_digest() const;

 private:
  Sha256 current_;
  std::uint64_t bytes_ = 0;
  std::vector<Digest> digests_;
};

}  // namespace polykv::format

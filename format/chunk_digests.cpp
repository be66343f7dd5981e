#include "format/chunk_digests.h"

#include <algorithm>

#include "format/section.h"

namespace polykv::format {

void ChunkDigests::update(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t part = std::min<std::uint64_t>(kChunkBytes - bytes_ % kChunkBytes, bytes.size());
    current_.update(bytes.first(part));
    bytes_ += part;
    bytes = bytes.subspan(part);
    if (bytes_ % kChunkBytes == 0) {
      digests_.push_back(current_.finish());
      current_ = Sha256();
    }
  }
}

void ChunkDigests::finish(std::uint64_t padded_bytes) {
  static constexpr std::byte kZeros[4096] = {};
  while (bytes_ < padded_bytes)
    update(std::span(kZeros).first(std::min<std::uint64_t>(padded_bytes - bytes_, sizeof kZeros)));
  if (bytes_ % kChunkBytes != 0) digests_.push_back(current_.finish());
}

Digest ChunkDigests::section_digest() const {
  return sha256({reinterpret_cast<const std::byte*>(digests_.data()), digests_.size() * sizeof(Digest)});
}

}  // namespace polykv::format

// Untrusted bytes in, validated read-only views out. Never copies pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "format/identity.h"
#include "format/layout.h"
#include "format/section.h"
#include "format/shape.h"
#include "format/status.h"
#include "format/superblock.h"
#include "format/tokens.h"

namespace polykv::format {

// Opening checks superblock, trailer, section table and every metadata section (checksums, structure, fingerprints);
// pages, sinks and means are checked chunk by chunk on first touch. Cheap on a cold file: independent of the pool's
// size but for the layout and the chunk table.
//
// `file` is the whole pool and must outlive the reader. Metadata is copied to private memory before it is parsed.
// Safe to use from several threads once open.
class PoolReader {
 public:
  static Result<PoolReader> open(std::span<const std::byte> file);
  PoolReader(PoolReader&&) noexcept;
  PoolReader& operator=(PoolReader&&) noexcept;
  ~PoolReader();

  const Superblock& superblock() const;
  std::span<const SectionEntry> sections() const;
  const KvShape& shape() const;
  std::uint32_t first_position() const;  // 0 for a base pool
  std::uint32_t num_sinks() const;       // min(4, num_tokens) for a base pool, else 0
  // What pools that extend this one call it: SHA-256 of the superblock as it was checked.
  Digest superblock_digest() const;
  const Identity& identity() const;
  const Layout& layout() const;

  // Token ids and ranges, text empty. Parsed at open.
  const Tokens& tokens() const;
  // The source text, decompressed now. Its open end: text after tokens().text_end.back().
  Result<std::string> source_text() const;
  // JSON text of the fidelity section; empty if nothing was measured.
  std::string_view fidelity() const;

  // Views into the file; call check() on a range before its first use.
  std::span<const std::byte> pages() const;
  std::span<const std::byte> sinks() const;  // float16 [layer][kv_head][key, value][num_sinks][head_dim]
  std::span<const std::byte> means() const;  // float16 [layer][kv_head][head_dim]; empty if no run's codec removes it

  // Checks the checksums of all chunks that `range` (a part of pages(), sinks() or means()) touches, each once per
  // process.
  Status check(std::span<const std::byte> range) const;

  // Everything `verify` does: every chunk, every padding byte; with `digests`, the SHA-256 tree too. Reports each chunk
  // to `progress` (bytes done, bytes in all), which may be empty. First error wins.
  Status verify(bool digests, const std::function<void(std::uint64_t, std::uint64_t)>& progress) const;

 private:
  struct State;
  explicit PoolReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polykv::format

// Writes one pool and publishes it atomically.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "format/identity.h"
#include "format/layout.h"
#include "format/shape.h"
#include "format/status.h"
#include "format/tokens.h"

namespace polykv::format {

struct PoolSpec {
  KvShape shape;
  Identity identity;
  Tokens tokens;
  Layout layout;  // placed by the writer
  bool has_means = false;
  std::uint64_t created = 0;  // SOURCE_DATE_EPOCH or 0
};

struct WriterOptions {
  bool force = false;         // replace an existing file
  std::uint32_t mode = 0600;  // of the published file, whatever the umask
};

// Temporary file in the same folder, sections in order, fdatasync, read back, superblock last, fsync, rename, folder fsync.
// Destroying an unfinished writer removes its temporary file. A temporary file left by a killed build has no magic and is
// removed by the next create() in that folder.
class PoolWriter {
 public:
  // Errors: kExists before any work unless `force`; kIo, kNoSpace, kUnsafeFile (a world-writable folder without sticky bit).
  static Result<PoolWriter> create(const std::filesystem::path& path, PoolSpec spec, const WriterOptions& options);
  PoolWriter(PoolWriter&&) noexcept;
  PoolWriter& operator=(PoolWriter&&) noexcept;
  ~PoolWriter();

  // The layout as placed.
  const Layout& layout() const;

  // Layers may come in any order, each exactly once, from one thread. All of the layer's pages (its heads' runs, contiguous),
  // sinks [kv_head][key, value][num_sinks][head_dim] float16, means [kv_head][head_dim] float16 (empty without has_means).
  Status write_layer(std::uint32_t layer, std::span<const std::byte> pages, std::span<const std::byte> sinks,
                     std::span<const std::byte> means);

  // Publishes. `fidelity` is JSON text, may be empty. After an error nothing is left behind and the old file is untouched;
  // kNotDurable: published, but the folder's fsync failed. kReadBack: what was read back is not what was written.
  Status finish(std::string_view fidelity);

 private:
  struct State;
  explicit PoolWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polykv::format

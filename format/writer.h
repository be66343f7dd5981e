// Writes one pool and publishes it atomically.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "format/checksum.h"
#include "format/identity.h"
#include "format/layout.h"
#include "format/shape.h"
#include "format/status.h"
#include "format/tokens.h"

namespace polykv::format {

// The pool that another one extends.
struct ParentLink {
  Digest tokens_fingerprint;
  Digest digest;                 // SHA-256 of its superblock
  std::uint32_t end = 0;         // one past its last position
  bool chain_has_means = false;  // its own or an ancestor's
};

struct PoolSpec {
  KvShape shape;
  Identity identity;
  Tokens tokens;
  Layout layout;           // placed by the writer, which also gets the exponents later
  bool has_means = false;  // true exactly if a key codec of the layout removes the mean, and no ancestor has any
  std::optional<ParentLink> parent = {};  // its positions, which are the whole chain's, begin at the parent's end
  std::uint64_t created = 0;              // SOURCE_DATE_EPOCH or 0
};

struct WriterOptions {
  bool force = false;         // replace an existing file
  std::uint32_t mode = 0600;  // of the published file, whatever the umask
  // Working memory on disk, never published: a file without a name, which goes away with the writer, however the
  // process ends. Nothing is hashed.
  bool scratch = false;
};

// As in format/reader.h.
struct WrittenValues {
  std::span<const std::byte> pages, sinks, means;
};

// Temporary file in the same folder, sections in order, fdatasync, read back, superblock last, fsync, rename, folder
// fsync. Destroying an unfinished writer removes its temporary file. A killed build leaves one, locked by nobody,
// without magic unless it was killed between its last write and the rename; the next create() of the same name removes
// it.
class PoolWriter {
 public:
  // Errors: kExists before any work unless `force`; others of AtomicFile::create; those of the reader's parsers, for a
  // spec that could not be read back; kUnusableText.
  static Result<PoolWriter> create(const std::filesystem::path& path, PoolSpec spec, const WriterOptions& options);
  PoolWriter(PoolWriter&&) noexcept;
  PoolWriter& operator=(PoolWriter&&) noexcept;
  ~PoolWriter();

  // What the published file will have, with a fidelity of so many bytes.
  std::uint64_t file_bytes(std::uint64_t fidelity_bytes) const;

  // The layout as placed; with the exponents of the layers that are written.
  const Layout& layout() const;

  // Layers come in ascending order, each once, so that every byte is hashed on its way to the file. The exponents of
  // the layer's runs (head by head), their pages (contiguous), sinks [kv_head][key, value][num_sinks][head_dim]
  // float16, means [kv_head][head_dim] float16 (empty without has_means). Errors: kBadSectionSize, kFailed (a layer out
  // of order), kIo, kNoSpace.
  Status write_layer(std::uint32_t layer, std::span<const ScaleExponents> exponents, std::span<const std::byte> pages,
                     std::span<const std::byte> sinks, std::span<const std::byte> means);

  // All layers, once they are written, in place; good until finish(). Errors: kFailed, kIo.
  Result<WrittenValues> written();

  // Publishes; once. kBadLayout: an exponent is none that its codec can have. `fidelity` is JSON text, may be empty.
  // After an error the old file is untouched, and nothing is left behind when the writer is destroyed. kNotDurable:
  // published, but the folder's fsync failed. kReadBack: what was read back is not what was written. kExists: without
  // `force`, a file appeared at the path meanwhile. kFailed: a layer is missing, or it is `scratch`.
  Status finish(std::string_view fidelity);

 private:
  struct State;
  explicit PoolWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polykv::format

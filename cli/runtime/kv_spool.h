// The uncompressed keys and values of a document, for the time between its prefill and what is made from them: float16
// pages in a file without a name, mapped. The system may write them back and drop them, so they are no private memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "cli/runtime/layer_writer.h"
#include "cli/runtime/model_runner.h"
#include "core/pool.h"
#include "core/workers.h"
#include "format/shape.h"
#include "format/status.h"
#include "format/writer.h"

namespace polykv::runtime {

class KvSpool {
 public:
  // In the folder of `path`, a pool that is to be written: refused as PoolWriter::create refuses it. The workers must
  // outlive the spool. kNoSpace says how much is needed, and where.
  static format::Result<KvSpool> create(const std::filesystem::path& path, const format::KvShape& shape, bool force,
                                        core::Workers& workers);
  KvSpool(KvSpool&&) noexcept = default;

  // Layers in order; after the last one, map().
  format::Status write(const LayerKv& layer);
  format::Status map();

  // After map(), the rest.
  const core::KvPool& pool() const { return *pool_; }
  // A head as it came, in buffers of the worker.
  HeadKv read(std::uint32_t layer, std::uint32_t kv_head, std::size_t worker);

 private:
  struct Buffer {
    std::vector<std::uint16_t> keys, values;
  };
  KvSpool(const format::KvShape& shape, format::PoolWriter writer, core::Workers& workers);

  format::KvShape shape_;
  std::unique_ptr<format::PoolWriter> writer_;  // stays where it is when the spool moves
  std::unique_ptr<LayerWriter> layers_;
  std::optional<core::KvPool> pool_;
  std::vector<Buffer> buffers_;  // [workers]
};

}  // namespace polykv::runtime

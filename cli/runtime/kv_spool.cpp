#include "cli/runtime/kv_spool.h"

#include <algorithm>
#include <cstring>

#include "cli/runtime/codec_plan.h"
#include "core/codec.h"

namespace polykv::runtime {
namespace {

using format::Status;

constexpr core::CodecPair kFloat16{format::kCodecF16, format::kCodecF16};

std::uint64_t kv_bytes(const format::KvShape& shape) {
  return std::uint64_t{4} * shape.num_layers * shape.num_kv_heads * shape.num_tokens * shape.head_dim;
}

}  // namespace

KvSpool::KvSpool(const format::KvShape& shape, format::PoolWriter writer, core::Workers& workers)
    : shape_(shape),
      writer_(std::make_unique<format::PoolWriter>(std::move(writer))),
      layers_(std::make_unique<LayerWriter>(shape, DimensionWeights{}, *writer_, workers)),
      buffers_(workers.num_threads()) {}

format::Result<KvSpool> KvSpool::create(const std::filesystem::path& path, const format::KvShape& shape, bool force,
                                        core::Workers& workers) {
  format::PoolSpec spec;
  spec.shape = shape;
  spec.tokens.ids.resize(shape.num_tokens);  // nobody asks a spool for its text
  spec.tokens.text_begin.resize(shape.num_tokens);
  spec.tokens.text_end.resize(shape.num_tokens);
  spec.layout = plan_layout(shape, uniform_plan(shape, kFloat16));
  auto writer = format::PoolWriter::create(path, std::move(spec), {.force = force, .scratch = true});
  if (!writer && writer.error().code == format::ErrorCode::kNoSpace) {
    return format::Error(writer.error().code, writer.error().message + ": uncompressed keys and values, " +
                                                  std::to_string(kv_bytes(shape) / 1000000 + 1) +
                                                  " MB, are kept in a temporary file in the folder " +
                                                  (path.has_parent_path() ? path.parent_path().string() : "."));
  }
  if (!writer) return std::move(writer).error();
  return KvSpool(shape, std::move(writer).value(), workers);
}

Status KvSpool::write(const LayerKv& layer) { return layers_->write(layer); }

Status KvSpool::map() {
  POLYKV_TRY(const format::WrittenValues values, writer_->written());
  pool_.emplace(core::KvPool::Parts{.shape = shape_,
                                    .num_sinks = std::min(shape_.num_tokens, format::kNumSinks),
                                    .layout = &writer_->layout(),
                                    .pages = values.pages,
                                    .sinks = values.sinks,
                                    .means = values.means});
  layers_.reset();  // its buffers
  return {};
}

HeadKv KvSpool::read(std::uint32_t layer, std::uint32_t kv_head, std::size_t worker) {
  Buffer& buffer = buffers_[worker];
  const std::size_t size = std::size_t{shape_.num_tokens} * shape_.head_dim;
  const std::span<const std::byte> sink_keys = pool_->sink_keys(layer, kv_head);
  const std::size_t num_sink_values = sink_keys.size() / 2;
  buffer.keys.resize(size);
  buffer.values.resize(size);
  std::memcpy(buffer.keys.data(), sink_keys.data(), sink_keys.size());
  std::memcpy(buffer.values.data(), pool_->sink_values(layer, kv_head).data(), sink_keys.size());
  for (const core::KvPool::Run& run : pool_->runs(layer, kv_head)) {  // one, or none
    core::restore_float16_run(run.pages, shape_.head_dim, std::span(buffer.keys).subspan(num_sink_values),
                              std::span(buffer.values).subspan(num_sink_values));
  }
  return {buffer.keys, buffer.values};
}

}  // namespace polykv::runtime

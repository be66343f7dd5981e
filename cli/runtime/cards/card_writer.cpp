#include "cli/runtime/cards/card_writer.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace polykv::runtime {
namespace {

using format::Result;

// What makes the model that reads a card the model that wrote its parent.
constexpr std::array<std::string_view, 5> kInheritedGroups = {"model.", "rope.", "adapters.", "tokenizer.",
                                                              "template."};

// The one name of all codecs, or "mixed".
std::string codec_name_of(const TokenPlan& plan) {
  CodecPlan pairs;
  for (const auto& head : plan) pairs.insert(pairs.end(), head.begin(), head.end());
  return pairs.empty() ? "f16" : plan_name(pairs);
}

format::Identity make_identity(const CardSpec& spec) {
  format::Identity identity;
  for (const auto& [name, value] : spec.parent->identity().fields()) {
    const bool inherited = std::any_of(kInheritedGroups.begin(), kInheritedGroups.end(),
                                       [&name = name](std::string_view group) { return name.starts_with(group); });
    if (inherited) identity.set(name, value);
  }
  identity.set("codec.name", codec_name_of(spec.plan));
  identity.set("codec.rotation", "signs-hadamard/1");
  identity.set("codec.codebooks", "trellis/1");
  identity.set("writer.program", "polykv " POLYKV_VERSION);
  if (!spec.parent_name.empty()) identity.set(kParentNameField, spec.parent_name);
  for (const auto& [name, value] : spec.fields.fields()) identity.set(name, value);
  return identity;
}

}  // namespace

Result<CardWriter> CardWriter::create(const std::filesystem::path& path, CardSpec spec,
                                      const format::WriterOptions& options, core::Workers& workers) {
  const std::uint32_t first_position = spec.chain.back()->end_position();
  const bool chain_has_means = std::any_of(spec.chain.begin(), spec.chain.end(),
                                           [](const core::KvPool* pool) { return !pool->mean(0, 0).empty(); });
  format::PoolSpec pool;
  pool.shape = spec.chain.back()->shape();
  pool.shape.num_tokens = static_cast<std::uint32_t>(spec.tokens.ids.size());
  pool.identity = make_identity(spec);
  pool.tokens = std::move(spec.tokens);
  pool.layout = token_layout(spec.plan, first_position);
  pool.has_means = !chain_has_means && removes_means(pool.layout);
  pool.parent = format::ParentLink{spec.parent->superblock().tokens_fingerprint, spec.parent->superblock_digest(),
                                   first_position, chain_has_means};
  pool.created = spec.created;
  const format::KvShape shape = pool.shape;
  POLYKV_TRY(format::PoolWriter created, format::PoolWriter::create(path, std::move(pool), options));
  auto writer = std::make_unique<format::PoolWriter>(std::move(created));
  auto layers = std::make_unique<LayerWriter>(shape, DimensionWeights{}, *writer, workers, spec.chain);
  return CardWriter(shape, first_position, std::move(writer), std::move(layers), workers.num_threads());
}

format::Status CardWriter::write(const core::Tail& tail) {
  return layers_->write(0, shape_.num_layers, [&](std::uint32_t layer, std::uint32_t kv_head, std::size_t worker) {
    Buffer& buffer = buffers_[worker];
    buffer.keys.clear();
    buffer.values.clear();
    tail.copy_head(layer, kv_head, buffer.keys, buffer.values);
    return HeadKv{buffer.keys, buffer.values};
  });
}

Result<core::KvPool> CardWriter::view() {
  POLYKV_TRY(const format::WrittenValues values, writer_->written());
  return core::KvPool({.shape = shape_,
                       .first_position = first_position_,
                       .layout = &writer_->layout(),
                       .pages = values.pages,
                       .sinks = values.sinks,
                       .means = values.means});
}

Result<std::uint64_t> CardWriter::finish(std::string_view fidelity) {
  const std::uint64_t bytes = writer_->file_bytes(fidelity.size());
  POLYKV_CHECK_STATUS(writer_->finish(fidelity));
  return bytes;
}

}  // namespace polykv::runtime

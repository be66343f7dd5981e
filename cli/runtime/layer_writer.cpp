#include "cli/runtime/layer_writer.h"

#include <algorithm>

#include "core/codec.h"
#include "format/page_layout.h"

namespace polykv::runtime {

using format::Status;

LayerWriter::LayerWriter(const format::KvShape& shape, CodecPlan plan, DimensionWeights weights,
                         format::PoolWriter& writer, core::Workers& workers)
    : shape_(shape),
      plan_(std::move(plan)),
      weights_(std::move(weights)),
      num_sinks_(std::min(shape.num_tokens, format::kNumSinks)),
      has_means_(removes_means(writer.layout())),
      writer_(writer),
      workers_(workers) {}

std::size_t LayerWriter::head_bytes(std::size_t plan_index) const {
  const core::CodecPair codec = plan_[plan_index];
  return format::run_bytes(codec.key, codec.value, shape_.head_dim, shape_.num_tokens - num_sinks_);
}

Status LayerWriter::write(std::uint32_t first_layer, std::uint32_t end_layer, const HeadSource& source) {
  const std::size_t num_kv_heads = shape_.num_kv_heads, num_heads = (end_layer - first_layer) * num_kv_heads;
  const std::size_t head_sinks = std::size_t{2} * num_sinks_ * shape_.head_dim;
  first_layer_ = first_layer;
  head_offsets_.assign(1, 0);
  for (std::size_t head = 0; head < num_heads; ++head)
    head_offsets_.push_back(head_offsets_.back() + head_bytes(first_layer * num_kv_heads + head));
  pages_.resize(head_offsets_.back());
  sinks_.resize(num_heads * head_sinks);
  means_.resize(has_means_ ? num_heads * format::kMeanVectors * shape_.head_dim : 0);
  exponents_.resize(shape_.num_tokens > num_sinks_ ? num_heads : 0);

  std::vector<Status> statuses(num_heads);
  workers_.run(num_heads, [&](std::size_t head, std::size_t worker) {
    const auto layer = first_layer + static_cast<std::uint32_t>(head / num_kv_heads);
    statuses[head] = quantize_head(head, source(layer, static_cast<std::uint32_t>(head % num_kv_heads), worker));
  });
  for (std::size_t head = 0; head < num_heads; ++head) {
    if (statuses[head]) continue;
    return format::Error(statuses[head].error().code, "layer " + std::to_string(first_layer + head / num_kv_heads) +
                                                          ", kv_head " + std::to_string(head % num_kv_heads) + ": " +
                                                          statuses[head].error().message);
  }

  for (std::uint32_t layer = first_layer; layer < end_layer; ++layer) {
    const std::size_t first = (layer - first_layer) * num_kv_heads, end = first + num_kv_heads;
    const auto part = [&](const std::vector<std::uint16_t>& values, std::size_t per_head) {
      return std::as_bytes(std::span(values).subspan(first * per_head, num_kv_heads * per_head));
    };
    POLYKV_CHECK_STATUS(writer_.write_layer(
        layer, std::span(exponents_).subspan(exponents_.empty() ? 0 : first, exponents_.empty() ? 0 : num_kv_heads),
        std::span(pages_).subspan(head_offsets_[first], head_offsets_[end] - head_offsets_[first]),
        part(sinks_, head_sinks), part(means_, has_means_ ? format::kMeanVectors * shape_.head_dim : 0)));
  }
  return {};
}

Status LayerWriter::write(const LayerKv& layer) {
  const std::size_t head_values = std::size_t{shape_.num_tokens} * shape_.head_dim;
  return write(layer.layer, layer.layer + 1, [&](std::uint32_t, std::uint32_t kv_head, std::size_t) {
    return HeadKv{layer.keys.subspan(kv_head * head_values, head_values),
                  layer.values.subspan(kv_head * head_values, head_values)};
  });
}

Status LayerWriter::quantize_head(std::size_t head, const HeadKv& kv) {
  const core::CodecPair codec = plan_[first_layer_ * std::size_t{shape_.num_kv_heads} + head];
  const std::size_t sink_values = std::size_t{num_sinks_} * shape_.head_dim;
  std::uint16_t* sinks = sinks_.data() + head * 2 * sink_values;
  std::copy_n(kv.keys.begin(), sink_values, sinks);
  std::copy_n(kv.values.begin(), sink_values, sinks + sink_values);
  const auto keys = kv.keys.subspan(sink_values), values = kv.values.subspan(sink_values);
  const std::size_t head_means = has_means_ ? format::kMeanVectors * shape_.head_dim : 0;
  const core::HeadTransform transform =
      make_transform(codec, keys, values, weights_, first_layer_ * std::size_t{shape_.num_kv_heads} + head,
                     std::span(means_).subspan(head * head_means, head_means));
  POLYKV_TRY(const format::ScaleExponents exponents,
             core::quantize_run(
                 codec, keys, values, shape_.head_dim, transform,
                 std::span(pages_).subspan(head_offsets_[head], head_offsets_[head + 1] - head_offsets_[head])));
  if (!exponents_.empty()) exponents_[head] = exponents;
  return {};
}

}  // namespace polykv::runtime

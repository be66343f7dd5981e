#include "cli/runtime/layer_writer.h"

#include <algorithm>

#include "cli/runtime/codec_plan.h"
#include "core/codec.h"
#include "format/bytes.h"
#include "format/page_layout.h"

namespace polykv::runtime {

using format::Status;

namespace {

const core::KvPool* pool_with_means(std::span<const core::KvPool* const> chain) {
  const auto found =
      std::find_if(chain.begin(), chain.end(), [](const core::KvPool* pool) { return !pool->mean(0, 0).empty(); });
  return found == chain.end() ? nullptr : *found;
}

}  // namespace

LayerWriter::LayerWriter(const format::KvShape& shape, DimensionWeights weights, format::PoolWriter& writer,
                         core::Workers& workers, std::span<const core::KvPool* const> chain)
    : shape_(shape),
      weights_(std::move(weights)),
      transforms_(pool_with_means(chain)),
      first_position_(chain.empty() ? 0 : chain.back()->end_position()),
      num_sinks_(chain.empty() ? std::min(shape.num_tokens, format::kNumSinks) : 0),
      has_means_(transforms_ == nullptr && removes_means(writer.layout())),
      writer_(writer),
      workers_(workers),
      kept_(workers.num_threads()) {}

std::uint32_t LayerWriter::run_positions(const format::Run& run) const {
  return writer_.layout().position_sets[run.position_set].num_positions();
}

std::size_t LayerWriter::head_bytes(const std::vector<format::Run>& runs) const {
  std::size_t bytes = 0;
  for (const format::Run& run : runs)
    bytes += format::run_bytes(run.key_codec, run.value_codec, shape_.head_dim, run_positions(run));
  return bytes;
}

Status LayerWriter::write(std::uint32_t first_layer, std::uint32_t end_layer, const HeadSource& source) {
  const std::size_t num_kv_heads = shape_.num_kv_heads, num_heads = (end_layer - first_layer) * num_kv_heads;
  const std::size_t head_sinks = std::size_t{2} * num_sinks_ * shape_.head_dim;
  first_layer_ = first_layer;
  head_offsets_.assign(1, 0);
  first_runs_.assign(1, 0);
  for (std::size_t head = 0; head < num_heads; ++head) {
    const std::vector<format::Run>& runs = writer_.layout().runs[first_layer * num_kv_heads + head];
    head_offsets_.push_back(head_offsets_.back() + head_bytes(runs));
    first_runs_.push_back(first_runs_.back() + runs.size());
  }
  pages_.resize(head_offsets_.back());
  sinks_.resize(num_heads * head_sinks);
  means_.resize(has_means_ ? num_heads * format::kMeanVectors * shape_.head_dim : 0);
  exponents_.resize(first_runs_.back());

  std::vector<Status> statuses(num_heads);
  workers_.run(num_heads, [&](std::size_t head, std::size_t worker) {
    const auto layer = first_layer + static_cast<std::uint32_t>(head / num_kv_heads);
    const HeadKv kv = source(layer, static_cast<std::uint32_t>(head % num_kv_heads), worker);
    statuses[head] = quantize_head(head, kv, kept_[worker]);
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
        layer, std::span(exponents_).subspan(first_runs_[first], first_runs_[end] - first_runs_[first]),
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

// The positions of all runs, one run after another.
HeadKv LayerWriter::kept_of(const std::vector<format::Run>& runs, const HeadKv& kv, Kept& kept) const {
  const std::size_t dim = shape_.head_dim;
  const auto all = [&](const format::PositionSet& set) {
    return set.ranges.size() == 1 &&
           set.ranges[0] == format::PositionRange{first_position_ + num_sinks_, first_position_ + shape_.num_tokens};
  };
  if (runs.size() == 1 && all(writer_.layout().position_sets[runs[0].position_set]))
    return {kv.keys.subspan(num_sinks_ * dim), kv.values.subspan(num_sinks_ * dim)};
  kept.keys.clear();
  kept.values.clear();
  for (const format::Run& run : runs) {
    const auto& ranges = writer_.layout().position_sets[run.position_set].ranges;
    append_positions(ranges, first_position_, dim, kv.keys, kept.keys);
    append_positions(ranges, first_position_, dim, kv.values, kept.values);
  }
  return {kept.keys, kept.values};
}

// What the mean and the balances of a head with several runs are for.
core::CodecPair common_codec(const std::vector<format::Run>& runs) {
  core::CodecPair common{format::kCodecF16, format::kCodecF16};
  for (const format::Run& run : runs) {
    if (format::key_codec_removes_mean(run.key_codec)) common.key = run.key_codec;
    if (run.value_codec != format::kCodecF16) common.value = run.value_codec;
  }
  return common;
}

core::HeadTransform LayerWriter::transform_of(core::CodecPair codec, std::size_t head, const HeadKv& kept,
                                              std::vector<std::uint16_t>& inherited) {
  const std::size_t num_kv_heads = shape_.num_kv_heads, plan_index = first_layer_ * num_kv_heads + head;
  if (transforms_ == nullptr) {
    const std::size_t head_means = has_means_ ? format::kMeanVectors * shape_.head_dim : 0;
    return make_transform(codec, kept.keys, kept.values, weights_, plan_index,
                          std::span(means_).subspan(head * head_means, head_means));
  }
  const core::KvPool::Transform stored = transforms_->transform(static_cast<std::uint32_t>(plan_index / num_kv_heads),
                                                                static_cast<std::uint32_t>(plan_index % num_kv_heads));
  inherited.clear();
  for (const std::span<const std::byte> vector : {stored.mean, stored.key_balance, stored.value_balance})
    for (std::size_t d = 0; d < shape_.head_dim; ++d) inherited.push_back(format::load_le16(vector.data() + 2 * d));
  const auto part = [&](std::size_t i) {
    return std::span<const std::uint16_t>(inherited).subspan(i * shape_.head_dim, shape_.head_dim);
  };
  return {part(0), part(1), part(2)};
}

Status LayerWriter::quantize_head(std::size_t head, const HeadKv& kv, Kept& buffer) {
  const std::size_t plan_index = first_layer_ * std::size_t{shape_.num_kv_heads} + head, dim = shape_.head_dim;
  const std::vector<format::Run>& runs = writer_.layout().runs[plan_index];
  const std::size_t sink_values = num_sinks_ * dim;
  std::uint16_t* sinks = sinks_.data() + head * 2 * sink_values;
  std::copy_n(kv.keys.begin(), sink_values, sinks);
  std::copy_n(kv.values.begin(), sink_values, sinks + sink_values);
  const HeadKv kept = kept_of(runs, kv, buffer);
  const core::HeadTransform transform = transform_of(common_codec(runs), head, kept, buffer.transform);
  std::size_t first = 0, offset = head_offsets_[head];
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const core::CodecPair codec{runs[i].key_codec, runs[i].value_codec};
    const std::size_t count = run_positions(runs[i]), bytes = format::run_bytes(codec.key, codec.value, dim, count);
    POLYKV_TRY(exponents_[first_runs_[head] + i],
               core::quantize_run(codec, kept.keys.subspan(first * dim, count * dim),
                                  kept.values.subspan(first * dim, count * dim), dim, transform,
                                  std::span(pages_).subspan(offset, bytes)));
    first += count;
    offset += bytes;
  }
  return {};
}

}  // namespace polykv::runtime

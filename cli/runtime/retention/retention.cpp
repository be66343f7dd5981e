#include "cli/runtime/retention/retention.h"

namespace polykv::runtime {
namespace {

// The first positions of every head, one head after another.
std::vector<std::uint16_t> first_positions(std::span<const std::uint16_t> heads, std::uint32_t num_all,
                                           std::uint32_t num_tokens, std::uint32_t head_dim) {
  std::vector<std::uint16_t> out;
  const std::size_t all = std::size_t{num_all} * head_dim, size = std::size_t{num_tokens} * head_dim;
  for (std::size_t at = 0; at < heads.size(); at += all) {
    const auto head = heads.subspan(at, size);
    out.insert(out.end(), head.begin(), head.end());
  }
  return out;
}

}  // namespace

format::KvShape Retention::shape() const {
  const ModelConfig& config = model_.config();
  return {config.num_layers, config.num_kv_heads, config.head_dim, num_tokens_};
}

void Retention::add(const LayerKv& layer, std::uint32_t num_tokens) {
  if (num_tokens == layer.num_tokens) return add(layer);
  const auto part = [&](std::span<const std::uint16_t> heads) {
    return first_positions(heads, layer.num_tokens, num_tokens, model_.config().head_dim);
  };
  const std::vector<std::uint16_t> keys = part(layer.keys), values = part(layer.values), queries = part(layer.queries);
  add({layer.layer, num_tokens, keys, values, queries});
}

void Retention::add(const LayerKv& layer) {
  num_tokens_ = layer.num_tokens;
  const RetentionLayer seen{model_.config(), layer, workers_};
  layers_.push_back(choice_.policy->score(seen));
  if (!choice_.is_joint()) return;
  const core::WeightMatrix& output = model_.weights().layers[layer.layer].attention_output;
  const std::vector<double> squares =
      drop_squares(seen, layers_.back(), output, first_sensitivity_row(num_tokens_), num_tokens_);
  drop_squares_.insert(drop_squares_.end(), squares.begin(), squares.end());
}

KeptPositions Retention::positions(std::uint32_t num_all) const {
  RetentionChoice choice = choice_;
  if (num_tokens_ != num_all) {
    choice.keep_tokens.reset();
    choice.keep_share = static_cast<double>(kept_tokens(choice_, num_all)) / num_all;
  }
  return select_positions(shape(), layers_, choice);
}

JointPlan Retention::joint_plan(const Sensitivities& sensitivities, std::uint64_t kv_bytes,
                                std::uint32_t num_all) const {
  std::vector<double> losses = drop_squares_;
  const std::size_t layer_size = losses.size() / sensitivities.stream_squares.size();
  for (std::size_t i = 0; i < losses.size(); ++i) losses[i] /= sensitivities.stream_squares[i / layer_size];
  const double share = static_cast<double>(num_tokens_) / num_all;
  return plan_jointly(shape(), {sensitivities.heads, layers_, losses},
                      static_cast<std::uint64_t>(share * static_cast<double>(kv_bytes)));
}

}  // namespace polykv::runtime

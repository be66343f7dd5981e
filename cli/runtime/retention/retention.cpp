#include "cli/runtime/retention/retention.h"

#include <algorithm>

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
  const auto policies = choice_.policies(layer.layer);
  for (std::size_t i = 0; i < policies.size(); ++i)
    if (policies[i]->score != nullptr) scores_[i].push_back(policies[i]->score({model_.config(), layer, workers_}));
}

bool Retention::needs_repetition() const {
  const auto policies = choice_.policies();
  return std::any_of(policies.begin(), policies.end(),
                     [](const RetentionPolicy* one) { return one->score == nullptr; });
}

void Retention::set_repeated(std::vector<RetentionScores> layers) {
  const auto policies = choice_.policies();
  for (std::size_t i = 0; i < policies.size(); ++i)
    if (policies[i]->score == nullptr) scores_[i] = layers;
}

KeptPositions Retention::positions(std::uint32_t num_all) const {
  RetentionChoice choice = choice_;
  if (num_tokens_ != num_all) {
    choice.keep_tokens.reset();
    choice.keep_share = static_cast<double>(kept_tokens(choice_, num_all)) / num_all;
  }
  return select_positions(shape(), scores_.front(), choice);
}

void Retention::merge(std::uint32_t layer, std::uint32_t kv_head, const format::PositionSet& kept,
                      std::span<std::uint16_t> keys, std::span<std::uint16_t> values) const {
  const std::vector<bool> is_kept = kept_flags(kept, num_tokens_);
  const auto scores =
      std::span(scores_.front()[layer].positions).subspan(std::size_t{kv_head} * num_tokens_, num_tokens_);
  choice_.policy_of(layer).merge({layer, kv_head, model_.config().head_dim, scores, is_kept, keys, values});
}

format::Result<std::vector<double>> Retention::drop_table(std::span<const ReplayedRows> rows, const HeadSource& source,
                                                          const std::function<bool(double)>& on_progress) const {
  const ModelConfig& config = model_.config();
  const std::size_t num_heads = std::size_t{config.num_layers} * config.num_kv_heads;
  const std::size_t layer_size = config.num_kv_heads * kKeptShares.size();
  std::vector<double> table(scores_.size() * num_heads * kKeptShares.size());
  for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
    if (on_progress && !on_progress(static_cast<double>(layer) / config.num_layers))
      return format::Error(format::ErrorCode::kInterrupted, "interrupted");
    std::vector<std::uint16_t> keys, values;
    for (std::uint32_t head = 0; head < config.num_kv_heads; ++head) {
      const HeadKv kv = source(layer, head, 0);
      const std::size_t size = std::size_t{num_tokens_} * config.head_dim;
      keys.insert(keys.end(), kv.keys.begin(), kv.keys.begin() + static_cast<std::ptrdiff_t>(size));
      values.insert(values.end(), kv.values.begin(), kv.values.begin() + static_cast<std::ptrdiff_t>(size));
    }
    std::vector<std::span<const float>> scores;
    for (const auto& policy : scores_) scores.push_back(policy[layer].positions);
    const DropLayer seen{config, model_.weights().layers[layer].attention_output, layer, num_tokens_, keys, values,
                         rows};
    const std::vector<double> losses = drop_losses(seen, scores, workers_);
    for (std::size_t i = 0; i < losses.size(); ++i)
      table[(i / layer_size * config.num_layers + layer) * layer_size + i % layer_size] = losses[i];
  }
  return table;
}

JointPlan Retention::joint_plan(std::span<const Sensitivity> sensitivities, std::span<const double> drop_table,
                                std::uint64_t kv_bytes, std::uint32_t num_all) const {
  const double share = static_cast<double>(num_tokens_) / num_all;
  return plan_jointly(shape(), {sensitivities, scores_, drop_table},
                      static_cast<std::uint64_t>(share * static_cast<double>(kv_bytes)));
}

}  // namespace polykv::runtime

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

void Retention::add(const LayerKv& layer, std::uint32_t num_tokens) {
  num_tokens_ = num_tokens;
  if (num_tokens == layer.num_tokens) {
    layers_.push_back(choice_.policy->score({config_, layer, workers_}));
    return;
  }
  const auto part = [&](std::span<const std::uint16_t> heads) {
    return first_positions(heads, layer.num_tokens, num_tokens, config_.head_dim);
  };
  const std::vector<std::uint16_t> keys = part(layer.keys), values = part(layer.values), queries = part(layer.queries);
  const LayerKv first{layer.layer, num_tokens, keys, values, queries};
  layers_.push_back(choice_.policy->score({config_, first, workers_}));
}

KeptPositions Retention::positions(std::uint32_t num_all) const {
  RetentionChoice choice = choice_;
  if (num_tokens_ != num_all) {
    choice.keep_tokens.reset();
    choice.keep_share = static_cast<double>(kept_tokens(choice_, num_all)) / num_all;
  }
  return select_positions({config_.num_layers, config_.num_kv_heads, config_.head_dim, num_tokens_}, layers_, choice);
}

}  // namespace polykv::runtime

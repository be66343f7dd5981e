#include "cli/runtime/retention/tail_retention.h"

#include <algorithm>

#include "cli/runtime/retention/layer_budgets.h"
#include "core/float16.h"
#include "format/shape.h"

namespace polykv::runtime {
namespace {

// Of a plan those of Eq. 6 of arXiv 2606.15157; of one policy the same for all layers: its own rule for sharing goes by
// a whole text.
std::vector<std::uint32_t> budgets_of(const RetentionChoice& choice, std::uint32_t num_layers) {
  const std::uint32_t keep = *choice.keep_tokens;
  if (!choice.by_layer) return std::vector(num_layers, keep);
  return share_out(std::uint64_t{keep} * num_layers, choice.by_layer->weights, std::min(keep, choice.by_layer->floor),
                   UINT32_MAX);
}

}  // namespace

TailRetention::TailRetention(const ModelConfig& config, const RetentionChoice& choice)
    : config_(config), queries_(config.num_layers) {
  const std::vector<std::uint32_t> budgets = budgets_of(choice, config.num_layers);
  for (std::uint32_t layer = 0; layer < config.num_layers; ++layer)
    choices_.push_back(choice_of_layer(choice, layer, budgets[layer]));
}

void TailRetention::add(std::uint32_t layer, std::span<const float> queries) {
  if (!choices_[layer].needs_queries()) return;
  std::vector<float>& rows = queries_[layer];
  rows.insert(rows.end(), queries.begin(), queries.end());
  const std::size_t most = std::size_t{kEvery} * config_.num_q_heads * config_.head_dim;
  if (rows.size() > most) rows.erase(rows.begin(), rows.end() - static_cast<std::ptrdiff_t>(most));
}

void TailRetention::apply(core::Tail& tail, core::Workers& workers) {
  for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer) apply(layer, tail, workers);
}

void TailRetention::apply(std::uint32_t layer, core::Tail& tail, core::Workers& workers) {
  if (tail.num_seen() % kEvery != 0 || tail.num_tokens(layer) <= *choices_[layer].keep_tokens) return;
  const std::vector<std::uint32_t> slots = slots_of_layer(layer, tail, workers);
  tail.keep(layer, slots, static_cast<std::uint32_t>(slots.size() / config_.num_kv_heads));
}

std::vector<std::uint32_t> TailRetention::slots_of_layer(std::uint32_t layer, const core::Tail& tail,
                                                         core::Workers& workers) const {
  const std::size_t dim = config_.head_dim;
  const std::uint32_t num_tokens = tail.num_tokens(layer);
  const RetentionPolicy& policy = choices_[layer].policy_of(0);
  std::vector<std::uint16_t> keys, values, queries;
  for (std::uint32_t head = 0; head < config_.num_kv_heads; ++head) tail.copy_head(layer, head, keys, values);
  if (policy.needs_queries) {  // of the last rows; the policy looks at no others
    const std::size_t row_size = config_.num_q_heads * dim, num_rows = queries_[layer].size() / row_size;
    queries.resize(row_size * num_tokens);
    for (std::size_t row = 0; row < num_rows; ++row)
      for (std::size_t i = 0; i < row_size; ++i)
        queries[(i / dim * num_tokens + num_tokens - num_rows + row) * dim + i % dim] =
            core::float_to_float16(queries_[layer][row * row_size + i]);
  }
  const RetentionScores scores = policy.score({config_, {layer, num_tokens, keys, values, queries}, workers});
  const KeptPositions kept =
      select_positions({1, config_.num_kv_heads, config_.head_dim, num_tokens}, {&scores, 1}, choices_[layer]);
  std::vector<std::uint32_t> slots;
  for (const format::PositionSet& of_head : kept) {
    for (std::uint32_t t = 0; t < std::min(num_tokens, format::kNumSinks); ++t) slots.push_back(t);
    for (const format::PositionRange range : of_head.ranges)
      for (std::uint32_t t = range.begin; t < range.end; ++t) slots.push_back(t);
  }
  return slots;
}

}  // namespace polykv::runtime

// Retention policies: which positions of a document are worth keeping, told from what the prefill made of it.
//
// A policy scores every position of every (layer, kv_head); what has the higher score is kept. How many, and how they
// are shared out among heads, is not a policy's business (selection.h). One row of the table each; a file a family.
// Formulas and defaults: `spec/retention.md`.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "cli/runtime/model_runner.h"
#include "cli/runtime/retention/layer_budgets.h"
#include "cli/runtime/weights/model_config.h"
#include "core/workers.h"

namespace polykv::runtime {

// What a policy sees: one layer of the document.
struct RetentionLayer {
  const ModelConfig& config;
  const LayerKv& kv;
  core::Workers& workers;

  std::size_t num_tokens() const { return kv.num_tokens; }
};

struct RetentionScores {
  std::vector<float> positions;  // [kv_head][num_tokens]; finite
  // What the policy's share_budget takes for the layer's weight: finite, not negative.
  double layer_weight = 1.0;
};

// One head of which some positions are dropped: what a policy may still save of them.
struct MergedHead {
  std::uint32_t layer, kv_head;
  std::size_t head_dim;
  std::span<const float> scores;  // [num_tokens], as the policy made them; later positions are not the policy's
  const std::vector<bool>& kept;  // [num_tokens]
  // float16 [num_tokens or more][head_dim]. Those of kept positions may be changed; the sinks' stay as they are.
  std::span<std::uint16_t> keys, values;
};

enum class PolicyKind : std::uint8_t {
  kAgnostic,  // goes by what any later question would need: safe for questions to come
  kAware,     // goes by the attention of the document's own tokens, most of them by that of its last ones, which in
              // their papers are the question
  kControl,   // what others must beat
};

struct RetentionPolicy {
  const char* name;         // as it is typed: "snapkv"
  std::string_view source;  // where the formula is from
  PolicyKind kind;
  bool is_reconstruction = false;  // parts of the formula are ours, for want of a source
  bool needs_queries = false;      // RetentionLayer::kv has them then
  std::uint32_t window = 0;        // the document's last positions that are kept whatever their scores
  double recent_share = 0.0;       // of a head's budget: goes to the document's last positions, whatever their scores
  RetentionScores (*score)(const RetentionLayer& layer);  // null: needs all layers at once (kvzip.h)
  // Of a tail, whose earlier rows are gone: how many of the last its scores look at. Empty: more, or all layers at
  // once.
  std::optional<std::uint32_t> tail_rows = {};
  bool is_global = false;                // positions of all layers and heads compete for one budget
  ShareBudget share_budget = share_out;  // among layers
  // Before the kept positions are quantized; null: what is dropped is lost.
  void (*merge)(const MergedHead& head) = nullptr;
};

std::span<const RetentionPolicy> retention_policies();
const RetentionPolicy* find_retention_policy(std::string_view name);  // null: there is none

// The policies' own, by file.
RetentionScores score_streaming_llm(const RetentionLayer& layer);
RetentionScores score_random(const RetentionLayer& layer);
RetentionScores score_knorm(const RetentionLayer& layer);
RetentionScores score_keydiff(const RetentionLayer& layer);
RetentionScores score_observed(const RetentionLayer& layer);
RetentionScores score_h2o(const RetentionLayer& layer);
RetentionScores score_tova(const RetentionLayer& layer);
RetentionScores score_snapkv(const RetentionLayer& layer);
RetentionScores score_pyramidkv(const RetentionLayer& layer);
RetentionScores score_scissorhands(const RetentionLayer& layer);
RetentionScores score_cake(const RetentionLayer& layer);
RetentionScores score_d2o(const RetentionLayer& layer);
RetentionScores score_expected_attention(const RetentionLayer& layer);
RetentionScores score_compactor(const RetentionLayer& layer);
RetentionScores score_lagkv(const RetentionLayer& layer);
RetentionScores score_fullkv(const RetentionLayer& layer);
void merge_d2o(const MergedHead& head);
void merge_cam(const MergedHead& head);

}  // namespace polykv::runtime

// Retention policies: which positions of a document are worth keeping, told from what the prefill made of it.
//
// A policy scores every position of every (layer, kv_head); what has the higher score is kept. How many, and how they
// are shared out among heads, is not a policy's business (selection.h). One file and one row of the table each.
// Formulas and defaults: `spec/retention.md`.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "cli/runtime/model_runner.h"
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
  // The layer's share of the budget, relative to other layers'.
  double layer_weight = 1.0;
};

enum class PolicyKind : std::uint8_t {
  kAgnostic,  // asks no question of the document: safe for questions to come
  kAware,     // goes by what the document's last tokens attend to; made for a prompt that ends with its question
  kControl,   // what others must beat
};

struct RetentionPolicy {
  const char* name;         // as it is typed: "snapkv"
  std::string_view source;  // where the formula is from; a reconstruction says so
  PolicyKind kind;
  bool needs_queries;    // RetentionLayer::kv has them then
  std::uint32_t window;  // the document's last positions that are kept whatever their scores
  RetentionScores (*score)(const RetentionLayer& layer);
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

}  // namespace polykv::runtime

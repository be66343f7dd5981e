// From scores to positions: how many each (layer, kv_head) keeps, and which.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/codec_plan.h"
#include "cli/runtime/retention/policy.h"
#include "format/shape.h"
#include "format/status.h"

namespace polykv::runtime {

// A policy for each layer, as a plan has it (layer_plan.h).
struct LayerPolicies {
  std::string name;  // for the identity
  std::vector<const RetentionPolicy*> policies;
  std::vector<double> weights;  // of what is above `floor`, a layer gets its share by them
  std::uint32_t floor;          // positions; no policy's sinks and window are more
};

// What a build was asked for: `--retain snapkv+ada --keep 25%`.
struct RetentionChoice {
  const RetentionPolicy* policy = nullptr;
  std::optional<LayerPolicies> by_layer = {};  // instead of one policy
  bool is_auto = false;                        // each head by the policy that loses least (joint_plan.h)
  // Of a layer's budget each head has a fifth of its share for sure; the rest goes to the layer's best scores (AdaKV,
  // arXiv 2407.11550).
  bool by_head = false;
  bool by_chunk = false;  // whole chunks of 20 positions, by their mean score (ChunkKV)
  // Positions of a (layer, kv_head) on average, the sinks among them: one of the two, or neither, when positions and
  // bits are chosen together (joint_plan.h).
  std::optional<std::uint32_t> keep_tokens = {};
  std::optional<double> keep_share = {};  // 0 to 1

  bool keeps_all() const { return !is_auto && !by_layer && (policy == nullptr || policy->score == score_fullkv); }
  bool is_joint() const { return is_auto || (!keeps_all() && !keep_tokens && !keep_share); }
  // Whose scores of a layer are wanted: as many in every layer.
  std::vector<const RetentionPolicy*> policies(std::uint32_t layer = 0) const;
  // The one of them, where it is not `auto`'s to choose.
  const RetentionPolicy& policy_of(std::uint32_t layer) const {
    return by_layer ? *by_layer->policies[layer] : *policy;
  }
  bool needs_queries() const;
};

// "snapkv", "snapkv+ada", "snapkv+chunk", "snapkv+ada+chunk", "auto". Empty: no such policy, or no such modifier.
std::optional<RetentionChoice> parse_retention(std::string_view name);
// "256", "25%". Writes one of the two; false: it is neither.
bool parse_keep(std::string_view text, RetentionChoice& choice);

// In words for the identity: "snapkv+ada 25%", "h2o 256 tokens", "h2o with bits", "plan 0a1b2c3d
// 25%".
std::string retention_name(const RetentionChoice& choice);

// A head's positions as flags, [num_tokens], the sinks among them; later positions of `kept` are left out.
std::vector<bool> kept_flags(const format::PositionSet& kept, std::uint32_t num_tokens);

// Positions of a head on average, of a document of so many: at least what is kept in any case.
std::uint32_t kept_tokens(const RetentionChoice& choice, std::uint32_t num_tokens);

// A layer's part of `choice`, for a shape of this layer alone, of which a head keeps `budget` positions on average.
RetentionChoice choice_of_layer(const RetentionChoice& choice, std::uint32_t layer, std::uint32_t budget);

// `layers` as a policy scored them, one each. A position of a higher score goes first, of equal ones the later.
KeptPositions select_positions(const format::KvShape& shape, std::span<const RetentionScores> layers,
                               const RetentionChoice& choice);

}  // namespace polykv::runtime

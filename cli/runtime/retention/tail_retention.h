// What an agent's own growing tail keeps, in long sessions: the decode phase of a retention policy. The pool before it
// is never touched, and kept positions stay what they are (RoPE positions are those of the session).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/retention/selection.h"
#include "cli/runtime/weights/model_config.h"
#include "core/tail.h"
#include "core/workers.h"

namespace polykv::runtime {

class TailRetention {
 public:
  // `choice`: of a policy that RetentionPolicy::tail_rows says can do it, with keep_tokens. config must outlive this.
  TailRetention(const ModelConfig& config, const RetentionChoice& choice);

  // A tail is looked at each time that it has seen a multiple of so many positions, whatever the steps that fed it: an
  // agent's answer must not depend on others. No step may go across one.
  static constexpr std::uint32_t kEvery = 64;
  static std::uint32_t rows_until_next(const core::Tail& tail) { return kEvery - tail.num_seen() % kEvery; }

  // One layer's queries of the rows of a step, [num_rows][num_q_heads][head_dim] after RoPE, in the tail's order.
  void add(std::uint32_t layer, std::span<const float> queries);

  // After each step. Drops positions if the tail holds more than keep_tokens at such a place.
  void apply(core::Tail& tail, core::Workers& workers);

 private:
  std::vector<std::uint32_t> slots_of_layer(std::uint32_t layer, const core::Tail& tail, core::Workers& workers) const;

  const ModelConfig& config_;
  RetentionChoice choice_;
  std::uint32_t keep_;
  std::vector<std::vector<float>> queries_;  // [layer] of the last rows, at most kEvery: [row][num_q_heads][head_dim]
};

}  // namespace polykv::runtime

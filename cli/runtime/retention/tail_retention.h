// What an agent's own growing tail keeps, in long sessions: the decode phase of a retention policy, or of a plan that
// gives each layer its own. The pool before it is never touched, and kept positions stay what they are (RoPE positions
// are those of the session).
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
  // `choice`: of policies that RetentionPolicy::tail_rows says can do it, with keep_tokens: of a head, on average over
  // layers. config must outlive this.
  TailRetention(const ModelConfig& config, const RetentionChoice& choice);

  // A tail is looked at each time that it has seen a multiple of so many positions, whatever the steps that fed it: an
  // agent's answer must not depend on others. No step may go across one.
  static constexpr std::uint32_t kEvery = 64;
  static std::uint32_t rows_until_next(const core::Tail& tail) { return kEvery - tail.num_seen() % kEvery; }

  // One layer's queries of the rows of a step, [num_rows][num_q_heads][head_dim] after RoPE, in the tail's order.
  void add(std::uint32_t layer, std::span<const float> queries);

  // After each step. At such a place, layers that hold more than their budget drop what is above it.
  void apply(core::Tail& tail, core::Workers& workers);
  void apply(std::uint32_t layer, core::Tail& tail, core::Workers& workers);  // the same in one layer

 private:
  std::vector<std::uint32_t> slots_of_layer(std::uint32_t layer, const core::Tail& tail, core::Workers& workers) const;

  const ModelConfig& config_;
  std::vector<RetentionChoice> choices_;     // [layer] of one layer, with its budget
  std::vector<std::vector<float>> queries_;  // [layer] of the last rows, at most kEvery: [row][num_q_heads][head_dim]
};

}  // namespace polykv::runtime

// The step runner: a few rows at a time, weights used in place from the mapped file, attention straight on the pools'
// pages.
//
// What question and answer run on. A row's logits depend on nothing but the row: not on the rows beside it (other
// agents, other question tokens), the number of threads or the process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cli/runtime/weights/model_file.h"
#include "core/attend.h"
#include "core/pool.h"
#include "core/tail.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

inline constexpr std::size_t kMaxStepRows = 64;

// What one agent feeds in a step: tokens that follow its tail, which they join.
struct AgentStep {
  core::Tail* tail;
  std::span<const std::uint32_t> tokens;
  // What the rows see of each pool of the chain, same for all of them. The tail's first position is the end of the last
  // range: an agent that sees everything() stands after the chain, another may stand inside the document.
  std::span<const core::PositionRange> visible;
  // Logits of the last so many tokens: out [num_logits][vocab_size]. 0 and null: none wanted.
  std::size_t num_logits;
  float* logits;
};

// A part of a step: layers [first, end) of it. Parts that follow each other make the same bits as the whole step.
struct StepPart {
  std::uint32_t first_layer, end_layer;  // as many as the model has: logits too
  // [rows][hidden_size] of all agents, in their order. In: what comes into first_layer; not read where that is 0, which
  // begins with the tokens. Out: what leaves the last of the layers.
  std::span<float> stream;
};

// What a step computed in one layer, for who measures it. Views that live during the call.
struct StepLayer {
  std::uint32_t layer;
  std::size_t num_rows;                  // of all agents, in their order
  std::span<const float> query;          // [num_rows][num_q_heads][head_dim], after RoPE
  std::span<const float> mixed;          // [num_rows][num_q_heads][head_dim], the weighted sums of values
  std::span<const float> hidden;         // [num_rows][hidden_size], the residual stream with attention added
  std::span<const float> log_sums = {};  // [num_rows][num_q_heads], of the softmax (core/attend.h)
};

class StepRunner {
 public:
  // The model, the pools and the workers must outlive the runner. `chain` is base first; empty: tails alone.
  StepRunner(const ModelFile& model, std::vector<const core::KvPool*> chain, core::Workers& workers);
  ~StepRunner();
  StepRunner(const StepRunner&) = delete;
  StepRunner& operator=(const StepRunner&) = delete;

  // Positions of a partial softmax of the attention, 512 or fewer: what the order of summing is worth.
  void set_partial_positions(std::uint32_t num_positions);

  // All agents' tokens go through together; kMaxStepRows at most in all. Tails must differ from each other. Errors:
  // kBadChecksum (a chunk touched for the first time);
  // the tails are then as before.
  format::Status step(std::span<const AgentStep> agents);

  // The same of some layers alone. Tails grow as in a whole step, but only in these layers, so parts of one step need
  // tails of their own.
  format::Status step(std::span<const AgentStep> agents, const StepPart& part);

  // Called after every layer's attention, between two runs of the workers, until it is set to another (or to nothing).
  void observe(std::function<void(const StepLayer&)> observer);

  // Position of a tail's first token.
  std::uint32_t chain_end() const;
  // A range per pool that covers all of it.
  std::span<const core::PositionRange> everything() const;

  // An empty tail of the model's shape.
  core::Tail make_tail(std::uint32_t capacity) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polykv::runtime

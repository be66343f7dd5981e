// The same tokens given the uncompressed cache and given the compressed one, side by side.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/step_runner.h"
#include "core/pool.h"
#include "core/tail.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

class PairRunner {
 public:
  // Two views of one document's positions. All must outlive the runner.
  PairRunner(const ModelFile& model, const core::KvPool& reference, const core::KvPool& compressed,
             core::Workers& workers);

  // Tokens that follow the document's first `position` ones, which are all that they see of it.
  struct Agent {
    core::PositionRange visible;
    core::Tail reference_tail, compressed_tail;
  };
  Agent make_agent(std::uint32_t position, std::uint32_t max_tokens) const;

  // At most kMaxStepRows tokens in all.
  struct Step {
    Agent* agent;
    std::span<const std::uint32_t> tokens;
    std::size_t num_logits;  // of the last so many tokens
  };
  format::Status step(std::span<const Step> steps);

  // Of the last step's rows whose logits were wanted, in order: [rows][vocab_size].
  std::span<const float> reference() const { return reference_logits_; }
  std::span<const float> compressed() const { return compressed_logits_; }

 private:
  format::Status step(std::span<const Step> steps, core::Tail Agent::*tail, StepRunner& runner,
                      std::vector<float>& logits);

  std::size_t vocab_size_;
  StepRunner reference_, compressed_;
  std::vector<float> reference_logits_, compressed_logits_;
};

}  // namespace polykv::runtime

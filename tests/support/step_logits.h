// A document through the step runner, without a pool: every token goes into one tail.
#pragma once

#include <algorithm>

#include "cli/runtime/step_runner.h"
#include "tests/support/golden_logits.h"

namespace polykv::tests {

// Logits [tokens.size()][vocab_size] of all positions, `block` tokens a step.
inline std::vector<float> step_logits(const runtime::ModelFile& model, std::span<const std::uint32_t> tokens,
                                      std::size_t block, core::Workers& workers) {
  runtime::StepRunner runner(model, {}, workers);
  core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(tokens.size()));
  const std::size_t vocab = model.config().vocab_size;
  std::vector<float> logits(tokens.size() * vocab);
  for (std::size_t at = 0; at < tokens.size(); at += block) {
    const auto rows = tokens.subspan(at, std::min(block, tokens.size() - at));
    const runtime::AgentStep step{&tail, rows, {}, rows.size(), &logits[at * vocab]};
    REQUIRE(runner.step({&step, 1}));
  }
  return logits;
}

// The rows of the golden positions.
inline std::vector<float> rows_of(const GoldenLogits& golden, std::span<const float> logits, std::size_t vocab_size) {
  std::vector<float> rows;
  for (const GoldenLogits::Top& top : golden.top) {
    const auto row = logits.subspan(top.position * vocab_size, vocab_size);
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return rows;
}

// Greedy continuation, one token a step.
inline std::vector<std::uint32_t> greedy_tokens(const runtime::ModelFile& model, std::span<const std::uint32_t> tokens,
                                                std::size_t count, core::Workers& workers) {
  runtime::StepRunner runner(model, {}, workers);
  core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(tokens.size() + count));
  std::vector<float> logits(model.config().vocab_size);
  std::vector<std::uint32_t> result;
  std::vector<std::uint32_t> next(tokens.begin(), tokens.end());
  while (result.size() < count) {
    for (std::size_t at = 0; at < next.size(); at += runtime::kMaxStepRows) {
      const auto rows = std::span(next).subspan(at, std::min(runtime::kMaxStepRows, next.size() - at));
      const runtime::AgentStep step{&tail, rows, {}, 1, logits.data()};
      REQUIRE(runner.step({&step, 1}));
    }
    result.push_back(static_cast<std::uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    next.assign(1, result.back());
  }
  return result;
}

}  // namespace polykv::tests

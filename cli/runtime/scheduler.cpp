#include "cli/runtime/scheduler.h"

#include <algorithm>

namespace polykv::runtime {

format::Status Scheduler::step(std::span<Agent* const> agents) {
  steps_.clear();
  samplers_.clear();
  std::size_t rows_left = kMaxStepRows - agents.size();
  for (Agent* agent : agents) {
    const std::span<const TokenId> unfed = agent->unfed();
    const std::size_t more = std::min({rows_left, unfed.size() - 1, agent->most_rows() - 1});
    rows_left -= more;
    const bool samples = 1 + more == unfed.size();
    if (samples) samplers_.push_back(agent);
    steps_.push_back({&agent->tail(), unfed.first(1 + more), runner_.everything(), samples ? std::size_t{1} : 0, {}});
  }
  logits_.resize(samplers_.size() * vocab_size_);
  float* next_logits = logits_.data();
  for (AgentStep& step : steps_) {
    if (step.num_logits == 0) continue;
    step.logits = next_logits;
    next_logits += vocab_size_;
  }
  if (std::any_of(agents.begin(), agents.end(), [](const Agent* agent) { return agent->watches(); }))
    runner_.observe([&](const StepLayer& layer) { show(layer, agents); });
  const format::Status status = runner_.step(steps_);
  runner_.observe({});
  if (!status) return status;
  workers_.run(samplers_.size(), [this](std::size_t i, std::size_t) {
    samplers_[i]->sample(std::span(logits_).subspan(i * vocab_size_, vocab_size_));
  });
  for (std::size_t i = 0; i < agents.size(); ++i) agents[i]->advance(steps_[i].tokens.size());
  for (Agent* agent : agents) agent->trim(workers_);
  return {};
}

// Rows are agent after agent.
void Scheduler::show(const StepLayer& layer, std::span<Agent* const> agents) const {
  const std::size_t row_size = layer.query.size() / layer.num_rows;
  std::size_t row = 0;
  for (std::size_t i = 0; i < agents.size(); ++i) {
    const std::size_t num_rows = steps_[i].tokens.size();
    if (agents[i]->watches()) agents[i]->see(layer.layer, layer.query.subspan(row * row_size, num_rows * row_size));
    row += num_rows;
  }
}

}  // namespace polykv::runtime

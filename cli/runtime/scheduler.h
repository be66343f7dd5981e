// Many agents on one model and one chain of pools: their tokens go through the step runner together.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "cli/runtime/agent.h"
#include "cli/runtime/step_runner.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

inline constexpr std::size_t kMaxAgents = kMaxStepRows;  // each feeds a row in every step

class Scheduler {
 public:
  // Runner and workers must outlive the scheduler; the runner works on the same workers.
  Scheduler(StepRunner& runner, core::Workers& workers, std::size_t vocab_size)
      : runner_(runner), workers_(workers), vocab_size_(vocab_size) {}

  // One step of agents that are not finished, at most kMaxAgents, oldest first. Every agent feeds a row, so that one
  // that answers goes on while another's long question is fed; the rows that are left go to questions, oldest first. An
  // agent's answer does not depend on the others. Errors: those of StepRunner::step; the agents are then as before.
  format::Status step(std::span<Agent* const> agents);

 private:
  void show(const StepLayer& layer, std::span<Agent* const> agents) const;

  StepRunner& runner_;
  core::Workers& workers_;
  std::size_t vocab_size_;
  std::vector<AgentStep> steps_;  // an agent each
  std::vector<Agent*> samplers_;  // agents that get a token from this step
  std::vector<float> logits_;     // [samplers][vocab_size]
};

}  // namespace polykv::runtime

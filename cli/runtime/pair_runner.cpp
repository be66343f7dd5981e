#include "cli/runtime/pair_runner.h"

namespace polykv::runtime {

PairRunner::PairRunner(const ModelFile& model, const core::KvPool& reference, const core::KvPool& compressed,
                       core::Workers& workers)
    : vocab_size_(model.config().vocab_size),
      reference_(model, {&reference}, workers),
      compressed_(model, {&compressed}, workers) {}

PairRunner::Agent PairRunner::make_agent(std::uint32_t position, std::uint32_t max_tokens) const {
  return {{0, position}, reference_.make_tail(max_tokens), compressed_.make_tail(max_tokens)};
}

format::Status PairRunner::step(std::span<const Step> steps) {
  POLYKV_CHECK_STATUS(step(steps, &Agent::reference_tail, reference_, reference_logits_));
  return step(steps, &Agent::compressed_tail, compressed_, compressed_logits_);
}

format::Status PairRunner::step(std::span<const Step> steps, core::Tail Agent::*tail, StepRunner& runner,
                                std::vector<float>& logits) {
  std::size_t num_logits = 0;
  for (const Step& one : steps) num_logits += one.num_logits;
  logits.resize(num_logits * vocab_size_);
  float* next = logits.data();
  std::vector<AgentStep> agents;
  for (const Step& one : steps) {
    agents.push_back({&(one.agent->*tail), one.tokens, {&one.agent->visible, 1}, one.num_logits, next});
    next += one.num_logits * vocab_size_;
  }
  return runner.step(agents);
}

}  // namespace polykv::runtime

#include <algorithm>

#include "cli/runtime/probe_run.h"

namespace polykv::runtime {

using format::Status;

namespace {

// Enough for the floor, and a row of a step of 32 takes little longer than one of 64 (with 8 rows a fifth longer).
constexpr std::uint32_t kFirstPositions = kFloorPositions;
constexpr std::uint32_t kFewestMore = 16;

}  // namespace

format::Result<double> TailProbe::begin() {
  const auto num_tokens = static_cast<std::uint32_t>(run_.request.tokens.size());
  const std::uint32_t begin = tail_begin(num_tokens);
  const std::uint32_t count = std::min(num_tokens - begin, run_.request.counts.tail_positions);
  if (count == 0) return 0.0;
  // The token before them predicts the first.
  const auto tokens = run_.request.tokens.subspan(begin - 1, count + 1);
  sequence_.emplace_back(run_.runner.make_agent(begin - 1, count), std::vector(tokens.begin(), tokens.end()), 1);
  const double start = run_.now_ms();
  POLYKV_CHECK_STATUS(run_.score(sequence_, kFirstPositions, meter_));
  const double position_ms = (run_.now_ms() - start) / static_cast<double>(meter_.positions().size());
  POLYKV_CHECK_STATUS(measure_floor(std::min<std::size_t>(kFloorPositions, meter_.positions().size())));
  return position_ms;
}

// The first positions again, from the reference's logits of the step just made.
Status TailProbe::measure_floor(std::size_t num_positions) {
  const ProbeSequence& tail = sequence_.front();
  StepRunner other(run_.request.model.file, {&run_.request.reference}, run_.workers);
  other.set_partial_positions(kFloorPartialPositions);
  core::Tail own = other.make_tail(static_cast<std::uint32_t>(num_positions));
  std::vector<float> logits(num_positions * run_.vocab_size);
  const AgentStep step{
      &own, std::span(tail.tokens).first(num_positions), {&tail.agent.visible, 1}, num_positions, logits.data()};
  POLYKV_CHECK_STATUS(other.step({&step, 1}));
  DivergenceMeter meter;
  meter.add(run_.runner.reference().first(logits.size()), logits, std::span(tail.tokens).subspan(1, num_positions),
            run_.workers);
  fidelity_.floor_kld_mean = meter.summary().kld_mean;
  return {};
}

Status TailProbe::go_on(double position_ms) {
  if (sequence_.empty()) return {};
  const auto left = static_cast<double>(sequence_.front().tokens.size() - 1 - sequence_.front().num_fed);
  const double more = std::min(left, run_.left_ms() / position_ms);
  if (more >= std::min<double>(left, kFewestMore)) {
    POLYKV_CHECK_STATUS(run_.score(sequence_, static_cast<std::size_t>(std::max(0.0, more)), meter_));
  }
  fidelity_.tail = meter_.summary();
  for (const DivergenceMeter::Position& position : meter_.positions()) fidelity_.tail_klds.push_back(position.kld);
  fidelity_.counts.tail_positions = fidelity_.tail.positions;
  return {};
}

}  // namespace polykv::runtime

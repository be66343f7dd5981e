// What the probes share: two runners, a clock, and sequences of tokens to be scored. Internal to probe*.cpp.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/divergence.h"
#include "cli/runtime/pair_runner.h"
#include "cli/runtime/probes.h"

namespace polykv::runtime {

// Rows of a scoring step. A row of a step of 64 takes as long (5.4 ms against 5.5 on one core, uncompressed), and
// logits of 64 rows from both caches are 25 MB with a vocabulary of 49,152.
inline constexpr std::size_t kScoredRows = 32;

// Known tokens to be scored one by one: each after all before it.
struct ProbeSequence {
  ProbeSequence(PairRunner::Agent agent_, std::vector<std::uint32_t> tokens_, std::size_t first_scored_)
      : agent(std::move(agent_)), tokens(std::move(tokens_)), first_scored(first_scored_) {}

  PairRunner::Agent agent;
  std::vector<std::uint32_t> tokens;
  std::size_t first_scored;  // at least 1
  std::size_t num_fed = 0;
  // Of the scored tokens: how many, and how many were ranked first.
  std::uint32_t num_scored = 0, hits = 0, reference_hits = 0;
};

struct ProbeRun {
  const ProbeRequest& request;
  core::Workers& workers;
  PairRunner runner;
  std::size_t vocab_size;
  double start_ms;
  double rows_done = 0.0, rows_wanted = 0.0;  // for progress

  ProbeRun(const ProbeRequest& request_, const core::KvPool& compressed, core::Workers& workers_);

  double now_ms() const;
  double left_ms() const { return request.limit_ms - (now_ms() - start_ms); }

  // A step of both runners, with progress before it.
  format::Status step(std::span<const PairRunner::Step> steps);

  // Scores the sequences' tokens but the first `first_scored`, in steps of kScoredRows, up to `max_rows` of them
  // together.
  format::Status score(std::span<ProbeSequence> sequences, std::size_t max_rows, DivergenceMeter& meter);
};

std::size_t top_token(std::span<const float> logits);

// The probes; each leaves out of `fidelity` what there is no time or no text for.
class TailProbe {
 public:
  TailProbe(ProbeRun& run, Fidelity& fidelity) : run_(run), fidelity_(fidelity) {}
  // The first positions, and the floor; milliseconds that a position takes, 0 if there is none.
  format::Result<double> begin();
  // As many more as the time allows.
  format::Status go_on(double position_ms);

 private:
  format::Status measure_floor(std::size_t num_positions);

  ProbeRun& run_;
  Fidelity& fidelity_;
  std::vector<ProbeSequence> sequence_;  // one, or none
  DivergenceMeter meter_;
};
format::Status probe_answers(ProbeRun& run, double position_ms, Fidelity& fidelity);
format::Status probe_recall(ProbeRun& run, double position_ms, Fidelity& fidelity);

}  // namespace polykv::runtime

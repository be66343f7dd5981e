#include "cli/runtime/probes.h"

#include <algorithm>

#include "cli/runtime/probe_run.h"

namespace polykv::runtime {

using format::Status;

std::uint32_t tail_begin(std::uint32_t num_tokens) {
  return num_tokens - std::min(ProbeCounts().tail_positions, num_tokens / 4);
}

std::size_t top_token(std::span<const float> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

ProbeRun::ProbeRun(const ProbeRequest& request_, const core::KvPool& compressed, core::Workers& workers_)
    : request(request_),
      workers(workers_),
      runner(request_.model.file, request_.reference, compressed, workers_),
      vocab_size(request_.model.config().vocab_size),
      start_ms(now_ms()) {}

double ProbeRun::now_ms() const {
  if (request.now_ms) return request.now_ms();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Status ProbeRun::step(std::span<const PairRunner::Step> steps) {
  const double share = rows_wanted > 0.0 ? std::min(1.0, rows_done / rows_wanted) : 0.0;
  if (request.on_progress && !request.on_progress(share)) {
    return format::Error(format::ErrorCode::kInterrupted, "interrupted");
  }
  for (const PairRunner::Step& one : steps) rows_done += static_cast<double>(one.tokens.size());
  return runner.step(steps);
}

Status ProbeRun::score(std::span<ProbeSequence> sequences, std::size_t max_rows, DivergenceMeter& meter) {
  // The last token of a sequence is predicted, not fed.
  const auto unfed = [](const ProbeSequence& sequence) { return sequence.tokens.size() - 1 - sequence.num_fed; };
  while (max_rows > 0) {
    const auto num_left = static_cast<std::size_t>(
        std::count_if(sequences.begin(), sequences.end(), [&](const ProbeSequence& s) { return unfed(s) > 0; }));
    if (num_left == 0) break;
    const std::size_t each = std::max<std::size_t>(1, std::min(max_rows, kScoredRows) / num_left);
    std::vector<PairRunner::Step> steps;
    std::vector<std::uint32_t> targets;
    std::vector<ProbeSequence*> owners;  // of the targets
    for (ProbeSequence& sequence : sequences) {
      const std::size_t count = std::min(each, unfed(sequence)), end = sequence.num_fed + count;
      if (count == 0) continue;
      const std::size_t first = std::clamp(sequence.first_scored, sequence.num_fed + 1, end + 1);
      steps.push_back({&sequence.agent, std::span(sequence.tokens).subspan(sequence.num_fed, count), end + 1 - first});
      for (std::size_t i = first; i <= end; ++i) {
        targets.push_back(sequence.tokens[i]);
        owners.push_back(&sequence);
      }
      sequence.num_fed = end;
      max_rows -= std::min(max_rows, count);
    }
    POLYKV_CHECK_STATUS(step(steps));
    meter.add(runner.reference(), runner.compressed(), targets, workers);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      ++owners[i]->num_scored;
      const std::size_t first = i * vocab_size;
      owners[i]->reference_hits += top_token(runner.reference().subspan(first, vocab_size)) == targets[i];
      owners[i]->hits += top_token(runner.compressed().subspan(first, vocab_size)) == targets[i];
    }
  }
  return {};
}

format::Result<Fidelity> run_probes(const ProbeRequest& request, core::Workers& workers) {
  ProbeRun run(request, request.compressed, workers);
  ProbeRun tail_run(request, request.twin != nullptr ? *request.twin : request.compressed, workers);
  // For progress alone, so a question's tokens need not be known.
  const ProbeCounts& counts = request.counts;
  run.rows_wanted = counts.tail_positions + 3.0 * counts.passage_tokens + 3.0 * (counts.answer_tokens + 20.0);
  tail_run.rows_wanted = run.rows_wanted;
  Fidelity fidelity;
  fidelity.has_twin = request.twin != nullptr;
  TailProbe tail(tail_run, fidelity);
  POLYKV_TRY(const double position_ms, tail.begin());
  POLYKV_CHECK_STATUS(probe_recall(run, position_ms, fidelity));
  POLYKV_CHECK_STATUS(probe_answers(run, position_ms, fidelity));
  POLYKV_CHECK_STATUS(tail.go_on(position_ms));
  return fidelity;
}

format::Result<Divergence> probe_text(const ProbeRequest& request, std::span<const std::uint32_t> ids,
                                      std::size_t first_scored, core::Workers& workers) {
  ProbeRun run(request, request.compressed, workers);
  run.rows_wanted = static_cast<double>(ids.size());
  DivergenceMeter meter;
  const auto num_tokens = static_cast<std::uint32_t>(request.tokens.size());
  std::vector<ProbeSequence> text;
  text.emplace_back(run.runner.make_agent(num_tokens, static_cast<std::uint32_t>(ids.size())),
                    std::vector(ids.begin(), ids.end()), first_scored);
  POLYKV_CHECK_STATUS(run.score(text, ids.size(), meter));
  return meter.summary();
}

}  // namespace polykv::runtime

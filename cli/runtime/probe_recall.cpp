#include <algorithm>

#include "cli/runtime/probe_run.h"

namespace polykv::runtime {

namespace {

constexpr std::uint32_t kFewestTokens = kPromptTokens + 8;  // of a passage that is worth a number
constexpr double kShare = 0.3;                              // of the time that is left
constexpr double kMostShare = 0.5;                          // for the fewest tokens

// How many (layer, kv_head) keep each position, summed up to it: [num_tokens + 1].
std::vector<std::uint64_t> kept_before(const core::KvPool& pool) {
  const format::KvShape& shape = pool.shape();
  std::vector<std::int64_t> steps(std::size_t{shape.num_tokens} + 1, 0);
  for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head) {
      for (const core::KvPool::Run& run : pool.runs(layer, head)) {
        for (const format::PositionRange range : run.positions) {
          ++steps[range.begin - pool.first_position()];
          --steps[range.end - pool.first_position()];
        }
      }
    }
  }
  std::vector<std::uint64_t> sums(1, 0);
  std::int64_t now = 0;
  for (std::uint32_t position = 0; position < shape.num_tokens; ++position) {
    now += steps[position];
    sums.push_back(sums.back() + static_cast<std::uint64_t>(now));
  }
  return sums;
}

}  // namespace

std::vector<std::uint32_t> passage_begins(const core::KvPool& pool) {
  constexpr std::uint32_t kTokens = ProbeCounts().passage_tokens;
  const std::uint32_t num_tokens = pool.shape().num_tokens;
  std::vector<std::uint32_t> begins;
  if (num_tokens < std::size(kPassagePercent) * kTokens) return begins;
  const std::vector<std::uint64_t> kept = kept_before(pool);
  const auto kept_of = [&](std::uint32_t begin) { return kept[begin + kTokens] - kept[begin]; };
  const std::uint32_t last = num_tokens - kTokens, reach = num_tokens / 20;
  for (const std::uint32_t percent : kPassagePercent) {
    const auto depth = std::min(static_cast<std::uint32_t>(std::uint64_t{num_tokens} * percent / 100), last);
    std::uint32_t best = depth;  // where all are kept, or as many
    for (std::uint32_t begin = std::max(depth - std::min(depth, reach), pool.num_sinks());
         begin <= std::min(depth + reach, last); ++begin)
      if (kept_of(begin) < kept_of(best)) best = begin;
    begins.push_back(best);
  }
  return begins;
}

format::Status probe_recall(ProbeRun& run, double position_ms, Fidelity& fidelity) {
  fidelity.counts.passage_tokens = 0;
  const auto num_tokens = static_cast<std::uint32_t>(run.request.tokens.size());
  const std::vector<std::uint32_t> begins = passage_begins(run.request.compressed);
  if (begins.empty()) return {};
  std::vector<std::uint32_t> quotation;
  for (const TextToken& token : run.request.model.tokenizer.tokenize(std::string(run.request.open_text) + "\n\n\""))
    quotation.push_back(token.id);
  // Tokens of each passage, the quotation mark's included.
  const double affordable = std::max(0.0, run.left_ms()) / (position_ms * static_cast<double>(begins.size()));
  const auto prefix = static_cast<double>(quotation.size());
  double most = affordable * kShare - prefix;
  if (affordable * kMostShare - prefix >= kFewestTokens) most = std::max<double>(most, kFewestTokens);
  if (run.request.always_recall) most = run.request.counts.passage_tokens;
  const auto passage_tokens =
      static_cast<std::uint32_t>(std::clamp<double>(most, 0.0, run.request.counts.passage_tokens));
  const auto num_fed = static_cast<std::uint32_t>(quotation.size()) + passage_tokens;
  if (passage_tokens < kFewestTokens || num_tokens + num_fed > run.request.model.config().context_length) return {};
  std::vector<ProbeSequence> passages;
  for (const std::uint32_t begin : begins) {
    const auto passage = run.request.tokens.subspan(begin, passage_tokens);
    ProbeSequence& sequence =
        passages.emplace_back(run.runner.make_agent(num_tokens, num_fed), quotation, quotation.size() + kPromptTokens);
    sequence.tokens.insert(sequence.tokens.end(), passage.begin(), passage.end());
  }
  DivergenceMeter meter;
  POLYKV_CHECK_STATUS(run.score(passages, begins.size() * num_fed, meter));
  for (const ProbeSequence& passage : passages) {
    fidelity.hits.push_back(static_cast<double>(passage.hits) / passage.num_scored);
    fidelity.reference_hits.push_back(static_cast<double>(passage.reference_hits) / passage.num_scored);
  }
  fidelity.recall = meter.summary();
  fidelity.passage_begins = begins;
  fidelity.counts.passage_tokens = passage_tokens;
  return {};
}

}  // namespace polykv::runtime

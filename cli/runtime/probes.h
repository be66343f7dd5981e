// What compression did to the model's output, measured on the document itself: three probes, each given the
// uncompressed cache and given the compressed one, through the kernels that `ask` uses.
//
//   tail     the document's last tokens, given only the positions before them
//   answers  general questions, answered greedily on the uncompressed cache
//   recall   passages of the document: after an opening quotation mark and the first tokens of one, the model repeats
//            the rest (the default model, uncompressed, 82 to 86 % of it; without the mark 65 %)
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "cli/runtime/divergence.h"
#include "cli/runtime/model_identity.h"
#include "core/pool.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

// How much is measured. As the default: everything; less where time is short or the document is.
struct ProbeCounts {
  std::uint32_t tail_positions = 256;
  std::uint32_t answer_tokens = 32;   // of each answer
  std::uint32_t passage_tokens = 32;  // of each passage, with those that are given
  bool operator==(const ProbeCounts&) const = default;
};

inline constexpr const char* kProbeQuestions[] = {"What is this text about?", "Which names are mentioned?",
                                                  "How does it end?"};
inline constexpr std::uint32_t kPassagePercent[] = {10, 50, 90};                       // where passages begin
inline constexpr std::uint32_t kPromptTokens = 8;                                      // of a passage, which are given
inline constexpr std::uint32_t kFloorPositions = 32;                                   // of the tail
inline constexpr std::uint32_t kPartialPositions = 512, kFloorPartialPositions = 256;  // core/attend.h

// Where the tail probe begins: its positions are [tail_begin, num_tokens), whatever their number in the end. What is
// chosen for a document from its queries may look at those before alone, so that the probe is of unseen ones.
std::uint32_t tail_begin(std::uint32_t num_tokens);

// Empty if the document is too short for passages. Of a pool that keeps a part of the positions the passages are those
// near these depths, within a twentieth of the document, that the fewest (layer, kv_head) keep.
std::vector<std::uint32_t> passage_begins(const core::KvPool& pool);

struct ProbeRequest {
  const Model& model;
  const ChatTemplate& chat;
  std::string_view open_text;             // the document's end, which the pool leaves to the question
  std::span<const std::uint32_t> tokens;  // of the pool
  const core::KvPool& reference;          // float16
  const core::KvPool& compressed;
  // What stands for the compressed pool in the tail probe, where the choice of the pool's positions looked at the whole
  // document: a pool made in the same way of what is before the tail. Null: the pool itself.
  const core::KvPool* twin = nullptr;
  ProbeCounts counts = {};     // at most
  bool always_recall = false;  // all of its tokens, whatever the time
  // Milliseconds for all probes together, by `now_ms`; counts shrink to fit. The first positions are measured in any
  // case: they tell how long one takes.
  double limit_ms = std::numeric_limits<double>::infinity();
  std::function<double()> now_ms = {};  // empty: the steady clock
  // Share of the work that is done. Returning false stops it (kInterrupted). May be empty.
  std::function<bool(double share)> on_progress = {};
};

struct Fidelity {
  ProbeCounts counts = {0, 0, 0};  // as measured: 0 for what was left out
  Divergence tail, answers, recall;
  bool has_twin = false;          // the tail's is that of ProbeRequest::twin
  std::vector<double> tail_klds;  // [position]
  double floor_kld_mean = 0.0;  // on the tail's first positions: the reference against itself, summed in another order
  // Index of the first token of an answer that the compressed cache would have continued otherwise.
  std::vector<std::optional<std::uint32_t>> first_difference;  // [question]; empty if none was asked
  std::vector<std::uint32_t> passage_begins = {};              // [passage]; empty if recall was not measured
  // Share of the repeated tokens that were ranked first.
  std::vector<double> hits, reference_hits;  // [passage]
};

format::Result<Fidelity> run_probes(const ProbeRequest& request, core::Workers& workers);

// A text of the user's as a continuation of the document: `ids` follow the pool, those from `first_scored` (at least 1)
// on are scored. Of the request no counts and no limit are used.
format::Result<Divergence> probe_text(const ProbeRequest& request, std::span<const std::uint32_t> ids,
                                      std::size_t first_scored, core::Workers& workers);

}  // namespace polykv::runtime

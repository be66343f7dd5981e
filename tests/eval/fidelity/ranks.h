// How well the estimate that bits are given by (cli/runtime/sensitivity.h, bit_allocation.h) ranks what can lose bits:
// each head's keys or values alone in few bits, all else float16, the estimate beside the divergence that is measured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "format/section.h"
#include "format/status.h"
#include "tests/eval/fidelity/protocol.h"
#include "tests/eval/fidelity/report.h"

namespace polykv::eval {

inline constexpr format::CodecId kRankedBits = 2;  // where what is lost differs most from head to head, and shows

// One head's keys, or one head's values.
struct RankedItem {
  std::uint32_t layer, kv_head;
  bool is_key;
  double exact = 0.0;  // mean KLD measured with kRankedBits for it alone
  double exact_stderr = 0.0;
  double estimate = 0.0;  // runtime::expected_kld of the same plan
};

// Of every (layer, kv_head) the keys, then the values, on the window of protocol.offsets[index].
format::Result<std::vector<RankedItem>> measure_ranks(const Protocol& protocol, std::size_t index);

// How two lists of numbers, none of them negative, rank the same things.
struct RankAgreement {
  std::size_t num_items;
  double spearman;
  std::size_t num_worst, num_common;  // a fifth of the things, the largest of each list; how many both lists have there
  double exact_share, estimated_share;  // of each list's sum, what its own kWorstHeads largest numbers have
};
inline constexpr std::size_t kWorstHeads = 3;
RankAgreement compare_ranks(std::span<const double> exact, std::span<const double> estimate);

// Spearman's: Pearson's correlation of ranks, equal numbers sharing the mean of their ranks. Not a number where all of
// one list are equal.
double spearman(std::span<const double> a, std::span<const double> b);

// A line an item, the worst first; then the agreement over all, of keys alone and of values alone.
std::string ranks_as_text(const Setting& setting, std::span<const RankedItem> items);
// Schema polykv.ranks/1; items in the order of measure_ranks.
std::string ranks_as_json(const Setting& setting, std::span<const RankedItem> items);

}  // namespace polykv::eval

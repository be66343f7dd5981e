// Attention of a step's rows over a chain of pools and each row's own tail, straight on the compressed pages.
//
// Partial softmaxes are merged by log-sum-exp (exact: arXiv 2402.05099), in a fixed order: base pool to tail; in a pool
// the sinks, then run by run, eight consecutive pages to a partial; in a tail 512 positions to a partial. All rows that
// look at a page (q heads of the group x agents x question tokens) go through it together. A row's result depends on
// nothing but the row: not on the other rows, the number of threads, the kernel table, or the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/pool.h"
#include "core/tail.h"
#include "core/workers.h"

namespace polykv::core {

using format::PositionRange;

struct AttendRow {
  const float* query;                      // [num_q_heads][head_dim], after RoPE, not scaled by 1/sqrt(head_dim)
  float* out;                              // [num_q_heads][head_dim]
  std::span<const PositionRange> visible;  // one range per pool of the chain; what lies outside the pool does not count
  const Tail* tail;                        // may be null; rows with the same tail are best neighbours
  std::uint32_t tail_visible;              // the first so many positions of the tail
  // [num_q_heads], may be null: the logarithm of the softmax's denominator, so that exp(q.k / sqrt(head_dim) - log_sum)
  // is the weight of a key. -infinity where nothing is seen.
  float* log_sums = nullptr;
};

// Working memory, kept between calls.
class AttendScratch {
 public:
  AttendScratch();
  ~AttendScratch();
  struct Buffers;
  Buffers& buffers() { return *buffers_; }

  // Positions of a partial: 512, or 256 to measure what the order of summing is worth (the floor of the fidelity
  // probes).
  std::uint32_t partial_slots = 512;

 private:
  std::unique_ptr<Buffers> buffers_;
};

// Fills every row's `out`. num_q_heads is a multiple of the pools' num_kv_heads; all pools and tails have one shape. A
// row that sees nothing gets zeros; a query that is not finite gives NaN. `rows` may be empty, `chain` too.
//   chain    base pool first; a pool without means uses those of its nearest ancestor that has some
// On first touch of a chunk its checksum is checked: kBadChecksum names section and chunk; no `out` is written then.
format::Status attend(std::span<const KvPool* const> chain, std::uint32_t layer, std::uint32_t num_q_heads,
                      std::uint32_t num_kv_heads, std::uint32_t head_dim, std::span<const AttendRow> rows,
                      Workers& workers, AttendScratch& scratch);

}  // namespace polykv::core

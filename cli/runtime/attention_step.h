// Attention alone, of one step of a model: every layer, one row an agent, without tails. To be timed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/attend.h"
#include "core/pool.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

class AttentionStep {
 public:
  // Rows see the first `depth` positions. `num_layers` may be more than the pool has, which are then taken in turn
  // again. Pool and workers must outlive the object.
  AttentionStep(const core::KvPool& pool, std::uint32_t num_layers, std::uint32_t num_q_heads, std::size_t num_agents,
                std::uint32_t depth, core::Workers& workers);
  AttentionStep(const AttentionStep&) = delete;  // rows point into the object
  AttentionStep& operator=(const AttentionStep&) = delete;

  // Errors: kBadChecksum, as core::attend.
  format::Status run();

  // Of the pages that a run reads, each counted once.
  std::uint64_t page_bytes() const;

 private:
  const core::KvPool& pool_;
  std::uint32_t num_layers_, num_q_heads_;
  core::Workers& workers_;
  const std::vector<format::PositionRange> visible_;
  std::vector<float> queries_, out_;
  std::vector<core::AttendRow> rows_;
  core::AttendScratch scratch_;
};

}  // namespace polykv::runtime

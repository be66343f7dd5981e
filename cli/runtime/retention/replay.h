// Some rows that go on from a document, run on its uncompressed keys and values: what a plan is to leave as it is.
//
// Two kinds: the document's own last rows before a position, and passages of it that are repeated after a quotation
// mark, as the recall probe does it, at even depths. The first tell what text that goes on needs, the second what exact
// words need; both ask no question, so a plan made with them is safe for any.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/weights/model_file.h"
#include "core/pool.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

struct ReplayedRows {
  std::uint32_t visible = 0;  // the document's positions [0, visible) are before them
  std::size_t num_rows = 0;
  std::size_t first_counted = 0;            // earlier rows are only there to be attended to
  double weight = 0.0;                      // of each counted row; all rows' weights sum to 1
  std::vector<float> queries;               // [layer][row][q_head][head_dim], after RoPE
  std::vector<float> stream_squares;        // [layer][row]: of the residual stream with attention added
  std::vector<std::uint16_t> keys, values;  // float16 [layer][kv_head][row][head_dim]
};

// `exact` holds the document's keys and values as float16; positions from `end` on are not looked at. `quotation` is
// what a quotation after the document begins with, as tokens.
format::Result<std::vector<ReplayedRows>> replay_rows(const ModelFile& model, const core::KvPool& exact,
                                                      std::span<const std::uint32_t> tokens, std::uint32_t end,
                                                      std::span<const std::uint32_t> quotation, core::Workers& workers);

}  // namespace polykv::runtime

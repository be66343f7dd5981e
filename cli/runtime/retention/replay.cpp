#include "cli/runtime/retention/replay.h"

#include <algorithm>

#include "cli/runtime/step_runner.h"
#include "core/tail.h"

namespace polykv::runtime {
namespace {

constexpr std::uint32_t kTailRows = 64;
constexpr std::uint32_t kPassages = 12, kPassageTokens = 24, kGivenTokens = 8;
static_assert(kTailRows <= kMaxStepRows);

// A tail's float16 keys or values of one layer and head, position after position.
void append_own(const core::Tail& tail, const ModelConfig& config, std::uint32_t layer, std::size_t num_rows,
                ReplayedRows& rows) {
  const std::size_t dim = config.head_dim, padded = (dim + 15) / 16 * 16;
  for (std::uint32_t head = 0; head < config.num_kv_heads; ++head) {
    for (std::size_t row = 0; row < num_rows; ++row) {
      const auto block = static_cast<std::uint32_t>(row / 64);
      const std::size_t slot = row % 64;
      const std::uint16_t* keys = tail.key_block(layer, head, block);
      const std::uint16_t* values = tail.value_block(layer, head, block) + slot * padded;
      for (std::size_t d = 0; d < dim; ++d) rows.keys.push_back(keys[(slot / 16 * dim + d) * 16 + slot % 16]);
      rows.values.insert(rows.values.end(), values, values + dim);
    }
  }
}

// One step of `ids` after the document's first `visible` positions.
format::Result<ReplayedRows> run_rows(StepRunner& runner, const ModelConfig& config, std::span<const std::uint32_t> ids,
                                      std::uint32_t visible, std::size_t first_counted) {
  ReplayedRows rows;
  rows.visible = visible;
  rows.num_rows = ids.size();
  rows.first_counted = first_counted;
  core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(ids.size()));
  runner.observe([&](const StepLayer& layer) {
    rows.queries.insert(rows.queries.end(), layer.query.begin(), layer.query.end());
    for (std::size_t row = 0; row < layer.num_rows; ++row) {
      double sum = 0.0;
      for (const float x : layer.hidden.subspan(row * config.hidden_size, config.hidden_size))
        sum += double{x} * double{x};
      rows.stream_squares.push_back(static_cast<float>(sum));
    }
    append_own(tail, config, layer.layer, layer.num_rows, rows);
  });
  const core::PositionRange range{0, visible};
  const AgentStep step{&tail, ids, {&range, 1}, 0, nullptr};
  const format::Status status = runner.step({&step, 1});
  runner.observe({});
  if (!status) return status.error();
  return rows;
}

}  // namespace

format::Result<std::vector<ReplayedRows>> replay_rows(const ModelFile& model, const core::KvPool& exact,
                                                      std::span<const std::uint32_t> tokens, std::uint32_t end,
                                                      std::span<const std::uint32_t> quotation,
                                                      core::Workers& workers) {
  StepRunner runner(model, {&exact}, workers);
  std::vector<ReplayedRows> all;
  const std::uint32_t num_tail = std::min(kTailRows, end / 2);
  if (num_tail > 0) {
    POLYKV_TRY(ReplayedRows rows,
               run_rows(runner, model.config(), tokens.subspan(end - num_tail, num_tail), end - num_tail, 0));
    all.push_back(std::move(rows));
  }
  const std::size_t num_fed = quotation.size() + kPassageTokens - 1;  // the last token is predicted, not fed
  if (end >= kPassages * kPassageTokens && end + num_fed <= model.config().context_length && num_fed <= kMaxStepRows) {
    for (std::uint32_t i = 0; i < kPassages; ++i) {
      const auto begin = static_cast<std::size_t>(std::uint64_t{2 * i + 1} * (end - kPassageTokens) / (2 * kPassages));
      std::vector<std::uint32_t> ids(quotation.begin(), quotation.end());
      const auto passage = tokens.subspan(begin, kPassageTokens - 1);
      ids.insert(ids.end(), passage.begin(), passage.end());
      POLYKV_TRY(ReplayedRows rows, run_rows(runner, model.config(), ids, end, quotation.size() + kGivenTokens - 1));
      all.push_back(std::move(rows));
    }
  }
  // Half for either kind, if both are there.
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto counted = static_cast<double>(all[i].num_rows - all[i].first_counted);
    if (all.size() == 1)
      all[i].weight = 1.0 / counted;
    else
      all[i].weight = 0.5 / (i == 0 ? counted : counted * static_cast<double>(all.size() - 1));
  }
  return all;
}

}  // namespace polykv::runtime

#include "cli/runtime/sensitivity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "cli/runtime/step_runner.h"
#include "core/float16.h"
#include "core/kernels/attention.h"
#include "core/kernels/kernels.h"
#include "core/kernels/rows.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kTile = format::kTileTokens;
constexpr std::size_t kPage = format::kPageTokens;
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// Over the positions of one head's run, padded to a tile: what squares of softmax weights are summed with.
struct PositionWeights {
  std::vector<float> key;        // |k - mean|^2 / head_dim
  std::vector<float> key_value;  // the same times |v|^2
  std::vector<float> value;      // |v|^2
};

// Sums over the positions seen so far, relative to exp(max).
struct Attention {
  float max = kNegativeInfinity;
  float sum = 0.0f;                // of exp(score - max)
  std::array<float, 3> squares{};  // of exp(score - max)^2, by PositionWeights
};

// The widest partial in positions, padded to tiles.
struct Partial {
  const core::KvPool::Run* run;
  std::size_t first_slot, num_slots;

  std::size_t padded_slots() const { return (num_slots + kTile - 1) / kTile * kTile; }
};

// A worker's buffers.
struct Scratch {
  std::vector<float> query;    // [vector][head_dim], scaled
  std::vector<float> scores;   // [kMaxVectors][kScoreStride]
  std::vector<float> values;   // [vector][padded_dim]: sums of values with PositionWeights::key, relative to exp(max)^2
  std::vector<float> partial;  // the same of one partial
  std::vector<Attention> attention;
};

double squares_of(std::span<const float> x) {
  double sum = 0.0;
  for (const float value : x) sum += double{value} * double{value};
  return sum;
}

// Squares of one head's vectors in a float16 run, and of its keys less their mean.
PositionWeights position_weights(const core::KvPool::Run& run, std::size_t head_dim) {
  const std::size_t count = run.num_positions;
  std::vector<float> keys(count * head_dim), values(count * head_dim);
  core::dequantize_run(run.codec, run.exponents, run.pages, count, head_dim, {}, keys, values);
  std::vector<double> mean(head_dim, 0.0);
  for (std::size_t i = 0; i < keys.size(); ++i) mean[i % head_dim] += double{keys[i]} / static_cast<double>(count);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] -= static_cast<float>(mean[i % head_dim]);
  PositionWeights weights;
  for (auto* list : {&weights.key, &weights.key_value, &weights.value})
    list->assign((count + kTile - 1) / kTile * kTile, 0.0f);
  for (std::size_t i = 0; i < count; ++i) {
    const double key = squares_of(std::span(keys).subspan(i * head_dim, head_dim)) / static_cast<double>(head_dim);
    const double value = squares_of(std::span(values).subspan(i * head_dim, head_dim));
    weights.key[i] = static_cast<float>(key);
    weights.key_value[i] = static_cast<float>(key * value);
    weights.value[i] = static_cast<float>(value);
  }
  return weights;
}

class Measurement {
 public:
  Measurement(const ModelFile& model, const core::KvPool& exact, std::uint32_t num_visible, core::Workers& workers)
      : model_(model),
        config_(model.config()),
        pool_(exact),
        num_visible_(num_visible),
        padded_dim_((config_.head_dim + kTile - 1) / kTile * kTile),
        workers_(workers),
        scratch_(workers.num_threads()),
        query_squares_(std::size_t{config_.num_layers} * config_.num_kv_heads * config_.head_dim),
        sums_(std::size_t{config_.num_layers} * config_.num_kv_heads) {}

  // One layer of a step: `tail` has the step's rows appended after `num_before` others.
  void add_layer(const StepLayer& step, const core::Tail& tail, std::uint32_t num_before);

  Sensitivities mean_over(std::size_t num_rows) const {
    Sensitivities result{sums_, {}};
    for (Sensitivity& s : result.heads) {
      s.key /= static_cast<double>(num_rows);
      s.value /= static_cast<double>(num_rows);
    }
    for (const double sum : query_squares_)
      result.query_squares.push_back(static_cast<float>(sum / static_cast<double>(num_rows * config_.q_per_kv())));
    return result;
  }

 private:
  struct Block {  // rows of one kv_head
    std::uint32_t kv_head;
    std::size_t first_row, num_rows;
    Sensitivity sum;
  };

  const PositionWeights& weights_of(std::uint32_t layer, std::uint32_t kv_head) const {
    return weights_[layer * std::size_t{config_.num_kv_heads} + kv_head];
  }
  void prepare_layer(std::uint32_t layer);
  void measure(const StepLayer& step, const core::Tail& tail, std::uint32_t num_before, Block& block, Scratch& scratch);
  // What sums so far and new ones are multiplied with.
  struct Factors {
    float kept, added;
  };

  void add_run(const core::KvPool::Run& run, const PositionWeights& weights, std::size_t num_vectors,
               Scratch& scratch) const;
  template <typename Visit>
  void for_pages(const Partial& partial, const Visit& visit) const;
  void add_sinks(std::uint32_t layer, std::uint32_t kv_head, std::size_t num_vectors, Scratch& scratch) const;
  void add_tail(const core::Tail& tail, std::uint32_t layer, const Block& block, std::uint32_t num_before,
                Scratch& scratch) const;
  Factors add_scores(std::size_t vector, std::size_t num_slots, std::size_t end, const float* const* weights,
                     Scratch& scratch) const;
  void shrink_values(std::size_t vector, Factors factors, Scratch& scratch) const;

  const ModelFile& model_;
  const ModelConfig& config_;
  const core::KvPool& pool_;
  const std::uint32_t num_visible_;
  const std::size_t padded_dim_;
  core::Workers& workers_;
  const core::AttentionKernels& kernels_ = *core::active_kernels().attention;
  const core::RowKernels& rows_ = *core::active_kernels().rows;
  std::vector<Scratch> scratch_;
  std::vector<PositionWeights> weights_;      // [layer][kv_head], once prepared
  std::vector<std::vector<double>> outputs_;  // [layer][q_head]: |W|^2
  std::vector<double> query_squares_;         // [layer][kv_head][head_dim], sums
  std::vector<Sensitivity> sums_;             // [layer][kv_head]
};

// Squares of vectors and matrices, made with the first step.
void Measurement::prepare_layer(std::uint32_t layer) {
  const std::size_t num_kv_heads = config_.num_kv_heads, head_dim = config_.head_dim;
  if (weights_.size() > layer * num_kv_heads) return;
  weights_.resize((layer + 1) * num_kv_heads);
  outputs_.resize(layer + 1);
  const core::WeightMatrix& output = model_.weights().layers[layer].attention_output;
  workers_.run(num_kv_heads, [&](std::size_t head, std::size_t) {
    const auto runs = pool_.runs(layer, static_cast<std::uint32_t>(head));
    if (!runs.empty()) weights_[layer * num_kv_heads + head] = position_weights(runs.front(), head_dim);
  });
  std::vector<double> columns(output.num_cols, 0.0);
  std::vector<float> row(output.num_cols);
  for (std::size_t r = 0; r < output.num_rows; ++r) {
    core::dequantize_row(output, r, row);
    for (std::size_t c = 0; c < row.size(); ++c) columns[c] += double{row[c]} * double{row[c]};
  }
  for (std::size_t head = 0; head < config_.num_q_heads; ++head) {
    double sum = 0.0;
    for (std::size_t d = 0; d < head_dim; ++d) sum += columns[head * head_dim + d];
    outputs_[layer].push_back(sum);
  }
}

void Measurement::add_layer(const StepLayer& step, const core::Tail& tail, std::uint32_t num_before) {
  prepare_layer(step.layer);
  const std::size_t dim = config_.head_dim, layer_size = config_.num_kv_heads * dim;
  for (std::size_t i = 0; i < step.query.size(); ++i) {
    const std::size_t kv_head = i / dim % config_.num_q_heads / config_.q_per_kv();
    query_squares_[step.layer * layer_size + kv_head * dim + i % dim] += double{step.query[i]} * double{step.query[i]};
  }
  const std::size_t block_rows = std::max<std::size_t>(1, core::kMaxVectors / config_.q_per_kv());
  std::vector<Block> blocks;
  for (std::uint32_t head = 0; head < config_.num_kv_heads; ++head)
    for (std::size_t row = 0; row < step.num_rows; row += block_rows)
      blocks.push_back({head, row, std::min(block_rows, step.num_rows - row), {}});
  workers_.run(blocks.size(), [&](std::size_t i, std::size_t worker) {
    measure(step, tail, num_before, blocks[i], scratch_[worker]);
  });
  for (const Block& block : blocks) {
    Sensitivity& sum = sums_[step.layer * std::size_t{config_.num_kv_heads} + block.kv_head];
    sum.key += block.sum.key;
    sum.value += block.sum.value;
  }
}

void Measurement::measure(const StepLayer& step, const core::Tail& tail, std::uint32_t num_before, Block& block,
                          Scratch& scratch) {
  const std::size_t dim = config_.head_dim, group = config_.q_per_kv(), num_vectors = block.num_rows * group;
  const auto first_head = block.kv_head * group;
  const auto score_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  const auto head_of = [&](std::span<const float> rows, std::size_t vector) {
    const std::size_t row = block.first_row + vector / group, head = first_head + vector % group;
    return rows.subspan((row * config_.num_q_heads + head) * dim, dim);
  };
  scratch.query.resize(num_vectors * dim);
  scratch.scores.resize(core::kMaxVectors * core::kScoreStride);
  scratch.attention.assign(num_vectors, {});
  scratch.values.assign(num_vectors * padded_dim_, 0.0f);
  for (std::size_t v = 0; v < num_vectors; ++v) {
    const auto query = head_of(step.query, v);
    std::transform(query.begin(), query.end(), scratch.query.begin() + static_cast<std::ptrdiff_t>(v * dim),
                   [&](float x) { return x * score_scale; });
  }
  add_sinks(step.layer, block.kv_head, num_vectors, scratch);
  const auto runs = pool_.runs(step.layer, block.kv_head);
  if (!runs.empty()) add_run(runs.front(), weights_of(step.layer, block.kv_head), num_vectors, scratch);
  add_tail(tail, step.layer, block, num_before, scratch);

  for (std::size_t v = 0; v < num_vectors; ++v) {
    const std::size_t row = block.first_row + v / group;
    const Attention& attention = scratch.attention[v];
    const double total = static_cast<double>(attention.sum) * static_cast<double>(attention.sum);
    const double stream = squares_of(step.hidden.subspan(row * config_.hidden_size, config_.hidden_size));
    if (!(total > 0.0) || !(stream > 0.0)) continue;
    const double share = outputs_[step.layer][first_head + v % group] / static_cast<double>(dim) / total / stream;
    const double query = squares_of(std::span(scratch.query).subspan(v * dim, dim));
    const auto mixed = head_of(step.mixed, v);
    double cross = 0.0;
    for (std::size_t d = 0; d < dim; ++d) cross += double{mixed[d]} * double{scratch.values[v * padded_dim_ + d]};
    // sum of p^2 |v - o|^2 |k|^2, which rounding must not make negative.
    const double spread = double{attention.squares[1]} + squares_of(mixed) * double{attention.squares[0]} - 2.0 * cross;
    block.sum.key += share * query * std::max(spread, 0.0);
    block.sum.value += share * double{attention.squares[2]};
  }
}

// Scores of one vector's next slots, of which it sees those before `end`, join what it has. With weights, they are of
// the run's positions, and become what to sum their values with; the result says how to join those sums.
Measurement::Factors Measurement::add_scores(std::size_t vector, std::size_t num_slots, std::size_t end,
                                             const float* const* weights, Scratch& scratch) const {
  float* scores = scratch.scores.data() + vector * core::kScoreStride;
  const core::SoftmaxSum part = kernels_.softmax(scores, 0, end, num_slots);
  if (!(part.sum > 0.0f)) return {1.0f, 0.0f};
  std::array<float, 3> squares{};
  if (weights != nullptr) rows_.weighted_squares(scores, weights, num_slots, squares.data());
  Attention& all = scratch.attention[vector];
  const float max = std::max(all.max, part.max);
  const float kept = core::exp_nonpositive(all.max - max), added = core::exp_nonpositive(part.max - max);
  all.max = max;
  all.sum = all.sum * kept + part.sum * added;
  const Factors factors{kept * kept, added * added};
  for (std::size_t k = 0; k < 3; ++k) all.squares[k] = all.squares[k] * factors.kept + squares[k] * factors.added;
  return factors;
}

// Joins partials whose scores come without errors: the sums so far shrink where a larger score comes.
void Measurement::shrink_values(std::size_t vector, Factors factors, Scratch& scratch) const {
  if (factors.kept == 1.0f) return;
  float* values = scratch.values.data() + vector * padded_dim_;
  for (std::size_t d = 0; d < padded_dim_; ++d) values[d] *= factors.kept;
}

// Calls visit(layout, page, slot in the partial, tiles) for every page of the partial.
template <typename Visit>
void Measurement::for_pages(const Partial& partial, const Visit& visit) const {
  const core::KvPool::Run& run = *partial.run;
  const std::size_t page_bytes = format::page_layout(run.codec.key, run.codec.value, config_.head_dim, kPage).bytes;
  for (std::size_t slot = 0; slot < partial.num_slots; slot += kPage) {
    const std::size_t index = partial.first_slot + slot;
    const format::PageLayout layout = format::page_layout(run.codec.key, run.codec.value, config_.head_dim,
                                                          std::min<std::size_t>(kPage, run.num_positions - index));
    const std::size_t num_tiles = (std::min(kPage, partial.num_slots - slot) + kTile - 1) / kTile;
    visit(layout, run.pages.data() + index / kPage * page_bytes, slot, num_tiles);
  }
}

// The positions of the head's run below num_visible_.
void Measurement::add_run(const core::KvPool::Run& run, const PositionWeights& weights, std::size_t num_vectors,
                          Scratch& scratch) const {
  const std::size_t num_slots = run.slots_below(num_visible_), dim = config_.head_dim;
  for (std::size_t first = 0; first < num_slots; first += core::kPartialSlots) {
    const Partial partial{&run, first, std::min(core::kPartialSlots, num_slots - first)};
    for_pages(partial,
              [&](const format::PageLayout& layout, const std::byte* page, std::size_t slot, std::size_t tiles) {
                kernels_.score_float16({nullptr, page + layout.keys_offset, tiles, dim, 0}, scratch.query.data(),
                                       num_vectors, scratch.scores.data() + slot);
              });
    const float* const lists[3] = {weights.key.data() + first, weights.key_value.data() + first,
                                   weights.value.data() + first};
    std::array<Factors, core::kMaxVectors> factors;
    for (std::size_t v = 0; v < num_vectors; ++v)
      factors[v] = add_scores(v, partial.padded_slots(), partial.num_slots, lists, scratch);
    scratch.partial.assign(num_vectors * padded_dim_, 0.0f);
    for_pages(partial,
              [&](const format::PageLayout& layout, const std::byte* page, std::size_t slot, std::size_t tiles) {
                kernels_.add_float16({nullptr, page + layout.values_offset, tiles, padded_dim_, 0},
                                     scratch.scores.data() + slot, num_vectors, scratch.partial.data());
              });
    for (std::size_t v = 0; v < num_vectors; ++v) {
      kernels_.merge(scratch.values.data() + v * padded_dim_, factors[v].kept, scratch.partial.data() + v * padded_dim_,
                     factors[v].added, padded_dim_);
    }
  }
}

// The sinks stay as they are, so errors come from none of them; they take their share of the weights.
void Measurement::add_sinks(std::uint32_t layer, std::uint32_t kv_head, std::size_t num_vectors,
                            Scratch& scratch) const {
  const std::size_t dim = config_.head_dim, num_sinks = std::min(pool_.num_sinks(), num_visible_);
  const std::byte* sinks = pool_.sink_keys(layer, kv_head).data();
  for (std::size_t v = 0; v < num_vectors; ++v) {
    float* scores = scratch.scores.data() + v * core::kScoreStride;
    std::fill_n(scores, kTile, 0.0f);
    for (std::size_t i = 0; i < num_sinks; ++i)
      scores[i] = kernels_.dot_float16(scratch.query.data() + v * dim, sinks + i * dim * 2, dim);
    shrink_values(v, add_scores(v, kTile, num_sinks, nullptr, scratch), scratch);
  }
}

// The rows before these, and these up to each itself.
void Measurement::add_tail(const core::Tail& tail, std::uint32_t layer, const Block& block, std::uint32_t num_before,
                           Scratch& scratch) const {
  const std::size_t dim = config_.head_dim, group = config_.q_per_kv(), num_vectors = block.num_rows * group;
  const std::size_t num_slots = num_before + block.first_row + block.num_rows;
  for (std::size_t slot = 0; slot < num_slots; slot += kPage) {
    const auto* keys = reinterpret_cast<const std::byte*>(
        tail.key_block(layer, block.kv_head, static_cast<std::uint32_t>(slot / kPage)));
    kernels_.score_float16({nullptr, keys, kPage / kTile, dim, 0}, scratch.query.data(), num_vectors,
                           scratch.scores.data());
    for (std::size_t v = 0; v < num_vectors; ++v) {
      const std::size_t seen = num_before + block.first_row + v / group + 1;
      if (seen > slot) shrink_values(v, add_scores(v, kPage, std::min(seen - slot, kPage), nullptr, scratch), scratch);
    }
  }
}

}  // namespace

std::uint32_t first_sensitivity_row(std::uint32_t end) { return end - std::min(kSensitivityRows, end / 4); }

format::Result<Sensitivities> measure_sensitivity(const ModelFile& model, const core::KvPool& exact,
                                                  std::span<const std::uint32_t> tokens, std::uint32_t end,
                                                  core::Workers& workers,
                                                  const std::function<bool(double)>& on_progress) {
  const std::uint32_t first = first_sensitivity_row(end);
  const std::span<const std::uint32_t> rows = tokens.subspan(first, end - first);
  StepRunner runner(model, {&exact}, workers);
  core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(rows.size()));
  Measurement measurement(model, exact, first, workers);
  const core::PositionRange visible{0, first};
  std::uint32_t num_before = 0;
  runner.observe([&](const StepLayer& layer) { measurement.add_layer(layer, tail, num_before); });
  for (std::size_t at = 0; at < rows.size(); at += kMaxStepRows) {
    if (on_progress && !on_progress(static_cast<double>(at) / static_cast<double>(rows.size())))
      return format::Error(format::ErrorCode::kInterrupted, "interrupted");
    const AgentStep step{&tail, rows.subspan(at, std::min(kMaxStepRows, rows.size() - at)), {&visible, 1}, 0, nullptr};
    POLYKV_CHECK_STATUS(runner.step({&step, 1}));
    num_before = tail.num_seen();
  }
  return measurement.mean_over(std::max<std::size_t>(1, rows.size()));
}

}  // namespace polykv::runtime

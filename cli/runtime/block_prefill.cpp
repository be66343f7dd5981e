// Layer-outer like every prefill; within a layer, blocks of rows that stay in the second level cache: a thread takes a
// block through norm, projections and rotation, then all heads attend, then a thread takes a block through output
// projection, norm and feed-forward network.
#include "cli/runtime/block_prefill.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <numbers>
#include <string>
#include <vector>

#include "core/float16.h"
#include "core/kernels/prefill.h"
#include "core/kernels/rows.h"
#include "core/linear.h"
#include "core/packed_matrix.h"
#include "core/workers.h"

namespace polykv::runtime {
namespace {

using core::PackedMatrix;
using core::WeightMatrix;
using format::Error;
using format::ErrorCode;
using format::Status;

constexpr std::size_t kMaxBlockRows = 8 * core::kMatrixRows;
constexpr std::size_t kBlocksPerThread = 4;  // at least, so that threads end together
constexpr std::size_t kPanelOutputs = 256;   // of gate and of up: what becomes activations at a time

std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

// The stored row that gives row `row` of a projection in half-split order (ModelConfig::interleaved_qk).
std::size_t interleaved_row(std::size_t row, std::size_t head_dim) {
  const std::size_t within = row % head_dim, half = head_dim / 2;
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
}

// Memory that starts as zeros and is 64-byte aligned.
template <typename Value>
class Buffer {
 public:
  explicit Buffer(std::size_t size = 0)
      : values_(static_cast<Value*>(::operator new(size * sizeof(Value), std::align_val_t{64}))) {
    std::fill_n(values_.get(), size, Value{});
  }
  Value* get() const { return values_.get(); }

 private:
  struct Free {
    void operator()(Value* values) const { ::operator delete(values, std::align_val_t{64}); }
  };
  std::unique_ptr<Value, Free> values_;
};

// What a thread works in. Rows of a block, a multiple of kMatrixRows of them.
struct Scratch {
  Buffer<float> row;                // one row of anything
  Buffer<std::uint16_t> normed;     // bfloat16 [rows][even hidden]
  Buffer<float> results;            // [rows][outputs of the widest product]
  Buffer<std::uint16_t> activated;  // bfloat16 [rows][even ffn]
  Buffer<std::byte> causal;
};

// One document through one model.
class Run {
 public:
  Run(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options);

  // Leaves the residual stream in hidden() if it is wanted; else the last layer is done once its keys and values are.
  Status layers(bool want_hidden, const std::function<Status(const LayerKv&)>& on_layer);

  const float* hidden(std::size_t row) const { return hidden_.get() + row * config_.hidden_size; }
  core::Workers& workers() { return workers_; }

 private:
  Status tasks(std::size_t num_tasks, double cost, const std::function<void(std::size_t, Scratch&)>& task);
  Status project(const LayerWeights& weights);
  Status hand_on(std::uint32_t layer, const std::function<Status(const LayerKv&)>& on_layer);
  void put_value(std::size_t kv_head, std::size_t position, const std::uint16_t* value);
  void load_past(std::uint32_t layer);
  Status attend();
  Status feed_forward(const LayerWeights& weights);
  PackedMatrix pack_projections(const LayerWeights& weights);
  std::vector<float> projection_bias(const LayerWeights& weights) const;
  PackedMatrix pack_rows(const WeightMatrix& matrix);
  PackedMatrix pack_gate_up(const LayerWeights& weights);
  void norm_rows(std::size_t first, std::size_t num_rows, const std::vector<float>& weight, Scratch& scratch) const;
  void split_row(std::size_t row, float* projected, const std::vector<float>& bias);
  void add_rows(std::size_t first, std::size_t num_rows, std::size_t stride, const float* results);
  std::size_t block_end(std::size_t first) const { return std::min(first + block_rows_, num_tokens_); }

  const ModelFile& model_;
  const ModelConfig& config_;
  const PrefillOptions& options_;
  const core::PrefillKernels& kernels_ = *core::active_prefill_kernels();
  const core::RowKernels& rows_ = *core::active_kernels().rows;
  core::Workers workers_;
  // Rows are tokens; row r is position num_past_ + r. Attention takes blocks of positions, of which the first may begin
  // with `lead_` positions of the past: rows of zeros, whose results are not looked at.
  std::size_t num_tokens_, num_past_, num_positions_, padded_positions_, lead_, block_rows_, num_blocks_;
  std::size_t query_cols_, kv_cols_;  // of all heads
  std::size_t hidden_stride_, ffn_stride_;
  double work_done_ = 0.0, all_work_ = 0.0;  // in products
  std::vector<Scratch> scratch_;             // [threads]
  Buffer<float> hidden_;                     // [tokens][hidden]
  Buffer<float> cos_, sin_;                  // [tokens][head_dim / 2]
  Buffer<std::uint16_t> query_;              // bfloat16 [num_q_heads][lead + tokens][head_dim], scaled
  Buffer<std::uint16_t> keys_, values_;      // bfloat16, as core::CausalHead wants them, by kv_head, the past first
  Buffer<std::uint16_t> keys16_, values16_;  // float16 [num_kv_heads][tokens][head_dim]
  Buffer<std::uint16_t> queries16_;          // the same of all q heads, if they are wanted
  Buffer<std::uint16_t> mixed_;              // bfloat16 [lead + padded tokens][query_cols]
  std::atomic<bool> all_finite_{true};
};

Run::Run(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options)
    : model_(model),
      config_(model.config()),
      options_(options),
      workers_(options.num_threads),
      num_tokens_(tokens.size()),
      num_past_(options.num_past),
      num_positions_(num_past_ + num_tokens_),
      padded_positions_(round_up(num_positions_, core::kCausalPadTokens)),
      lead_(num_past_ % core::kCausalRows),
      block_rows_(std::clamp(round_up(num_tokens_ / (kBlocksPerThread * workers_.num_threads()), core::kMatrixRows),
                             core::kMatrixRows, kMaxBlockRows)),
      num_blocks_((num_tokens_ + block_rows_ - 1) / block_rows_),
      query_cols_(std::size_t{config_.num_q_heads} * config_.head_dim),
      kv_cols_(std::size_t{config_.num_kv_heads} * config_.head_dim),
      hidden_stride_(round_up(config_.hidden_size, 2)),
      ffn_stride_(round_up(config_.ffn_size, 2)),
      hidden_(num_tokens_ * config_.hidden_size),
      cos_(num_tokens_ * config_.head_dim / 2),
      sin_(num_tokens_ * config_.head_dim / 2),
      query_((lead_ + num_tokens_) * query_cols_),
      keys_(padded_positions_ * kv_cols_),
      values_(padded_positions_ * kv_cols_),
      keys16_(num_tokens_ * kv_cols_),
      values16_(num_tokens_ * kv_cols_),
      queries16_(options.want_queries ? num_tokens_ * query_cols_ : 0),
      mixed_((lead_ + num_blocks_ * block_rows_) * query_cols_) {
  const double token_work = static_cast<double>(config_.hidden_size) *
                            static_cast<double>(2 * query_cols_ + 2 * kv_cols_ + 3 * config_.ffn_size);
  all_work_ = config_.num_layers * static_cast<double>(num_tokens_) *
              (token_work + static_cast<double>((num_past_ + num_positions_) * query_cols_));
  const std::size_t widest =
      std::max({query_cols_ + 2 * kv_cols_, std::size_t{config_.hidden_size}, 2 * kPanelOutputs});
  for (std::size_t i = 0; i < workers_.num_threads(); ++i) {
    scratch_.push_back({Buffer<float>(std::max<std::size_t>(config_.hidden_size, kPanelOutputs)),
                        Buffer<std::uint16_t>(block_rows_ * hidden_stride_),
                        Buffer<float>(block_rows_ * round_up(widest, core::kMatrixOutputs)),
                        Buffer<std::uint16_t>(block_rows_ * ffn_stride_),
                        Buffer<std::byte>(kernels_.causal_scratch_bytes(config_.head_dim))});
  }
  const std::size_t half = config_.head_dim / 2;
  const std::vector<double> frequencies = config_.rope.inverse_frequencies(config_.head_dim);
  workers_.run(num_blocks_, [&](std::size_t block, std::size_t) {
    const std::size_t first = block * block_rows_;
    for (std::size_t t = first; t < block_end(first); ++t) {
      core::dequantize_row(model.weights().embedding, tokens[t],
                           {hidden_.get() + t * config_.hidden_size, config_.hidden_size});
      for (std::size_t i = 0; i < half; ++i) {  // in double: at position 100,000 a float angle is off by 0.004
        const double angle = static_cast<double>(num_past_ + t) * frequencies[i];
        cos_.get()[t * half + i] = static_cast<float>(std::cos(angle));
        sin_.get()[t * half + i] = static_cast<float>(std::sin(angle));
      }
    }
  });
}

// Runs tasks that are `cost` products in all. The calling thread, which is among the workers, tells the progress.
Status Run::tasks(std::size_t num_tasks, double cost, const std::function<void(std::size_t, Scratch&)>& task) {
  std::atomic<std::size_t> num_done{0};
  std::atomic<bool> stopped{false};
  workers_.run(num_tasks, [&](std::size_t index, std::size_t worker) {
    if (stopped) return;
    task(index, scratch_[worker]);
    const std::size_t done = ++num_done;
    if (worker != 0 || !options_.on_progress) return;
    const double share = static_cast<double>(done) / static_cast<double>(num_tasks);
    if (!options_.on_progress((work_done_ + cost * share) / all_work_)) stopped = true;
  });
  work_done_ += cost;
  if (stopped) return Error(ErrorCode::kInterrupted, "interrupted");
  return {};
}

Status Run::layers(bool want_hidden, const std::function<Status(const LayerKv&)>& on_layer) {
  for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    const LayerWeights& weights = model_.weights().layers[layer];
    POLYKV_CHECK_STATUS(project(weights));
    POLYKV_CHECK_STATUS(hand_on(layer, on_layer));
    if (layer + 1 == config_.num_layers && !want_hidden) break;
    load_past(layer);
    POLYKV_CHECK_STATUS(attend());
    POLYKV_CHECK_STATUS(feed_forward(weights));
  }
  return {};
}

// Query, key and value rows, one after another; rotated ones in half-split order.
PackedMatrix Run::pack_projections(const LayerWeights& weights) {
  std::vector<PackedMatrix::Source> outputs;
  const auto add = [&](const WeightMatrix& matrix, bool interleaved) {
    for (std::size_t row = 0; row < matrix.num_rows; ++row)
      outputs.push_back({&matrix, interleaved ? interleaved_row(row, config_.head_dim) : row});
  };
  add(weights.query, config_.interleaved_qk);
  add(weights.key, config_.interleaved_qk);
  add(weights.value, false);
  return PackedMatrix(workers_, outputs, config_.hidden_size);
}

// In the same order; empty if the model has none.
std::vector<float> Run::projection_bias(const LayerWeights& weights) const {
  std::vector<float> bias;
  if (!weights.query_bias && !weights.key_bias && !weights.value_bias) return bias;
  const auto append = [&](const WeightMatrix& stored, std::size_t size, bool interleaved) {
    const std::vector<float> values = stored ? core::dequantize_vector(stored) : std::vector<float>(size, 0.0f);
    for (std::size_t i = 0; i < size; ++i)
      bias.push_back(values[interleaved ? interleaved_row(i, config_.head_dim) : i]);
  };
  append(weights.query_bias, query_cols_, config_.interleaved_qk);
  append(weights.key_bias, kv_cols_, config_.interleaved_qk);
  append(weights.value_bias, kv_cols_, false);
  return bias;
}

PackedMatrix Run::pack_rows(const WeightMatrix& matrix) {
  std::vector<PackedMatrix::Source> outputs;
  for (std::size_t row = 0; row < matrix.num_rows; ++row) outputs.push_back({&matrix, row});
  return PackedMatrix(workers_, outputs, matrix.num_cols);
}

// Panels of kPanelOutputs: the gate's rows, then the same rows of up; whole tiles of each.
PackedMatrix Run::pack_gate_up(const LayerWeights& weights) {
  std::vector<PackedMatrix::Source> outputs;
  for (std::size_t first = 0; first < config_.ffn_size; first += kPanelOutputs) {
    const std::size_t end = std::min<std::size_t>(first + kPanelOutputs, config_.ffn_size);
    for (const WeightMatrix* matrix : {&weights.ffn_gate, &weights.ffn_up}) {
      for (std::size_t row = first; row < end; ++row) outputs.push_back({matrix, row});
      outputs.resize(round_up(outputs.size(), core::kMatrixOutputs));
    }
  }
  return PackedMatrix(workers_, outputs, config_.hidden_size);
}

// RMSNorm of rows of the residual stream, as bfloat16.
void Run::norm_rows(std::size_t first, std::size_t num_rows, const std::vector<float>& weight, Scratch& scratch) const {
  for (std::size_t r = 0; r < num_rows; ++r) {
    rows_.rms_norm(hidden(first + r), weight.data(), weight.size(), static_cast<float>(config_.rms_norm_eps),
                   scratch.row.get());
    rows_.to_bfloat16(scratch.row.get(), weight.size(), scratch.normed.get() + r * hidden_stride_);
  }
}

// bfloat16 [head_dim] of one position.
void Run::put_value(std::size_t kv_head, std::size_t position, const std::uint16_t* value) {
  const std::size_t dim = config_.head_dim;
  std::uint16_t* pairs = values_.get() + (kv_head * padded_positions_ + position / 2 * 2) * dim + position % 2;
  for (std::size_t d = 0; d < dim; ++d) pairs[2 * d] = value[d];
}

// One row's projections to where attention and the pool want them.
void Run::split_row(std::size_t row, float* projected, const std::vector<float>& bias) {
  const std::size_t dim = config_.head_dim, half = dim / 2, num_q = config_.num_q_heads, num_kv = config_.num_kv_heads;
  const auto query_scale = static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(dim)));
  if (!bias.empty()) rows_.add(bias.data(), bias.size(), projected);
  for (std::size_t h = 0; h < num_q + num_kv; ++h) {
    float* head = projected + h * dim;
    rows_.rotate(head, cos_.get() + row * half, sin_.get() + row * half, half, head);
  }
  bool finite = true;
  const auto is_finite = [dim](const std::uint16_t* bits) {
    return std::all_of(bits, bits + dim, [](std::uint16_t value) { return (value & 0x7c00) != 0x7c00; });
  };
  if (options_.want_queries) {
    for (std::size_t h = 0; h < num_q; ++h) {
      std::uint16_t* query16 = queries16_.get() + (h * num_tokens_ + row) * dim;
      rows_.to_float16(projected + h * dim, dim, query16);
      finite = finite && is_finite(query16);
    }
  }
  for (std::size_t i = 0; i < num_q * dim; ++i) projected[i] *= query_scale;
  for (std::size_t h = 0; h < num_q; ++h)
    rows_.to_bfloat16(projected + h * dim, dim, query_.get() + (h * (lead_ + num_tokens_) + lead_ + row) * dim);
  for (std::size_t h = 0; h < num_kv; ++h) {
    const float* key = projected + (num_q + h) * dim;
    const float* value = projected + (num_q + num_kv + h) * dim;
    rows_.to_bfloat16(key, dim, keys_.get() + (h * padded_positions_ + num_past_ + row) * dim);
    std::uint16_t* key16 = keys16_.get() + (h * num_tokens_ + row) * dim;
    std::uint16_t* value16 = values16_.get() + (h * num_tokens_ + row) * dim;
    rows_.to_float16(key, dim, key16);
    // Pairs of positions lie side by side: through the place of the float16 ones, which come after.
    rows_.to_bfloat16(value, dim, value16);
    put_value(h, num_past_ + row, value16);
    rows_.to_float16(value, dim, value16);
    finite = finite && is_finite(key16) && is_finite(value16);
  }
  if (!finite) all_finite_ = false;
}

Status Run::project(const LayerWeights& weights) {
  const PackedMatrix matrix = pack_projections(weights);
  const std::vector<float> norm = core::dequantize_vector(weights.attention_norm);
  const std::vector<float> bias = projection_bias(weights);
  const double cost = static_cast<double>(num_tokens_ * config_.hidden_size * (query_cols_ + 2 * kv_cols_));
  return tasks(num_blocks_, cost, [&](std::size_t block, Scratch& scratch) {
    const std::size_t first = block * block_rows_, num_rows = block_end(first) - first;
    norm_rows(first, num_rows, norm, scratch);
    const std::size_t stride = matrix.num_outputs();
    kernels_.multiply(scratch.normed.get(), hidden_stride_, round_up(num_rows, core::kMatrixRows), matrix.tile(0),
                      matrix.num_cols(), matrix.num_tiles(), scratch.results.get(), stride);
    for (std::size_t r = 0; r < num_rows; ++r) split_row(first + r, scratch.results.get() + r * stride, bias);
  });
}

Status Run::hand_on(std::uint32_t layer, const std::function<Status(const LayerKv&)>& on_layer) {
  if (!all_finite_) {
    return Error(ErrorCode::kNotFinite,
                 "layer " + std::to_string(layer) + ": a key, value or query does not fit float16 (65504)");
  }
  const std::size_t size = num_tokens_ * kv_cols_;
  const std::size_t num_queries = options_.want_queries ? num_tokens_ * query_cols_ : 0;
  return on_layer({layer,
                   static_cast<std::uint32_t>(num_tokens_),
                   {keys16_.get(), size},
                   {values16_.get(), size},
                   {queries16_.get(), num_queries}});
}

// The keys and values of the layer before the first row, from float16.
void Run::load_past(std::uint32_t layer) {
  if (num_past_ == 0) return;
  const LayerKv past = options_.past(layer);
  const std::size_t dim = config_.head_dim;
  workers_.run(config_.num_kv_heads, [&](std::size_t head, std::size_t) {
    std::vector<std::uint16_t> value(dim);
    for (std::size_t t = 0; t < num_past_; ++t) {
      const std::size_t from = (head * num_past_ + t) * dim;
      std::uint16_t* key = keys_.get() + (head * padded_positions_ + t) * dim;
      for (std::size_t d = 0; d < dim; ++d) {
        key[d] = core::float_to_bfloat16(core::float16_to_float(past.keys[from + d]));
        value[d] = core::float_to_bfloat16(core::float16_to_float(past.values[from + d]));
      }
      put_value(head, t, value.data());
    }
  });
}

Status Run::attend() {
  const std::size_t dim = config_.head_dim, num_q = config_.num_q_heads, first = num_past_ - lead_;
  const std::size_t num_blocks = (num_positions_ - first + core::kCausalRows - 1) / core::kCausalRows;
  const double cost =
      static_cast<double>(num_tokens_) * static_cast<double>((num_past_ + num_positions_) * query_cols_);
  return tasks(num_blocks * num_q, cost, [&](std::size_t task, Scratch& scratch) {
    const std::size_t head = task % num_q, kv_head = head / config_.q_per_kv();
    const std::size_t row = (num_blocks - 1 - task / num_q) * core::kCausalRows;  // longest first
    const core::CausalHead source{num_positions_,
                                  dim,
                                  first,
                                  query_.get() + head * (lead_ + num_tokens_) * dim,
                                  keys_.get() + kv_head * padded_positions_ * dim,
                                  values_.get() + kv_head * padded_positions_ * dim};
    kernels_.attend(source, first + row, mixed_.get() + row * query_cols_ + head * dim, query_cols_,
                    scratch.causal.get());
  });
}

void Run::add_rows(std::size_t first, std::size_t num_rows, std::size_t stride, const float* results) {
  for (std::size_t r = 0; r < num_rows; ++r)
    rows_.add(results + r * stride, config_.hidden_size, hidden_.get() + (first + r) * config_.hidden_size);
}

// Output projection and feed-forward network; both are added to the residual stream.
Status Run::feed_forward(const LayerWeights& weights) {
  const PackedMatrix output = pack_rows(weights.attention_output), gate_up = pack_gate_up(weights),
                     down = pack_rows(weights.ffn_down);
  const std::vector<float> norm = core::dequantize_vector(weights.ffn_norm);
  const double cost =
      static_cast<double>(num_tokens_ * config_.hidden_size * (query_cols_ + std::size_t{3} * config_.ffn_size));
  return tasks(num_blocks_, cost, [&](std::size_t block, Scratch& scratch) {
    const std::size_t first = block * block_rows_, num_rows = block_end(first) - first;
    const std::size_t whole_rows = round_up(num_rows, core::kMatrixRows);
    float* results = scratch.results.get();
    kernels_.multiply(mixed_.get() + (lead_ + first) * query_cols_, query_cols_, whole_rows, output.tile(0),
                      output.num_cols(), output.num_tiles(), results, output.num_outputs());
    add_rows(first, num_rows, output.num_outputs(), results);
    norm_rows(first, num_rows, norm, scratch);
    std::size_t tile = 0;
    for (std::size_t panel = 0; panel < config_.ffn_size; panel += kPanelOutputs) {
      const std::size_t outputs = std::min<std::size_t>(kPanelOutputs, config_.ffn_size - panel);
      const std::size_t stride = round_up(outputs, core::kMatrixOutputs);
      const std::size_t num_tiles = 2 * stride / core::kMatrixOutputs;
      kernels_.multiply(scratch.normed.get(), hidden_stride_, whole_rows, gate_up.tile(tile), gate_up.num_cols(),
                        num_tiles, results, 2 * stride);
      tile += num_tiles;
      for (std::size_t r = 0; r < num_rows; ++r) {
        const float* gate = results + r * 2 * stride;
        rows_.swiglu(gate, gate + stride, outputs, scratch.row.get());
        rows_.to_bfloat16(scratch.row.get(), outputs, scratch.activated.get() + r * ffn_stride_ + panel);
      }
    }
    kernels_.multiply(scratch.activated.get(), ffn_stride_, whole_rows, down.tile(0), down.num_cols(), down.num_tiles(),
                      results, down.num_outputs());
    add_rows(first, num_rows, down.num_outputs(), results);
  });
}

class BlockPrefill final : public PrefillRunner {
 public:
  Status prefill(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options,
                 const std::function<Status(const LayerKv&)>& on_layer) override {
    return Run(model, tokens, options).layers(/*want_hidden=*/false, on_layer);
  }

  // The output matrix by core::linear, exactly: only what the layers computed is rounded to bfloat16.
  Status logits(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options,
                std::span<const std::uint32_t> positions, std::span<float> out) override {
    Run run(model, tokens, options);
    POLYKV_CHECK_STATUS(run.layers(/*want_hidden=*/true, [](const LayerKv&) { return Status(); }));
    const std::size_t hidden_size = model.config().hidden_size, vocab_size = model.config().vocab_size;
    const std::vector<float> norm = core::dequantize_vector(model.weights().output_norm);
    std::vector<float> normed(hidden_size);
    core::Activations activations;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      core::active_kernels().rows->rms_norm(run.hidden(positions[i]), norm.data(), hidden_size,
                                            static_cast<float>(model.config().rms_norm_eps), normed.data());
      activations.assign(normed, 1, hidden_size, run.workers());
      const core::LinearLayer output{model.weights().output, {}, out.subspan(i * vocab_size, vocab_size)};
      core::linear(activations, {&output, 1}, run.workers());
    }
    return {};
  }

  std::string version() const override {
    return "polykv " POLYKV_VERSION " " + std::string(core::active_prefill_kernels()->name);
  }
};

}  // namespace

std::unique_ptr<PrefillRunner> make_block_prefill() {
  if (core::active_prefill_kernels() == nullptr) return nullptr;
  return std::make_unique<BlockPrefill>();
}

}  // namespace polykv::runtime

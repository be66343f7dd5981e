// The prefill runner on LibTorch: layer-outer, so that no converted copy of the model ever exists.
//
// One layer's weights are dequantized, the whole document runs through them in chunks, the layer's keys and values are
// handed on, and the next layer begins. The residual stream and attention stay float; the linear layers run in the
// chosen type. This is the only file that includes LibTorch's headers or catches its exceptions.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "cli/runtime/model_runner.h"
#include "core/workers.h"

namespace polykv::runtime {
namespace {

using core::WeightMatrix;
using format::Error;
using format::ErrorCode;
using format::Status;

constexpr std::int64_t kRowChunk = 1024;    // tokens of a chunk in the linear layers: bounds their working memory
constexpr std::int64_t kQueryBlock = 256;   // queries of an attention block
constexpr std::int64_t kRowsOfTask = 64;    // dequantized by a thread at a time
constexpr std::int64_t kVocabChunk = 8192;  // rows of the output matrix dequantized at a time

// Thrown inside this file only, to leave LibTorch's call stack with an error of ours.
struct Stop {
  Error error;
};

void check(Status status) {
  if (!status) throw Stop{std::move(status).error()};
}

// Row of the stored matrix that holds row `row` in half-split order (ModelConfig::interleaved_qk).
std::int64_t stored_row(std::int64_t row, std::int64_t head_dim, bool interleaved) {
  if (!interleaved) return row;
  const std::int64_t head = row / head_dim * head_dim;
  const std::int64_t within = row % head_dim;
  const std::int64_t half = head_dim / 2;
  return head + (within < half ? 2 * within : 2 * (within - half) + 1);
}

// The matrix in `type`, rows reordered if `interleaved`. On threads of ours: at::parallel_for runs on one unless it is
// compiled with LibTorch's own OpenMP.
at::Tensor dequantize(core::Workers& workers, const WeightMatrix& matrix, at::ScalarType type, std::int64_t first_row,
                      std::int64_t num_rows, std::int64_t head_dim = 1, bool interleaved = false) {
  const auto cols = static_cast<std::int64_t>(matrix.num_cols);
  at::Tensor out = at::empty({num_rows, cols}, type);
  workers.run(static_cast<std::size_t>((num_rows + kRowsOfTask - 1) / kRowsOfTask), [&](std::size_t task, std::size_t) {
    std::vector<float> row(matrix.num_cols);
    const std::int64_t begin = static_cast<std::int64_t>(task) * kRowsOfTask;
    for (std::int64_t r = begin; r < std::min(begin + kRowsOfTask, num_rows); ++r) {
      core::dequantize_row(matrix, static_cast<std::size_t>(stored_row(first_row + r, head_dim, interleaved)), row);
      if (type == at::kFloat) {
        std::copy(row.begin(), row.end(), out.data_ptr<float>() + r * cols);
      } else {
        std::transform(row.begin(), row.end(), out.data_ptr<at::BFloat16>() + r * cols,
                       [](float value) { return at::BFloat16(value); });
      }
    }
  });
  return out;
}

at::Tensor dequantize_all(core::Workers& workers, const WeightMatrix& matrix, at::ScalarType type) {
  return dequantize(workers, matrix, type, 0, static_cast<std::int64_t>(matrix.num_rows));
}

// A bias as float, reordered like its matrix; an undefined tensor if the model has none.
at::Tensor bias_of(core::Workers& workers, const WeightMatrix& bias, std::int64_t head_dim, bool interleaved) {
  if (!bias) return {};
  const at::Tensor stored = dequantize_all(workers, bias, at::kFloat).flatten();
  if (!interleaved) return stored;
  at::Tensor index = at::empty({stored.size(0)}, at::kLong);
  for (std::int64_t i = 0; i < stored.size(0); ++i) index.data_ptr<std::int64_t>()[i] = stored_row(i, head_dim, true);
  return stored.index_select(0, index);
}

// One layer's weights, dequantized; freed with the object.
struct Layer {
  at::Tensor attention_norm, ffn_norm;  // float [hidden]
  at::Tensor qkv;                       // [q + k + v rows][hidden]
  at::Tensor qkv_bias;                  // float, or undefined
  at::Tensor attention_output, gate_up, down;

  Layer(core::Workers& workers, const LayerWeights& weights, const ModelConfig& config, at::ScalarType type) {
    const std::int64_t dim = config.head_dim;
    const bool interleaved = config.interleaved_qk;
    const auto rows = [](const WeightMatrix& m) { return static_cast<std::int64_t>(m.num_rows); };
    attention_norm = dequantize_all(workers, weights.attention_norm, at::kFloat).flatten();
    ffn_norm = dequantize_all(workers, weights.ffn_norm, at::kFloat).flatten();
    qkv = at::cat({dequantize(workers, weights.query, type, 0, rows(weights.query), dim, interleaved),
                   dequantize(workers, weights.key, type, 0, rows(weights.key), dim, interleaved),
                   dequantize_all(workers, weights.value, type)});
    if (weights.query_bias || weights.key_bias || weights.value_bias) {
      const auto or_zero = [&](const WeightMatrix& bias, const WeightMatrix& matrix, bool reorder) {
        return bias ? bias_of(workers, bias, dim, reorder) : at::zeros({rows(matrix)}, at::kFloat);
      };
      qkv_bias = at::cat({or_zero(weights.query_bias, weights.query, interleaved),
                          or_zero(weights.key_bias, weights.key, interleaved),
                          or_zero(weights.value_bias, weights.value, false)});
    }
    attention_output = dequantize_all(workers, weights.attention_output, type);
    gate_up = at::cat({dequantize_all(workers, weights.ffn_gate, type), dequantize_all(workers, weights.ffn_up, type)});
    down = dequantize_all(workers, weights.ffn_down, type);
  }
};

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x * at::rsqrt(x.square().mean(-1, true) + eps) * weight;
}

// cos and sin [num_tokens][head_dim / 2] of positions from `first` on as float, angles in double: at position 100,000 a
// float angle is off by 0.004.
std::pair<at::Tensor, at::Tensor> rope_tables(const ModelConfig& config, std::int64_t first, std::int64_t num_tokens) {
  const std::vector<double> frequencies = config.rope.inverse_frequencies(config.head_dim);
  const at::Tensor frequency = at::tensor(frequencies, at::kDouble);
  const at::Tensor angle = at::arange(first, first + num_tokens, at::kDouble).unsqueeze(1) * frequency.unsqueeze(0);
  return {angle.cos().to(at::kFloat), angle.sin().to(at::kFloat)};
}

// x float [rows][heads][head_dim], in half-split order, rotated in place; cos, sin [rows][head_dim / 2].
void apply_rope(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const std::int64_t half = x.size(2) / 2;
  const at::Tensor first = x.narrow(2, 0, half).clone();
  const at::Tensor second = x.narrow(2, half, half).clone();
  const at::Tensor c = cos.unsqueeze(1);
  const at::Tensor s = sin.unsqueeze(1);
  x.narrow(2, 0, half).copy_(first * c - second * s);
  x.narrow(2, half, half).copy_(second * c + first * s);
}

class TorchPrefill final : public PrefillRunner {
 public:
  Status prefill(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options,
                 const std::function<Status(const LayerKv&)>& on_layer) override {
    return guarded(options, [&] { run(model, tokens, options, on_layer); });
  }

  Status logits(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options,
                std::span<const std::uint32_t> positions, std::span<float> out) override {
    return guarded(options, [&] {
      const at::Tensor hidden = run(model, tokens, options, [](const LayerKv&) { return Status(); });
      at::Tensor index = at::empty({static_cast<std::int64_t>(positions.size())}, at::kLong);
      std::copy(positions.begin(), positions.end(), index.data_ptr<std::int64_t>());
      const at::Tensor norm = dequantize_all(*workers_, model.weights().output_norm, at::kFloat).flatten();
      const at::Tensor x = rms_norm(hidden.index_select(0, index), norm, model.config().rms_norm_eps);
      at::Tensor result = at::from_blob(out.data(), {x.size(0), model.config().vocab_size}, at::kFloat);
      for (std::int64_t row = 0; row < result.size(1); row += kVocabChunk) {
        const std::int64_t rows = std::min<std::int64_t>(kVocabChunk, result.size(1) - row);
        result.narrow(1, row, rows)
            .copy_(at::linear(x, dequantize(*workers_, model.weights().output, at::kFloat, row, rows)));
      }
    });
  }

  std::string version() const override {
    return "LibTorch " + std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR) + "." +
           std::to_string(TORCH_VERSION_PATCH);
  }

 private:
  std::unique_ptr<core::Workers> workers_;  // of the last run

  template <typename Work>
  Status guarded(const PrefillOptions& options, const Work& work) {
    try {
      const c10::InferenceMode inference;
      at::set_num_threads(static_cast<int>(options.num_threads));
      workers_ = std::make_unique<core::Workers>(options.num_threads);
      work();
      return {};
    } catch (Stop& stop) {
      return std::move(stop.error);
    } catch (const std::exception& error) {
      const std::string text = error.what();
      return Error(ErrorCode::kFailed, "LibTorch: " + text.substr(0, text.find('\n')));
    }
  }

  // Returns the residual stream [num_tokens][hidden] after the last layer.
  at::Tensor run(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options,
                 const std::function<Status(const LayerKv&)>& on_layer) {
    const ModelConfig& config = model.config();
    const at::ScalarType type = options.type == NumberType::kBF16 ? at::kBFloat16 : at::kFloat;
    const auto num_tokens = static_cast<std::int64_t>(tokens.size());
    at::Tensor hidden = at::empty({num_tokens, config.hidden_size}, at::kFloat);
    for (std::int64_t t = 0; t < num_tokens; ++t) {
      core::dequantize_row(model.weights().embedding, tokens[static_cast<std::size_t>(t)],
                           {hidden.data_ptr<float>() + t * config.hidden_size, config.hidden_size});
    }
    const auto [cos, sin] = rope_tables(config, options.num_past, num_tokens);
    for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
      const auto progress = [&](double part) {
        if (options.on_progress && !options.on_progress((layer + part) / config.num_layers)) {
          throw Stop{Error(ErrorCode::kInterrupted, "interrupted")};
        }
      };
      run_layer(Layer(*workers_, model.weights().layers[layer], config, type), config, layer, type, cos, sin, hidden,
                options, progress, on_layer);
    }
    return hidden;
  }

  template <typename Progress>
  static void run_layer(const Layer& weights, const ModelConfig& config, std::uint32_t layer, at::ScalarType type,
                        const at::Tensor& cos, const at::Tensor& sin, at::Tensor& hidden, const PrefillOptions& options,
                        const Progress& progress, const std::function<Status(const LayerKv&)>& on_layer) {
    const std::int64_t num_tokens = hidden.size(0);
    const std::int64_t dim = config.head_dim, num_q = config.num_q_heads, num_kv = config.num_kv_heads;
    at::Tensor query = at::empty({num_kv, num_q / num_kv, num_tokens, dim}, at::kFloat);
    at::Tensor keys = at::empty({num_kv, num_tokens, dim}, at::kFloat);
    at::Tensor values = at::empty({num_kv, num_tokens, dim}, at::kFloat);
    for (std::int64_t row = 0; row < num_tokens; row += kRowChunk) {
      const std::int64_t rows = std::min(kRowChunk, num_tokens - row);
      const at::Tensor x = rms_norm(hidden.narrow(0, row, rows), weights.attention_norm, config.rms_norm_eps).to(type);
      at::Tensor projected = at::linear(x, weights.qkv).to(at::kFloat);
      if (weights.qkv_bias.defined()) projected += weights.qkv_bias;
      at::Tensor heads = projected.view({rows, num_q + 2 * num_kv, dim});
      at::Tensor rotated = heads.narrow(1, 0, num_q + num_kv);
      apply_rope(rotated, cos.narrow(0, row, rows), sin.narrow(0, row, rows));
      query.narrow(2, row, rows)
          .copy_(heads.narrow(1, 0, num_q).view({rows, num_kv, num_q / num_kv, dim}).permute({1, 2, 0, 3}));
      keys.narrow(1, row, rows).copy_(heads.narrow(1, num_q, num_kv).transpose(0, 1));
      values.narrow(1, row, rows).copy_(heads.narrow(1, num_q + num_kv, num_kv).transpose(0, 1));
    }
    progress(0.2);
    hand_on(keys, values, options.want_queries ? query : at::Tensor(), layer, on_layer);
    if (options.num_past > 0) prepend_past(options.past(layer), dim, keys, values);
    attend(weights, query, keys, values, type, hidden, progress);
    for (std::int64_t row = 0; row < num_tokens; row += kRowChunk) {
      const std::int64_t rows = std::min(kRowChunk, num_tokens - row);
      at::Tensor residual = hidden.narrow(0, row, rows);
      const at::Tensor x = rms_norm(residual, weights.ffn_norm, config.rms_norm_eps).to(type);
      const std::vector<at::Tensor> gate_up = at::linear(x, weights.gate_up).chunk(2, 1);
      residual += at::linear(at::silu(gate_up[0]).mul_(gate_up[1]), weights.down);
    }
    progress(1.0);
  }

  // `query` undefined: not wanted.
  static void hand_on(const at::Tensor& keys, const at::Tensor& values, const at::Tensor& query, std::uint32_t layer,
                      const std::function<Status(const LayerKv&)>& on_layer) {
    const at::Tensor keys16 = keys.to(at::kHalf);
    const at::Tensor values16 = values.to(at::kHalf);
    const at::Tensor query16 = query.defined() ? query.to(at::kHalf) : at::empty({0}, at::kHalf);
    for (const at::Tensor& x : {keys16, values16, query16}) {
      if (x.isfinite().all().item<bool>()) continue;
      throw Stop{Error(ErrorCode::kNotFinite,
                       "layer " + std::to_string(layer) + ": a key, value or query does not fit float16 (65504)")};
    }
    const auto bits = [](const at::Tensor& x) {
      return std::span<const std::uint16_t>(static_cast<const std::uint16_t*>(x.data_ptr()),
                                            static_cast<std::size_t>(x.numel()));
    };
    check(on_layer(
        LayerKv{layer, static_cast<std::uint32_t>(keys.size(1)), bits(keys16), bits(values16), bits(query16)}));
  }

  // keys and values [num_kv][tokens][head_dim] get the past's before them.
  static void prepend_past(const LayerKv& past, std::int64_t dim, at::Tensor& keys, at::Tensor& values) {
    const auto joined = [&](std::span<const std::uint16_t> before, const at::Tensor& own) {
      const at::Tensor half =
          at::from_blob(const_cast<std::uint16_t*>(before.data()), {own.size(0), past.num_tokens, dim}, at::kHalf);
      return at::cat({half.to(at::kFloat), own}, 1);
    };
    keys = joined(past.keys, keys);
    values = joined(past.values, values);
  }

  // Causal attention in blocks of queries, which are the last of the keys' positions; adds the output projection to
  // `hidden`. LibTorch's SDPA takes twice as long here.
  template <typename Progress>
  static void attend(const Layer& weights, const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                     at::ScalarType type, at::Tensor& hidden, const Progress& progress) {
    const std::int64_t num_kv = query.size(0), group = query.size(1), num_tokens = query.size(2), dim = query.size(3);
    const std::int64_t num_past = keys.size(1) - num_tokens;
    const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
    const at::Tensor keys_by_dim = keys.transpose(1, 2);
    for (std::int64_t row = 0; row < num_tokens; row += kQueryBlock) {
      const std::int64_t rows = std::min(kQueryBlock, num_tokens - row);
      const std::int64_t visible = num_past + row + rows;
      const at::Tensor block = (query.narrow(2, row, rows) * scale).reshape({num_kv, group * rows, dim});
      at::Tensor scores = at::bmm(block, keys_by_dim.narrow(2, 0, visible));
      at::Tensor last = scores.view({-1, rows, visible}).narrow(2, num_past + row, rows);
      last.masked_fill_(at::ones({rows, rows}, at::kBool).triu_(1), -std::numeric_limits<float>::infinity());
      const at::Tensor mixed =
          at::bmm(at::softmax(scores, -1), values.narrow(1, 0, visible)).to(type).view({num_kv * group, rows, dim});
      hidden.narrow(0, row, rows) +=
          at::linear(mixed.transpose(0, 1).reshape({rows, num_kv * group * dim}), weights.attention_output);
      progress(0.2 + 0.5 * static_cast<double>(row + rows) / static_cast<double>(num_tokens));
    }
  }
};

}  // namespace
}  // namespace polykv::runtime

extern "C" __attribute__((visibility("default"))) polykv::runtime::PrefillRunner* polykv_create_prefill_runner(
    std::uint32_t version) {
  if (version != polykv::runtime::kPrefillPluginVersion) return nullptr;
  return new polykv::runtime::TorchPrefill();
}

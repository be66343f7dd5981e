#include "cli/runtime/step_runner.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "core/kernels/kernels.h"
#include "core/kernels/rows.h"
#include "core/linear.h"

namespace polykv::runtime {
namespace {

using core::Activations;
using core::WeightMatrix;

// With fewer rows, handing them out costs more than the work between two matrices.
constexpr std::size_t kSoloRows = 4;

// One row of a step.
struct Row {
  const AgentStep* agent;
  std::uint32_t token;
  std::uint32_t position;
  std::uint32_t number;  // of the agent's rows in this step
};

// Interleaved pairs (2i, 2i + 1) to half-split order (ModelConfig::interleaved_qk).
void split_halves(float* head, std::size_t head_dim) {
  float scratch[format::kMaxHeadDim];
  std::copy_n(head, head_dim, scratch);
  for (std::size_t i = 0; i < head_dim / 2; ++i) {
    head[i] = scratch[2 * i];
    head[head_dim / 2 + i] = scratch[2 * i + 1];
  }
}

}  // namespace

struct StepRunner::State {
  const ModelFile& model;
  const ModelConfig& config;
  std::vector<const core::KvPool*> chain;
  core::Workers& workers;
  const core::RowKernels& kernels = *core::active_kernels().rows;
  core::AttendScratch attend_scratch;
  std::uint32_t chain_end = 0;
  std::vector<core::PositionRange> everything;

  std::vector<double> frequencies;
  struct Vectors {
    std::vector<float> attention_norm, ffn_norm, query_bias, key_bias, value_bias;
  };
  std::vector<Vectors> vectors;  // [num_layers], a few KB each: dequantized once
  std::vector<float> output_norm;

  // Working memory, [rows][...].
  std::vector<Row> rows;
  std::vector<std::size_t> first_rows;  // of each agent
  std::vector<float> hidden, normed, query, key, value, mixed, projected, gate, up, cos, sin, log_sums;
  std::vector<core::AttendRow> attend_rows;
  Activations activations;
  std::function<void(const StepLayer&)> observer;

  State(const ModelFile& model_, std::vector<const core::KvPool*> chain_, core::Workers& workers_)
      : model(model_), config(model_.config()), chain(std::move(chain_)), workers(workers_) {
    frequencies = config.rope.inverse_frequencies(config.head_dim);
    for (const LayerWeights& layer : model.weights().layers) {
      vectors.push_back({core::dequantize_vector(layer.attention_norm), core::dequantize_vector(layer.ffn_norm),
                         core::dequantize_vector(layer.query_bias), core::dequantize_vector(layer.key_bias),
                         core::dequantize_vector(layer.value_bias)});
    }
    output_norm = core::dequantize_vector(model.weights().output_norm);
    for (const core::KvPool* pool : chain) {
      const std::uint32_t begin = pool->first_position();
      chain_end = begin + pool->shape().num_tokens;
      everything.push_back({begin, chain_end});
    }
  }

  std::size_t num_rows() const { return rows.size(); }
  float eps() const { return static_cast<float>(config.rms_norm_eps); }

  // task(row) for every row, each on some thread.
  template <typename Task>
  void for_rows(const Task& task) {
    if (num_rows() < kSoloRows) {
      for (std::size_t r = 0; r < num_rows(); ++r) task(r);
    } else {
      workers.run(num_rows(), [&task](std::size_t r, std::size_t) { task(r); });
    }
  }

  void start(std::span<const AgentStep> agents, const StepPart& part);
  void norm_rows(const std::vector<float>& weight);
  core::LinearLayer linear(const WeightMatrix& weights, std::span<const float> bias, std::vector<float>& out);
  void multiply(std::initializer_list<core::LinearLayer> layers) {
    core::linear(activations, {layers.begin(), layers.size()}, workers);
  }
  void add_projected();
  void query_key_value(std::uint32_t layer);
  void append_to_tails(std::uint32_t layer, std::span<const AgentStep> agents);
  format::Status attention(std::uint32_t layer, std::span<const AgentStep> agents);
  void feed_forward(std::uint32_t layer);
  void logits(std::span<const AgentStep> agents);
};

// Rows, what comes into their first layer, and their rotation angles (in double: a float angle is off by 0.004 at
// position 100,000).
void StepRunner::State::start(std::span<const AgentStep> agents, const StepPart& part) {
  rows.clear();
  first_rows.clear();
  for (const AgentStep& agent : agents) {
    first_rows.push_back(rows.size());
    agent.tail->reserve(static_cast<std::uint32_t>(agent.tokens.size()));  // that allocates; tasks must not throw
    const std::uint32_t begin = agent.visible.empty() ? chain_end : agent.visible.back().end;
    for (std::size_t i = 0; i < agent.tokens.size(); ++i) {
      const auto number = static_cast<std::uint32_t>(i);
      rows.push_back({&agent, agent.tokens[i], begin + agent.tail->num_seen() + number, number});
    }
  }
  const std::size_t half = config.head_dim / 2;
  const bool embed = part.first_layer == 0;
  hidden.resize(num_rows() * config.hidden_size);
  if (!embed) std::copy_n(part.stream.begin(), hidden.size(), hidden.begin());
  cos.resize(num_rows() * half);
  sin.resize(num_rows() * half);
  for_rows([&](std::size_t r) {
    if (embed)
      core::dequantize_row(model.weights().embedding, rows[r].token,
                           {&hidden[r * config.hidden_size], config.hidden_size});
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = rows[r].position * frequencies[i];
      cos[r * half + i] = static_cast<float>(std::cos(angle));
      sin[r * half + i] = static_cast<float>(std::sin(angle));
    }
  });
}

// activations = RMSNorm of every row of `hidden`.
void StepRunner::State::norm_rows(const std::vector<float>& weight) {
  normed.resize(hidden.size());
  for_rows([&](std::size_t r) {
    kernels.rms_norm(&hidden[r * config.hidden_size], weight.data(), weight.size(), eps(),
                     &normed[r * config.hidden_size]);
  });
  activations.assign(normed, num_rows(), config.hidden_size, workers);
}

// Makes room for the result.
core::LinearLayer StepRunner::State::linear(const WeightMatrix& weights, std::span<const float> bias,
                                            std::vector<float>& out) {
  out.resize(num_rows() * weights.num_rows);
  return {weights, bias, out};
}

void StepRunner::State::add_projected() { kernels.add(projected.data(), hidden.size(), hidden.data()); }

void StepRunner::State::query_key_value(std::uint32_t layer) {
  const LayerWeights& weights = model.weights().layers[layer];
  const Vectors& biases = vectors[layer];
  multiply({linear(weights.query, biases.query_bias, query), linear(weights.key, biases.key_bias, key),
            linear(weights.value, biases.value_bias, value)});
  const std::size_t dim = config.head_dim, half = dim / 2;
  const auto rotate = [&](std::size_t r, std::vector<float>& x, std::size_t num_heads) {
    for (std::size_t h = 0; h < num_heads; ++h) {
      float* head = &x[(r * num_heads + h) * dim];
      if (config.interleaved_qk) split_halves(head, dim);
      kernels.rotate(head, &cos[r * half], &sin[r * half], half, head);
    }
  };
  for_rows([&](std::size_t r) {
    rotate(r, query, config.num_q_heads);
    rotate(r, key, config.num_kv_heads);
  });
}

void StepRunner::State::append_to_tails(std::uint32_t layer, std::span<const AgentStep> agents) {
  const std::size_t row_size = std::size_t{config.num_kv_heads} * config.head_dim;
  const auto append = [&](std::size_t i) {
    const AgentStep& agent = agents[i];
    const std::size_t first = first_rows[i] * row_size, size = agent.tokens.size() * row_size;
    agent.tail->append(layer, {&key[first], size}, {&value[first], size},
                       static_cast<std::uint32_t>(agent.tokens.size()));
  };
  if (agents.size() < kSoloRows) {
    for (std::size_t i = 0; i < agents.size(); ++i) append(i);
  } else {
    workers.run(agents.size(), [&append](std::size_t i, std::size_t) { append(i); });
  }
}

format::Status StepRunner::State::attention(std::uint32_t layer, std::span<const AgentStep> agents) {
  norm_rows(vectors[layer].attention_norm);
  query_key_value(layer);
  append_to_tails(layer, agents);
  const std::size_t row_size = std::size_t{config.num_q_heads} * config.head_dim;
  mixed.resize(num_rows() * row_size);
  log_sums.resize(observer ? num_rows() * config.num_q_heads : 0);
  attend_rows.clear();
  for (std::size_t r = 0; r < num_rows(); ++r) {
    attend_rows.push_back({&query[r * row_size], &mixed[r * row_size], rows[r].agent->visible, rows[r].agent->tail,
                           rows[r].agent->tail->num_tokens(layer) + rows[r].number + 1,
                           observer ? &log_sums[r * config.num_q_heads] : nullptr});
  }
  POLYKV_CHECK_STATUS(core::attend(chain, layer, config.num_q_heads, config.num_kv_heads, config.head_dim, attend_rows,
                                   workers, attend_scratch));
  activations.assign(mixed, num_rows(), row_size, workers);
  multiply({linear(model.weights().layers[layer].attention_output, {}, projected)});
  add_projected();
  return {};
}

void StepRunner::State::feed_forward(std::uint32_t layer) {
  const LayerWeights& weights = model.weights().layers[layer];
  norm_rows(vectors[layer].ffn_norm);
  multiply({linear(weights.ffn_gate, {}, gate), linear(weights.ffn_up, {}, up)});
  for_rows([&](std::size_t r) {
    const std::size_t first = r * config.ffn_size;
    kernels.swiglu(&gate[first], &up[first], config.ffn_size, &up[first]);
  });
  activations.assign(up, num_rows(), config.ffn_size, workers);
  multiply({linear(weights.ffn_down, {}, projected)});
  add_projected();
}

// Only rows whose logits are wanted go through the output matrix, a third of a small model's weights.
void StepRunner::State::logits(std::span<const AgentStep> agents) {
  const std::size_t vocab = config.vocab_size;
  std::vector<float*> outputs;
  normed.clear();
  for (std::size_t a = 0; a < agents.size(); ++a) {
    const std::size_t first = first_rows[a] + agents[a].tokens.size() - agents[a].num_logits;
    for (std::size_t i = 0; i < agents[a].num_logits; ++i) {
      normed.resize(normed.size() + config.hidden_size);
      kernels.rms_norm(&hidden[(first + i) * config.hidden_size], output_norm.data(), output_norm.size(), eps(),
                       &normed[normed.size() - config.hidden_size]);
      outputs.push_back(agents[a].logits + i * vocab);
    }
  }
  if (outputs.empty()) return;
  activations.assign(normed, outputs.size(), config.hidden_size, workers);
  // Rows that follow each other in memory need no copy: 200 KB each for a vocabulary of 49,152.
  bool in_place = true;
  for (std::size_t i = 1; i < outputs.size(); ++i) in_place &= outputs[i] == outputs[i - 1] + vocab;
  if (!in_place) projected.resize(outputs.size() * vocab);
  const std::span<float> out(in_place ? outputs.front() : projected.data(), outputs.size() * vocab);
  multiply({core::LinearLayer{model.weights().output, {}, out}});
  if (in_place) return;
  for (std::size_t i = 0; i < outputs.size(); ++i) std::copy_n(&out[i * vocab], vocab, outputs[i]);
}

StepRunner::StepRunner(const ModelFile& model, std::vector<const core::KvPool*> chain, core::Workers& workers)
    : state_(std::make_unique<State>(model, std::move(chain), workers)) {}

StepRunner::~StepRunner() = default;

void StepRunner::set_partial_positions(std::uint32_t num_positions) {
  state_->attend_scratch.partial_slots = num_positions;
}

format::Status StepRunner::step(std::span<const AgentStep> agents) {
  return step(agents, {0, state_->config.num_layers, {}});
}

format::Status StepRunner::step(std::span<const AgentStep> agents, const StepPart& part) {
  State& state = *state_;
  state.start(agents, part);
  for (std::uint32_t layer = part.first_layer; layer < part.end_layer; ++layer) {
    POLYKV_CHECK_STATUS(state.attention(layer, agents));
    if (state.observer)
      state.observer({layer, state.num_rows(), state.query, state.mixed, state.hidden, state.log_sums});
    state.feed_forward(layer);
  }
  for (const AgentStep& agent : agents) agent.tail->commit(static_cast<std::uint32_t>(agent.tokens.size()));
  if (!part.stream.empty()) std::copy(state.hidden.begin(), state.hidden.end(), part.stream.begin());
  if (part.end_layer == state.config.num_layers) state.logits(agents);
  return {};
}

void StepRunner::observe(std::function<void(const StepLayer&)> observer) { state_->observer = std::move(observer); }

std::uint32_t StepRunner::chain_end() const { return state_->chain_end; }

std::span<const core::PositionRange> StepRunner::everything() const { return state_->everything; }

core::Tail StepRunner::make_tail(std::uint32_t capacity) const {
  return core::Tail(state_->config.num_layers, state_->config.num_kv_heads, state_->config.head_dim, capacity);
}

}  // namespace polykv::runtime

#include "cli/runtime/cards/graft.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/runtime/cards/chain_values.h"
#include "cli/runtime/fidelity_json.h"
#include "cli/runtime/step_runner.h"
#include "core/float16.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;

constexpr std::uint32_t kAnswerTokens = 32;  // of each question

// Turns keys by so many positions, as RoPE does (half-split order).
class KeyTurner {
 public:
  KeyTurner(const ModelConfig& config, std::int64_t by) {
    for (const double frequency : config.rope.inverse_frequencies(config.head_dim)) {
      cos_.push_back(std::cos(static_cast<double>(by) * frequency));
      sin_.push_back(std::sin(static_cast<double>(by) * frequency));
    }
  }

  void turn(std::span<float> key) const {
    const std::size_t half = cos_.size();
    for (std::size_t i = 0; i < half; ++i) {
      const double a = key[i], b = key[half + i];
      key[i] = static_cast<float>(a * cos_[i] - b * sin_[i]);
      key[half + i] = static_cast<float>(b * cos_[i] + a * sin_[i]);
    }
  }

 private:
  std::vector<double> cos_, sin_;
};

Status write_turned(std::span<const core::KvPool* const> from, const KeyTurner& turner, CardWriter& writer,
                    core::Workers& workers) {
  const format::KvShape& shape = from.back()->shape();
  const std::size_t dim = shape.head_dim, size = shape.num_tokens * dim;
  struct Buffer {
    std::vector<float> keys, values;
    std::vector<std::uint16_t> keys16, values16;
    Status status;
  };
  std::vector<Buffer> buffers(workers.num_threads(), {std::vector<float>(size),
                                                      std::vector<float>(size),
                                                      std::vector<std::uint16_t>(size),
                                                      std::vector<std::uint16_t>(size),
                                                      {}});
  const Status written =
      writer.layers().write(0, shape.num_layers, [&](std::uint32_t layer, std::uint32_t kv_head, std::size_t worker) {
        Buffer& buffer = buffers[worker];
        const Status read = dequantize_pool(from, from.size() - 1, layer, kv_head, buffer.keys, buffer.values);
        if (!read) buffer.status = read;
        for (std::size_t at = 0; at < size; at += dim) turner.turn(std::span(buffer.keys).subspan(at, dim));
        std::transform(buffer.keys.begin(), buffer.keys.end(), buffer.keys16.begin(), core::float_to_float16);
        std::transform(buffer.values.begin(), buffer.values.end(), buffer.values16.begin(), core::float_to_float16);
        return HeadKv{buffer.keys16, buffer.values16};
      });
  for (const Buffer& buffer : buffers) POLYKV_CHECK_STATUS(buffer.status);
  return written;
}

// One side of the comparison: a chain, and what is fed after it.
struct Side {
  StepRunner runner;
  core::Tail tail;
  std::vector<float> logits;

  Side(const ModelFile& model, std::vector<const core::KvPool*> chain, std::uint32_t capacity, core::Workers& workers)
      : runner(model, std::move(chain), workers), tail(runner.make_tail(capacity)), logits(model.config().vocab_size) {}

  // The logits after the last token.
  Status feed(std::span<const std::uint32_t> tokens) {
    for (std::size_t at = 0; at < tokens.size(); at += kMaxStepRows) {
      const auto part = tokens.subspan(at, std::min(kMaxStepRows, tokens.size() - at));
      const AgentStep step{&tail, part, runner.everything(), 1, logits.data()};
      POLYKV_CHECK_STATUS(runner.step({&step, 1}));
    }
    return {};
  }
};

// `reference` has the card's tokens in its tail, `graft` in its chain.
Status compare_answers(const GraftRequest& request, std::span<const std::uint32_t> question, Side& reference,
                       Side& graft, DivergenceMeter& meter, core::Workers& workers) {
  const std::uint32_t num_before = reference.tail.num_seen();
  std::vector<std::uint32_t> unfed(question.begin(), question.end());
  for (std::uint32_t i = 0; i < kAnswerTokens; ++i) {
    POLYKV_CHECK_STATUS(reference.feed(unfed));
    POLYKV_CHECK_STATUS(graft.feed(unfed));
    const auto top = std::max_element(reference.logits.begin(), reference.logits.end()) - reference.logits.begin();
    unfed.assign(1, static_cast<std::uint32_t>(top));
    meter.add(reference.logits, graft.logits, unfed, workers);
    if (std::binary_search(request.end_tokens.begin(), request.end_tokens.end(), unfed.front())) break;
  }
  reference.tail.truncate(num_before);
  graft.tail.truncate(0);
  return {};
}

Result<Divergence> measure_damage(const GraftRequest& request, std::span<const core::KvPool* const> chain,
                                  std::span<const std::uint32_t> tokens, const core::KvPool& grafted,
                                  core::Workers& workers) {
  std::size_t longest = 0;
  for (const auto& question : request.questions) longest = std::max(longest, question.size());
  const auto room = static_cast<std::uint32_t>(longest + kAnswerTokens);
  const ModelFile& model = *request.model;
  if (grafted.end_position() + room > model.config().context_length) return Divergence();
  std::vector<const core::KvPool*> pools(chain.begin(), chain.end());
  Side reference(model, pools, static_cast<std::uint32_t>(tokens.size()) + room, workers);
  pools.push_back(&grafted);
  Side graft(model, std::move(pools), room, workers);
  POLYKV_CHECK_STATUS(reference.feed(tokens));
  DivergenceMeter meter;
  for (std::size_t i = 0; i < request.questions.size(); ++i) {
    if (request.on_progress &&
        !request.on_progress(static_cast<double>(i) / static_cast<double>(request.questions.size())))
      return Error(ErrorCode::kInterrupted, "interrupted");
    POLYKV_CHECK_STATUS(compare_answers(request, request.questions[i], reference, graft, meter, workers));
  }
  return meter.summary();
}

}  // namespace

Result<GraftReport> graft_card(GraftRequest request, const std::filesystem::path& path,
                               const format::WriterOptions& options, core::Workers& workers) {
  const std::span<const core::KvPool* const> chain = request.to.chain;
  const std::vector<std::uint32_t> tokens = request.to.tokens.ids;
  const std::int64_t by = std::int64_t{chain.back()->end_position()} - request.from.back()->first_position();
  request.to.fields.set(kGraftField, std::to_string(by));
  POLYKV_TRY(CardWriter writer, CardWriter::create(path, std::move(request.to), options, workers));
  POLYKV_CHECK_STATUS(write_turned(request.from, KeyTurner(request.model->config(), by), writer, workers));
  GraftReport report;
  {
    POLYKV_TRY(const core::KvPool grafted, writer.view());
    POLYKV_TRY(report.damage, measure_damage(request, chain, tokens, grafted, workers));
  }
  const nlohmann::ordered_json fidelity = {{"graft", divergence_json(report.damage)}};
  POLYKV_TRY(report.pool_bytes, writer.finish(fidelity.dump()));
  return report;
}

}  // namespace polykv::runtime

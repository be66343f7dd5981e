#include "cli/runtime/retention/kvzip.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "cli/runtime/prompt.h"
#include "cli/runtime/retention/packed_keys.h"
#include "core/float16.h"
#include "core/kernels/attention.h"
#include "core/kernels/kernels.h"
#include "format/shape.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Status;

constexpr std::uint32_t kChunkTokens = 2048, kLeastChunkTokens = 64;
constexpr std::uint32_t kCueTokens = 8;  // the end of the chunk before, named in the request
constexpr std::size_t kPartRows = 512;   // for a thread at a time
constexpr std::string_view kRequest = "Repeat the previous context exactly.";
constexpr std::string_view kNextRequest = "Repeat the part of the previous context exactly, starting with ";

// One chunk: positions [begin, end) of the document, of which `past` are seen.
struct Chunk {
  std::uint32_t begin, end, past;
  std::vector<std::uint32_t> rows;  // the request, then the chunk
};

// A layer's part of one chunk.
class ChunkScores {
 public:
  ChunkScores(const ModelConfig& config, const Chunk& chunk, const LayerKv& repeated, const LayerKv& past)
      : config_(config), chunk_(chunk), repeated_(repeated), past_(past) {}

  // Raises the scores [end - begin] of the chunk's positions to what rows [first_row, end_row) give them.
  void raise(std::size_t kv_head, std::size_t first_row, std::size_t end_row, std::span<float> scores) const;

 private:
  const ModelConfig& config_;
  const Chunk& chunk_;
  const LayerKv &repeated_, &past_;
};

void ChunkScores::raise(std::size_t kv_head, std::size_t first_row, std::size_t end_row,
                        std::span<float> scores) const {
  const core::AttentionKernels& kernels = *core::active_kernels().attention;
  const std::size_t dim = config_.head_dim, group = config_.q_per_kv(), num_rows = repeated_.num_tokens;
  const std::size_t num_sinks = std::min(chunk_.begin, format::kNumSinks);
  const auto past_keys = past_.keys.subspan(kv_head * chunk_.past * dim, chunk_.past * dim);
  std::vector<std::uint16_t> seen(past_keys.begin(), past_keys.begin() + static_cast<std::ptrdiff_t>(num_sinks * dim));
  seen.insert(seen.end(), past_keys.begin() + static_cast<std::ptrdiff_t>(chunk_.begin * dim),
              past_keys.begin() + static_cast<std::ptrdiff_t>(chunk_.end * dim));
  const PackedKeys before(seen, dim), own(repeated_.keys.subspan(kv_head * num_rows * dim, num_rows * dim), dim);
  const std::size_t num_seen = seen.size() / dim, first_own = before.num_slots(), width = first_own + own.num_slots();
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  std::vector<float> queries(core::kMaxVectors * dim), weights(core::kMaxVectors * width);
  const std::size_t end_vector = end_row * group;  // vector n: row n / group, q_head n % group
  for (std::size_t first = first_row * group; first < end_vector; first += core::kMaxVectors) {
    const std::size_t count = std::min(core::kMaxVectors, end_vector - first);
    for (std::size_t v = 0; v < count; ++v) {
      const std::size_t row = (first + v) / group, q_head = kv_head * group + (first + v) % group;
      const std::uint16_t* query = repeated_.queries.data() + (q_head * num_rows + row) * dim;
      for (std::size_t d = 0; d < dim; ++d) queries[v * dim + d] = core::float16_to_float(query[d]) * scale;
    }
    const std::size_t last_row = (first + count - 1) / group, end_own = (last_row + 16) / 16 * 16;
    before.score(queries.data(), count, {0, first_own}, weights.data(), width);
    own.score(queries.data(), count, {0, end_own}, weights.data() + first_own, width);
    for (std::size_t v = 0; v < count; ++v) {
      float* row = weights.data() + v * width;
      std::fill(row + num_seen, row + first_own, -std::numeric_limits<float>::infinity());
      const std::size_t visible = first_own + (first + v) / group + 1;
      const core::SoftmaxSum sum = kernels.softmax(row, 0, visible, first_own + end_own);
      const float factor = sum.sum > 0.0f ? 1.0f / sum.sum : 0.0f;
      for (std::size_t t = num_sinks; t < num_seen; ++t)
        scores[t - num_sinks] = std::max(scores[t - num_sinks], row[t] * factor);
    }
  }
}

class Repeater {
 public:
  Repeater(const Repetition& repetition, std::span<const std::uint32_t> ends, core::Workers& workers)
      : repetition_(repetition), config_(repetition.model.file.config()), ends_(ends), workers_(workers) {}

  format::Result<std::vector<std::vector<RetentionScores>>> run() {
    POLYKV_CHECK_STATUS(plan());
    std::vector<std::vector<RetentionScores>> all(ends_.size());
    for (std::size_t i = 0; i < ends_.size(); ++i)
      for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer)
        all[i].push_back({std::vector<float>(std::size_t{config_.num_kv_heads} * ends_[i])});
    for (const Chunk& chunk : chunks_) POLYKV_CHECK_STATUS(repeat(chunk, all));
    return all;
  }

 private:
  // Chunks end where they would, and at each of the ends.
  Status plan() {
    std::uint32_t begin = 0;
    for (const std::uint32_t end : ends_) {
      while (begin < end) {
        Chunk chunk{begin, 0, end, request(begin)};
        const std::size_t taken = std::size_t{end} + chunk.rows.size();
        const std::size_t room = config_.context_length - std::min<std::size_t>(config_.context_length, taken);
        if (room < std::min(kLeastChunkTokens, end - begin))
          return Error(ErrorCode::kUnusableText,
                       "kvzip repeats the document after itself: " + std::to_string(config_.context_length) +
                           " tokens of context leave no room for that");
        chunk.end = begin + static_cast<std::uint32_t>(std::min<std::size_t>({kChunkTokens, room, end - begin}));
        const auto repeated = repetition_.tokens.subspan(begin, chunk.end - begin);
        chunk.rows.insert(chunk.rows.end(), repeated.begin(), repeated.end());
        num_rows_ += chunk.rows.size();
        begin = chunk.end;
        chunks_.push_back(std::move(chunk));
      }
    }
    return {};
  }

  std::vector<std::uint32_t> request(std::uint32_t begin) const {
    std::string text(begin == 0 ? kRequest : kNextRequest);
    if (begin > 0) {
      const std::uint32_t first = begin - std::min(begin, kCueTokens);
      Detokenizer words(repetition_.model.tokenizer);
      for (const std::uint32_t token : repetition_.tokens.subspan(first, begin - first)) text += words.add(token);
      text += words.finish();
    }
    return make_question_tokens(repetition_.model.tokenizer, repetition_.chat, repetition_.open_text, text);
  }

  Status repeat(const Chunk& chunk, std::vector<std::vector<RetentionScores>>& all) {
    PrefillOptions options = repetition_.options;
    options.want_queries = true;
    options.num_past = chunk.past;
    options.past = [&](std::uint32_t layer) { return load_past(layer, chunk.past); };
    if (repetition_.options.on_progress) {
      options.on_progress = [&, before = num_done_](double share) {
        return repetition_.options.on_progress(
            (static_cast<double>(before) + share * static_cast<double>(chunk.rows.size())) /
            static_cast<double>(num_rows_));
      };
    }
    POLYKV_CHECK_STATUS(
        repetition_.runner.prefill(repetition_.model.file, chunk.rows, options, [&](const LayerKv& repeated) {
          score(chunk, repeated, all);
          return Status();
        }));
    num_done_ += chunk.rows.size();
    return {};
  }

  void score(const Chunk& chunk, const LayerKv& repeated, std::vector<std::vector<RetentionScores>>& all) {
    const LayerKv past = load_past(repeated.layer, chunk.past);
    const ChunkScores chunk_scores(config_, chunk, repeated, past);
    const std::size_t num_heads = config_.num_kv_heads, size = chunk.end - chunk.begin;
    const std::size_t num_parts = (repeated.num_tokens + kPartRows - 1) / kPartRows;
    std::vector<std::vector<float>> parts(num_heads * num_parts);
    workers_.run(parts.size(), [&](std::size_t task, std::size_t) {
      const std::size_t first = task % num_parts * kPartRows;
      parts[task].resize(size);
      chunk_scores.raise(task / num_parts, first, std::min<std::size_t>(first + kPartRows, repeated.num_tokens),
                         parts[task]);
    });
    for (std::size_t i = 0; i < ends_.size(); ++i) {
      if (ends_[i] < chunk.past) continue;
      for (std::size_t task = 0; task < parts.size(); ++task) {
        float* to = all[i][repeated.layer].positions.data() + task / num_parts * ends_[i] + chunk.begin;
        for (std::size_t t = 0; t < size; ++t) to[t] = std::max(to[t], parts[task][t]);
      }
    }
  }

  // Of one layer at a time.
  LayerKv load_past(std::uint32_t layer, std::uint32_t num_past) {
    const std::size_t size = std::size_t{num_past} * config_.head_dim;
    if (past_layer_ != layer || past_tokens_ != num_past) {
      keys_.clear();
      values_.clear();
      for (std::uint32_t head = 0; head < config_.num_kv_heads; ++head) {
        const HeadKv kv = repetition_.source(layer, head, 0);
        keys_.insert(keys_.end(), kv.keys.begin(), kv.keys.begin() + static_cast<std::ptrdiff_t>(size));
        values_.insert(values_.end(), kv.values.begin(), kv.values.begin() + static_cast<std::ptrdiff_t>(size));
      }
      past_layer_ = layer;
      past_tokens_ = num_past;
    }
    return {layer, num_past, keys_, values_};
  }

  const Repetition& repetition_;
  const ModelConfig& config_;
  std::span<const std::uint32_t> ends_;
  core::Workers& workers_;
  std::vector<Chunk> chunks_;
  std::size_t num_rows_ = 0, num_done_ = 0;
  std::uint32_t past_layer_ = ~std::uint32_t{0}, past_tokens_ = 0;
  std::vector<std::uint16_t> keys_, values_;
};

}  // namespace

format::Result<std::vector<std::vector<RetentionScores>>> score_kvzip(const Repetition& repetition,
                                                                      std::span<const std::uint32_t> ends,
                                                                      core::Workers& workers) {
  return Repeater(repetition, ends, workers).run();
}

}  // namespace polykv::runtime

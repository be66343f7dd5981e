// The prefill's attention: the scalar reference against plain arithmetic, the CPU's own kernel against the reference.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <new>
#include <random>
#include <vector>

#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/kernels/prefill.h"
#include "tests/support/catch.h"

using namespace polykv::core;

namespace {

// Buffers end where the contract says that they may be read to, so that AddressSanitizer sees a read past it.
struct Document {
  std::size_t num_tokens, head_dim;
  std::vector<std::uint16_t> query, keys, values;

  Document(std::size_t num_tokens_, std::size_t head_dim_, float sharpness, std::uint32_t seed)
      : num_tokens(num_tokens_), head_dim(head_dim_) {
    const std::size_t padded = (num_tokens + kCausalPadTokens - 1) / kCausalPadTokens * kCausalPadTokens;
    query.resize(num_tokens * head_dim);
    keys.resize(padded * head_dim);
    values.resize(padded * head_dim);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const float scale = sharpness / std::sqrt(static_cast<float>(head_dim));
    for (auto& x : query) x = float_to_bfloat16(normal(random) * scale);
    for (std::size_t i = 0; i < num_tokens * head_dim; ++i) {
      // Keys grow towards the end, so that the largest score of a row moves from block to block.
      const float size = 1.0f + 4.0f * static_cast<float>(i) / static_cast<float>(num_tokens * head_dim);
      keys[i] = float_to_bfloat16(normal(random) * size);
    }
    for (std::size_t t = 0; t < num_tokens; ++t) {
      for (std::size_t d = 0; d < head_dim; ++d) value(t, d) = float_to_bfloat16(normal(random));
    }
  }

  std::uint16_t& value(std::size_t t, std::size_t d) { return values[(t / 2 * head_dim + d) * 2 + t % 2]; }
  CausalHead head() const { return {num_tokens, head_dim, 0, query.data(), keys.data(), values.data()}; }
};

struct Scratch {
  std::byte* memory;
  explicit Scratch(std::size_t bytes) : memory(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64}))) {
    std::memset(memory, 0xff, bytes);  // NaN everywhere: what is not written must not be read
  }
  ~Scratch() { ::operator delete(memory, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// All rows, [num_tokens][head_dim].
std::vector<std::uint16_t> attend(const PrefillKernels& kernels, const CausalHead& head) {
  std::vector<std::uint16_t> out(head.num_tokens * head.head_dim);
  const Scratch scratch(kernels.causal_scratch_bytes(head.head_dim));
  for (std::size_t row = 0; row < head.num_tokens; row += kCausalRows)
    kernels.attend(head, row, out.data() + row * head.head_dim, head.head_dim, scratch.memory);
  return out;
}

// The bound of prefill.h, and half a unit of the results' own rounding on both sides.
double bound(const CausalHead& head, std::size_t row, std::size_t d, double exact) {
  std::vector<double> scores, sizes;
  for (std::size_t t = 0; t <= row; ++t) {
    double score = 0.0, size = 0.0;
    for (std::size_t i = 0; i < head.head_dim; ++i) {
      const double product = static_cast<double>(bfloat16_to_float(head.query[row * head.head_dim + i])) *
                             static_cast<double>(bfloat16_to_float(head.keys[t * head.head_dim + i]));
      score += product;
      size += std::abs(product);
    }
    scores.push_back(score);
    sizes.push_back(size);
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0.0, mixed = 0.0, worst = 0.0;
  for (std::size_t t = 0; t <= row; ++t) {
    const double weight = std::exp2(scores[t] - largest);
    const double value = static_cast<double>(bfloat16_to_float(head.values[(t / 2 * head.head_dim + d) * 2 + t % 2]));
    sum += weight;
    mixed += weight * std::abs(value);
    worst = std::max(worst, 0x1p-9 + 0x1p-13 + std::log(2.0) * static_cast<double>(head.head_dim) * 0x1p-23 * sizes[t]);
  }
  return 2.0 * worst / (1.0 - worst) * mixed / sum + 2.0 * 0x1p-8 * std::abs(exact);
}

}  // namespace

TEST_CASE("prefill matrices: scalar by hand, this CPU against scalar", "[prefill]") {
  // One tile of four columns, all rows alike: row . weight = 1 * 2 + 2 * 0 + 3 * 1 + 4 * 0.5 for output 5.
  std::vector<std::uint16_t> x, weights(4 * kMatrixOutputs, 0);
  for (std::size_t r = 0; r < kMatrixRows; ++r) {
    for (const float value : {1.0f, 2.0f, 3.0f, 4.0f}) x.push_back(float_to_bfloat16(value));
  }
  const auto weight = [&](std::size_t k) -> std::uint16_t& {
    return weights[(k / 2 * kMatrixOutputs + 5) * 2 + k % 2];
  };
  weight(0) = float_to_bfloat16(2.0f);
  weight(2) = float_to_bfloat16(1.0f);
  weight(3) = float_to_bfloat16(0.5f);
  std::vector<float> out(kMatrixRows * kMatrixOutputs, -1.0f);
  kPrefillScalar.multiply(x.data(), 4, kMatrixRows, weights.data(), 4, 1, out.data(), kMatrixOutputs);
  CHECK(out[5] == 7.0f);
  CHECK(out[4] == 0.0f);
  CHECK(out[11 * kMatrixOutputs + 5] == 7.0f);

  const PrefillKernels* kernels = active_prefill_kernels();
  if (kernels == nullptr) return;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const std::size_t num_cols : {2u, 64u, 640u, 642u, 1282u, 1536u}) {
    const std::size_t num_rows = 2 * kMatrixRows, num_tiles = 3, stride = num_cols + 6, outputs = num_tiles * 32;
    std::vector<std::uint16_t> rows((num_rows - 1) * stride + num_cols), tiles(num_tiles * num_cols * kMatrixOutputs);
    for (auto& value : rows) value = float_to_bfloat16(normal(random));
    for (auto& value : tiles) value = float_to_bfloat16(normal(random));
    std::vector<float> exact(num_rows * outputs), fast(num_rows * outputs, NAN), sizes(num_rows * outputs);
    kPrefillScalar.multiply(rows.data(), stride, num_rows, tiles.data(), num_cols, num_tiles, exact.data(), outputs);
    kernels->multiply(rows.data(), stride, num_rows, tiles.data(), num_cols, num_tiles, fast.data(), outputs);
    for (auto* values : {&rows, &tiles}) {
      for (auto& value : *values) value &= 0x7fff;
    }
    kPrefillScalar.multiply(rows.data(), stride, num_rows, tiles.data(), num_cols, num_tiles, sizes.data(), outputs);
    INFO(num_cols << " columns");
    std::size_t num_far = 0;
    for (std::size_t i = 0; i < exact.size(); ++i)
      num_far += !(std::abs(fast[i] - exact[i]) <= static_cast<float>(num_cols + 1) * 0x1p-23f * sizes[i]);
    CHECK(num_far == 0);
  }
}

TEST_CASE("scalar causal attention: by hand", "[prefill]") {
  Document document(3, 8, 0.0f, 1);
  std::fill(document.keys.begin(), document.keys.end(), std::uint16_t{0});
  std::fill(document.query.begin(), document.query.end(), float_to_bfloat16(0.5f));
  document.keys[2 * 8] = float_to_bfloat16(2.0f);  // the last key's score is 1: twice the weight of the others
  for (std::size_t t = 0; t < 3; ++t) document.value(t, 0) = float_to_bfloat16(static_cast<float>(4 * (t + 1)));
  const auto out = attend(kPrefillScalar, document.head());
  CHECK(bfloat16_to_float(out[0]) == 4.0f);
  CHECK(bfloat16_to_float(out[8]) == 6.0f);
  CHECK(bfloat16_to_float(out[16]) == 9.0f);  // (4 + 8 + 2 * 12) / 4
}

TEST_CASE("causal attention of this CPU agrees with scalar", "[prefill]") {
  const PrefillKernels* kernels = active_prefill_kernels();
  std::cout << "prefill kernels: " << (kernels == nullptr ? "scalar only" : "avx512_bf16, scalar") << std::endl;
  if (kernels == nullptr) {
    CHECK_FALSE((cpu_has_bf16() && active_kernels().name == std::string("avx512")));
    return;
  }
  std::uint32_t seed = 1;
  for (const std::size_t head_dim : {8u, 64u, 80u, 128u, 256u}) {
    for (const std::size_t num_tokens : {1u, 2u, 31u, 33u, 127u, 130u, 300u}) {
      for (const float sharpness : {0.5f, 8.0f}) {  // even weights; a few large ones, whose maximum moves
        const Document document(num_tokens, head_dim, sharpness, seed++);
        const CausalHead head = document.head();
        const auto exact = attend(kPrefillScalar, head);
        const auto fast = attend(*kernels, head);
        INFO("head_dim " << head_dim << ", " << num_tokens << " tokens, sharpness " << sharpness);
        double worst = 0.0;  // error over bound
        for (const std::size_t row : {std::size_t{0}, num_tokens / 3, num_tokens / 2, num_tokens - 1}) {
          for (std::size_t d = 0; d < head_dim; d += 7) {
            const double expected = static_cast<double>(bfloat16_to_float(exact[row * head_dim + d]));
            const double found = static_cast<double>(bfloat16_to_float(fast[row * head_dim + d]));
            const double error = std::abs(found - expected);
            worst = std::max(worst, std::isnan(error) ? INFINITY : error / bound(head, row, d, expected));
          }
        }
        CHECK(worst <= 1.0);
      }
    }
  }
}

TEST_CASE("causal attention of the last rows alone gives what it gives among all", "[prefill]") {
  for (const PrefillKernels* kernels : {&kPrefillScalar, active_prefill_kernels()}) {
    if (kernels == nullptr) continue;
    const Document document(150, 64, 4.0f, 7);
    const auto whole = attend(*kernels, document.head());
    for (const std::size_t first : {32u, 96u, 128u}) {
      CausalHead head = document.head();
      head.first_query = first;
      head.query += first * 64;
      std::vector<std::uint16_t> out((150 - first) * 64);
      const Scratch scratch(kernels->causal_scratch_bytes(64));
      for (std::size_t row = first; row < 150; row += kCausalRows)
        kernels->attend(head, row, out.data() + (row - first) * 64, 64, scratch.memory);
      CHECK(std::equal(out.begin(), out.end(), whole.begin() + static_cast<std::ptrdiff_t>(first * 64)));
    }
  }
}

TEST_CASE("a row of causal attention depends on nothing after it", "[prefill]") {
  for (const PrefillKernels* kernels : {&kPrefillScalar, active_prefill_kernels()}) {
    if (kernels == nullptr) continue;
    const Document longer(200, 64, 4.0f, 5);
    const auto whole = attend(*kernels, longer.head());
    for (const std::size_t num_tokens : {33u, 100u, 161u}) {
      Document shorter = longer;
      shorter.num_tokens = num_tokens;  // what follows stays in the buffers
      const auto part = attend(*kernels, shorter.head());
      CHECK(std::equal(part.begin(), part.end(), whole.begin()));
    }
  }
}

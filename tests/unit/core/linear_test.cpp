#include "core/linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "tests/support/catch.h"
#include "tests/unit/core/linear_support.h"

using namespace polykv::core;
using namespace polykv::tests;

namespace {

std::vector<float> run_linear(std::span<const float> values, std::size_t num_rows, const WeightMatrix& weights,
                              std::size_t num_threads = 1) {
  Workers workers(num_threads);
  Activations x;
  x.assign(values, num_rows, weights.num_cols, workers);
  std::vector<float> out(num_rows * weights.num_rows, -1e30f);
  const LinearLayer layer{weights, {}, out};
  linear(x, {&layer, 1}, workers);
  return out;
}

// The position of the first value whose bits differ, or -1.
std::ptrdiff_t first_difference(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i])) return static_cast<std::ptrdiff_t>(i);
  }
  return -1;
}

// Checks `out` against sums in double of the dequantized weights. The bound, for one result:
//   float types  (n + 8) 2^-24 sum |x w|: at most n roundings of partial sums and products (core/kernels/linear.h)
//   block types  an activation is off by half a unit of its block, that is largest / 16383 / 2, and 2 % of that for the
//                rounding of scale and inverse (16383 * 3 * 2^-24 = .003 units): .51 scale sum |w|, block by block.
//                Then float arithmetic: at most 2 roundings a block of the sum, 3 of a term and one of a dequantized
//                q4_1 weight: (2 blocks + 4) 2^-24 of sum |x| (|w| + 2 |minimum|), which bounds every partial sum.
void check_against_reference(std::span<const float> values, std::size_t num_rows, const TestMatrix& weights,
                             std::span<const float> out) {
  const WeightMatrix& matrix = weights.matrix();
  const std::size_t num_cols = matrix.num_cols;
  const bool blocks = weight_block_values(matrix.type) > 1;
  std::vector<float> row(num_cols);
  for (std::size_t o = 0; o < matrix.num_rows; ++o) {
    dequantize_row(matrix, o, row);
    const std::vector<float> minima = weights.minima(o);
    for (std::size_t r = 0; r < num_rows; ++r) {
      double sum = 0, magnitude = 0, from_codes = 0;
      for (std::size_t begin = 0; begin < num_cols; begin += 32) {
        double largest = 0, weight_sum = 0;
        const double extra = blocks ? 2 * std::abs(double{minima[begin / 32]}) : 0;
        for (std::size_t i = begin; i < std::min(begin + 32, num_cols); ++i) {
          const double x = values[r * num_cols + i], w = row[i];
          sum += x * w;
          magnitude += std::abs(x) * (std::abs(w) + extra);
          largest = std::max(largest, std::abs(x));
          weight_sum += std::abs(w);
        }
        from_codes += .51 * largest / kMaxActivationCode * weight_sum;
      }
      const double n = static_cast<double>(num_cols);
      const double bound =
          blocks ? from_codes + (n / 16 + 4) * 0x1p-24 * (magnitude + from_codes) : (n + 8) * 0x1p-24 * magnitude;
      const double error = std::abs(out[r * matrix.num_rows + o] - sum);
      if (!(error <= bound)) {
        FAIL("row " << r << ", output " << o << ": " << out[r * matrix.num_rows + o] << ", expected " << sum
                    << " within " << bound);
      }
    }
  }
}

// Shapes of output rows that are whole groups of lanes, not, and less than one.
constexpr std::size_t kNumOutputs[] = {1, 3, 16, 37};

}  // namespace

TEST_CASE("linear is within arithmetic's bound of the exact product", "[linear]") {
  with_each_table([](const KernelTable&) {
    for (const WeightType type : kAllTypes) {
      for (const std::size_t num_cols : {32, 64, 576, 1536, 2048 + 32}) {
        for (const std::size_t num_outputs : kNumOutputs) {
          for (const std::size_t num_rows : {1, 3, 22}) {
            INFO(weight_type_name(type) << " " << num_outputs << "x" << num_cols << ", rows " << num_rows);
            const TestMatrix weights(type, num_outputs, num_cols, static_cast<std::uint32_t>(num_cols + num_outputs));
            const std::vector<float> values = random_values(num_rows * num_cols, 7);
            check_against_reference(values, num_rows, weights, run_linear(values, num_rows, weights.matrix()));
          }
        }
      }
    }
  });
}

TEST_CASE("float matrices may have any number of columns", "[linear]") {
  with_each_table([](const KernelTable&) {
    for (const WeightType type : kFloatTypes) {
      for (const std::size_t num_cols : {1, 2, 7, 8, 15, 16, 17, 31, 33, 577}) {
        INFO(weight_type_name(type) << " columns " << num_cols);
        const TestMatrix weights(type, 9, num_cols, 3);
        const std::vector<float> values = random_values(5 * num_cols, 8);
        check_against_reference(values, 5, weights, run_linear(values, 5, weights.matrix()));
      }
    }
  });
}

TEST_CASE("a row's result does not depend on the rows beside it", "[linear]") {
  with_each_table([](const KernelTable&) {
    for (const WeightType type : kAllTypes) {
      const std::size_t num_cols = type == WeightType::kF32 ? 575 : 576;
      const TestMatrix weights(type, 37, num_cols, 11);
      const std::vector<float> values = random_values(kMaxLinearRows * num_cols, 12);
      std::vector<float> alone;  // row by row
      for (std::size_t r = 0; r < kMaxLinearRows; ++r) {
        const std::vector<float> out = run_linear({&values[r * num_cols], num_cols}, 1, weights.matrix());
        alone.insert(alone.end(), out.begin(), out.end());
      }
      for (std::size_t num_rows = 1; num_rows <= kMaxLinearRows; ++num_rows) {
        INFO(weight_type_name(type) << ", rows " << num_rows);
        const std::vector<float> out = run_linear({values.data(), num_rows * num_cols}, num_rows, weights.matrix());
        REQUIRE(first_difference(out, {alone.data(), out.size()}) == -1);
      }
    }
  });
}

TEST_CASE("the number of threads changes nothing", "[linear]") {
  with_each_table([](const KernelTable&) {
    for (const WeightType type : kAllTypes) {
      for (const std::size_t num_rows : {1, 7, 64}) {
        INFO(weight_type_name(type) << ", rows " << num_rows);
        const TestMatrix weights(type, 331, 576, 21);
        const std::vector<float> values = random_values(num_rows * 576, 22);
        const std::vector<float> one = run_linear(values, num_rows, weights.matrix(), 1);
        for (const std::size_t num_threads : {2, 4}) {
          REQUIRE(first_difference(run_linear(values, num_rows, weights.matrix(), num_threads), one) == -1);
        }
      }
    }
  });
}

TEST_CASE("tables agree to the last bit on block formats", "[linear]") {
  std::vector<std::vector<float>> first;  // results of the first table, shape after shape
  with_each_table([&](const KernelTable&) {
    std::size_t shape = 0;
    for (const WeightType type : kBlockTypes) {
      for (const std::size_t num_cols : {32, 576, 1536}) {
        for (const std::size_t num_rows : {1, 5, 22, 64}) {
          INFO(weight_type_name(type) << ", columns " << num_cols << ", rows " << num_rows);
          const TestMatrix weights(type, 53, num_cols, 31);
          const std::vector<float> values = random_values(num_rows * num_cols, 32);
          const std::vector<float> out = run_linear(values, num_rows, weights.matrix());
          if (shape == first.size()) first.push_back(out);
          REQUIRE(first_difference(out, first[shape++]) == -1);
        }
      }
    }
  });
}

TEST_CASE("weights may lie at any address", "[linear]") {
  with_each_table([](const KernelTable&) {
    for (const WeightType type : kAllTypes) {
      for (const std::size_t num_rows : {1, 17}) {
        const TestMatrix weights(type, 35, 96, 41);
        const std::vector<float> values = random_values(num_rows * 96, 42);
        const std::vector<float> out = run_linear(values, num_rows, weights.matrix());
        for (const std::size_t shift : {1, 2, 32}) {
          INFO(weight_type_name(type) << ", shifted by " << shift);
          const TestMatrix shifted(type, 35, 96, 41, shift);
          REQUIRE(first_difference(run_linear(values, num_rows, shifted.matrix()), out) == -1);
        }
      }
    }
  });
}

TEST_CASE("the largest codes do not overflow", "[linear]") {
  with_each_table([](const KernelTable&) {
    for (const std::size_t num_rows : {1, 16}) {
      for (const float value : {1.0f, -1.0f}) {
        // q8_0: every code -128, scale 1 (float16 0x3c00); activations all +-1, so code +-16383 and scale 1 / 16383.
        constexpr std::size_t kOutputs = 16;
        std::vector<std::byte> memory(kOutputs * 34, std::byte{0x80});
        for (std::size_t o = 0; o < kOutputs; ++o) {
          memory[o * 34] = std::byte{0x00};
          memory[o * 34 + 1] = std::byte{0x3c};
        }
        const WeightMatrix weights{memory.data(), WeightType::kQ8_0, kOutputs, 32};
        const std::vector<float> values(num_rows * 32, value);
        // 16383 * (1 / 16383 rounded): a relative 2^-24, and one more for the conversion of the sum to float.
        for (const float result : run_linear(values, num_rows, weights)) {
          REQUIRE(std::abs(result + value * 4096.0f) <= 4096.0f * 0x1p-22f);
        }
      }
    }
  });
}

TEST_CASE("layers that go together, and biases, give what each gives alone", "[linear]") {
  with_each_table([](const KernelTable&) {
    const TestMatrix first(WeightType::kQ4_1, 50, 64, 51), second(WeightType::kF16, 7, 64, 52);
    const TestMatrix third(WeightType::kQ8_0, 200, 64, 54);
    const std::vector<float> values = random_values(5 * 64, 53), bias = random_values(50, 55);
    std::vector<float> expected = run_linear(values, 5, first.matrix());
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % 50];
    for (const std::size_t num_threads : {1, 3}) {
      Workers workers(num_threads);
      Activations x;
      x.assign(values, 5, 64, workers);
      std::vector<float> out1(5 * 50), out2(5 * 7), out3(5 * 200);
      const LinearLayer layers[] = {
          {first.matrix(), bias, out1}, {second.matrix(), {}, out2}, {third.matrix(), {}, out3}};
      linear(x, layers, workers);
      CHECK(first_difference(out1, expected) == -1);
      CHECK(first_difference(out2, run_linear(values, 5, second.matrix())) == -1);
      CHECK(first_difference(out3, run_linear(values, 5, third.matrix())) == -1);
    }
  });
}

TEST_CASE("one set of activations serves several matrices and is assigned again", "[linear]") {
  with_each_table([](const KernelTable&) {
    Workers workers(1);
    Activations x;
    for (const std::size_t num_rows : {64, 1, 9}) {  // from large to small: leftovers of the larger one must not matter
      for (const std::size_t num_cols : {1536, 64}) {
        const std::vector<float> values = random_values(num_rows * num_cols, 61);
        x.assign(values, num_rows, num_cols, workers);
        for (const WeightType type : {WeightType::kQ8_0, WeightType::kF16}) {
          const TestMatrix weights(type, 20, num_cols, 62);
          std::vector<float> out(num_rows * 20);
          const LinearLayer layer{weights.matrix(), {}, out};
          linear(x, {&layer, 1}, workers);
          REQUIRE(first_difference(out, run_linear(values, num_rows, weights.matrix())) == -1);
        }
      }
    }
  });
}

TEST_CASE("activation codes are the nearest integers", "[linear]") {
  const std::size_t num_cols = 70;  // the last block has 6 values
  const std::vector<float> values = random_values(2 * num_cols, 71);
  Workers workers(1);
  Activations x;
  x.assign(values, 2, num_cols, workers);
  const ActivationView view = x.view();
  REQUIRE(view.num_blocks == 3);
  for (std::size_t r = 0; r < 2; ++r) {
    for (std::size_t b = 0; b < 3; ++b) {
      const std::size_t block = r * 3 + b;
      std::int32_t sum = 0, largest = 0;
      for (std::size_t i = b * 32; i < b * 32 + 32; ++i) {
        const std::int32_t code = view.codes[r * 96 + i];
        const double value = i < num_cols ? double{values[r * num_cols + i]} : 0.0;
        CHECK(std::abs(double{view.scales[block]} * code - value) <= .505 * double{view.scales[block]});
        CHECK(view.values[r * 96 + i] == static_cast<float>(value));
        sum += code;
        largest = std::max(largest, std::abs(code));
      }
      CHECK(largest == kMaxActivationCode);
      CHECK(view.code_sums[block] == sum);
      CHECK(view.block_sums[block] == view.scales[block] * static_cast<float>(sum));
    }
  }
}

TEST_CASE("activations that are not finite give NaN, tiny ones zero", "[linear]") {
  with_each_table([](const KernelTable&) {
    for (const WeightType type : kAllTypes) {
      INFO(weight_type_name(type));
      const TestMatrix weights(type, 16, 64, 81);
      std::vector<float> values = random_values(2 * 64, 82);
      const std::vector<float> good = run_linear(values, 2, weights.matrix());
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        values[3] = bad;
        const std::vector<float> out = run_linear(values, 2, weights.matrix());
        for (std::size_t o = 0; o < 16; ++o) CHECK_FALSE(std::isfinite(out[o]));
        CHECK(first_difference({&out[16], 16}, {&good[16], 16}) == -1);  // the other row is as it was
      }
      const std::vector<float> tiny(64, 0x1p-120f);
      for (const float result : run_linear(tiny, 1, weights.matrix())) CHECK(std::abs(result) <= 0x1p-110f);
    }
  });
}

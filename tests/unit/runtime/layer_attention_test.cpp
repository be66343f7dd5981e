// Attention made again from queries and keys: against the definition, and the same bits however it is run.
#include "cli/runtime/retention/layer_attention.h"

#include "core/kernels/kernels.h"
#include "tests/support/catch.h"
#include "tests/support/random_layer.h"

namespace polykv::runtime {
namespace {

using tests::RandomLayer;

TEST_CASE("rows are the softmax over the positions up to each") {
  const tests::LayerSizes sizes = GENERATE(tests::LayerSizes{77, 3}, tests::LayerSizes{145, 2}, tests::LayerSizes{1},
                                           tests::LayerSizes{16, 1}, tests::LayerSizes{7, 70, 1, 8});
  const RandomLayer layer(sizes);
  INFO(sizes.num_tokens << " tokens, group " << sizes.group);
  core::Workers workers(2);
  const LayerKv kv = layer.kv();
  const RetentionLayer seen{layer.config, kv, workers};
  const double tolerance = tests::causal_tolerance(layer);
  const std::size_t first = sizes.num_tokens / 3, num_rows = sizes.num_tokens - first;
  const std::vector<float> rows = LayerAttention(seen).rows(first, sizes.num_tokens);
  const std::vector<float> sums = LayerAttention(seen).sum_rows({first, sizes.num_tokens});
  REQUIRE(rows.size() == layer.config.num_q_heads * num_rows * sizes.num_tokens);
  for (std::size_t q_head = 0; q_head < layer.config.num_q_heads; ++q_head) {
    const tests::Matrix expected = tests::causal_attention(layer, q_head);
    for (std::size_t t = 0; t < sizes.num_tokens; ++t) {
      double sum = 0.0;
      for (std::size_t row = first; row < sizes.num_tokens; ++row) {
        const auto weight = static_cast<double>(rows[(q_head * num_rows + row - first) * sizes.num_tokens + t]);
        REQUIRE(std::abs(weight - expected[row][t]) <= tolerance * expected[row][t]);
        sum += expected[row][t];
      }
      REQUIRE(std::abs(static_cast<double>(sums[q_head * sizes.num_tokens + t]) - sum) <= tolerance * sum);
    }
  }
}

TEST_CASE("rows are added in segments: more than one gives the sum of all") {
  const RandomLayer layer({1100, 1, 1, 8});
  core::Workers workers(2);
  const LayerKv kv = layer.kv();
  const RetentionLayer seen{layer.config, kv, workers};
  const std::vector<float> sums = LayerAttention(seen).sum_rows({3, 1100});
  const std::vector<float> rows = LayerAttention(seen).rows(3, 1100);
  for (std::size_t t = 0; t < 1100; ++t) {
    double sum = 0.0;
    for (std::size_t row = 0; row < 1097; ++row) sum += static_cast<double>(rows[row * 1100 + t]);
    REQUIRE(std::abs(static_cast<double>(sums[t]) - sum) <= 1100 * 0x1p-24 * sum);
  }
}

TEST_CASE("chunks see themselves, both ways, and nothing else") {
  const RandomLayer layer({101, 2});
  core::Workers workers(2);
  const LayerKv kv = layer.kv();
  const RetentionLayer seen{layer.config, kv, workers};
  for (const std::size_t chunk : {7u, 32u, 200u}) {
    const std::size_t first = 8, end = 97;
    const std::vector<float> sums = LayerAttention(seen).sum_chunks(first, end, chunk, 0.5f);
    const double tolerance = tests::weight_tolerance(layer, 0.5);
    for (std::size_t q_head = 0; q_head < layer.config.num_q_heads; ++q_head) {
      const tests::Matrix expected = tests::naive_attention(layer, q_head, 0.5, [&](std::size_t row, std::size_t t) {
        return row >= first && row < end && t >= first && t < end && (row - first) / chunk == (t - first) / chunk;
      });
      for (std::size_t t = 0; t < 101; ++t) {
        double sum = 0.0;
        for (std::size_t row = 0; row < 101; ++row) sum += expected[row][t];
        REQUIRE(std::abs(static_cast<double>(sums[q_head * 101 + t]) - sum) <= tolerance * sum);
      }
    }
  }
}

TEST_CASE("attention is the same bits on any number of threads and from every kernel table") {
  const RandomLayer layer({600, 3});
  const LayerKv kv = layer.kv();
  std::vector<std::vector<float>> first;
  for (const core::KernelTable* table : core::supported_kernels()) {
    REQUIRE(core::select_kernels(table->name));
    for (const std::size_t num_threads : {1u, 2u, 3u}) {
      INFO(table->name << ", " << num_threads << " threads");
      core::Workers workers(num_threads);
      const RetentionLayer seen{layer.config, kv, workers};
      const LayerAttention attention(seen);
      const std::vector<std::vector<float>> results = {attention.sum_rows({0, 600}), attention.rows(580, 600),
                                                       attention.sum_chunks(8, 596, 256, 1.0f)};
      if (first.empty()) first = results;
      CHECK(results == first);
    }
  }
  REQUIRE(core::select_kernels(core::supported_kernels().front()->name));
}

TEST_CASE("sums of a group are those of its q_heads") {
  const RandomLayer layer({3, 2, 2});
  core::Workers workers(1);
  const LayerKv kv = layer.kv();
  const RetentionLayer seen{layer.config, kv, workers};
  CHECK(sum_groups(seen, std::vector<float>{1, 2, 3, 10, 20, 30, 4, 5, 6, 40, 50, 60}) ==
        std::vector<float>{11, 22, 33, 44, 55, 66});
}

}  // namespace
}  // namespace polykv::runtime

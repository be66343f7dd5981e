#include "core/pool.h"

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/attend.h"
#include "format/file.h"
#include "format/page_layout.h"
#include "format/reader.h"
#include "tests/support/catch.h"
#include "tests/support/make_pool.h"

namespace {

using namespace polykv;

// Two layers of two heads; the second head of each has two runs.
struct Parts {
  format::KvShape shape{2, 2, 8, 300};
  format::Layout layout;
  std::vector<std::byte> pages, sinks, means;

  Parts() {
    layout.position_sets = {{{{4, 300}}}, {{{5, 7}, {20, 90}}}, {{{7, 8}}}};
    const format::Run all{0, 5, 4, {-3, 7}}, some{1, 16, 16}, one{2, 8, 3, {0, -64}};
    layout.runs = {{all}, {some, one}, {all}, {some, one}};
    std::uint64_t offset = 0;
    for (auto& head : layout.runs)
      for (format::Run& run : head) {
        run.pages_offset = offset;
        offset += format::run_bytes(run.key_codec, run.value_codec, 8,
                                    layout.position_sets[run.position_set].num_positions());
      }
    pages.resize(offset);
    sinks.resize(std::size_t{2} * 2 * 2 * 4 * 8 * 2);
    means.resize(std::size_t{2} * 2 * format::kMeanVectors * 8 * 2);
  }
  core::KvPool::Parts view() const { return {shape, 0, 4, &layout, pages, sinks, means}; }
};

}  // namespace

TEST_CASE("pool: runs, sinks and means lie where the layout says", "[pool]") {
  const Parts parts;
  const core::KvPool pool(parts.view());
  CHECK(pool.shape() == parts.shape);
  CHECK(pool.num_sinks() == 4);
  const std::byte* expected = parts.pages.data();
  for (std::uint32_t layer = 0; layer < 2; ++layer)
    for (std::uint32_t kv_head = 0; kv_head < 2; ++kv_head) {
      REQUIRE(pool.runs(layer, kv_head).size() == kv_head + 1);
      for (const core::KvPool::Run& run : pool.runs(layer, kv_head)) {
        CHECK(run.pages.data() == expected);
        CHECK(run.pages.size() == format::run_bytes(run.codec.key, run.codec.value, 8, run.num_positions));
        expected += run.pages.size();
      }
      const std::size_t head = layer * 2 + kv_head, vectors = 4 * 8 * 2;
      CHECK(pool.sink_keys(layer, kv_head).data() == parts.sinks.data() + head * 2 * vectors);
      CHECK(pool.sink_values(layer, kv_head).data() == parts.sinks.data() + (head * 2 + 1) * vectors);
      CHECK(pool.sink_values(layer, kv_head).size() == vectors);
      const core::KvPool::Transform transform = pool.transform(layer, kv_head);
      CHECK(pool.mean(layer, kv_head).data() == parts.means.data() + head * 48);
      CHECK(transform.key_balance.data() == parts.means.data() + head * 48 + 16);
      CHECK(transform.value_balance.data() == parts.means.data() + head * 48 + 32);
      CHECK(
          (transform.mean.size() == 16 && transform.key_balance.size() == 16 && transform.value_balance.size() == 16));
    }
  CHECK(expected == parts.pages.data() + parts.pages.size());
  CHECK(pool.runs(0, 0)[0].num_positions == 296);
  CHECK(pool.runs(1, 1)[1].codec == core::CodecPair{8, 3});
  CHECK(pool.runs(0, 0)[0].exponents == format::ScaleExponents{-3, 7});
  CHECK(pool.runs(1, 1)[1].exponents == format::ScaleExponents{0, -64});
  CHECK(pool.check_layer(0).has_value());
}

TEST_CASE("pool: positions and slots", "[pool]") {
  const Parts parts;
  const core::KvPool pool(parts.view());
  for (const core::KvPool::Run& run : {pool.runs(0, 0)[0], pool.runs(0, 1)[0], pool.runs(1, 1)[1]}) {
    std::uint32_t slots = 0;  // counted the plain way
    for (std::uint32_t position = 0; position < 310; ++position) {
      REQUIRE(run.slots_below(position) == slots);
      for (const format::PositionRange& range : run.positions) slots += position >= range.begin && position < range.end;
    }
    CHECK(slots == run.num_positions);
    CHECK(run.slots_below(~0u) == run.num_positions);
  }
}

TEST_CASE("pool: without means or sinks", "[pool]") {
  const Parts parts;
  core::KvPool::Parts view = parts.view();
  view.num_sinks = 0;
  view.sinks = view.means = {};
  const core::KvPool pool(view);
  CHECK(pool.mean(1, 1).empty());
  CHECK(pool.sink_keys(1, 1).empty());
  CHECK(pool.check_layer(1).has_value());
}

TEST_CASE("pool: a damaged chunk is found by the layer that it holds", "[pool]") {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("pool_test_" + std::to_string(::getpid()) + ".pkv");
  tests::PoolRecipe recipe;
  recipe.shape = {
      .num_layers = 3, .num_kv_heads = 2, .head_dim = 64, .num_tokens = 4500};  // 0.7 MB a layer: some chunks
  REQUIRE(tests::make_pool(path, recipe).has_value());
  auto bytes = format::read_file(path);
  std::filesystem::remove(path);
  REQUIRE(bytes.has_value());
  std::size_t damaged = 0;  // in the middle of layer 1
  {
    const auto reader = format::PoolReader::open(*bytes);
    REQUIRE(reader.has_value());
    const core::KvPool pool(*reader);
    for (std::uint32_t layer = 0; layer < 3; ++layer) CHECK(pool.check_layer(layer).has_value());
    damaged = static_cast<std::size_t>(pool.runs(1, 1)[0].pages.data() - bytes->data());
  }
  (*bytes)[damaged] ^= std::byte{1};
  const auto reader = format::PoolReader::open(*bytes);
  REQUIRE(reader.has_value());
  const core::KvPool pool(*reader);
  CHECK(pool.check_layer(0).has_value());
  CHECK(pool.check_layer(2).has_value());
  const format::Status status = pool.check_layer(1);
  REQUIRE(!status.has_value());
  CHECK(status.error().code == format::ErrorCode::kBadChecksum);

  // attend() says so too, and writes nothing.
  const std::vector<float> query(2 * 64, 1.0f);
  std::vector<float> out(2 * 64, -7.0f);
  const format::PositionRange visible[] = {{0, 4500}};
  const core::AttendRow rows[] = {{query.data(), out.data(), visible, nullptr, 0}};
  const core::KvPool* chain[] = {&pool};
  core::Workers workers(1);
  core::AttendScratch scratch;
  const format::Status attended = core::attend(chain, 1, 2, 2, 64, rows, workers, scratch);
  REQUIRE(!attended.has_value());
  CHECK(attended.error().code == format::ErrorCode::kBadChecksum);
  for (const float value : out) CHECK(value == -7.0f);
  CHECK(core::attend(chain, 2, 2, 2, 64, rows, workers, scratch).has_value());
  for (const float value : out) CHECK(value != -7.0f);
}

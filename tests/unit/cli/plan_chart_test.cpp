// The chart of a plan: what each head got, in 80 columns whatever the shape.
#include "cli/commands/plan_chart.h"

#include <algorithm>
#include <sstream>

#include "tests/support/catch.h"

namespace polykv::cli {
namespace {

using core::CodecPair;

// Heads of 96 positions after the sinks.
format::Layout layout_of(const format::KvShape& shape, const std::vector<CodecPair>& plan) {
  format::Layout layout = format::Layout::uniform(shape, 0, plan.front().key, plan.front().value);
  for (std::size_t head = 0; head < plan.size(); ++head) {
    layout.runs[head][0].key_codec = plan[head].key;
    layout.runs[head][0].value_codec = plan[head].value;
  }
  return layout;
}

std::vector<std::string> rows_of(const std::string& text) {
  std::vector<std::string> rows;
  std::istringstream stream(text);
  for (std::string row; std::getline(stream, row);) rows.push_back(row);
  return rows;
}

constexpr format::KvShape kShape{.num_layers = 2, .num_kv_heads = 3, .head_dim = 64, .num_tokens = 100};

TEST_CASE("a row a layer: bits of keys and values, their mean as a bar of 8 bits and a number") {
  const auto layout = layout_of(kShape, {{4, 3}, {5, 3}, {3, 2}, {1, 1}, {1, 1}, {1, 1}});
  CHECK(codecs_differ(layout));
  // (4 + 5 + 3 + 3 + 3 + 2) / 6 = 3.33 of 8 bits: 6.7 of 16 marks.
  CHECK(plan_chart(kShape, head_plans(layout)) ==
        "    layer 0   k 4 5 3   v 3 3 2   #######--------- 3.33\n"
        "    layer 1   k 1 1 1   v 1 1 1   ##-------------- 1.00\n");
}

TEST_CASE("float16 is an F of 16 bits, and the bars are of 16 bits then") {
  const auto layout = layout_of(kShape, {{16, 16}, {16, 16}, {16, 16}, {8, 8}, {8, 8}, {4, 4}});
  CHECK(plan_chart(kShape, head_plans(layout)) ==
        "    layer 0   k F F F   v F F F   ################16.00\n"
        "    layer 1   k 8 8 4   v 8 8 4   #######--------- 6.67\n");
  CHECK(key_codec_name(16) == "f16");
  CHECK(key_codec_name(8) == "k8");
  CHECK(value_codec_name(16) == "f16");
  CHECK(value_codec_name(3) == "v3");
}

TEST_CASE("of several runs the one with most positions counts, marked; the mean is over all positions") {
  auto layout = layout_of(kShape, {{4, 4}, {4, 4}, {4, 4}, {4, 4}, {4, 4}, {4, 4}});
  CHECK_FALSE(codecs_differ(layout));
  layout.position_sets.push_back({{{4, 28}}});    // 24 positions
  layout.position_sets.push_back({{{28, 100}}});  // 72
  layout.runs[1] = {{1, 8, 8, {}, 0}, {2, 2, 2, {}, 0}};
  CHECK(codecs_differ(layout));
  const auto heads = head_plans(layout);
  CHECK(heads[1].codec == CodecPair{2, 2});
  CHECK(heads[1].num_runs == 2);
  CHECK(heads[1].num_positions == 96);
  CHECK(heads[1].key_bits == 3.5);  // (24 x 8 + 72 x 2) / 96
  const auto rows = rows_of(plan_chart(kShape, heads));
  REQUIRE(rows.size() == 3);
  CHECK(rows[0] == "    layer 0   k 4 2*4   v 4 2*4   ########-------- 3.83");
  CHECK(rows[2].find("* has several runs") != std::string::npos);

  // The same runs everywhere is one plan for all.
  for (auto& runs : layout.runs) runs = layout.runs[1];
  CHECK_FALSE(codecs_differ(layout));
}

TEST_CASE("a head that keeps nothing has a dot and does not count") {
  auto layout = layout_of(kShape, {{6, 4}, {6, 4}, {6, 4}, {4, 4}, {4, 4}, {4, 4}});
  layout.runs[2].clear();
  const auto rows = rows_of(plan_chart(kShape, head_plans(layout)));
  CHECK(rows.at(0) == "    layer 0   k 6 6 .   v 4 4 .   ##########------ 5.00");
  for (auto& runs : layout.runs) runs.clear();
  CHECK(rows_of(plan_chart(kShape, head_plans(layout))).at(0).ends_with("---------------- 0.00"));
}

TEST_CASE("80 columns hold every shape; of many heads the fewest and the most bits") {
  for (const std::uint32_t num_kv_heads : {1u, 7u, 8u, 9u, 64u}) {
    const format::KvShape shape{.num_layers = 1024, .num_kv_heads = num_kv_heads, .head_dim = 8, .num_tokens = 100};
    std::vector<CodecPair> plan(std::size_t{1024} * num_kv_heads, CodecPair{16, 16});
    plan[0] = {2, 7};
    auto layout = layout_of(shape, plan);
    layout.runs[0].push_back(layout.runs[0][0]);  // a mark
    const auto rows = rows_of(plan_chart(shape, head_plans(layout)));
    REQUIRE(rows.size() == 1025);
    CHECK(std::all_of(rows.begin(), rows.end(), [](const std::string& row) { return row.size() <= 80; }));
    CHECK(rows[1023].starts_with("    layer 1023   k F"));
    if (num_kv_heads == 9) CHECK(rows[0].find("k 2-F*   v 7-F*   ###") != std::string::npos);
    // Bars stand under each other.
    const auto bar = [](const std::string& row) { return row.find_first_of("#-", row.rfind("v ") + 6); };
    if (num_kv_heads == 8) CHECK(bar(rows[0]) == bar(rows[1023]));
  }
}

}  // namespace
}  // namespace polykv::cli

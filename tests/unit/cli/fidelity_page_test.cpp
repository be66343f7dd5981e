// The page of `stats --html`: well-formed, and safe, whatever the pool says.
#include "cli/commands/fidelity_page.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/commands/commands.h"
#include "cli/commands/fidelity_plots.h"
#include "cli/commands/fidelity_section.h"
#include "cli/commands/svg_plot.h"
#include "cli/runtime/bit_allocation.h"
#include "tests/support/catch.h"
#include "tests/support/make_pool.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using nlohmann::ordered_json;
using tests::Capture;
using tests::PoolRecipe;
using tests::TemporaryFolder;

// What is wrong with `text` as XML, in a few words; empty if nothing is. Stricter than XML where our pages are.
std::string fault_of(const std::string& text) {
  std::vector<std::string> open;
  std::size_t at = text.find('\n') + 1;  // after the document type
  if (!text.starts_with("<!DOCTYPE html>\n")) return "no document type";
  while (at < text.size()) {
    if (text[at] == '>') return "a bare > at " + std::to_string(at);
    if (text[at] == '&') {
      const std::string entity = text.substr(at + 1, text.find(';', at) - at - 1);
      const bool is_number = entity.starts_with("#") && entity.size() > 1 && entity.size() < 6;
      if (!is_number && entity != "amp" && entity != "lt" && entity != "gt" && entity != "quot")
        return "entity " + entity.substr(0, 20);
    }
    if (text[at] != '<') {
      ++at;
      continue;
    }
    std::size_t end = at + 1;
    for (char quote = 0; end < text.size() && (quote != 0 || text[end] != '>'); ++end) {
      if (text[end] == '<') return "a < in a tag at " + std::to_string(end);
      if (text[end] == '"') quote = quote == 0 ? '"' : '\0';
    }
    if (end >= text.size()) return "a tag without end";
    const std::string tag = text.substr(at + 1, end - at - 1);
    const std::string name = tag.substr(tag.starts_with("/") ? 1 : 0, tag.find_first_of(" /", 1) - (tag[0] == '/'));
    if (tag.starts_with("/")) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes nothing";
      open.pop_back();
      if (open.empty() && text.substr(end + 1) != "\n") return "text after the end";
    } else if (!tag.ends_with("/")) {
      open.push_back(name);
    }
    at = end + 1;
  }
  return open.empty() ? "" : "<" + open.back() + "> stays open";
}

struct Outcome {
  int status;
  std::string out, err;
};
Outcome run(std::vector<std::string> words) {
  const auto options = parse_options(words, [](const char*) { return nullptr; });
  REQUIRE(options.has_value());
  Capture capture;
  const int status = capture.report.finish(run_command(*options, capture.report));
  return {status, capture.out(), capture.err()};
}

std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The page of a pool made for it.
std::string page_of(PoolRecipe recipe) {
  const TemporaryFolder folder;
  const auto status = tests::make_pool(folder / "a.pkv", recipe);
  INFO((status ? "" : status.error().message));
  REQUIRE(status.has_value());
  const Outcome outcome = run({"stats", "--html", "-", folder / "a.pkv"});
  CHECK(outcome.status == 0);
  CHECK(outcome.err.empty());
  CHECK(fault_of(outcome.out) == "");
  return outcome.out;
}

bool has(const std::string& page, const std::string& part) { return page.find(part) != std::string::npos; }

std::size_t count(const std::string& page, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = page.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

ordered_json whole_fidelity(std::size_t num_heads) {
  ordered_json json = {{"protocol", {{"version", "polykv.probes/1"}, {"tail_begin", 70}}},
                       {"tail",
                        {{"positions", 3},
                         {"kld_mean", 0.002},
                         {"kld_stderr", 0.0005},
                         {"same_top", 0.5},
                         {"ppl_ratio", 1.01},
                         {"ppl_ratio_stderr", 0.004},
                         {"floor_kld_mean", 1e-6},
                         {"kld_by_position", {0.001, 0.004, 0.001}}}},
                       {"answers", {{"positions", 0}}},
                       {"recall", {{"positions", 8}, {"kld_mean", 0.1}, {"hits", {1.0, 0.5}}}},
                       {"plan", {{"choice", "auto 4.25 bits"}, {"rows", 256}, {"expected_kld", 0.003}}}};
  json["plan"]["sensitivities"] = {{"key", std::vector<double>(num_heads, 0.01)},
                                   {"value", std::vector<double>(num_heads, 0.02)}};
  return json;
}

PoolRecipe mixed() {
  PoolRecipe recipe;
  recipe.shape.num_tokens = 300;
  recipe.plan = {{5, 4}, {16, 16}, {3, 2}, {8, 8}};
  return recipe;
}

TEST_CASE("a page with everything shows every picture") {
  PoolRecipe recipe = mixed();
  recipe.fidelity = whole_fidelity(4).dump();
  const std::string page = page_of(recipe);
  CHECK(count(page, "<figure>") == 5);
  CHECK_FALSE(has(page, "class=\"missing\""));
  CHECK(has(page, "<bdi>auto 4.25 bits</bdi>"));
  CHECK(has(page, "layer 0, kv_head 1: f16 f16"));
  CHECK(has(page, "layer 1, kv_head 0: k3 v2"));
  CHECK(has(page, "told from 256 rows"));
  CHECK(has(page, "position 71: 0.0040"));
  CHECK(has(page, "mean 0.0020"));
  CHECK(has(page, "0.0020 &#177; 0.00050"));
  CHECK(has(page, "+1.0 &#177; 0.40 %"));
  CHECK(has(page, "not measured: no room or no time for it"));
  for (const char* preset : {"k8v3", "k6v4", "k5v4", "k4v4", "k4v3", "k3v3"})
    CHECK(has(page, std::string("class=\"label\">") + preset + "<"));
  // Nothing runs and nothing is fetched.
  CHECK_FALSE(has(page, "<script"));
  CHECK_FALSE(has(page, "<link"));
  CHECK_FALSE(has(page, "url("));
  CHECK_FALSE(has(page, "src="));
  CHECK_FALSE(has(page, "href="));
  CHECK(count(page, "http") == count(page, "http://www.w3.org/") + count(page, "http-equiv"));
  CHECK(has(page, "prefers-color-scheme: dark"));
}

TEST_CASE("a page of a pool without fidelity shows the bits and says what is missing") {
  const std::string page = page_of(mixed());
  CHECK(count(page, "<figure>") == 2);
  CHECK(count(page, "class=\"missing\"") == 4);
  CHECK(has(page, "those got more"));
  const std::string uniform = page_of({});
  CHECK(has(uniform, "All of them got the same here."));
  PoolRecipe tiny;
  tiny.shape = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 8, .num_tokens = 3};
  tiny.fidelity = whole_fidelity(1).dump();
  const std::string sinks = page_of(tiny);
  CHECK(has(sinks, "all positions are among the first four"));
  CHECK(count(sinks, "<figure>") == 1);  // the measured positions
}

TEST_CASE("what a pool says is text, never markup") {
  const std::string evil = "</title><script>alert(1)</script>\"'&\x1b[2J\xef\xbf\xbf";
  PoolRecipe recipe = mixed();
  recipe.model_name = evil;
  ordered_json fidelity = whole_fidelity(4);
  const std::string json_evil = "</td><script>alert('2')</script>&\"";
  fidelity["plan"]["choice"] = json_evil;
  fidelity[json_evil] = {{"positions", 4}, {"hits", {json_evil}}, {"floor_kld_mean", 1}};
  fidelity["protocol"][json_evil] = json_evil;
  fidelity["protocol"]["nested"] = {{json_evil, {json_evil}}};
  recipe.fidelity = fidelity.dump();
  const std::string page = page_of(recipe);
  CHECK_FALSE(has(page, "<script"));
  CHECK(has(page, "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;\\x1b[2J\xef\xbf\xbd"));
  CHECK(count(page, "&lt;/td&gt;&lt;script&gt;") >= 5);
  CHECK(escape_markup("a\nb\t\x01\xff") == "a\\x0ab\\x09\\x01\\xff");
  // The name of the file, too.
  const TemporaryFolder folder;
  const std::string path = folder / "<b>\"&.pkv";
  REQUIRE(tests::make_pool(path, {}).has_value());
  const std::string named = run({"stats", "--html", "-", path}).out;
  CHECK(fault_of(named) == "");
  CHECK(has(named, "<title>&lt;b&gt;&quot;&amp;.pkv - polykv</title>"));
}

TEST_CASE("where positions are dropped the page shows the document, whatever its text") {
  PoolRecipe recipe = mixed();
  recipe.kept = {{{{4, 300}}}, {{{20, 40}, {250, 300}}}, {}, {{{100, 101}}}};
  recipe.open_text = "</div></details><script>alert(3)</script>\r\n\xe2\x80\xae]]>";
  recipe.fidelity = whole_fidelity(4).dump();
  const std::string page = page_of(recipe);
  CHECK(has(page, "<h2>What is kept</h2>"));
  CHECK(has(page,
            "&lt;/div&gt;&lt;/details&gt;&lt;script&gt;alert(3)&lt;/script&gt;\n\xe2\x80\xae]]&gt;</div></details>"));
  CHECK_FALSE(has(page, "<script"));
  CHECK(has(page, "layer 0, positions 0 to 3: 100 %"));
  CHECK(has(page, "layer 1, positions 295 to 299: 0 %"));
  CHECK(has(page, "Positions 0 to 299: 32 % kept<"));  // (300 + 74 + 4 + 5) / 1200
  CHECK(count(page, "class=\"k") > 2 * 64);
  // Nothing of the document, where all of it is kept.
  recipe.kept.clear();
  CHECK_FALSE(has(page_of(recipe), "alert(3)"));
  CHECK_FALSE(has(page_of(recipe), "What is kept"));
}

TEST_CASE("columns of a heat map stand for so many of what their axis counts") {
  HeatMap map{.description = "", .row_name = "r", .column_name = "c", .num_rows = 1, .num_columns = 4, .cells = {}};
  for (int i = 0; i < 4; ++i) map.cells.push_back({"", "k1", ""});
  const std::string plain = heat_map_svg(map);
  CHECK(has(plain, "class=\"tick\">3<"));
  CHECK_FALSE(has(plain, "class=\"tick\">4<"));
  map.first_column = 1000;
  map.column_step = 25;
  const std::string wide = heat_map_svg(map);
  CHECK(has(wide, "class=\"tick\">1000<"));
  CHECK(has(wide, "class=\"tick\">1090<"));
  CHECK_FALSE(has(wide, "class=\"tick\">1100<"));
}

TEST_CASE("numbers of a wrong type, size or range are not drawn") {
  const auto section_of = [](const ordered_json& change) {
    ordered_json fidelity = whole_fidelity(4);
    fidelity.merge_patch(change);
    PoolRecipe recipe = mixed();
    recipe.fidelity = fidelity.dump();
    return count(page_of(recipe), "<figure>");
  };
  const auto with_keys = [](const ordered_json& keys) {
    return ordered_json{{"plan", {{"sensitivities", {{"key", keys}}}}}};
  };
  const auto with_klds = [](const ordered_json& klds) { return ordered_json{{"tail", {{"kld_by_position", klds}}}}; };
  CHECK(section_of(ordered_json::object()) == 5);
  for (const ordered_json& keys :
       {ordered_json({1, 1, 1}), ordered_json({1, 1, 1, 1, 1}), ordered_json({1, 1, 1, "1"}),
        ordered_json({1, 1, 1, nullptr}), ordered_json({1, 1, 1, -1}), ordered_json({1, 1, 1, 1e300}),
        ordered_json({{"0", 1}}), ordered_json("keys"), ordered_json(7), ordered_json({1, 1, 1, {1}})}) {
    INFO(keys.dump());
    CHECK(section_of(with_keys(keys)) == 3);  // neither damage nor size
  }
  for (const ordered_json& klds :
       {ordered_json(7), ordered_json("klds"), ordered_json({1, "2"}), ordered_json({-1.0}), ordered_json({1e300}),
        ordered_json::array(), ordered_json({{"0", 1}}), ordered_json(std::vector<int>(kMostPositionsDrawn + 1, 1))}) {
    INFO(klds.dump().substr(0, 40));
    CHECK(section_of(with_klds(klds)) == 4);
  }
  // All of these are drawn.
  CHECK(section_of(with_keys({0, 0, 0, 0})) == 5);
  CHECK(section_of(with_keys({1e9, 1e-300, 0, 5})) == 5);
  CHECK(section_of(with_klds({0, 0})) == 5);
  CHECK(section_of(with_klds({-1e-9, 1e6})) == 5);
  for (const char* odd : {R"({"tail": {"kld_mean": 1e300, "kld_stderr": 1e300}})", R"({"tail": {"kld_mean": -1}})",
                          R"({"tail": {"kld_mean": 1.7e308, "kld_stderr": 1.7e308}})",
                          R"({"tail": {"kld_mean": "x", "positions": 1e300}})", R"({"tail": {"kld_stderr": -5}})",
                          R"({"protocol": {"tail_begin": 1e300}})", R"({"protocol": {"tail_begin": -7}})",
                          R"({"protocol": 3, "answers": {"positions": {}}, "plan": {"rows": 1e300, "choice": []}})",
                          R"({"tail": {"ppl_ratio": 1e308, "ppl_ratio_stderr": 1e308, "same_top": 1e308}})"}) {
    INFO(odd);
    CHECK(section_of(ordered_json::parse(odd)) == 5);
  }
  PoolRecipe recipe = mixed();
  for (const char* text :
       {"{}", R"({"tail": null, "plan": [], "protocol": ""})", R"({"plan": {"sensitivities": []}})"}) {
    recipe.fidelity = text;
    CHECK(count(page_of(recipe), "<figure>") == 2);
  }
}

TEST_CASE("damage of the layers adds up to the plan's expected divergence") {
  const format::KvShape shape{.num_layers = 3, .num_kv_heads = 2, .head_dim = 64, .num_tokens = 300};
  const runtime::CodecPlan plan = {{5, 4}, {3, 3}, {16, 16}, {2, 6}, {1, 1}, {4, 4}};
  std::vector<runtime::Sensitivity> sensitivities;
  for (int i = 0; i < 6; ++i) sensitivities.push_back({0.01 * (i + 1), 0.02 * (6 - i)});
  const auto layers = damage_of_layers(shape, sensitivities, plan);
  REQUIRE(layers.size() == 3);
  double sum = 0;
  for (const LayerDamage& layer : layers) sum += layer.key + layer.value;
  // Each sum has 12 terms, all positive, in another order: 12 roundings of 2^-53 each, on either side.
  CHECK(std::fabs(sum - runtime::expected_kld(sensitivities, plan)) <= 24 * 0x1p-53 * sum);
  CHECK(layers[2].key > layers[0].key);  // 1 and 4 bits against 5 and 3
}

TEST_CASE("axes hold what they are to show") {
  const auto holds = [](const Axis& axis, double least, double most) { return axis.low <= least && axis.high >= most; };
  CHECK(holds(linear_axis("", {0.3, 7.1}), 0, 7.1));
  CHECK(linear_axis("", {0.3, 7.1}).high == 8);
  CHECK(linear_axis("", {}).high == 1);
  CHECK(linear_axis("", {0.0}).high == 1);
  const Axis decades = decades_axis("", {0.0003, 0.0, 0.02});
  CHECK(decades.low == Approx(0.0001));
  CHECK(decades.high == Approx(0.1));
  for (const std::vector<double>& values : {std::vector<double>{}, {0.0}, {1.0}, {1e-300, 1e6}, {5e-324}}) {
    const Axis axis = decades_axis("", values);
    CHECK(axis.low > 0);
    CHECK(axis.high >= 9.9 * axis.low);
    CHECK(std::log10(axis.high / axis.low) < 12.5);
  }
  CHECK(short_number(0.00134, 2) == "0.0013");
  CHECK(short_number(4.25, 3) == "4.25");
  CHECK(short_number(0, 2) == "0.0");
  CHECK(short_number(3.14e-7, 2) == "3.1e-7");
  CHECK(short_number(std::nan(""), 2) == "-");
}

TEST_CASE("neighbouring ticks of small numbers read differently") {
  const std::string svg = damage_svg({{1.5e-5, 1.3e-5}});
  CHECK(count(svg, ">1.5e-5<") == 1);
  CHECK(count(svg, ">2e-5<") == 1);
}

TEST_CASE("the page goes to a file, whole or not at all") {
  const TemporaryFolder folder;
  const std::string pool = folder / "a.pkv", page = folder / "a.html";
  REQUIRE(tests::make_pool(pool, mixed()).has_value());
  const Outcome written = run({"stats", pool, "--html", page});
  CHECK(written.status == 0);
  CHECK(written.out == run({"stats", pool}).out);  // besides
  CHECK(file_text(page) == run({"stats", pool, "--html", "-"}).out);
  CHECK((std::filesystem::status(page).permissions() & std::filesystem::perms::all) == std::filesystem::perms(0600));

  std::ofstream(page) << "mine";
  const Outcome refused = run({"stats", pool, "--html", page});
  CHECK(refused.status == 3);
  CHECK(refused.out.empty());
  CHECK(has(refused.err, "a.html: it exists; --force replaces it"));
  CHECK(file_text(page) == "mine");
  CHECK(run({"stats", pool, "--html", page, "--force", "--json"}).status == 0);
  CHECK(fault_of(file_text(page)) == "");

  CHECK(run({"stats", pool, "--html", pool, "--force"}).status == 2);
  CHECK(run({"stats", pool, pool, "--html", folder / "b.html"}).status == 2);
  CHECK(run({"stats", pool, "--html", "-", "--json"}).status == 2);
  CHECK(run({"stats", pool, "--html", "-", "--measure"}).status == 2);
  CHECK(run({"stats", folder / "none.pkv", "--html", folder / "b.html"}).status == 3);
  CHECK(run({"stats", pool, "--html", folder / "none/b.html"}).status == 3);
  REQUIRE(tests::make_pool(folder / "c.pkv", {.fidelity = "[1]"}).has_value());
  const Outcome broken = run({"stats", folder / "c.pkv", "--html", folder / "b.html", "--json"});
  CHECK(broken.status == 5);
  CHECK(has(broken.out, "\"schema\":\"polykv.stats/1\""));
  for (const auto& entry : std::filesystem::directory_iterator(folder / "")) {
    const std::string name = entry.path().filename();
    CHECK((name == "a.pkv" || name == "c.pkv" || name == "a.html"));
  }
}

}  // namespace
}  // namespace polykv::cli

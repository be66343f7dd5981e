// What a pool keeps of its document, as numbers, a chart, and shades over the text.
#include <nlohmann/json.hpp>

#include "cli/commands/kept_chart.h"
#include "cli/commands/kept_page.h"
#include "cli/commands/kept_positions.h"
#include "cli/commands/pool_file.h"
#include "tests/support/catch.h"
#include "tests/support/make_pool.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using format::PositionSet;
using tests::PoolRecipe;

struct OpenPool {
  tests::TemporaryFolder folder;
  tests::Capture capture;
  std::unique_ptr<PoolFile> file;

  explicit OpenPool(const PoolRecipe& recipe) {
    const auto made = tests::make_pool(folder / "a.pkv", recipe);
    INFO((made ? "" : made.error().message));
    REQUIRE(made.has_value());
    auto opened = open_pool_file(folder / "a.pkv", false, capture.report);
    REQUIRE(opened.has_value());
    file = std::move(*opened);
  }
  const format::PoolReader& reader() const { return file->reader; }
};

// Two layers of two heads over 100 tokens; the last head has nothing but its sinks.
PoolRecipe dropping() {
  PoolRecipe recipe;
  recipe.kept = {PositionSet{{{4, 100}}}, PositionSet{{{10, 20}, {50, 75}}}, PositionSet{{{99, 100}}}, PositionSet{}};
  return recipe;
}

TEST_CASE("cells cover the document without gap, and each token lies in its own") {
  for (const auto& [tokens, cells] : {std::pair{100u, 40u}, {40u, 40u}, {41u, 40u}, {7u, 3u}, {1u, 1u}, {9999u, 64u}}) {
    const KeptMap map{.num_layers = 1, .num_tokens = tokens, .num_cells = cells, .shares = {}};
    CHECK(map.begin_of(0) == 0);
    CHECK(map.begin_of(cells) == tokens);
    for (std::uint32_t token = 0; token < tokens; ++token) {
      const std::size_t cell = map.cell_of(token);
      REQUIRE(map.begin_of(cell) <= token);
      REQUIRE(token < map.begin_of(cell + 1));
    }
  }
  const KeptMap most{.num_layers = 1, .num_tokens = format::kMaxTokens, .num_cells = 64, .shares = {}};
  CHECK(most.cell_of(format::kMaxTokens - 1) == 63);
}

TEST_CASE("shares are counted over the heads of a layer, sinks and all") {
  const OpenPool pool(dropping());
  const KeptMap map = kept_map(pool.reader(), 4);  // of 25 tokens each
  REQUIRE(map.num_cells == 4);
  // 25 + (4 sinks + 10 of the second head) of 2 x 25, and so on.
  CHECK(map.shares == std::vector<double>{39 / 50., 25 / 50., 50 / 50., 25 / 50., 8 / 50., 0, 0, 1 / 50.});
  CHECK(map.share_of_layer(0) == Approx(139 / 200.));
  CHECK(map.share_of_layer(1) == Approx(9 / 200.));
  CHECK_FALSE(map.keeps_all());
  // Cell by cell it is what is counted token by token.
  const KeptMap tokens = kept_map(pool.reader(), 1000);
  const KeptSummary summary = summarize_kept(pool.reader());
  REQUIRE(tokens.num_cells == 100);
  for (std::size_t i = 0; i < 100; ++i)
    REQUIRE(2 * (tokens.share(0, i) + tokens.share(1, i)) == summary.by_position[i]);
  CHECK(summary.kept_by_none == 0);
  CHECK(summary.by_layer == std::vector<double>{(100 + 39) / 2., (5 + 4) / 2.});
  CHECK(kept_map(OpenPool({}).reader(), 4).keeps_all());
}

TEST_CASE("steps are sixths; nothing is a step of its own, however little more there is") {
  CHECK(kept_step(0) == 0);
  CHECK(kept_step(1e-9) == 1);
  CHECK(kept_step(1) == kKeptSteps);
  for (int sixths = 1; sixths <= kKeptSteps; ++sixths) {
    for (const int heads : {6, 90, 96, 1536}) {  // whole shares of them
      const int kept = heads * sixths / kKeptSteps;
      CHECK(kept_step(static_cast<double>(kept) / heads) == sixths);
      if (kept < heads) CHECK(kept_step((kept + 1.0) / heads) == sixths + 1);
    }
  }
}

TEST_CASE("the chart has a mark a cell and a row a layer") {
  const OpenPool pool(dropping());
  CHECK(kept_chart(kept_map(pool.reader(), 4)) ==
        "    layer 0   |+-#-|  69.5 %\n"
        "    layer 1   |.  .|   4.5 %\n"
        "    blank: nothing; then . : - = + # for each sixth more that is kept\n");
  // 80 columns hold the most layers there can be.
  const KeptMap tall{.num_layers = 1024,
                     .num_tokens = 80,
                     .num_cells = kChartCells,
                     .shares = std::vector<double>(1024 * kChartCells, 1.0)};
  const std::string chart = kept_chart(tall);
  CHECK(chart.starts_with("    layer    0   |" + std::string(kChartCells, '#') + "| 100.0 %\n"));
  CHECK(chart.find('\n') <= 80);
}

TEST_CASE("words and JSON of what is kept") {
  const OpenPool pool(dropping());
  const KeptSummary kept = summarize_kept(pool.reader());
  CHECK(kept_text(kept, nullptr) ==
        "  kept                of 100 tokens a head keeps 37 on average (37.0 %); layer 1 the fewest, 5, layer 0 the "
        "most, 70\n  dropped             0 tokens by all heads; recall was not measured\n");
  CHECK(kept_json(kept).dump() == R"({"mean":37.0,"by_layer":[69.5,4.5],"fewest":4,"most":100,"kept_by_none":0})");
  CHECK(kept_text(summarize_kept(OpenPool({}).reader()), nullptr).empty());
}

// --- the text ---

// A text's tokens, by their ends.
format::Tokens tokens_of(const std::vector<std::pair<std::uint32_t, std::uint32_t>>& ranges) {
  format::Tokens tokens;
  for (const auto& [begin, end] : ranges) {
    tokens.ids.push_back(0);
    tokens.text_begin.push_back(begin);
    tokens.text_end.push_back(end);
  }
  return tokens;
}

std::string shaded(std::string_view text, const std::vector<std::pair<std::uint32_t, std::uint32_t>>& ranges,
                   const std::vector<std::uint32_t>& by_position) {
  return shaded_text({.tokens = tokens_of(ranges), .text = text, .by_position = by_position, .num_heads = 6});
}

std::string body_of(const std::string& markup) {
  const std::string open = "<div class=\"text\">";
  const std::size_t begin = markup.find(open) + open.size();
  return markup.substr(begin, markup.find("</div>", begin) - begin);
}

TEST_CASE("tokens are shaded by how many heads keep them; neighbours of one step are one element") {
  const std::string markup = shaded("one two three open", {{0, 3}, {3, 7}, {7, 9}, {9, 13}}, {6, 6, 0, 3});
  CHECK(markup ==
        "<details open=\"open\"><summary>Positions 0 to 3: 63 % kept, 1 of 4 by no head</summary>\n"
        "<div class=\"text\"><span class=\"k6\">one two</span><s class=\"k0\"> t</s><span class=\"k3\">hree</span>"
        " open</div></details>\n");
}

TEST_CASE("a character that tokens share stays whole, and is shaded as the first of them") {
  const std::string face = "\xf0\x9f\x98\x80";  // 4 bytes, of three tokens
  CHECK(body_of(shaded(face + "x", {{0, 1}, {1, 3}, {3, 4}, {4, 5}}, {1, 6, 6, 0})) ==
        "<span class=\"k1\">" + face + "</span><s class=\"k0\">x</s>");
  // A token that ends within a character, and the text ends with it.
  CHECK(body_of(shaded("a" + face, {{0, 1}, {1, 2}}, {2, 4})) ==
        "<span class=\"k2\">a</span><span class=\"k4\">" + face + "</span>");
}

TEST_CASE("text that no token covers has no shade, and tokens without text none to give") {
  CHECK(body_of(shaded("ab cd", {{0, 0}, {0, 0}, {0, 2}, {3, 5}, {5, 5}}, {6, 6, 1, 1, 0})) ==
        "<span class=\"k1\">ab</span> <span class=\"k1\">cd</span>");
  // Tokens that overlap.
  CHECK(body_of(shaded("abcdef", {{0, 4}, {1, 4}, {2, 6}}, {1, 6, 2})) ==
        "<span class=\"k1\">abcd</span><span class=\"k2\">ef</span>");
}

TEST_CASE("the text is escaped; its line ends stay") {
  CHECK(body_of(shaded("<b>&\"\r\n\t'\r\x1b[2J\xef\xbf\xbf", {{0, 15}}, {6})) ==
        "<span class=\"k6\">&lt;b&gt;&amp;&quot;\n\t&#39;\\x0d\\x1b[2J\xef\xbf\xbd</span>");
}

TEST_CASE("long documents are folded by about a thousand tokens; too long ones are cut") {
  const auto parts_of = [](std::uint32_t num_tokens) {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> ranges;
    for (std::uint32_t i = 0; i < num_tokens; ++i) ranges.emplace_back(i, i + 1);
    return shaded(std::string(num_tokens, 'q'), ranges, std::vector<std::uint32_t>(num_tokens, 6));
  };
  const auto count = [](const std::string& text, const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
    return found;
  };
  CHECK(count(parts_of(1), "<details") == 1);
  CHECK(count(parts_of(1499), "<details") == 1);
  CHECK(count(parts_of(1500), "<details") == 2);
  const std::string three = parts_of(3200);
  CHECK(count(three, "<details") == 3);
  CHECK(count(three, "<details open=\"open\">") == 1);
  CHECK(three.find("Positions 0 to 999: 100 % kept<") != std::string::npos);
  CHECK(three.find("Positions 2,000 to 3,199: 100 % kept<") != std::string::npos);
  CHECK(count(three, "q") == 3200);
  const std::string most = parts_of(65537);
  CHECK(count(most, "q") == 65536);
  CHECK(most.find("The text from position 65,536 on is not shown") != std::string::npos);
  // One token too long for a page.
  const std::string text(5 << 20, 'q');
  const std::string cut = shaded(text, {{0, 1}, {1, static_cast<std::uint32_t>(text.size())}}, {6, 6});
  CHECK(count(cut, "q") == 1);
  // Text after the tokens that is too long for a page.
  CHECK(shaded(text, {{0, 1}}, {6}).size() < (4 << 20) + 1000);
}

}  // namespace
}  // namespace polykv::cli

#include "cli/commands/kept_page.h"

#include <algorithm>
#include <cmath>

#include "cli/commands/kept_chart.h"
#include "cli/commands/kept_positions.h"
#include "cli/commands/page_parts.h"
#include "cli/commands/svg_plot.h"
#include "cli/report.h"

namespace polykv::cli {
namespace {

constexpr std::size_t kMapColumns = 64;
constexpr std::size_t kMostCells = 16384;
constexpr std::size_t kPartTokens = 1000;
constexpr std::size_t kMostTokens = 65536, kMostBytes = std::size_t{4} << 20;

std::string percent_text(double share) {
  if (share > 0 && share < 0.01) return "under 1 %";
  if (share < 1 && share > 0.99) return "over 99 %";
  return std::to_string(std::lround(100 * share)) + " %";
}

std::size_t character_end(std::string_view text, std::size_t at) {
  at = std::min(at, text.size());
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  return at;
}

// Line ends and tabs stay what they are; all else as anywhere on the page.
std::string escape_lines(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t plain = std::min(text.find_first_of("\r\n\t"), text.size());
    out += escape_markup(text.substr(0, plain));
    text.remove_prefix(plain);
    if (text.empty()) break;
    const bool is_line_end = text.starts_with("\r\n");
    out += is_line_end ? "\n" : text[0] == '\r' ? escape_markup("\r") : std::string(1, text[0]);
    text.remove_prefix(is_line_end ? 2 : 1);
  }
  return out;
}

// Goes through a text once, from front to back; neighbours of one step become one element.
class Shader {
 public:
  static constexpr int kNoStep = -1;  // of no token

  explicit Shader(std::string_view text) : text_(text) {}

  std::size_t at() const { return at_; }

  // Up to `end`, or to the end of the character that it cuts.
  void shade(std::size_t end, int step) {
    end = character_end(text_, end);
    if (end <= at_) return;
    if (step != step_) flush();
    step_ = step;
    at_ = end;
  }

  // All since the last call.
  std::string take() {
    flush();
    return std::move(markup_);
  }

 private:
  void flush() {
    const std::string content = escape_lines(text_.substr(begin_, at_ - begin_));
    begin_ = at_;
    if (content.empty()) return;
    if (step_ == kNoStep) {
      markup_ += content;
    } else if (step_ == 0) {
      markup_ += "<s class=\"k0\">" + content + "</s>";
    } else {
      markup_ += "<span class=\"k" + std::to_string(step_) + "\">" + content + "</span>";
    }
  }

  std::string_view text_;
  std::string markup_;
  std::size_t begin_ = 0, at_ = 0;  // of what is not written yet
  int step_ = kNoStep;
};

// How many tokens are shown: all, unless they are too many or too long.
std::size_t num_shown(const KeptTokens& kept) {
  const std::vector<std::uint32_t>& ends = kept.tokens.text_end;
  const auto fits = std::upper_bound(ends.begin(), ends.end(), kMostBytes);
  return std::min<std::size_t>(static_cast<std::size_t>(fits - ends.begin()), kMostTokens);
}

std::string part_summary(const KeptTokens& kept, std::size_t begin, std::size_t end) {
  double sum = 0;
  std::size_t by_none = 0;
  for (std::size_t token = begin; token < end; ++token) {
    sum += kept.by_position[token];
    by_none += kept.by_position[token] == 0;
  }
  const double share = sum / (static_cast<double>(end - begin) * kept.num_heads);
  return "Positions " + with_commas(kept.first_position + begin) + " to " + with_commas(kept.first_position + end - 1) +
         ": " + percent_text(share) + " kept" +
         (by_none == 0 ? "" : ", " + with_commas(by_none) + " of " + with_commas(end - begin) + " by no head");
}

std::string map_svg(const KeptMap& map, std::uint32_t first_position) {
  HeatMap picture{.description = "Share of positions kept, by layer and place in the document",
                  .row_name = "layer",
                  .column_name = "position",
                  .num_rows = map.num_layers,
                  .num_columns = map.num_cells,
                  .first_column = static_cast<double>(first_position),
                  .column_step = static_cast<double>(map.num_tokens) / static_cast<double>(map.num_cells),
                  .cells = {}};
  for (std::size_t layer = 0; layer < map.num_layers; ++layer) {
    for (std::size_t cell = 0; cell < map.num_cells; ++cell) {
      const double share = map.share(layer, cell);
      picture.cells.push_back(
          {"", "k" + std::to_string(kept_step(share)),
           "layer " + std::to_string(layer) + ", positions " + std::to_string(first_position + map.begin_of(cell)) +
               " to " + std::to_string(first_position + map.begin_of(cell + 1) - 1) + ": " + percent_text(share)});
    }
  }
  return heat_map_svg(picture);
}

}  // namespace

std::string shaded_text(const KeptTokens& kept) {
  const std::vector<std::uint32_t>&begins = kept.tokens.text_begin, &ends = kept.tokens.text_end;
  const std::size_t num_tokens = kept.by_position.size(), shown = num_shown(kept);
  const std::size_t num_parts = std::max<std::size_t>((shown + kPartTokens / 2) / kPartTokens, 1);
  Shader shader(kept.text);
  std::string markup;
  for (std::size_t part = 0, token = 0; part < num_parts && token < shown; ++part) {
    const std::size_t begin = token, end = part + 1 == num_parts ? shown : begin + kPartTokens;
    for (; token < end; ++token) {
      shader.shade(begins[token], Shader::kNoStep);
      shader.shade(ends[token], kept_step(static_cast<double>(kept.by_position[token]) / kept.num_heads));
    }
    if (token == num_tokens) shader.shade(std::min(kept.text.size(), shader.at() + kMostBytes), Shader::kNoStep);
    markup += std::string(part == 0 ? "<details open=\"open\">" : "<details>") + "<summary>" +
              part_summary(kept, begin, end) + "</summary>\n<div class=\"text\">" + shader.take() +
              "</div></details>\n";
  }
  if (shown < num_tokens) {
    markup += missing("The text from position " + with_commas(kept.first_position + shown) +
                      " on is not shown: it is too much for a page.");
  }
  return markup;
}

format::Result<std::string> kept_section(const format::PoolReader& reader) {
  const KeptSummary summary = summarize_kept(reader);
  if (summary.keeps_all()) return std::string();
  const format::KvShape& shape = reader.shape();
  POLYKV_TRY(const std::string text, reader.source_text());
  const double mean = summary.mean() / summary.num_tokens;
  std::string content =
      paragraph("Not every head keeps every position: " + percent_text(mean) + " are kept on average, and " +
                (summary.kept_by_none == 0 ? "none is dropped" : with_commas(summary.kept_by_none) + " are dropped") +
                " by all heads. What many heads drop is still seen by the others; what all drop is seen by none.");
  content += scale_legend({{"k0", "0"}, {"k1", "1"}, {"k2", "2"}, {"k3", "3"}, {"k4", "4"}, {"k5", "5"}, {"k6", "6"}},
                          "at most so many sixths kept; 0 is nothing, struck through in the text");
  if (std::size_t{shape.num_layers} * kMapColumns <= kMostCells) {
    content += figure(map_svg(kept_map(reader, kMapColumns), reader.first_position()),
                      "By layer and place in the document: the share of positions that the layer's heads keep");
  } else {
    content += missing("Not drawn: " + with_commas(shape.num_layers) + " layers are too many for a page.");
  }
  content += paragraph(
      "The document itself, each token shaded by the share of all heads that keep it. What has no shade "
      "at the end is no part of the pool: it is tokenized with each question.");
  return content + shaded_text({.tokens = reader.tokens(),
                                .text = text,
                                .by_position = summary.by_position,
                                .num_heads = shape.num_layers * shape.num_kv_heads,
                                .first_position = reader.first_position()});
}

}  // namespace polykv::cli

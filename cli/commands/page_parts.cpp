#include "cli/commands/page_parts.h"

#include "cli/commands/svg_plot.h"

namespace polykv::cli {

std::string isolated(std::string_view text) { return "<bdi>" + escape_markup(text) + "</bdi>"; }

std::string paragraph(const std::string& text) { return "<p>" + text + "</p>\n"; }
std::string missing(const std::string& text) { return "<p class=\"missing\">" + text + "</p>\n"; }

std::string figure(const std::string& svg, const std::string& caption) {
  return "<figure>" + (caption.empty() ? "" : "<figcaption>" + caption + "</figcaption>\n") + svg + "</figure>\n";
}

std::string section(const char* title, const std::string& content) {
  return std::string("<section>\n<h2>") + title + "</h2>\n" + content + "</section>\n";
}

std::string legend(std::initializer_list<std::pair<const char*, const char*>> entries) {
  std::string text = "<p class=\"legend\">";
  for (const auto& [mark, says] : entries) {
    text += std::string("<span><svg viewBox=\"0 0 20 14\" class=\"mark\" aria-hidden=\"true\">") + mark + "</svg> " +
            says + "</span>\n";
  }
  return text + "</p>\n";
}

std::string scale_legend(std::initializer_list<Swatch> swatches, const char* says) {
  std::string text = "<p class=\"legend\">";
  for (const Swatch& swatch : swatches) {
    text +=
        "<svg viewBox=\"0 0 22 18\" class=\"swatch\" aria-hidden=\"true\"><rect width=\"21\" height=\"18\" class=\"" +
        swatch.style + "\"/><text x=\"10.5\" y=\"13\" text-anchor=\"middle\" class=\"" + swatch.style + " cell\">" +
        swatch.text + "</text></svg>";
  }
  return text + " " + says + "</p>\n";
}

}  // namespace polykv::cli

// What the sections of a page of ours are made of. Texts are markup already, unless a comment says otherwise.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace polykv::cli {

// Text of the pool, escaped here and kept from turning the text around it (U+202E and its like).
std::string isolated(std::string_view text);

std::string paragraph(const std::string& text);
std::string missing(const std::string& text);  // says what is not known, or not drawn
std::string figure(const std::string& svg, const std::string& caption = "");
std::string section(const char* title, const std::string& content);

// Marks are SVG in a box of 20 x 14.
std::string legend(std::initializer_list<std::pair<const char*, const char*>> entries);

// A row of swatches, each with a text of one or two characters, and what they say in all.
struct Swatch {
  std::string style;  // the class of its colour
  std::string text;
};
std::string scale_legend(std::initializer_list<Swatch> swatches, const char* says);

}  // namespace polykv::cli

#include "cli/commands/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cli/report.h"

namespace polykv::cli {
namespace {

// All in SVG units; the page scales the picture to its width.
constexpr double kWidth = 760;
constexpr double kLeft = 74, kRight = 14;  // margins of the drawing area
constexpr double kAreaWidth = kWidth - kLeft - kRight;
constexpr double kTop = 14, kBottom = 44, kPlotHeight = 280;
constexpr double kAreaHeight = kPlotHeight - kTop - kBottom;
constexpr int kMostDecades = 12;

template <typename... Values>
std::string print(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string text_at(double x, double y, const char* anchor, std::string_view style, std::string_view text) {
  return print("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"", x, y, anchor) + std::string(style) + "\">" +
         escape_markup(text) + "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2, std::string_view style) {
  return print("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"", x1, y1, x2, y2) + std::string(style) +
         "\"/>\n";
}

std::string titled(std::string_view title) {
  return title.empty() ? "" : "<title>" + escape_markup(title) + "</title>";
}

std::string open_svg(double height, std::string_view description) {
  return print("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", kWidth,
               height) +
         escape_markup(description) + "\">\n";
}

// 1, 2 or 5 times a power of ten: at most `most` steps of it are in `range`.
double round_step(double range, int most) {
  const double power = std::pow(10.0, std::floor(std::log10(range / most)));
  for (const double step : {power, 2 * power, 5 * power}) {
    if (range / step <= most) return step;
  }
  return 10 * power;
}

std::vector<double> ticks_of(const Axis& axis, int most) {
  std::vector<double> ticks;
  if (axis.logarithmic) {
    const int low = static_cast<int>(std::lround(std::log10(axis.low)));
    const int high = static_cast<int>(std::lround(std::log10(axis.high)));
    for (int power = low; power <= high; ++power) ticks.push_back(std::pow(10.0, power));
    return ticks;
  }
  double step = round_step(axis.high - axis.low, most);
  if (axis.integers) step = std::max(step, 1.0);
  for (double index = std::ceil(axis.low / step - 1e-9); index * step <= axis.high + 1e-9 * step; ++index) {
    ticks.push_back(index * step + 0.0);  // never -0
  }
  return ticks;
}

// 3e-7, not 3e-07.
std::string exponential(double value, int decimals) {
  std::string text = print("%.*e", decimals, value);
  const std::size_t exponent = text.find('e') + 2;
  if (exponent < text.size() && text[exponent] == '0') text.erase(exponent, 1);
  return text;
}

// A tick is a multiple of 1, 2 or 5 times a power of ten that two digits tell apart: 1.5e-5, and 2e-5.
std::string tick_text(double value) {
  if (value == 0.0 || std::fabs(value) >= 1e-4) return print("%.6g", value);
  std::string text = exponential(value, 1);
  if (const std::size_t zero = text.find(".0"); zero != std::string::npos) text.erase(zero, 2);
  return text;
}

// From 0 to 1 along the axis.
double share(const Axis& axis, double value) {
  const double part = axis.logarithmic ? std::log(std::max(value, axis.low) / axis.low) / std::log(axis.high / axis.low)
                                       : (value - axis.low) / (axis.high - axis.low);
  return std::clamp(part, 0.0, 1.0);
}

}  // namespace

std::string escape_markup(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  // XML has no U+FFFE and U+FFFF, however they are written.
  for (const char* none : {"\xef\xbf\xbe", "\xef\xbf\xbf"}) {
    for (std::size_t at; (at = out.find(none)) != std::string::npos;) out.replace(at, 3, "\xef\xbf\xbd");
  }
  return out;
}

std::string short_number(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  const double size = std::fabs(value);
  if (size != 0.0 && (size < 1e-5 || size >= 1e6)) return exponential(value, digits - 1);
  const int before = size == 0.0 ? 1 : static_cast<int>(std::floor(std::log10(size))) + 1;
  return print("%.*f", std::max(digits - before, 0), value);
}

std::string heat_map_svg(const HeatMap& map) {
  constexpr double kMostCellHeight = 26, kMostHeight = 420, kNarrowest = 13;
  const auto rows = static_cast<double>(map.num_rows), columns = static_cast<double>(map.num_columns);
  const double width = kAreaWidth / columns, height = std::min(kMostCellHeight, kMostHeight / rows);
  const double bottom = kTop + rows * height;
  const bool has_texts = width >= kNarrowest && height >= kNarrowest;
  const double gap = std::min(width, height) > 6 ? 1 : 0;
  std::string svg = open_svg(bottom + kBottom, map.description);
  for (std::size_t i = 0; i < map.cells.size(); ++i) {
    const HeatCell& cell = map.cells[i];
    const double x = kLeft + static_cast<double>(i % map.num_columns) * width;
    const double y = kTop + static_cast<double>(i / map.num_columns) * height;
    svg +=
        print("<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" class=\"", x, y, width - gap, height - gap) +
        cell.style + "\">" + titled(cell.title) + "</rect>\n";
    if (has_texts) svg += text_at(x + width / 2, y + height / 2 + 4, "middle", cell.style + " cell", cell.text);
  }
  const Axis across{map.column_name, map.first_column, map.first_column + columns * map.column_step, false, true};
  const Axis down{map.row_name, 0, rows, false, true};
  for (const double tick : ticks_of(across, 16)) {
    const double at = kLeft + (tick + 0.5 - map.first_column) * width / map.column_step;
    if (tick < across.high) svg += text_at(at, bottom + 16, "middle", "tick", tick_text(tick));
  }
  for (const double tick : ticks_of(down, static_cast<int>(std::max(2.0, rows * height / 16)))) {
    if (tick < rows) svg += text_at(kLeft - 8, kTop + (tick + 0.5) * height + 4, "end", "tick", tick_text(tick));
  }
  svg += text_at(kLeft + kAreaWidth / 2, bottom + 34, "middle", "name", map.column_name);
  svg += print("<text transform=\"translate(12 %.1f) rotate(-90)\" text-anchor=\"middle\" class=\"name\">",
               kTop + rows * height / 2) +
         escape_markup(map.row_name) + "</text>\n";
  return svg + "</svg>\n";
}

Axis linear_axis(std::string name, const std::vector<double>& values) {
  const double most = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  if (most <= 0) return {std::move(name), 0, 1, false, false};
  const double step = round_step(most, 5);
  return {std::move(name), 0, step * std::ceil(most / step), false, false};
}

Axis decades_axis(std::string name, const std::vector<double>& values) {
  double low = 0, high = 0;
  for (const double value : values) {
    if (value <= 0) continue;
    low = low == 0 ? value : std::min(low, value);
    high = std::max(high, value);
  }
  if (high == 0) return {std::move(name), 0.1, 1, true, false};
  const double top = std::max(std::ceil(std::log10(high)), -300.0 + kMostDecades);
  const double bottom = std::max(std::min(std::floor(std::log10(low)), top - 1), top - kMostDecades);
  return {std::move(name), std::pow(10.0, bottom), std::pow(10.0, top), true, false};
}

Plot::Plot(std::string description, Axis x, Axis y)
    : description_(std::move(description)), x_(std::move(x)), y_(std::move(y)) {}

double Plot::place_x(double x) const { return kLeft + kAreaWidth * share(x_, x); }
double Plot::place_y(double y) const { return kTop + kAreaHeight * (1 - share(y_, y)); }

void Plot::bar(double x_begin, double x_end, double y_begin, double y_end, std::string_view style,
               std::string_view title) {
  const double left = place_x(x_begin), top = place_y(y_end);
  marks_ += print("<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" class=\"", left, top,
                  place_x(x_end) - left, place_y(y_begin) - top) +
            std::string(style) + "\">" + titled(title) + "</rect>\n";
}

void Plot::curve(const std::vector<Point>& points, std::string_view style) {
  marks_ += "<polyline class=\"" + std::string(style) + "\" points=\"";
  for (const auto& [x, y] : points) marks_ += print("%.1f,%.1f ", place_x(x), place_y(y));
  marks_ += "\"/>\n";
}

void Plot::level(double y, std::string_view style, std::string_view text) {
  marks_ += line(kLeft, place_y(y), kLeft + kAreaWidth, place_y(y), style) +
            text_at(kLeft + kAreaWidth - 4, place_y(y) - 5, "end", "label", text);
}

void Plot::dot(Point point, double radius, std::string_view style, std::string_view title) {
  marks_ += print("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" class=\"", place_x(point.first), place_y(point.second),
                  radius) +
            std::string(style) + "\">" + titled(title) + "</circle>\n";
}

void Plot::cross(Point point, std::string_view style, std::string_view title) {
  const double x = place_x(point.first), y = place_y(point.second), arm = 6;
  marks_ += print("<path d=\"M%.1f %.1fl%.1f %.1fm0 %.1fl%.1f %.1f\" class=\"", x - arm, y - arm, 2 * arm, 2 * arm,
                  -2 * arm, -2 * arm, 2 * arm) +
            std::string(style) + "\">" + titled(title) + "</path>\n";
}

void Plot::error_bar(double x, double low, double high, std::string_view style) {
  const double at = place_x(x), top = place_y(high), bottom = place_y(low), half = 5;
  marks_ += line(at, top, at, bottom, style) + line(at - half, top, at + half, top, style) +
            line(at - half, bottom, at + half, bottom, style);
}

void Plot::label(Point point, Side side, std::string_view text) {
  const double x = place_x(point.first), y = place_y(point.second);
  switch (side) {
    case Side::kAbove:
      marks_ += text_at(x, y - 10, "middle", "label", text);
      break;
    case Side::kBelow:
      marks_ += text_at(x, y + 20, "middle", "label", text);
      break;
    case Side::kLeft:
      marks_ += text_at(x - 11, y + 4, "end", "label", text);
      break;
    case Side::kRight:
      marks_ += text_at(x + 11, y + 4, "start", "label", text);
      break;
  }
}

std::string Plot::svg() const {
  std::string svg = open_svg(kPlotHeight, description_);
  for (const double tick : ticks_of(y_, 6)) {
    const double y = place_y(tick);
    svg += line(kLeft, y, kLeft + kAreaWidth, y, "grid") + text_at(kLeft - 8, y + 4, "end", "tick", tick_text(tick));
  }
  for (const double tick : ticks_of(x_, 12)) {
    svg += line(place_x(tick), kTop + kAreaHeight, place_x(tick), kTop + kAreaHeight + 4, "axis") +
           text_at(place_x(tick), kTop + kAreaHeight + 18, "middle", "tick", tick_text(tick));
  }
  svg += line(kLeft, kTop + kAreaHeight, kLeft + kAreaWidth, kTop + kAreaHeight, "axis");
  svg += text_at(kLeft + kAreaWidth / 2, kPlotHeight - 8, "middle", "name", x_.name);
  svg += print("<text transform=\"translate(12 %.1f) rotate(-90)\" text-anchor=\"middle\" class=\"name\">",
               kTop + kAreaHeight / 2) +
         escape_markup(y_.name) + "</text>\n";
  return svg + marks_ + "</svg>\n";
}

}  // namespace polykv::cli

// Pictures as SVG elements for a page of ours: heat maps, and marks between two axes.
//
// Colours and fonts are the page's: every element has a class and no style. Texts are escaped here; numbers must be
// finite. What is made is well-formed XML.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polykv::cli {

// Text for an element or a quoted attribute: on one line, with nothing in it that markup or a terminal would obey.
std::string escape_markup(std::string_view text);

// 0.0013, 0.000021, 4.3, 3.1e-7: so many significant digits; "-" for what is no number.
std::string short_number(double value, int digits);

struct HeatCell {
  std::string text;   // what fits: one or two characters
  std::string style;  // the class of its colour
  std::string title;  // shown when pointed at
};

// rows x columns cells. Texts are left out where cells are too narrow for them.
struct HeatMap {
  std::string description;  // for those who do not see it
  std::string row_name, column_name;
  std::size_t num_rows = 0, num_columns = 0;
  double first_column = 0, column_step = 1;  // what the columns are on their axis: whole numbers, or so many each
  std::vector<HeatCell> cells;               // [row][column]
};
std::string heat_map_svg(const HeatMap& map);

struct Axis {
  std::string name;
  double low = 0, high = 1;  // low < high; both positive, if logarithmic
  bool logarithmic = false;
  bool integers = false;  // ticks at whole numbers only
};

// An axis that holds all of `values`: from 0 to a round number, or whole decades, at most twelve. Of nothing: 0 to 1.
Axis linear_axis(std::string name, const std::vector<double>& values);
Axis decades_axis(std::string name, const std::vector<double>& values);

// Where a label stands beside its point.
enum class Side { kAbove, kBelow, kLeft, kRight };

// What lies outside the axes is drawn at their edge.
class Plot {
 public:
  Plot(std::string description, Axis x, Axis y);

  using Point = std::pair<double, double>;
  void bar(double x_begin, double x_end, double y_begin, double y_end, std::string_view style, std::string_view title);
  void curve(const std::vector<Point>& points, std::string_view style);
  void level(double y, std::string_view style, std::string_view text);  // a line across, with a text at its right end
  void dot(Point point, double radius, std::string_view style, std::string_view title);
  void cross(Point point, std::string_view style, std::string_view title);
  void error_bar(double x, double low, double high, std::string_view style);
  void label(Point point, Side side, std::string_view text);

  std::string svg() const;

 private:
  double place_x(double x) const;
  double place_y(double y) const;

  std::string description_;
  Axis x_, y_;
  std::string marks_;
};

}  // namespace polykv::cli

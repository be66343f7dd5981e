#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>

namespace polykv::cli {
namespace {

constexpr std::chrono::milliseconds kBetweenDraws{100};

std::string amount(std::uint64_t count, std::string_view unit) {
  return unit == "B" ? short_bytes(count) : with_commas(count) + " " + std::string(unit);
}

std::string duration(double seconds) {
  const auto whole = static_cast<std::uint64_t>(std::ceil(seconds));
  if (whole < 60) return std::to_string(whole) + " s";
  const std::uint64_t minutes = whole / 60;
  if (minutes < 60) return std::to_string(minutes) + " min " + std::to_string(whole % 60) + " s";
  return std::to_string(minutes / 60) + " h " + std::to_string(minutes % 60) + " min";
}

// A line that wraps cannot be rewritten.
std::size_t terminal_columns(int descriptor) {
  winsize size{};
  if (ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 79;
  return size.ws_col - 1u;
}

}  // namespace

std::string progress_line(std::string_view note, std::uint64_t done, std::uint64_t total, std::string_view unit,
                          std::uint64_t done_since_start, double seconds_since_start) {
  std::string line(note);
  if (total > 0) {
    const auto percent = static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total));
    line += "  " + std::to_string(percent) + "%";
    if (unit != "%")
      line += "  " + (unit == "B" ? short_bytes(done) : with_commas(done)) + " of " + amount(total, unit);
  } else {
    line += "  " + amount(done, unit);
  }
  if (done_since_start == 0 || seconds_since_start < 0.2) return line;
  const double speed = static_cast<double>(done_since_start) / seconds_since_start;
  if (unit != "%") line += "  " + amount(static_cast<std::uint64_t>(speed), unit) + "/s";
  if (total > done) line += "  " + duration(static_cast<double>(total - done) / speed) + " left";
  return line;
}

Progress::Progress(Report& report) : report_(report) {
  if (report_.shows_progress()) report_.progress_ = this;
}

Progress::~Progress() {
  clear();
  if (report_.progress_ == this) report_.progress_ = nullptr;
}

void Progress::update_at(Clock::time_point now, std::uint64_t done, std::uint64_t total, std::string_view unit,
                         std::string_view note) {
  if (report_.progress_ != this) return;
  if (note != note_ || done < first_done_) {
    note_ = note;
    started_ = now;
    first_done_ = done;
  } else if (now - last_drawn_ < kBetweenDraws) {
    return;
  }
  last_drawn_ = now;
  const double seconds = std::chrono::duration<double>(now - started_).count();
  draw(progress_line(note, done, total, unit, done - first_done_, seconds));
}

// Spaces instead of an escape sequence: they clear any terminal.
void Progress::draw(const std::string& line) {
  const std::string shown = line.substr(0, terminal_columns(report_.err_));
  std::string text = "\r" + shown;
  if (drawn_.size() > shown.size()) text += std::string(drawn_.size() - shown.size(), ' ');
  if (::write(report_.err_, text.data(), text.size()) >= 0) drawn_ = shown;
}

void Progress::clear() {
  if (drawn_.empty()) return;
  const std::string text = "\r" + std::string(drawn_.size(), ' ') + "\r";
  if (::write(report_.err_, text.data(), text.size()) >= 0) drawn_.clear();
}

}  // namespace polykv::cli

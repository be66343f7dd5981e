// One line on a terminal that says how far long work is.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "cli/report.h"

namespace polykv::cli {

// Writes to stderr only if Report::shows_progress(); rewrites its line at most ten times a second; the destructor
// clears it, and so does every error or notice that Report prints. One at a time.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Progress(Report& report);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of `total` (0: not known) `unit`s of the work called `note`. "B" is shown as kB, MB, ...; "%" is work
  // without units, `total` 100; a new note starts the clock of speed and time left again. Cheap to call often.
  void update(std::uint64_t done, std::uint64_t total, std::string_view unit, std::string_view note) {
    update_at(Clock::now(), done, total, unit, note);
  }
  void update_at(Clock::time_point now, std::uint64_t done, std::uint64_t total, std::string_view unit,
                 std::string_view note);  // for tests
  void clear();

 private:
  void draw(const std::string& line);

  Report& report_;
  std::string note_;
  std::string drawn_;  // what the line shows; empty: nothing is up
  Clock::time_point started_{};
  Clock::time_point last_drawn_{};
  std::uint64_t first_done_ = 0;
};

// "prefill  42%  1,680 of 4,000 tok  512 tok/s  5 s left". Speed and time left need some done work in some time.
std::string progress_line(std::string_view note, std::uint64_t done, std::uint64_t total, std::string_view unit,
                          std::uint64_t done_since_start, double seconds_since_start);

}  // namespace polykv::cli

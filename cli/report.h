// What people and scripts see: results on stdout, everything else on stderr.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "format/status.h"

namespace polykv::cli {

class Progress;

class Report {
 public:
  struct Options {
    bool quiet = false;    // no notices, no progress
    bool progress = true;  // a progress line, if stderr is a terminal
  };
  // The descriptors stay the caller's: 1 and 2, or a test's.
  Report(int out, int err, const Options& options);
  ~Report();  // flushes
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  // stdout. Buffered; each returns false once nothing more can be written (the reader went away, the disk is full),
  // which is the moment to stop working. finish() turns it into the exit status.
  bool print(std::string_view text);
  bool print_line(const nlohmann::ordered_json& json);  // one line; what is not UTF-8 is replaced
  bool flush();
  bool can_print() const { return write_error_ == 0; }
  bool out_is_terminal() const;

  // stderr: "polykv: SUBJECT: message", one line whatever the texts hold; an empty subject is left out.
  int error(std::string_view subject, const format::Error& error);  // returns its exit status; never silenced
  void notice(std::string_view subject, std::string_view message);  // not with -q
  bool shows_progress() const { return shows_progress_; }

  // Flushes, and gives the status to end with: `status`, unless stdout failed; 0 if its reader went away, else 3.
  int finish(int status);

 private:
  friend class Progress;
  void clear_progress();

  int out_, err_;
  bool quiet_, shows_progress_;
  int write_error_ = 0;  // errno of the first failed write
  std::string buffer_;
  Progress* progress_ = nullptr;  // the line that is up now
};

// The status of a command that goes on after errors: the worst, which is the highest.
inline int worse(int a, int b) { return a > b ? a : b; }

// `error` as JSON: code, exit_status, offset (null where there is none), message; expected and found, where the message
// is about a value.
nlohmann::ordered_json error_json(const format::Error& error);

// Text that is safe and whole on one line of a terminal: control characters and bytes that are not UTF-8 as \xNN.
std::string printable(std::string_view text);

std::string with_commas(std::uint64_t number);  // 27,312,128
std::string bytes_text(std::uint64_t bytes);    // "27.3 MB (27,312,128 bytes)", "512 bytes"
std::string short_bytes(std::uint64_t bytes);   // "27.3 MB", "512 B"

// numerator / denominator with so many decimals (0 to 9), never above or never below the truth; denominator > 0.
std::string rounded_down(std::uint64_t numerator, std::uint64_t denominator, int decimals);
std::string rounded_up(std::uint64_t numerator, std::uint64_t denominator, int decimals);

}  // namespace polykv::cli

#include "cli/report.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/progress.h"
#include "format/utf8.h"

namespace polykv::cli {
namespace {

// Returns 0, or errno. An interrupted write goes on: a signal asks to stop the work, not to garble the output.
int write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

std::string fixed(double number, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, number);
  return text;
}

// (numerator * 10^decimals + round) / denominator, exactly, with the point put back.
std::string scaled_ratio(std::uint64_t numerator, std::uint64_t denominator, int decimals, std::uint64_t round) {
  unsigned __int128 scaled = numerator;
  for (int i = 0; i < decimals; ++i) scaled *= 10;
  std::string digits = std::to_string(static_cast<std::uint64_t>((scaled + round) / denominator));
  const auto places = static_cast<std::size_t>(decimals);
  if (digits.size() <= places) digits.insert(0, places + 1 - digits.size(), '0');
  if (places > 0) digits.insert(digits.size() - places, 1, '.');
  return digits;
}

}  // namespace

Report::Report(int out, int err, const Options& options)
    : out_(out), err_(err), quiet_(options.quiet), shows_progress_(options.progress && !options.quiet && isatty(err)) {}

Report::~Report() { flush(); }

bool Report::print(std::string_view text) {
  if (!can_print()) return false;
  buffer_ += text;
  return buffer_.size() < 65536 || flush();
}

bool Report::print_line(const nlohmann::ordered_json& json) {
  return print(json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

bool Report::flush() {
  if (!buffer_.empty() && can_print()) {
    if (out_is_terminal()) clear_progress();
    write_error_ = write_all(out_, buffer_);
  }
  buffer_.clear();
  return can_print();
}

bool Report::out_is_terminal() const { return isatty(out_) != 0; }

int Report::error(std::string_view subject, const format::Error& error) {
  flush();
  clear_progress();
  std::string line = "polykv: ";
  if (!subject.empty()) line += printable(subject) + ": ";
  // A message about stderr itself has nowhere to go.
  (void)write_all(err_, line + printable(error.message) + "\n");
  return format::exit_status(error.code);
}

void Report::notice(std::string_view subject, std::string_view message) {
  if (!quiet_) (void)error(subject, format::Error(format::ErrorCode::kFailed, std::string(message)));
}

int Report::finish(int status) {
  flush();
  clear_progress();
  if (write_error_ == 0 || status != 0) return status;
  if (write_error_ == EPIPE) return 0;
  const auto code = write_error_ == ENOSPC ? format::ErrorCode::kNoSpace : format::ErrorCode::kIo;
  return error("standard output", format::Error(code, std::string("cannot write: ") + std::strerror(write_error_)));
}

void Report::clear_progress() {
  if (progress_ != nullptr) progress_->clear();
}

nlohmann::ordered_json error_json(const format::Error& error) {
  nlohmann::ordered_json json = {{"code", static_cast<std::uint32_t>(error.code)},
                                 {"exit_status", format::exit_status(error.code)},
                                 {"offset", nullptr},
                                 {"message", error.message}};
  if (error.offset != format::kNoOffset) json["offset"] = error.offset;
  if (!error.expected.empty()) {
    json["expected"] = error.expected;
    json["found"] = error.found;
  }
  return json;
}

std::string printable(std::string_view text) {
  std::string out;
  const auto escape = [&out](char byte) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(byte));
    out += escaped;
  };
  while (!text.empty()) {
    const std::size_t valid = format::first_invalid_utf8(text);
    for (std::size_t i = 0; i < valid; ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      // C1 control characters (U+0080 to U+009F, C2 80 to C2 9F) steer terminals just as C0 ones do.
      const bool c1 = byte == 0xc2 && static_cast<unsigned char>(text[i + 1]) < 0xa0;
      if (byte < 0x20 || byte == 0x7f) {
        escape(text[i]);
      } else if (c1) {
        escape(text[i]);
        escape(text[++i]);
      } else {
        out += text[i];
      }
    }
    text.remove_prefix(valid);
    if (!text.empty()) escape(text[0]);
    if (!text.empty()) text.remove_prefix(1);
  }
  return out;
}

std::string with_commas(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

std::string short_bytes(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB"};
  if (bytes < 1000) return std::to_string(bytes) + " B";
  double amount = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  for (; amount >= 999.95 && unit + 1 < std::size(kUnits); ++unit) amount /= 1000;
  return fixed(amount, 1) + " " + kUnits[unit];
}

std::string bytes_text(std::uint64_t bytes) {
  if (bytes < 1000) return std::to_string(bytes) + " bytes";
  return short_bytes(bytes) + " (" + with_commas(bytes) + " bytes)";
}

std::string rounded_down(std::uint64_t numerator, std::uint64_t denominator, int decimals) {
  return scaled_ratio(numerator, denominator, decimals, 0);
}

std::string rounded_up(std::uint64_t numerator, std::uint64_t denominator, int decimals) {
  return scaled_ratio(numerator, denominator, decimals, denominator - 1);
}

}  // namespace polykv::cli

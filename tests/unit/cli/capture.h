// A Report that writes to temporary files, and what it wrote.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <string>

#include "cli/report.h"
#include "tests/support/temporary_folder.h"

namespace polykv::tests {

inline std::string read_all(std::FILE* file) {
  std::fflush(file);
  std::rewind(file);
  std::string text;
  char buffer[4096];
  for (std::size_t count; (count = std::fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, count);
  return text;
}

class Capture {
 public:
  explicit Capture(const cli::Report::Options& options = {})
      : out_(std::tmpfile()), err_(std::tmpfile()), report(fileno(out_), fileno(err_), options) {}
  ~Capture() {
    std::fclose(out_);
    std::fclose(err_);
  }
  std::string out() {
    report.flush();
    return read_all(out_);
  }
  std::string err() { return read_all(err_); }

 private:
  std::FILE* out_;
  std::FILE* err_;

 public:
  cli::Report report;
};

}  // namespace polykv::tests

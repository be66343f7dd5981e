// A Report that writes to temporary files, and what it wrote.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "cli/report.h"

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

// A folder that is removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "polykv-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const char* name) const { return (path_ / name).string(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace polykv::tests

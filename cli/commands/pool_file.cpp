#include "cli/commands/pool_file.h"

#include <nlohmann/json.hpp>

#include "cli/signals.h"

namespace polykv::cli {

format::Result<std::unique_ptr<PoolFile>> open_pool_file(const std::string& path, bool trust, Report& report,
                                                         std::uint32_t trusted_owner) {
  const format::MappedFile::Options how{
      .kind = format::FileKind::kPool, .trust = trust, .trusted_owner = trusted_owner};
  POLYKV_TRY(format::MappedFile file, format::MappedFile::open(path, how));
  if (file.on_network()) report.notice(path, "on a network file system: do not change it while it is in use");
  POLYKV_TRY(format::PoolReader reader, format::PoolReader::open(file.bytes()));
  return std::unique_ptr<PoolFile>(new PoolFile{std::move(file), std::move(reader)});
}

int for_each_pool(const std::vector<std::string>& paths, Report& report,
                  const std::function<int(const std::string& path)>& one) {
  int status = 0;
  for (const std::string& path : paths) {
    if (const format::Status stop = check_stop(); !stop) {
      const int stopped = format::exit_status(stop.error().code);
      return status >= stopped ? status : report.error("", stop.error());  // else `one` has said so
    }
    if (!report.can_print()) break;
    status = worse(status, one(path));
  }
  return status;
}

int report_pool_error(const std::string& path, const format::Error& error, const char* schema, bool json,
                      Report& report) {
  if (json) report.print_line({{"schema", schema}, {"pool", path}, {"error", error_json(error)}});
  return report.error(path, error);
}

}  // namespace polykv::cli

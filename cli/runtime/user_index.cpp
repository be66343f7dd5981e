#include "cli/runtime/user_index.h"

#include <nlohmann/json.hpp>

#include "cli/runtime/program_path.h"
#include "format/file.h"

namespace polykv::runtime {
namespace {

using nlohmann::json;

std::string name_of(UserIndex index) { return index == UserIndex::kModels ? "models" : "pools"; }

std::filesystem::path file_of(UserIndex index) {
  const std::filesystem::path folder = user_data_folder();
  return folder.empty() ? folder : folder / (name_of(index) + ".json");
}

json read_index(UserIndex index) {
  const std::string name = name_of(index);
  json entries = {{"schema", "polykv." + name + "/1"}, {name, json::object()}};
  if (const auto bytes = format::read_file(file_of(index))) {
    const auto* text = reinterpret_cast<const char*>(bytes->data());
    json found = json::parse(text, text + bytes->size(), nullptr, /*allow_exceptions=*/false);
    if (found.is_object() && found["schema"] == entries["schema"] && found[name].is_object()) return found;
  }
  return entries;
}

std::filesystem::path path_in(const json& entries, UserIndex index, std::string_view digest) {
  const json& paths = entries[name_of(index)];
  const auto found = paths.find(std::string(digest));
  return found != paths.end() && found->is_string() ? std::filesystem::path(found->get<std::string>())
                                                    : std::filesystem::path();
}

}  // namespace

std::filesystem::path find_indexed(UserIndex index, std::string_view digest) {
  return path_in(read_index(index), index, digest);
}

void remember_path(UserIndex index, const std::string& digest, const std::filesystem::path& path) {
  const std::filesystem::path file = file_of(index);
  if (file.empty()) return;
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error).lexically_normal();
  json entries = read_index(index);
  if (error || path_in(entries, index, digest) == absolute) return;
  entries[name_of(index)][digest] = absolute.string();
  std::filesystem::create_directories(file.parent_path(), error);
  const std::string text = entries.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  auto out = format::AtomicFile::create(file, /*force=*/true, 0600);
  // An index that could not be written means an option more next time, nothing else.
  if (out && out->write_at(0, std::as_bytes(std::span(text)))) (void)out->publish().has_value();
}

}  // namespace polykv::runtime

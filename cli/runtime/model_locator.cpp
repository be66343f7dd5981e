#include "cli/runtime/model_locator.h"

#include <nlohmann/json.hpp>

#include "cli/runtime/program_path.h"
#include "format/file.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using nlohmann::json;

constexpr const char* kDefaultModelFile = "SmolLM2-135M-Instruct.Q4_1.gguf";

std::filesystem::path index_path() {
  const std::filesystem::path folder = user_data_folder();
  return folder.empty() ? folder : folder / "models.json";
}

// {"schema": "polykv.models/1", "models": {SHA-256: path}}; an unreadable index counts as an empty one.
json read_index() {
  json index = {{"schema", "polykv.models/1"}, {"models", json::object()}};
  if (const auto bytes = format::read_file(index_path())) {
    const auto* text = reinterpret_cast<const char*>(bytes->data());
    json found = json::parse(text, text + bytes->size(), nullptr, /*allow_exceptions=*/false);
    if (found.is_object() && found["schema"] == index["schema"] && found["models"].is_object()) return found;
  }
  return index;
}

std::filesystem::path indexed_path(const json& index, std::string_view digest) {
  const json& models = index["models"];
  const auto found = models.find(std::string(digest));
  return found != models.end() && found->is_string() ? std::filesystem::path(found->get<std::string>())
                                                     : std::filesystem::path();
}

}  // namespace

std::filesystem::path default_model_path() {
  const std::filesystem::path program = program_folder();
  std::error_code error;
  for (const char* place : {"../.deps/models", "../../.deps/models", "../share/polykv/models"}) {
    const std::filesystem::path path = (program / place / kDefaultModelFile).lexically_normal();
    if (std::filesystem::exists(path, error)) return path;
  }
  return {};
}

format::Result<Model> open_model(const std::filesystem::path& path, DigestPolicy policy) {
  POLYKV_TRY(ModelFile file, ModelFile::open(path));
  POLYKV_TRY(Tokenizer tokenizer, Tokenizer::open(file));
  POLYKV_TRY(std::string digest, weights_digest(file, policy));
  return Model{std::move(file), std::move(tokenizer), std::move(digest)};
}

format::Result<std::filesystem::path> locate_model(const std::string& given) {
  if (!given.empty()) {
    std::error_code error;
    if (!std::filesystem::exists(given, error))
      return Error(ErrorCode::kNotFound, "model " + given + ": no such file or folder");
    return std::filesystem::path(given);
  }
  std::filesystem::path path = default_model_path();
  if (path.empty()) {
    return Error(ErrorCode::kMismatch,
                 "no model: name a GGUF file or a Hugging Face folder with -m, or set POLYKV_MODEL");
  }
  return path;
}

format::Result<Model> open_model_for(const format::Identity& pool, const std::string& given) {
  if (!given.empty()) {
    POLYKV_TRY(const std::filesystem::path path, locate_model(given));
    return open_model(path, DigestPolicy::kCached);
  }
  const std::string digest(pool.get("model.weights_sha256").value_or(""));
  for (const std::filesystem::path& path : {indexed_path(read_index(), digest), default_model_path()}) {
    std::error_code error;
    if (path.empty() || !std::filesystem::exists(path, error)) continue;
    auto model = open_model(path, DigestPolicy::kCached);
    if (model && model->weights_digest == digest) return model;
  }
  return Error(ErrorCode::kMismatch, "no model that fits: the pool was built with '" +
                                         std::string(pool.get("model.name").value_or("")) + "', model.weights_sha256 " +
                                         digest.substr(0, 16) + "...; name the model with -m");
}

void remember_model(const std::string& weights_digest, const std::filesystem::path& path) {
  const std::filesystem::path file = index_path();
  if (file.empty()) return;
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error).lexically_normal();
  json index = read_index();
  if (error || indexed_path(index, weights_digest) == absolute) return;
  index["models"][weights_digest] = absolute.string();
  std::filesystem::create_directories(file.parent_path(), error);
  const std::string text = index.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  auto out = format::AtomicFile::create(file, /*force=*/true, 0600);
  // An index that could not be written means -m next time, nothing else.
  if (out && out->write_at(0, std::as_bytes(std::span(text)))) (void)out->publish().has_value();
}

}  // namespace polykv::runtime

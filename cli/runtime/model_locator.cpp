#include "cli/runtime/model_locator.h"

#include "cli/runtime/program_path.h"
#include "cli/runtime/user_index.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;

constexpr const char* kDefaultModelFile = "SmolLM2-135M-Instruct.Q4_1.gguf";

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
  for (const std::filesystem::path& path : {find_indexed(UserIndex::kModels, digest), default_model_path()}) {
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
  remember_path(UserIndex::kModels, weights_digest, path);
}

}  // namespace polykv::runtime

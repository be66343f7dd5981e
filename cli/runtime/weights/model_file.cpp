#include "cli/runtime/weights/model_file.h"

#include <array>
#include <utility>

#include "cli/runtime/weights/architectures.h"
#include "cli/runtime/weights/hf_folder.h"
#include "cli/runtime/weights/model_description.h"
#include "cli/runtime/weights/shown.h"

namespace polykv::runtime {

using format::Error;
using format::ErrorCode;
using format::MappedFile;
using format::Result;
using format::Status;
namespace fs = std::filesystem;

namespace {

std::optional<core::WeightType> weight_type(std::uint32_t gguf_type) {
  constexpr std::array kTypes = std::to_array<std::pair<std::uint32_t, core::WeightType>>({
      {0, core::WeightType::kF32},
      {1, core::WeightType::kF16},
      {2, core::WeightType::kQ4_0},
      {3, core::WeightType::kQ4_1},
      {8, core::WeightType::kQ8_0},
      {30, core::WeightType::kBF16},
  });
  for (const auto& [number, type] : kTypes)
    if (number == gguf_type) return type;
  return std::nullopt;
}

Result<TensorTable> gguf_tensor_table(const GgufFile& gguf) {
  TensorTable table;
  for (const GgufTensor& tensor : gguf.tensors()) {
    TensorEntry entry;
    entry.name = tensor.name;
    entry.type_name = gguf_type_name(tensor.type);
    entry.type = weight_type(tensor.type);
    entry.shape.assign(tensor.dims.rbegin(), tensor.dims.rend());
    entry.offset = tensor.offset;
    entry.data = tensor.data;
    table.add(std::move(entry));
  }
  POLYKV_CHECK_STATUS(table.sort());
  return table;
}

Status refuse_left_tensors(const TensorTable& tensors, const ModelDescription& model) {
  const TensorEntry* left = tensors.first_left();
  if (left == nullptr) return {};
  const std::string file = left->file.empty() ? "" : shown(left->file) + ": ";
  return Error(ErrorCode::kUnsupportedModel, left->offset,
               file + "tensor '" + shown(left->name) + "' has no place in a " + model.config.architecture +
                   " model with these settings; models that use it are not supported");
}

}  // namespace

struct ModelFile::State {
  fs::path path;
  ModelConfig config;
  ModelWeights weights;
  std::vector<MappedFile> weight_files;
  std::vector<std::string> weight_file_names;
  std::optional<GgufFile> gguf;         // views into weight_files[0]
  std::optional<MappedFile> tokenizer;  // of a folder
  std::vector<std::byte> config_json, tokenizer_config_json, generation_config_json;
  std::optional<std::string> chat_template;

  Status read_gguf();
  Status read_folder();
};

// Messages name files inside a folder only: a GGUF is its own file, which the caller names.
Status ModelFile::State::read_gguf() {
  POLYKV_TRY(MappedFile mapped, MappedFile::open(path, {.kind = format::FileKind::kModel}));
  POLYKV_TRY(gguf, GgufFile::parse(mapped.bytes()));
  weight_files.push_back(std::move(mapped));
  weight_file_names.push_back(path.filename().string());
  POLYKV_TRY(TensorTable tensors, gguf_tensor_table(*gguf));
  POLYKV_TRY(ModelDescription model, describe_gguf(*gguf, tensors));
  POLYKV_TRY(weights, take_weights(*model.architecture->gguf_names, model.config, model.bias, model.tied, tensors));
  POLYKV_CHECK_STATUS(refuse_left_tensors(tensors, model));
  config = std::move(model.config);
  if (const auto text = gguf->string("tokenizer.chat_template")) chat_template = std::string(*text);
  return {};
}

Status ModelFile::State::read_folder() {
  std::error_code ignored;
  if (fs::exists(path / "adapter_config.json", ignored))
    return Error(ErrorCode::kUnsupportedModel, "adapter_config.json is there: adapters are not supported");
  POLYKV_TRY(config_json, read_small_file(path, "config.json", /*required=*/true));
  POLYKV_TRY(ModelDescription model, describe_hf(config_json));
  POLYKV_TRY(HfWeights opened, open_hf_weights(path));
  POLYKV_TRY(TensorTable tensors, hf_tensor_table(opened));
  POLYKV_TRY(weights, take_weights(*model.architecture->hf_names, model.config, model.bias, model.tied, tensors));
  // transformers ignores a stored output matrix where the embedding is to be used.
  if (TensorEntry* output = tensors.find(model.architecture->hf_names->output); output != nullptr) output->taken = true;
  POLYKV_CHECK_STATUS(refuse_left_tensors(tensors, model));
  config = std::move(model.config);
  weight_files = std::move(opened.files);
  weight_file_names = std::move(opened.names);
  POLYKV_TRY(tokenizer, map_tokenizer(path));
  POLYKV_TRY(tokenizer_config_json, read_small_file(path, "tokenizer_config.json", /*required=*/false));
  POLYKV_TRY(generation_config_json, read_small_file(path, "generation_config.json", /*required=*/false));
  POLYKV_TRY(chat_template, hf_chat_template(path, tokenizer_config_json));
  return {};
}

Result<ModelFile> ModelFile::open(const fs::path& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  std::error_code ignored;
  POLYKV_CHECK_STATUS(fs::is_directory(path, ignored) ? state->read_folder() : state->read_gguf());
  return ModelFile(std::move(state));
}

ModelFile::ModelFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
ModelFile::ModelFile(ModelFile&&) noexcept = default;
ModelFile& ModelFile::operator=(ModelFile&&) noexcept = default;
ModelFile::~ModelFile() = default;

const fs::path& ModelFile::path() const { return state_->path; }
const ModelConfig& ModelFile::config() const { return state_->config; }
const ModelWeights& ModelFile::weights() const { return state_->weights; }
const std::vector<MappedFile>& ModelFile::weight_files() const { return state_->weight_files; }
std::vector<std::string> ModelFile::weight_file_names() const { return state_->weight_file_names; }
Status ModelFile::check_unchanged() const {
  for (const MappedFile& file : state_->weight_files) {
    if (const Status status = file.check_unchanged(); !status) {
      return Error(status.error().code, "model " + file.path().string() + ": " + status.error().message);
    }
  }
  return {};
}

const GgufFile* ModelFile::gguf() const { return state_->gguf ? &*state_->gguf : nullptr; }

std::span<const std::byte> ModelFile::tokenizer_json() const {
  return state_->tokenizer ? state_->tokenizer->bytes() : std::span<const std::byte>();
}
std::span<const std::byte> ModelFile::tokenizer_config_json() const { return state_->tokenizer_config_json; }
std::span<const std::byte> ModelFile::generation_config_json() const { return state_->generation_config_json; }
std::span<const std::byte> ModelFile::config_json() const { return state_->config_json; }
std::optional<std::string> ModelFile::chat_template() const { return state_->chat_template; }

}  // namespace polykv::runtime

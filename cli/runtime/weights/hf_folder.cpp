#include "cli/runtime/weights/hf_folder.h"

#include <algorithm>
#include <map>

#include "cli/runtime/weights/json_text.h"
#include "cli/runtime/weights/shown.h"
#include "format/bytes.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::MappedFile;
using format::Result;
using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::uintmax_t kMaxSmallFile = 64'000'000;

Error in_file(std::string_view name, const Error& error) {
  return Error(error.code, error.offset, shown(name) + ": " + error.message);
}

bool has_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

Result<MappedFile> map_file(const fs::path& folder, const std::string& name) {
  auto mapped = MappedFile::open(folder / name, {.kind = format::FileKind::kModel});
  if (!mapped) return in_file(name, mapped.error());
  return mapped;
}

using WeightMap = std::map<std::string, std::string, std::less<>>;  // tensor -> file

// A name from the index stays inside the folder: no separator, no leading dot.
bool plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name[0] != '.' && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

Result<WeightMap> read_index(const fs::path& folder) {
  POLYKV_TRY(const std::vector<std::byte> text, read_small_file(folder, kIndexFile, /*required=*/true));
  POLYKV_TRY(const json index, parse_json_object(text, kIndexFile));
  const auto found = index.find("weight_map");
  if (found == index.end() || !found->is_object() || found->empty())
    return Error(ErrorCode::kBadModelFile, std::string(kIndexFile) + ": weight_map is missing, empty or no object");
  WeightMap map;
  for (const auto& [tensor, file] : found->items()) {
    if (!file.is_string() || !plain_file_name(file.get_ref<const std::string&>())) {
      return Error(ErrorCode::kBadModelFile,
                   std::string(kIndexFile) + ": tensor '" + shown(tensor) + "' has no plain file name");
    }
    map.emplace(tensor, file.get<std::string>());
  }
  return map;
}

format::Status check_index(const WeightMap& map, const HfWeights& weights) {
  std::size_t num_tensors = 0;
  for (std::size_t i = 0; i < weights.names.size(); ++i) {
    for (const SafetensorsTensor& tensor : weights.parsed[i].tensors()) {
      const auto found = map.find(tensor.name);
      if (found != map.end() && found->second == weights.names[i]) {
        ++num_tensors;
        continue;
      }
      const std::string said = found == map.end() ? "nowhere" : "in " + shown(found->second);
      return Error(ErrorCode::kBadModelFile, tensor.offset,
                   shown(weights.names[i]) + ": tensor '" + shown(tensor.name) + "' is here, " + kIndexFile +
                       " says it is " + said);
    }
  }
  if (num_tensors == map.size()) return {};
  for (const auto& [tensor, file] : map) {
    const auto at = std::ranges::find(weights.names, file) - weights.names.begin();
    if (weights.parsed[static_cast<std::size_t>(at)].tensor(tensor) == nullptr)
      return Error(ErrorCode::kBadModelFile, shown(file) + ": tensor '" + shown(tensor) + "' of the index is missing");
  }
  return {};
}

Result<std::optional<std::string>> template_from_config(const json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::optional<std::string>();
  if (found->is_string()) return std::optional<std::string>(found->get<std::string>());
  if (found->is_array()) {
    for (const json& entry : *found) {
      if (!entry.is_object() || entry.value("name", json()) != json("default")) continue;
      const auto text = entry.find("template");
      if (text != entry.end() && text->is_string()) return std::optional<std::string>(text->get<std::string>());
    }
  }
  return Error(ErrorCode::kBadModelFile,
               "tokenizer_config.json: chat_template is neither a text nor a list with one named 'default'");
}

}  // namespace

Result<std::vector<std::byte>> read_small_file(const fs::path& folder, const char* name, bool required) {
  const fs::path path = folder / name;
  if (!has_file(path)) {
    if (!required) return std::vector<std::byte>{};
    return Error(ErrorCode::kBadModelFile, std::string(name) + " is missing: the folder holds no model");
  }
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(path, error);
  if (!error && bytes > kMaxSmallFile)
    return Error(ErrorCode::kBadModelFile, std::string(name) + " has " + std::to_string(bytes) + " bytes, above 64 MB");
  auto content = format::read_file(path);
  if (!content) return in_file(name, content.error());
  return content;
}

Result<MappedFile> map_tokenizer(const fs::path& folder) {
  if (has_file(folder / "tokenizer.json")) return map_file(folder, "tokenizer.json");
  const bool sentencepiece = has_file(folder / "tokenizer.model");
  return Error(ErrorCode::kUnsupportedTokenizer,
               std::string("tokenizer.json is missing") +
                   (sentencepiece ? "; tokenizer.model (SentencePiece) alone is not supported" : ""));
}

Result<HfWeights> open_hf_weights(const fs::path& folder) {
  WeightMap map;
  HfWeights out;
  const bool indexed = !has_file(folder / kSingleFile);
  if (!indexed) {
    out.names.push_back(kSingleFile);
  } else if (has_file(folder / kIndexFile)) {
    POLYKV_TRY(map, read_index(folder));
    for (const auto& [tensor, file] : map) out.names.push_back(file);
    std::ranges::sort(out.names);
    out.names.erase(std::unique(out.names.begin(), out.names.end()), out.names.end());
  } else if (has_file(folder / "pytorch_model.bin") || has_file(folder / "pytorch_model.bin.index.json")) {
    return Error(ErrorCode::kUnsupportedModel, "the weights are pytorch_model.bin; only safetensors is supported");
  } else {
    return Error(ErrorCode::kBadModelFile, std::string(kSingleFile) + " and " + kIndexFile + " are missing");
  }
  for (const std::string& name : out.names) {
    POLYKV_TRY(MappedFile mapped, map_file(folder, name));
    auto parsed = SafetensorsFile::parse(mapped.bytes());
    if (!parsed) return in_file(name, parsed.error());
    out.files.push_back(std::move(mapped));
    out.parsed.push_back(std::move(parsed).value());
  }
  if (indexed) POLYKV_CHECK_STATUS(check_index(map, out));
  return out;
}

Result<TensorTable> hf_tensor_table(const HfWeights& weights) {
  // Checkpoints of older transformers carry RoPE's frequencies, which every reader computes anew.
  constexpr std::string_view kComputed = ".self_attn.rotary_emb.inv_freq";
  TensorTable table;
  for (std::size_t i = 0; i < weights.names.size(); ++i) {
    for (const SafetensorsTensor& tensor : weights.parsed[i].tensors()) {
      if (tensor.name.ends_with(kComputed)) continue;
      TensorEntry entry;
      entry.name = tensor.name;
      entry.file = weights.names[i];
      entry.type_name = tensor.type_name;
      entry.type = tensor.type;
      entry.shape = tensor.shape;
      entry.offset = tensor.offset;
      entry.data = tensor.data;
      table.add(std::move(entry));
    }
  }
  POLYKV_CHECK_STATUS(table.sort());
  return table;
}

Result<std::optional<std::string>> hf_chat_template(const fs::path& folder,
                                                    const std::vector<std::byte>& tokenizer_config) {
  constexpr const char* kJinjaFile = "chat_template.jinja";
  if (has_file(folder / kJinjaFile)) {
    POLYKV_TRY(const std::vector<std::byte> text, read_small_file(folder, kJinjaFile, /*required=*/true));
    return std::optional<std::string>(format::as_text(text));
  }
  if (tokenizer_config.empty()) return std::optional<std::string>();
  POLYKV_TRY(const json config, parse_json_object(tokenizer_config, "tokenizer_config.json"));
  return template_from_config(config);
}

}  // namespace polykv::runtime

// Chat templates against jinja2 (tests/tools/make_template_vectors.py), and the rules of recognition.
#include "cli/runtime/tokenizer/chat_template.h"

#include <sstream>

#include "cli/runtime/tokenizer/characters.h"
#include "cli/runtime/weights/gguf.h"
#include "format/checksum.h"
#include "format/file.h"
#include "small_tokenizer.h"
#include "tests/support/data.h"

namespace polykv::tests {
namespace {

using format::ErrorCode;
using runtime::ChatTemplate;
using runtime::make_chat_template;
using runtime::PromptPiece;

const nlohmann::json& template_vectors() {
  static const nlohmann::json vectors = read_vectors("template_vectors.json");
  return vectors.at("templates");
}

std::string joined(const std::vector<PromptPiece>& pieces) {
  std::string text;
  for (const PromptPiece& piece : pieces) text += piece.text;
  return text;
}

std::string rendered(const ChatTemplate& chat, std::string_view user) {
  if (chat.trims_content) user = runtime::trim_end(runtime::trim_start(user));
  return joined(chat.before) + std::string(user) + joined(chat.after);
}

bool text_next_to_text(const std::vector<PromptPiece>& pieces) {
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    if (!pieces[i].is_control && !pieces[i - 1].is_control) return true;
  }
  return false;
}

void check_refused(const std::string& source, const Tokenizer& tokenizer, std::string_view word,
                   const std::optional<std::string>& system = std::nullopt) {
  const auto chat = make_chat_template("auto", source, system, tokenizer);
  CAPTURE(source);
  REQUIRE_FALSE(chat);
  CAPTURE(chat.error().message);
  CHECK(chat.error().code == ErrorCode::kUnknownTemplate);
  CHECK(chat.error().message.find(word) != std::string::npos);
  CHECK(chat.error().message.find("--template NAME (chatml, llama3) or --template none") != std::string::npos);
}

// ChatML in our own words, with a system turn of its own where none is given.
const std::string kOwnDefault =
    "{%- for m in messages -%}\n"
    "  {%- if loop.index0 == 0 and not m['role'] == 'system' -%}\n"
    "    {{- '<|im_start|>system\\nYou keep a lamp.<|im_end|>\\n' -}}\n"
    "  {%- endif -%}\n"
    "  {{- \"<|im_start|>\" ~ m.role ~ \"\\n\" ~ m.content ~ '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}\n";

std::string hex(const format::Digest& digest) {
  std::ostringstream out;
  for (const unsigned byte : digest) out << "0123456789abcdef"[byte >> 4] << "0123456789abcdef"[byte & 15];
  return out.str();
}

// One template of template_vectors.json, whose text is `source`.
void check_vectors(const nlohmann::json& vectors, const std::string& source, const std::string& family) {
  const Tokenizer tokenizer = small_tokenizer("smollm");
  CAPTURE(vectors.at("name"));
  REQUIRE(hex(format::sha256(as_bytes(source))) == vectors.at("sha256"));
  if (family.empty()) {
    const auto chat = make_chat_template("auto", source, std::nullopt, tokenizer);
    REQUIRE_FALSE(chat);
    CHECK(chat.error().code == ErrorCode::kUnknownTemplate);
    return;
  }
  CHECK(vectors.at("cases").size() == 15);
  for (const nlohmann::json& each : vectors.at("cases")) {
    std::optional<std::string> system;
    if (!each.at("system").is_null()) system = each.at("system");
    for (const std::string requested : {"auto", family.c_str()}) {
      const auto chat = make_chat_template(requested, source, system, tokenizer);
      if (!chat) FAIL(chat.error().message);
      CHECK(chat->name == family);
      CHECK(chat->trims_content == (family == "llama3"));
      CHECK(rendered(*chat, each.at("user").get<std::string>()) == each.at("rendered"));
      CHECK_FALSE(text_next_to_text(chat->before));
      CHECK_FALSE(text_next_to_text(chat->after));
    }
  }
}

std::optional<std::string> template_of_gguf(const std::filesystem::path& path) {
  const auto file = format::MappedFile::open(path, {});
  if (!file) return std::nullopt;
  const auto gguf = runtime::GgufFile::parse(file->bytes());
  REQUIRE(gguf);
  return std::string(gguf->string("tokenizer.chat_template").value());
}

}  // namespace

TEST_CASE("models' templates render as jinja2 renders them, or are refused", "[template][data]") {
  const auto data = data_dir();
  if (!data) return skip("../shared/data (chat-templates)");
  const std::map<std::string, std::string> families{{"HuggingFaceTB-SmolLM3-3B", ""},
                                                    {"Qwen-Qwen2.5-7B-Instruct", "chatml"},
                                                    {"Qwen-Qwen3-0.6B", ""},
                                                    {"google-gemma-2-2b-it", ""},
                                                    {"meta-llama-Llama-3.1-8B-Instruct", "llama3"},
                                                    {"meta-llama-Llama-3.2-3B-Instruct", "llama3"},
                                                    {"microsoft-Phi-3.5-mini-instruct", ""},
                                                    {"mistralai-Mistral-Nemo-Instruct-2407", ""}};
  std::size_t seen = 0;
  for (const nlohmann::json& vectors : template_vectors()) {
    const std::string name = vectors.at("name");
    if (name.ends_with(".gguf")) continue;
    std::ifstream file(*data / "chat-templates" / (name + ".jinja"));
    std::ostringstream source;
    source << file.rdbuf();
    check_vectors(vectors, source.str(), families.at(name));
    ++seen;
  }
  CHECK(seen == families.size());
  const auto qwen2 = template_of_gguf(*data / "tokenizer-vocabs" / "qwen2.gguf");
  REQUIRE(qwen2);
  for (const nlohmann::json& vectors : template_vectors()) {
    if (vectors.at("name") == "qwen2.gguf") check_vectors(vectors, *qwen2, "chatml");
  }
}

TEST_CASE("the default model's template renders as jinja2 renders it", "[template][data]") {
  const std::filesystem::path models = std::filesystem::path(POLYKV_SOURCE_DIR) / ".deps" / "models";
  for (const nlohmann::json& vectors : template_vectors()) {
    const std::string name = vectors.at("name");
    if (!name.starts_with("SmolLM2")) continue;
    const auto source = template_of_gguf(models / name);
    if (!source) return skip(".deps/models/" + name);
    check_vectors(vectors, *source, "chatml");
  }
}

TEST_CASE("a default system turn is the template's own until one is given", "[template]") {
  const Tokenizer tokenizer = small_tokenizer("smollm");
  const auto own = make_chat_template("auto", kOwnDefault, std::nullopt, tokenizer);
  REQUIRE(own);
  CHECK(own->name == "chatml");
  CHECK_FALSE(own->trims_content);
  CHECK(rendered(*own, "Hi.") ==
        "<|im_start|>system\nYou keep a lamp.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n");
  REQUIRE(own->before.size() == 6);
  CHECK(own->before[0].is_control);
  CHECK(own->before[1].text == "system\nYou keep a lamp.");
  CHECK(own->before[5].text == "user\n");
  CHECK(own->after[0].text == "<|im_end|>");
  const auto given = make_chat_template("auto", kOwnDefault, "Be brief.", tokenizer);
  REQUIRE(given);
  CHECK(given->before[1].text == "system\nBe brief.");
  // Control tokens in what the user gives stay text.
  const auto sly = make_chat_template("auto", kOwnDefault, "<|im_end|>", tokenizer);
  REQUIRE(sly);
  CHECK(sly->before[1].text == "system\n<|im_end|>");
  CHECK_FALSE(sly->before[1].is_control);
}

TEST_CASE("a family can be asked for by name", "[template]") {
  const Tokenizer tokenizer = small_tokenizer("llama-bpe");
  const auto plain = make_chat_template("chatml", std::nullopt, std::nullopt, tokenizer);
  REQUIRE(plain);
  CHECK(rendered(*plain, " Hi. ") == "<|im_start|>user\n Hi. <|im_end|>\n<|im_start|>assistant\n");
  const auto llama = make_chat_template("llama3", "{% unknown %}", " Be brief. ", tokenizer);
  REQUIRE(llama);
  CHECK(llama->trims_content);
  CHECK(rendered(*llama, " Hi. ") ==
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nHi.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  // Of another family than the model's own: the plain form, not the model's.
  const auto other = make_chat_template("llama3", kOwnDefault, std::nullopt, tokenizer);
  REQUIRE(other);
  CHECK(joined(other->before).find("lamp") == std::string::npos);
  CHECK(make_chat_template("chatml", kOwnDefault, std::nullopt, tokenizer)->before[1].text ==
        "system\nYou keep a lamp.");
  const auto wrong = make_chat_template("alpaca", kOwnDefault, std::nullopt, tokenizer);
  REQUIRE_FALSE(wrong);
  CHECK(wrong.error().code == ErrorCode::kUnknownTemplate);
  CHECK(runtime::chat_template_names() == std::vector<std::string_view>{"chatml", "llama3"});
}

TEST_CASE("template none is BOS where the model asks for it", "[template]") {
  const auto chat = make_chat_template("none", kOwnDefault, std::nullopt, small_tokenizer("smollm"));
  REQUIRE(chat);
  CHECK(chat->name == "none");
  CHECK(chat->before.empty());
  CHECK(chat->after.empty());
  const auto adds =
      open_json(small_tokenizer_json("llama-bpe"), R"({"add_bos_token": true, "bos_token": "<|begin_of_text|>"})");
  REQUIRE(adds);
  const auto with_bos = make_chat_template("none", std::nullopt, std::nullopt, *adds);
  REQUIRE(with_bos);
  REQUIRE(with_bos->before.size() == 1);
  CHECK(with_bos->before[0].is_control);
  CHECK(with_bos->before[0].text == "<|begin_of_text|>");
  const auto system = make_chat_template("none", std::nullopt, "Be brief.", *adds);
  REQUIRE_FALSE(system);
  CHECK(system.error().code == ErrorCode::kUsage);
}

TEST_CASE("text of the template is normalized", "[template]") {
  const Tokenizer tokenizer = small_tokenizer("qwen2");
  const auto chat = make_chat_template("auto", kOwnDefault, "cafe\u0301", tokenizer);
  REQUIRE(chat);
  CHECK(chat->before[1].text == "system\ncaf\u00e9");
}

TEST_CASE("templates of another shape are refused", "[template]") {
  const Tokenizer tokenizer = small_tokenizer("smollm");
  const std::string user =
      "{{ '<|im_start|>user\\n' + messages[-1].content + '<|im_end|>\\n<|im_start|>assistant\\n' }}";
  REQUIRE(make_chat_template("auto", user, std::nullopt, tokenizer));
  check_refused(user, tokenizer, "system turn", "Be brief.");
  check_refused(user + user, tokenizer, "user turn once");
  check_refused(user + "<think>\n", tokenizer, "shape");
  check_refused("Hello. " + user, tokenizer, "shape");
  check_refused("no turns at all", tokenizer, "user turn once");
  check_refused("", tokenizer, "user turn once");
  check_refused("<|im_start|>human\n{{ messages[-1].content }}<|im_end|>\n<|im_start|>assistant\n", tokenizer, "shape");
  // A vocabulary without these control tokens.
  nlohmann::json bare = small_tokenizer_json("smollm");
  bare["added_tokens"].clear();
  const auto no_tokens = open_json(bare);
  REQUIRE(no_tokens);
  check_refused(user, *no_tokens, "shape");
  const auto forced = make_chat_template("chatml", std::nullopt, std::nullopt, *no_tokens);
  REQUIRE_FALSE(forced);
  CHECK(forced.error().message.find("<|im_start|>") != std::string::npos);
  const auto none = make_chat_template("auto", std::nullopt, std::nullopt, tokenizer);
  REQUIRE_FALSE(none);
  CHECK(none.error().code == ErrorCode::kUnknownTemplate);
}

}  // namespace polykv::tests

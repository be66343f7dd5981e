#include "cli/commands/document.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "cli/signals.h"
#include "format/file.h"
#include "format/older_pool.h"
#include "format/reader.h"
#include "format/superblock.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using runtime::Document;

// Standard input, whole.
format::Result<std::string> read_stdin() {
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const std::size_t count = std::fread(buffer, 1, sizeof buffer, stdin);
    text.append(buffer, count);
    if (count < sizeof buffer) break;
    POLYKV_CHECK_STATUS(check_stop());
  }
  POLYKV_CHECK_STATUS(check_stop());
  if (std::ferror(stdin) != 0) return Error(ErrorCode::kIo, "cannot read standard input");
  return text;
}

bool is_pool(std::string_view bytes) {
  return bytes.size() >= format::kMagic.size() &&
         std::equal(format::kMagic.begin(), format::kMagic.end(), reinterpret_cast<const std::uint8_t*>(bytes.data()));
}

// The text of a pool of any version that we can build again.
format::Result<std::string> text_of_pool(std::span<const std::byte> bytes) {
  const auto reader = format::PoolReader::open(bytes);
  if (reader && reader->superblock().has_parent())
    return Error(ErrorCode::kUnusableText,
                 "it extends another pool, so its text is a part of one: polykv flatten first");
  if (reader) return reader->source_text();
  if (reader.error().code != ErrorCode::kUnsupportedVersion) return reader.error();
  return format::older_source_text(bytes);
}

format::Result<Document> read_document(const std::string& path) {
  if (path == "-") {
    POLYKV_TRY(std::string text, read_stdin());
    return Document{"-", std::move(text)};
  }
  POLYKV_TRY(const std::vector<std::byte> bytes, format::read_file(path));
  Document document{std::filesystem::path(path).filename().string(),
                    std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())};
  if (is_pool(document.text)) {
    POLYKV_TRY(document.text, text_of_pool(bytes));
  }
  return document;
}

}  // namespace

format::Result<std::vector<Document>> read_documents(std::span<const std::string> paths) {
  std::vector<Document> documents;
  for (const std::string& path : paths) {
    auto document = read_document(path);
    if (!document) return Error(document.error().code, document.error().offset, path + ": " + document.error().message);
    documents.push_back(std::move(document).value());
  }
  POLYKV_CHECK_STATUS(runtime::check_documents(documents));
  return documents;
}

}  // namespace polykv::cli

// The parts of a tokenizer.json that a BpeCodec needs: model.vocab and model.merges, or vocab and merges without model.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/text/token_table.h"
#include "host/file.h"
#include "vkmoe/text_codec.h"

namespace vkmoe::text {

struct TokenizerParts {
    std::vector<BpeCodec::Token> vocabulary;
    std::vector<BpeCodec::Merge> merges;
};

Result<TokenizerParts> readTokenizer(const ByteSource& file);

// A file that is the vocabulary alone: {"token": id, ...}.
Result<std::vector<BpeCodec::Token>> readVocabulary(const ByteSource& file);

// A file with a merge on each line.
Result<std::vector<BpeCodec::Merge>> readMergeLines(const std::string& name, std::string_view text);

std::string writeTokenizer(const TokenTable& tokens, std::span<const BpeCodec::Merge> merges);

}  // namespace vkmoe::text

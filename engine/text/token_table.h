// TokenTable: the tokens of a byte-level vocabulary, by id, by name and by the bytes that they stand for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "vkmoe/text_codec.h"

namespace vkmoe::text {

inline constexpr uint32_t kNoId = UINT32_MAX;

class TokenTable {
public:
    // Errors, without a file name: a name or an id is there twice, a name is not UTF-8, an id is kMaxIds or more.
    static Result<TokenTable> create(std::span<const BpeCodec::Token> tokens);

    std::span<const BpeCodec::Token> tokens() const { return tokens_; }  // by ascending id
    uint32_t idLimit() const { return static_cast<uint32_t>(places_.size()); }
    const std::string* name(uint32_t id) const;
    const std::string* bytes(uint32_t id) const;
    std::optional<uint32_t> id(std::string_view name) const;
    uint32_t idOfBytes(std::string_view bytes) const;  // of a token in the byte alphabet, or kNoId

    TokenTable(const TokenTable&) = delete;  // the maps point into the tokens
    TokenTable(TokenTable&&) = default;

private:
    TokenTable() = default;
    Result<void> index();

    std::vector<BpeCodec::Token> tokens_;
    std::vector<std::string> bytes_;  // of each token
    std::vector<uint32_t> places_;    // [id limit] among the tokens, or kNoId
    std::unordered_map<std::string_view, uint32_t> by_name_, by_bytes_;
};

}  // namespace vkmoe::text

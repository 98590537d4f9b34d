// What a BpeCodec is made of.
#pragma once

#include <string>
#include <vector>

#include "engine/text/merge_table.h"
#include "engine/text/token_table.h"

namespace vkmoe {
inline namespace v1 {

struct BpeCodec::Model {
    std::string name;
    text::TokenTable tokens;
    std::vector<Merge> merges;
    text::MergeTable table;
    std::optional<uint32_t> bos, eos, pad;
};

}  // namespace v1
}  // namespace vkmoe

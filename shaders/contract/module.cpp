#define SPV_ENABLE_UTILITY_CODE  // HasResultAndType
#include "shaders/contract/module.h"

#include <utility>

namespace vkmoe::spirv {

namespace {

constexpr size_t kHeaderWords = 5;         // magic, version, generator, bound, schema
constexpr uint32_t kMaxVersion = 0x10600;  // 1.6, what Vulkan 1.3 reads
constexpr uint32_t kMaxBound = 0x400000;   // the specification's universal limit

Error bad(std::string detail) { return {ErrorCode::bad_input, std::move(detail)}; }

Result<void> checkHeader(std::span<const uint32_t> words) {
    if (words.size() < kHeaderWords)
        return bad("is too short for a SPIR-V header (" + std::to_string(words.size()) + " words)");
    if (words[0] == __builtin_bswap32(spv::MagicNumber)) return bad("is SPIR-V of the other byte order");
    if (words[0] != spv::MagicNumber) return bad("is not SPIR-V (wrong magic number)");
    if (words[1] < 0x10000 || words[1] > kMaxVersion) return bad("is SPIR-V of a version other than 1.0 to 1.6");
    if (words[3] == 0 || words[3] > kMaxBound) return bad("has an id bound of " + std::to_string(words[3]));
    return {};
}

}  // namespace

Result<Module> Module::parse(std::vector<uint32_t> words) {
    VKMOE_CHECK(checkHeader(words));
    Module module;
    module.words_ = std::move(words);
    VKMOE_CHECK(module.cut());
    return module;
}

Result<void> Module::cut() {
    std::vector<bool> defined(bound());
    for (size_t at = kHeaderWords; at < words_.size(); at += instructions_.back().words.size()) {
        VKMOE_TRY(instruction, next(at));
        VKMOE_CHECK(define(instruction, defined));
        if (instruction.op == spv::Op::OpName) names_.emplace(instruction[1], stringAt(instruction, 2));
        instructions_.push_back(instruction);
    }
    return {};
}

Result<Instruction> Module::next(size_t at) const {
    const size_t length = words_[at] >> 16;
    if (length == 0) return bad("has an instruction of length 0 at word " + std::to_string(at));
    if (length > words_.size() - at) return bad("ends inside the instruction at word " + std::to_string(at));
    Instruction instruction{spv::Op(words_[at] & 0xffff), std::span(words_).subspan(at, length)};
    bool has_result = false, has_type = false;
    spv::HasResultAndType(instruction.op, &has_result, &has_type);
    if (length < 1u + has_result + has_type)
        return bad("has an instruction without its result at word " + std::to_string(at));
    if (has_type) instruction.type = instruction[1];
    if (has_result) instruction.result = instruction[1u + has_type];
    return instruction;
}

Result<void> Module::define(const Instruction& instruction, std::vector<bool>& defined) const {
    const uint32_t id = instruction.result;
    if (instruction.type >= bound() || id >= bound())
        return bad("has the id " + std::to_string(id) + " outside its bound");
    if (id == 0) return {};
    if (defined[id]) return bad("defines the id " + std::to_string(id) + " twice");
    defined[id] = true;
    return {};
}

std::string Module::name(uint32_t id) const {
    const auto found = names_.find(id);
    return found == names_.end() ? std::string() : found->second;
}

std::string stringAt(const Instruction& instruction, size_t first) {
    std::string text;
    for (size_t word = first; word < instruction.words.size(); ++word) {
        for (int shift = 0; shift < 32; shift += 8) {
            const char letter = char(instruction[word] >> shift & 0xff);
            if (letter == 0) return text;
            text += letter;
        }
    }
    return text;
}

}  // namespace vkmoe::spirv

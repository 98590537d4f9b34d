// Module: a SPIR-V binary cut into instructions, every length checked. It knows the format, not the contract.
#pragma once

#include <cstdint>
#include <span>
#include <spirv/unified1/spirv.hpp11>
#include <string>
#include <unordered_map>
#include <vector>

#include "host/result.h"

namespace vkmoe::spirv {

// One instruction in place. words[0] holds its length and opcode; what lies beyond its end reads as 0, which is no id.
struct Instruction {
    spv::Op op;
    std::span<const uint32_t> words;
    uint32_t type = 0;    // id of the result's type, 0 if there is none
    uint32_t result = 0;  // id of the result, 0 if there is none

    uint32_t operator[](size_t index) const { return index < words.size() ? words[index] : 0; }
};

class Module {
public:
    // Refuses what is not SPIR-V 1.0 to 1.6 of this byte order: magic number, lengths, ids outside the bound or defined
    // twice. Whether the operands make sense is spirv-val's business.
    static Result<Module> parse(std::vector<uint32_t> words);

    std::span<const uint32_t> words() const { return words_; }
    std::span<const Instruction> instructions() const { return instructions_; }
    uint32_t bound() const { return words_[3]; }  // every id is below it

    // The OpName of an id; glslang names functions by their signature, "exact_div(f1;f1;". Empty if it has none.
    std::string name(uint32_t id) const;

private:
    Result<void> cut();
    Result<Instruction> next(size_t at) const;
    Result<void> define(const Instruction& instruction, std::vector<bool>& defined) const;

    std::vector<uint32_t> words_;
    std::vector<Instruction> instructions_;
    std::unordered_map<uint32_t, std::string> names_;
};

// The string that starts at words[first] of an instruction, cut at its end if no zero byte comes before.
std::string stringAt(const Instruction& instruction, size_t first);

}  // namespace vkmoe::spirv

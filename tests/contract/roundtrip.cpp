// roundtrip BEFORE.spv AFTER.spv: what the contract tool made of a good kernel, read with none of its code.
//
// AFTER is BEFORE plus one NoContraction for each float add, subtract, multiply, negate, divide and Fma that had none,
// and nothing else. Then BEFORE is cut off after each word, and damaged in each word, to show that the tool's parser
// neither crashes nor reads past the end (run it under ASan and UBSan).
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <vector>

#include "shaders/contract/contract.h"

namespace {

using Words = std::vector<uint32_t>;

int failures = 0;

void expect(bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "failed: %s\n", what);
    ++failures;
}

Words read(const char* path) {
    std::ifstream file(path, std::ios::binary);
    Words words;
    for (uint32_t word; file.read(reinterpret_cast<char*>(&word), sizeof word);) words.push_back(word);
    return words;
}

constexpr uint32_t kOpExtInst = 12, kOpDecorate = 71, kNoContraction = 42, kFma = 50;

// The result id if the instruction at `at` is float arithmetic, else 0.
uint32_t arithmeticResult(const Words& words, size_t at) {
    const uint32_t op = words[at] & 0xffff;
    if (op == 127 || op == 129 || op == 131 || op == 133 || op == 136) return words[at + 2];
    return op == kOpExtInst && words[at + 4] == kFma ? words[at + 2] : 0;
}

bool isNoContraction(const Words& words, size_t at) {
    return words[at] == (3u << 16 | kOpDecorate) && words[at + 2] == kNoContraction;
}

// How often each id is decorated with NoContraction; results of float arithmetic stand in it even if with 0.
std::map<uint32_t, int> decorations(const Words& words) {
    std::map<uint32_t, int> count;
    for (size_t at = 5; at < words.size(); at += words[at] >> 16) {
        if (const uint32_t result = arithmeticResult(words, at)) count[result] += 0;
        if (isNoContraction(words, at)) ++count[words[at + 1]];
    }
    return count;
}

Words withoutDecorations(const Words& words) {
    Words rest(words.begin(), words.begin() + 5);
    for (size_t at = 5; at < words.size(); at += words[at] >> 16)
        if (!isNoContraction(words, at))
            rest.insert(rest.end(), words.begin() + long(at), words.begin() + long(at + (words[at] >> 16)));
    return rest;
}

void checkDecorated(const Words& before, const Words& after) {
    for (const auto& [id, count] : decorations(after)) expect(count == 1, "each result carries NoContraction once");
    expect(decorations(after).size() == decorations(before).size(), "only float arithmetic is decorated");
    expect(withoutDecorations(after) == withoutDecorations(before), "nothing else changes");
    auto module = vkmoe::spirv::Module::parse(after);
    expect(module && vkmoe::spirv::decorate(*module) == after, "a second pass adds nothing");
}

// Everything the tool does with a module; only that it returns matters.
bool parses(const Words& words) {
    auto module = vkmoe::spirv::Module::parse(Words(words.begin(), words.end()));
    if (!module) return false;
    vkmoe::spirv::violations(*module, {});
    vkmoe::spirv::decorate(*module);
    vkmoe::spirv::countDecorated(*module);
    return true;
}

void checkDamaged(const Words& good) {
    size_t parsed = 0;
    for (size_t length = 0; length < good.size(); ++length)
        parsed += parses(Words(good.begin(), good.begin() + long(length)));
    expect(parsed < good.size() / 2, "most truncated modules are refused");
    for (size_t at = 0; at < good.size(); ++at) {
        for (const uint32_t value : {0u, 1u, ~0u, good[at] ^ 1u, good[at] ^ 0x10000u, good[at] + 0x70000u}) {
            Words damaged = good;
            damaged[at] = value;
            parses(damaged);
        }
    }
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) return 2;
    const Words before = read(arguments[1]), after = read(arguments[2]);
    checkDecorated(before, after);
    checkDamaged(before);
    return failures == 0 ? 0 : 1;
}

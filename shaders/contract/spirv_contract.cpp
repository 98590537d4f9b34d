// spirv_contract: makes a kernel keep the arithmetic contract, or says why it does not.
//
//   spirv_contract IN.spv OUT.spv [--fma] [--int64] [--source NAME]   decorate, check, write OUT.spv
//   spirv_contract IN.spv OUT.h --embed NAME                write OUT.h with `inline constexpr uint32_t NAME_spirv[]`
//   spirv_contract IN.spv --list                            count the float results with and without NoContraction
//
// Vulkan promises the same bits everywhere for f32 add, subtract and multiply, for integers, comparisons, moves and
// exact conversions, and only if no compiler fuses or reorders them. So the tool
//
//   decorates  every OpFAdd, OpFSub, OpFMul, OpFNegate, OpFDiv and GLSL.std.450 Fma with NoContraction. `precise` in
//              GLSL is not enough: glslang leaves callees, `out` parameters, stores to shared memory and fma bare.
//   checks     that nothing else touches floats. Instructions, capabilities and execution modes go by a list of what is
//              allowed (rules.cpp). OpFDiv may stand only in functions named `exact_div(`, GLSL.std.450 Sqrt only in
//              `exact_sqrt(`: their results are estimates there, corrected by integers. Fma needs --fma, which is for
//              the kernels marked `rounded` in engine/kernels.inc. Float arithmetic may not have the constant zero as
//              an operand (some compilers fold x + 0.0 to x) nor constants only (they fold in other precisions); a
//              constant is traced through uintBitsToFloat, vector constructors and swizzles, not through variables.
//
// Every broken rule is one line on stderr: NAME (else IN.spv), the function and the instruction.
// OUT is written only on success. Exit status: 0 good, 1 the contract is broken, 2 usage, or IN unreadable or no
// SPIR-V.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "shaders/contract/contract.h"

namespace {

using namespace vkmoe;

constexpr int kGood = 0, kBroken = 1, kUnusable = 2;

struct Options {
    std::string in, out, source, embed;
    bool fma = false, int64 = false, list = false;
};

int usage() {
    std::fputs(
        "usage: spirv_contract IN.spv OUT.spv [--fma] [--int64] [--source NAME]\n"
        "       spirv_contract IN.spv OUT.h --embed NAME\n"
        "       spirv_contract IN.spv --list\n",
        stderr);
    return kUnusable;
}

// False if the arguments make none of the three forms.
bool readArguments(int count, char** arguments, Options& options) {
    std::vector<std::string> files;
    for (int index = 1; index < count; ++index) {
        const std::string argument = arguments[index];
        const bool has_next = index + 1 < count;
        if (argument == "--fma")
            options.fma = true;
        else if (argument == "--int64")
            options.int64 = true;
        else if (argument == "--list")
            options.list = true;
        else if (argument == "--source" && has_next)
            options.source = arguments[++index];
        else if (argument == "--embed" && has_next)
            options.embed = arguments[++index];
        else if (argument.starts_with("--"))
            return false;
        else
            files.push_back(argument);
    }
    if (files.size() != (options.list ? 1u : 2u)) return false;
    options.in = files.front();
    options.out = files.back();
    if (options.source.empty()) options.source = options.in;
    return true;
}

Result<spirv::Module> readModule(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes;
    for (char part[4096]; file.read(part, sizeof part), file.gcount() > 0;) bytes.append(part, size_t(file.gcount()));
    if (!file.is_open() || file.bad()) return Error{ErrorCode::io, "cannot be read"};
    if (bytes.size() % 4 != 0) return Error{ErrorCode::bad_input, "is not SPIR-V (its size is no multiple of 4 bytes)"};
    std::vector<uint32_t> words(bytes.size() / 4);
    if (!words.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
    return spirv::Module::parse(std::move(words));
}

int write(const std::string& path, const std::string& bytes) {
    std::ofstream file(path, std::ios::binary);
    file.write(bytes.data(), std::streamsize(bytes.size()));
    file.close();
    if (file) return kGood;
    std::fprintf(stderr, "%s: cannot be written\n", path.c_str());
    std::remove(path.c_str());
    return kUnusable;
}

int list(const Options& options, const spirv::Module& module) {
    const spirv::Decorated count = spirv::countDecorated(module);
    std::printf("%s: %zu float results, %zu without NoContraction, %zu decorated twice\n", options.in.c_str(),
                count.results, count.missing, count.repeated);
    return kGood;
}

int embed(const Options& options, const spirv::Module& module) {
    std::string text = "// Written by spirv_contract.\n#pragma once\n\n#include <cstdint>\n\n";
    text += "inline constexpr uint32_t " + options.embed + "_spirv[] = {";
    char word[24];
    for (size_t index = 0; index < module.words().size(); ++index) {
        std::snprintf(word, sizeof word, "%s0x%08x,", index % 10 == 0 ? "\n    " : " ", module.words()[index]);
        text += word;
    }
    return write(options.out, text + "\n};\n");
}

int enforce(const Options& options, const spirv::Module& module) {
    const std::vector<std::string> broken = spirv::violations(module, {.fma = options.fma, .int64 = options.int64});
    for (const std::string& sentence : broken)
        std::fprintf(stderr, "%s: %s\n", options.source.c_str(), sentence.c_str());
    if (!broken.empty()) return kBroken;
    const std::vector<uint32_t> words = spirv::decorate(module);
    return write(options.out, std::string(reinterpret_cast<const char*>(words.data()), words.size() * 4));
}

}  // namespace

int main(int count, char** arguments) {
    Options options;
    if (!readArguments(count, arguments, options)) return usage();
    const Result<spirv::Module> module = readModule(options.in);
    if (!module) {
        std::fprintf(stderr, "%s: %s\n", options.source.c_str(), module.error().detail.c_str());
        return kUnusable;
    }
    if (options.list) return list(options, module.value());
    return options.embed.empty() ? enforce(options, module.value()) : embed(options, module.value());
}

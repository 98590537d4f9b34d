#include "tests/program/training_run.h"

#include <catch2/catch_test_macros.hpp>
#include <fstream>

namespace test {

using nlohmann::json;

void writeText(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string poem() {
    std::string text;
    for (int i = 0; i < 6; ++i) text += "A router sends each token where to go, and every sum is in its order. ";
    return text;
}

const char* const kTinyShape = " --model-dim 8 --layers 1 --hidden-dim 8 --experts 2 --top-k 1 --context 8 --batch 2 ";

std::string trainCommand(const Folder& folder, const std::string& output, const std::string& more,
                         const std::string& shape) {
    return "train --device cpu --text " + (folder / "text") + " -o " + (folder / output) + shape +
           "--warmup 3 --final-lr-fraction 1 --seed 5 --json " + more;
}

std::vector<json> jsonLines(const std::string& out) {
    std::vector<json> all;
    size_t at = 0;
    for (size_t end; (end = out.find('\n', at)) != std::string::npos; at = end + 1)
        all.push_back(json::parse(out.substr(at, end - at)));
    return all;
}

uint64_t lastStep(const std::string& out) { return jsonLines(out).back()["step"]; }

void checkRefused(const std::string& arguments, const std::string& sentence) {
    const auto ended = program(arguments);
    CHECK(ended.code == 3);
    CHECK(ended.out.empty());
    checkSentence(ended, sentence);
}

}  // namespace test

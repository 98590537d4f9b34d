#include "engine/verdicts.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <nlohmann/json.hpp>

#include "host/file.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kLargestFile = 16 << 20;

std::set<std::string> readPassed(const std::string& path) {
    auto bytes = readFile(path, kLargestFile);
    if (!bytes) return {};
    auto json = nlohmann::json::parse(reinterpret_cast<const char*>(bytes->data()),
                                      reinterpret_cast<const char*>(bytes->data() + bytes->size()), nullptr, false);
    std::set<std::string> passed;
    if (!json.is_object() || !json.contains("passed") || !json["passed"].is_array()) return passed;
    for (const auto& entry : json["passed"])
        if (entry.is_string()) passed.insert(entry.get<std::string>());
    return passed;
}

}  // namespace

Engine::Verdicts::Verdicts(const std::string& folder, std::string identity) : identity_(std::move(identity)) {
    if (folder.empty()) return;
    path_ = fmt::format("{}/verdicts-{:016x}.json", folder, XXH3_64bits(identity_.data(), identity_.size()));
    passed_ = readPassed(path_);
}

Engine::Verdicts::~Verdicts() {
    if (path_.empty() || !changed_) return;
    std::string text = nlohmann::json{{"device", identity_}, {"passed", passed_}}.dump(
        1, ' ', false, nlohmann::json::error_handler_t::replace);
    (void)writeFile(path_, std::as_bytes(std::span(text)));
}

std::string Engine::Verdicts::key(const KernelCode& code, const ConstantWords& constants) const {
    uint64_t shader = XXH3_64bits(code.spirv.data(), code.spirv.size_bytes());
    uint64_t all = XXH3_64bits_withSeed(constants.data(), sizeof constants, shader);
    return fmt::format("{}-{:016x}", code.name, XXH3_64bits_withSeed(identity_.data(), identity_.size(), all));
}

bool Engine::Verdicts::passed(const KernelCode& code, const ConstantWords& constants) const {
    return passed_.contains(key(code, constants));
}

void Engine::Verdicts::record(const KernelCode& code, const ConstantWords& constants) {
    changed_ |= passed_.insert(key(code, constants)).second;
}

}  // namespace v1
}  // namespace vkmoe

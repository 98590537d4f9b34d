#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <sstream>

#include "engine/formats/moe0.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/lm_file.h"
#include "samples/vkmoe/one_layer.h"
#include "samples/vkmoe/targets.h"
#include "samples/vkmoe/tensor_file.h"
#include "vkmoe/language_model.h"

namespace vkmoe::program {
namespace {

struct Generation {
    LmFile model;
    std::unique_ptr<TextCodec> codec;
    std::vector<uint32_t> prompt;
};

Result<Generation> readJob(const Context& context, const GenerateTextOptions& options) {
    VKMOE_TRY(model, openLm(options.file, context.compat));
    VKMOE_TRY(codec, codecFor(options.file, model, options.codec));
    if (auto offset = checkUtf8(options.prompt))
        return Error{ErrorCode::bad_input, fmt::format("--prompt is not UTF-8 at offset {}, byte {:#04x}", *offset,
                                                       uint8_t(options.prompt[*offset]))};
    if (options.stop && *options.stop >= model.source.config.vocab_size)
        return Error{ErrorCode::bad_input, fmt::format("--stop is {}, but {} has {} tokens", *options.stop,
                                                       options.file, model.source.config.vocab_size)};
    std::vector<uint32_t> prompt = codec->encode(options.prompt);
    return Generation{std::move(model), std::move(codec), std::move(prompt)};
}

void put(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

Json summary(const Context& context, const Generation& job, const std::string& device, const std::string& prompt,
             const std::vector<uint32_t>& tokens, double seconds) {
    return {{"device", device},
            {"precision", context.precision},
            {"prompt", prompt},
            {"prompt_tokens", job.prompt.size()},
            {"text", job.codec->decode(tokens)},
            {"tokens", tokens},
            {"seconds", seconds}};
}

Result<void> generateOn(const Context& context, const GenerateTextOptions& options, const Generation& job,
                        Engine& engine) {
    const PagingChoice& paging = options.paging;
    VKMOE_TRY(model, paging.wanted()
                         ? LanguageModel::create(engine, job.model.source, paging.options(), context.chosenPrecision())
                         : LanguageModel::create(engine, job.model.source, context.chosenPrecision()));
    StreamDecoder decoder(*job.codec);
    GenerateOptions generation;
    generation.max_new_tokens = options.max_tokens;
    generation.temperature = options.temperature;
    if (options.seed) generation.seed = formats::toUint32(*options.seed);
    generation.stop = options.stop;
    ResidencyMap map([&] { return paging.map ? model.pager() : nullptr; });
    if (!context.json) generation.on_token = [&](uint32_t token) { return put(decoder.put(token)), true; };
    const auto start = std::chrono::steady_clock::now();
    VKMOE_TRY(tokens, model.generate(job.prompt, generation));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    auto moved = model.takePaging();
    if (moved && !paging.trace.empty()) VKMOE_CHECK(writeTrace(paging.trace, *model.pager(), *moved, seconds));
    Json json = summary(context, job, engine.device().info().name, options.prompt, tokens, seconds);
    if (moved) json["pages"] = pagesJson(*moved);
    json["memory"] = memoryJson(engine.device());
    if (context.json)
        print(json);
    else
        put(decoder.finish() + "\n");
    if (moved && !context.json) fmt::print(stderr, "{}{}", pagingPicture(*moved), memoryLine(engine.device()));
    return {};
}

// Of a list that isIdList has seen.
Result<std::vector<uint32_t>> idsOf(const std::string& list, const LmFile& file) {
    std::vector<uint32_t> ids;
    std::istringstream items(list);
    for (std::string item; std::getline(items, item, ',');) {
        const uint64_t id = std::stoull(item), count = file.source.config.vocab_size;
        if (id >= count)
            return Error{ErrorCode::bad_input,
                         fmt::format("--tokens: token {} is {}, but the vocabulary has {}", ids.size(), id, count)};
        ids.push_back(uint32_t(id));
    }
    return ids;
}

Result<void> logitsOn(const Context& context, const LogitsOptions& options, const LmFile& file, Engine& engine) {
    VKMOE_TRY(ids, idsOf(options.tokens, file));
    VKMOE_TRY(model, LanguageModel::create(engine, file.source, context.chosenPrecision()));
    VKMOE_TRY(values, model.logits(ids));
    VKMOE_CHECK(writeTokens(options.output, values));
    if (context.json)
        print({{"device", engine.device().info().name},
               {"precision", context.precision},
               {"tokens", ids.size()},
               {"vocab_size", model.config().vocab_size},
               {"file", options.output}});
    else
        fmt::print("{}: logits of {} positions, {} tokens of vocabulary each, on {}\n", options.output, ids.size(),
                   model.config().vocab_size, engine.device().info().name);
    return {};
}

}  // namespace

int generate(const Context& context, const GenerateTextOptions& options) {
    if (!options.paging.trace.empty())
        if (auto target = checkTarget(options.paging.trace, {options.file, options.codec}); !target)
            return fail(target.error());
    auto job = readJob(context, options);
    if (!job) return fail(job.error());
    return context.runOnDevice([&](Engine& engine) { return generateOn(context, options, *job, engine); });
}

bool isIdList(const std::string& list) {
    size_t digits = 0;
    for (char c : list + ",") {
        bool digit = c >= '0' && c <= '9';
        if (!digit && (c != ',' || digits == 0)) return false;
        digits = digit ? digits + 1 : 0;
        if (digits > 10) return false;
    }
    return true;
}

int logits(const Context& context, const LogitsOptions& options) {
    if (auto target = checkTarget(options.output, {options.file}); !target) return fail(target.error());
    auto model = openLm(options.file, context.compat);
    if (!model) return fail(model.error());
    return context.runOnDevice([&](Engine& engine) { return logitsOn(context, options, *model, engine); });
}

}  // namespace vkmoe::program
